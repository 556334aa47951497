"""ntp_offset.py: what it asks, what it makes of answers, and whom it does not believe."""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import ModuleType

import pytest
from example_kit import (
    HASTY,
    INTERRUPTED,
    LIMIT,
    PATIENT,
    ScriptedServer,
    check_refused,
    imported,
    lines_of,
    needs_ctrl_c,
    needs_ipv6,
    run,
    serving,
    silent,
    talking,
)
from hypothesis import given
from hypothesis import strategies as st

SINCE_1900 = 2_208_988_800
TOLD = re.compile(r"(\S+): offset ([+-]\d+\.\d{6}) s, delay (-?\d+\.\d{6}) s, stratum (\d+)")


def stamp(seconds: float) -> int:
    return int((seconds + SINCE_1900) * 2**32) % 2**64


@dataclass(frozen=True)
class Packet:
    """An honest answer, unless some of it is replaced."""

    origin: int
    first: int = 0x24  # no leap second, version 4, server
    stratum: int = 2
    code: bytes = b"\x7f\0\0\1"
    received: int = field(default_factory=lambda: stamp(time.time()))
    sent: int = field(default_factory=lambda: stamp(time.time()))

    def packed(self) -> bytes:
        head = struct.pack("!BBbbII4s", self.first, self.stratum, 6, -20, 0, 0, self.code)
        return head + struct.pack("!QQQQ", self.received, self.origin, self.received, self.sent)


def transmitted(request: bytes) -> int:
    return int.from_bytes(request[40:48], "big")


def answer(request: bytes) -> Packet:
    return Packet(origin=transmitted(request))


def honest(request: bytes, before: int) -> list[bytes]:
    return [answer(request).packed()]


async def measure(*servers: str, timeout: str = PATIENT) -> tuple[int, list[str], list[str]]:
    """Run it; returns the exit status, and the lines on stdout and on stderr."""
    return await lines_of("ntp_offset.py", "--timeout", timeout, *servers)


def told(line: str) -> tuple[str, float, float, int]:
    match = TOLD.fullmatch(line)
    assert match, line
    return match[1], float(match[2]), float(match[3]), int(match[4])


def check_measured(line: str, server: ScriptedServer, offset: float = 0.0) -> None:
    """Half the delay is the most that an offset can be wrong by, whatever the machine was busy with."""
    at, measured, delay, stratum = told(line)
    assert (at, stratum) == (server.at, 2)
    assert 0 <= delay < LIMIT
    assert abs(measured - offset) <= delay / 2 + 0.0001


# ------------------------------------------------------------------------------------------------
# Requests and answers


@pytest.mark.parametrize("offset", [0.0, 10.0, -3600.0, 86_400.0 * 365])
async def test_offset_and_delay(offset: float) -> None:
    def shifted(request: bytes, before: int) -> list[bytes]:
        now = stamp(time.time() + offset)
        return [replace(answer(request), received=now, sent=now).packed()]

    async with serving(shifted) as (server,):
        status, (line,), err = await measure(server.at)
    assert (status, err) == (0, [])
    check_measured(line, server, offset)


async def test_what_the_server_takes_is_no_delay() -> None:
    """It says that it had the request for a minute."""

    def slow(request: bytes, before: int) -> list[bytes]:
        now = time.time()
        return [replace(answer(request), received=stamp(now - 30), sent=stamp(now + 30)).packed()]

    async with serving(slow) as (server,):
        _, (line,), _ = await measure(server.at)
    _, offset, delay, _ = told(line)
    assert -60 <= delay < -60 + LIMIT
    assert abs(offset) < LIMIT


async def test_what_it_asks() -> None:
    before = stamp(time.time() - 1)
    async with serving(honest, honest) as servers:
        await measure(*(server.at for server in servers))
    after = stamp(time.time() + 1)
    requests = [server.requests[0] for server in servers]
    for request in requests:
        assert len(request) == 48
        assert request[0] == 0x23  # version 4, client
        assert request[1:40] == bytes(39)  # nothing of this machine but the time
        assert before < transmitted(request) < after
    assert len({transmitted(request) for request in requests}) == 2


async def test_each_retransmission_has_a_time_of_its_own() -> None:
    async with serving(lambda request, before: honest(request, before) if before else []) as (server,):
        status, (line,), err = await measure(server.at)
    assert (status, err) == (0, [])
    first, second = map(transmitted, server.requests)
    assert (second - first) / 2**32 > 0.5
    check_measured(line, server)
    assert told(line)[2] < 0.5


async def test_an_answer_to_an_earlier_attempt_is_measured_from_there() -> None:
    """The server answers its first request when the second comes, and says when it had got it."""
    arrived: list[int] = []

    def late(request: bytes, before: int) -> list[bytes]:
        arrived.append(stamp(time.time()))
        return [replace(answer(server.requests[0]), received=arrived[0]).packed()] if before else []

    async with serving(late) as (server,):
        status, (line,), err = await measure(server.at)
    assert (status, err) == (0, [])
    check_measured(line, server)


async def test_each_answer_is_printed_as_it_comes() -> None:
    async with serving(silent, honest) as (slow, quick):
        with talking("ntp_offset.py", "--timeout", PATIENT, slow.at, quick.at) as talk:
            await talk.until(f"{quick.at}: offset ")
            request, client = await slow.first_request()
            slow.transport.sendto(answer(request).packed(), client)
            await talk.until(f"{slow.at}: offset ")
            status, _, err = await talk.end()
    assert (status, err) == (0, "")


@needs_ipv6
async def test_a_server_with_an_ipv6_address() -> None:
    async with serving(honest, host="::1") as (server,):
        status, (line,), err = await measure(server.at)
    assert (status, err) == (0, [])
    assert line.startswith("[::1]:")


# ------------------------------------------------------------------------------------------------
# Whom not to believe


def forgeries(request: bytes) -> list[bytes]:
    """What comes from the right address, tells a wrong time, and is not the answer."""
    wrong = replace(answer(request), received=stamp(0), sent=stamp(0))
    return [
        b"",
        request,
        wrong.packed()[:47],
        replace(wrong, origin=0).packed(),
        replace(wrong, origin=wrong.origin ^ 1).packed(),
        replace(wrong, first=0x23).packed(),
        replace(wrong, first=0x25).packed(),
        replace(wrong, sent=0).packed(),
    ]


async def test_forgeries_change_nothing() -> None:
    async with serving(lambda request, _: [*forgeries(request), *honest(request, 0)]) as (server,):
        status, (line,), err = await measure(server.at)
    assert (status, err) == (0, [])
    check_measured(line, server)


@pytest.mark.parametrize("code", [b"RATE", b"DENY", b"RSTR"])
async def test_a_kiss_of_death_is_obeyed_and_told(code: bytes) -> None:
    kiss = lambda request, _: [replace(answer(request), first=0xE4, stratum=0, code=code).packed()]  # noqa: E731
    async with serving(kiss, honest) as (server, other):
        status, (line,), err = await measure(server.at, other.at)
    assert status == 1
    check_measured(line, other)
    assert err == [f"{server.at}: it refuses to tell the time: kiss-o'-death {code.decode()}"]
    assert len(server.requests) == 1


UNSYNCHRONISED = {
    "leap indicator": {"first": 0xE4},
    "stratum 16": {"stratum": 16},
    "stratum 0 without a code": {"stratum": 0, "code": bytes(4)},
    "stratum 0 with a code of junk": {"stratum": 0, "code": b"\x1b[2J"},
}


@pytest.mark.parametrize("changes", UNSYNCHRONISED.values(), ids=UNSYNCHRONISED)
async def test_a_server_that_does_not_know_the_time_is_not_believed(changes: dict[str, object]) -> None:
    lost = lambda request, _: [replace(answer(request), **changes).packed()]  # noqa: E731
    async with serving(lost) as (server,):
        status, out, err = await measure(server.at, timeout=HASTY)
    assert (status, out) == (1, [])
    (line,) = err
    assert line.startswith(f"no reply from {server.at} in ")
    assert "the server's own clock is not synchronised" in line


async def test_a_silent_server_is_told_of_and_does_not_hold_up_the_others() -> None:
    async with serving(silent, honest) as (dead, alive):
        status, (line,), err = await measure(dead.at, alive.at, timeout="2")
    assert status == 1
    check_measured(line, alive)
    assert len(err) == 1
    assert err[0].startswith(f"no reply from {dead.at} in ")
    assert err[0].count(dead.at) == 1


@pytest.mark.parametrize("host", ["a..b", "0.0.0.0", "255.255.255.255"])
async def test_a_server_that_can_not_be_asked_is_told_of(host: str) -> None:
    async with serving(honest) as (server,):
        status, out, err = await measure(f"{host}:1123", server.at)
    assert (status, len(out), len(err)) == (1, 1, 1)
    assert err[0].startswith(f"{host}:1123: ")
    assert err[0].count(f"{host}:1123") == 1


async def test_a_server_of_an_unknown_name_is_told_of() -> None:
    async with serving(honest) as (server,):
        status, out, err = await measure("no.such.host.invalid:1123", server.at)
    assert (status, len(out)) == (1, 1)
    (line,) = err
    assert "'no.such.host.invalid': is " in line  # spelt right, or the network up
    assert line.count("no.such.host.invalid") == 1


@needs_ctrl_c
async def test_ctrl_c_ends_it() -> None:
    async with serving(silent) as (server,):
        with talking("ntp_offset.py", "--timeout", PATIENT, server.at) as talk:
            await server.first_request()
            talk.interrupt()
            assert await talk.end() == (INTERRUPTED, "", "")


# ------------------------------------------------------------------------------------------------
# Arguments, and arithmetic


@pytest.fixture(scope="module")
def ntp_offset() -> Iterator[ModuleType]:
    with imported("ntp_offset") as module:
        yield module


@pytest.mark.parametrize("server", ["", ":123", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "[::1]x", "[::1"])
def test_a_wrong_server_is_refused(server: str) -> None:
    check_refused(run("ntp_offset.py", server), "SERVER", repr(server))


def test_a_missing_argument_is_refused() -> None:
    check_refused(run("ntp_offset.py"), "required")


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", "soon"])
def test_a_wrong_timeout_is_refused(timeout: str) -> None:
    check_refused(run("ntp_offset.py", "127.0.0.1", f"--timeout={timeout}"), "--timeout")


@given(start=st.integers(0, 2**64 - 1), seconds=st.floats(-(2**30), 2**30))
def test_differences_across_an_era(ntp_offset: ModuleType, start: int, seconds: float) -> None:
    later = (start + round(seconds * 2**32)) % 2**64
    assert ntp_offset.seconds_between(later, start) == pytest.approx(seconds, abs=2**-20)


def test_timestamps_can_not_be_foretold(ntp_offset: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_123_456_789)
    stamps = {ntp_offset.timestamp() for _ in range(1000)}
    assert len(stamps) > 300
    assert max(stamps) - min(stamps) < 2**10
    assert all(abs(each / 2**32 - SINCE_1900 - 1_700_000_000.123456789) < 0.00001 for each in stamps)
