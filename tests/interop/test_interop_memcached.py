"""memcached_get.py with a real memcached: what was put there by TCP comes out by UDP, in any number of datagrams."""

from __future__ import annotations

import random
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import interop_memcached
import pytest
from interop_memcached import store
from interop_servers import Server

import udpguard
from udpguard.testing import Relay

pytestmark = pytest.mark.interop

EXAMPLES = Path(__file__).parents[2] / "examples"
A_DATAGRAM = 1400 - 8  # of an answer, without the frame


def memcached_get(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-W", "error", str(EXAMPLES / "memcached_get.py"), *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)


def test_it_gets_values(memcached: Server, run_example: Callable[..., str]) -> None:
    first, second = secrets.token_hex(4), f"größe:{secrets.token_hex(4)}"
    store(memcached, first, b"hello")
    store(memcached, second, "42 µs\r\nEND\r\n".encode())
    asked = interop_memcached.commands(memcached)
    told = run_example("memcached_get.py", memcached.at, first, second)
    assert told == f"{first}: hello\n{second}: 42 µs\\r\\nEND\\r\\n\n"
    assert interop_memcached.commands(memcached) == asked + 2


def test_a_key_that_is_not_there(memcached: Server) -> None:
    there, missing = secrets.token_hex(4), secrets.token_hex(4)
    store(memcached, there, b"hello")
    done = memcached_get(memcached.at, missing, there)
    assert (done.returncode, done.stdout) == (1, f"{there}: hello\n".encode())
    assert done.stderr == f"{missing}: the server has no such key\n".encode()


@pytest.mark.parametrize("size", [0, 1, A_DATAGRAM, 1400, 50_000])
def test_values_of_any_size(size: int, memcached: Server) -> None:
    key, content = secrets.token_hex(4), secrets.token_bytes(size)
    store(memcached, key, content)
    done = memcached_get("--raw", memcached.at, key)
    assert (done.returncode, done.stdout, done.stderr) == (0, content, b"")


def test_the_longest_key(memcached: Server, run_example: Callable[..., str]) -> None:
    key = secrets.token_hex(125)
    store(memcached, key, b"hello")
    assert run_example("memcached_get.py", memcached.at, key) == f"{key}: hello\n"


async def test_many_values_at_once_through_a_network_that_loses_repeats_and_reorders(
    memcached: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each question and each answer's part may be lost, come twice, or after the next: all values are right."""
    monkeypatch.syspath_prepend(EXAMPLES)
    import memcached_get as example

    values = {secrets.token_hex(4): random.randbytes(size) for size in range(0, 10_000, 500)}
    for key, content in values.items():
        store(memcached, key, content)
    retry = udpguard.Retry(attempts=50, initial=0.1, multiplier=1.0)
    async with (
        Relay(memcached.address, seed=5, loss=0.1, duplicate=0.1, delay=(0.0, 0.005)) as relay,
        udpguard.open_endpoint(correlate=example.REQUEST_IDS, retry=retry) as endpoint,
    ):
        for key, content in values.items():
            assert await example.get(endpoint, relay.address, key.encode()) == content
        assert relay.trace.count("lost") > 5
        assert endpoint.statistics().retransmitted > 0
