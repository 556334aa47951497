"""The fine timer: it rings once each time it is set, not too soon, and leaves no descriptor behind."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback_kit import SOON, opened, turns

import udpguard
from udpguard._platform.alarm import Alarm, FileAlarm, LoopAlarm, open_alarm

linux = pytest.mark.skipif(sys.platform != "linux", reason="the fine timer is Linux's")


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("kind", [LoopAlarm, pytest.param(FileAlarm, marks=linux)])
async def test_it_rings_once_each_time(kind: Callable[..., Alarm]) -> None:
    rang = asyncio.Event()
    alarm = kind(asyncio.get_running_loop(), rang.set)
    for seconds in (0.005, 0.0, -1.0, 0.001):
        rang.clear()
        began = time.monotonic()
        alarm.set(seconds)
        async with asyncio.timeout(SOON):
            await rang.wait()
        assert time.monotonic() - began >= seconds - 0.001  # uvloop's own may be early by half a millisecond
    rang.clear()
    alarm.set(0.001)
    alarm.close()
    alarm.close()
    await asyncio.sleep(0.01)
    assert not rang.is_set()


@linux
async def test_its_descriptor_is_closed_with_it() -> None:
    before = descriptors()
    alarm = FileAlarm(asyncio.get_running_loop(), lambda: None)
    assert descriptors() == before + 1
    alarm.close()
    assert descriptors() == before


@linux
def test_it_can_be_closed_after_its_loop() -> None:
    loop = asyncio.SelectorEventLoop()
    before = descriptors()
    alarm = FileAlarm(loop, lambda: None)
    loop.close()
    alarm.close()
    assert descriptors() < before


@linux
@pytest.mark.parametrize("missing", ["watching", "function", "layout", "descriptors"])
async def test_where_there_is_none_the_loops_own_serves(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UDPGUARD_BACKEND", raising=False)
    loop: Any = asyncio.get_running_loop()
    before = descriptors()
    if missing == "watching":

        class Blind:
            def __getattr__(self, name: str) -> Any:
                return getattr(asyncio.get_running_loop(), name)

            def add_reader(self, *_: object) -> None:
                raise NotImplementedError

        loop = Blind()
    elif missing == "function":
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    elif missing == "layout":
        monkeypatch.setattr(ctypes, "sizeof", lambda _: 4)
    else:

        class Full:
            def timerfd_create(self, *_: object) -> int:
                ctypes.set_errno(24)
                return -1

            def timerfd_settime(self, *_: object) -> int:
                return -1

        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Full())
    alarm = open_alarm(loop, lambda: None, is_real=True)
    assert isinstance(alarm, LoopAlarm)
    assert not alarm.is_fine
    assert descriptors() == before


async def test_simulated_loops_and_the_portable_backend_have_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(open_alarm(loop, lambda: None, is_real=False), LoopAlarm)
    monkeypatch.setenv("UDPGUARD_BACKEND", "portable")
    assert isinstance(open_alarm(loop, lambda: None, is_real=True), LoopAlarm)


@linux
async def test_a_sweep_leaves_no_descriptor_behind() -> None:
    # With ids, since without them what asks again after silence opens a spare port.
    async with opened(correlate=udpguard.TransactionId(0, 1, assign=True)) as endpoint:
        await turns()
        before = descriptors()
        async with endpoint.sweep([(("127.0.0.1", 9), b"x")] * 50, rate=100.0, timeout=0.1) as sweep:
            await anext(sweep)
            if os.environ.get("UDPGUARD_BACKEND") != "portable":
                assert descriptors() == before + 1
        assert descriptors() == before
