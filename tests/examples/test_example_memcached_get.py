"""memcached_get.py: what it asks, how it puts answers together, and whom it does not believe."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
from example_kit import HASTY, PATIENT, check_refused, imported, lines_of, run, serving
from hypothesis import given
from hypothesis import strategies as st

import udpguard

FRAME = struct.Struct("!HHHH")


def in_parts(request: bytes, answer: bytes, size: int = 1392) -> list[bytes]:
    """An answer in datagrams, as a server makes them."""
    (ident, *_) = FRAME.unpack_from(request)
    chunks = [answer[at : at + size] for at in range(0, len(answer), size)]
    return [FRAME.pack(ident, number, len(chunks), 0) + chunk for number, chunk in enumerate(chunks)]


def found(key: bytes, value: bytes) -> bytes:
    return b"VALUE %b 0 %d\r\n%b\r\nEND\r\n" % (key, len(value), value)


def honest(request: bytes, before: int) -> list[bytes]:
    key = request[FRAME.size :].split()[1]
    return in_parts(request, found(key, b"the value of " + key))


async def get(at: str, *keys: str, timeout: str = PATIENT) -> tuple[int, list[str], list[str]]:
    """Run it; returns the exit status, and the lines on stdout and on stderr."""
    return await lines_of("memcached_get.py", "--timeout", timeout, at, *keys)


# ------------------------------------------------------------------------------------------------
# Questions and answers


async def test_what_it_asks() -> None:
    async with serving(honest) as (server,):
        assert await get(server.at, "a", "b") == (0, ["a: the value of a", "b: the value of b"], [])
    first, second = server.requests
    assert {first[2:], second[2:]} == {b"\0\0\0\1\0\0get a\r\n", b"\0\0\0\1\0\0get b\r\n"}
    assert first[:2] != second[:2]


async def test_the_parts_may_come_in_any_order_and_twice() -> None:
    def jumbled(request: bytes, before: int) -> list[bytes]:
        parts = in_parts(request, found(b"key", b"abcdefghij" * 4), size=7)
        return [*parts[1::2], *parts[::-2], *parts]

    async with serving(jumbled) as (server,):
        assert await get(server.at, "key") == (0, ["key: " + "abcdefghij" * 4], [])


async def test_a_part_that_is_lost_is_asked_for_again() -> None:
    """And the value that is there by then is not mixed with the one that was there before."""

    def lossy(request: bytes, before: int) -> list[bytes]:
        parts = in_parts(request, found(b"key", (b"new " if before else b"old ") * 10), size=7)
        return parts if before else parts[1:]

    async with serving(lossy) as (server,):
        assert await get(server.at, "key") == (0, ["key: " + "new " * 10], [])
    first, second = server.requests
    assert first[:2] != second[:2]
    assert first[2:] == second[2:]


async def test_what_others_wrote_is_shown_harmlessly() -> None:
    async with serving(lambda request, _: in_parts(request, found(b"key", b"\x1b[2J\xff"))) as (server,):
        assert await get(server.at, "key") == (0, ["key: \\x1b[2J\N{REPLACEMENT CHARACTER}"], [])


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"SERVER_ERROR out of memory\r\n", "the server says: SERVER_ERROR out of memory"),
        (b"ERROR\r\n", "the server says: ERROR"),
        (b"\x1b[2J", "the server says: \\x1b[2J"),
        (found(b"other", b"x"), "the server says: VALUE other 0 1"),
        (b"VALUE key 0 x\r\nx\r\nEND\r\n", "the server says: VALUE key 0 x"),
        (b"VALUE key 0 " + b"9" * 5000 + b"\r\nx\r\nEND\r\n", "the server says: VALUE key 0 " + "9" * 5000),
        (b"VALUE key 0 9\r\nx\r\nEND\r\n", "the server gives a value that is not the 9 bytes long that it says"),
        (found(b"key", b"x") + b"more", "the server gives a value that is not the 1 bytes long that it says"),
    ],
)
async def test_an_error_is_told_of_its_key_alone(answer: bytes, told: str) -> None:
    def moody(request: bytes, before: int) -> list[bytes]:
        return in_parts(request, answer) if b"get key" in request else honest(request, before)

    async with serving(moody) as (server,):
        assert await get(server.at, "key", "good") == (1, ["good: the value of good"], [f"key: {told}"])


# ------------------------------------------------------------------------------------------------
# Whom not to believe

FORGERIES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda request: b"",
    "a frame that is cut short": lambda request: request[:7],
    "another request id": lambda request: in_parts(bytes([request[0] ^ 1]) + request[1:], found(b"key", b"forged"))[0],
    "a part that can not be": lambda request: request[:2] + struct.pack("!HHH", 1, 1, 0) + b"END\r\n",
    "no parts": lambda request: request[:2] + bytes(6) + b"END\r\n",
    "more parts than make sense": lambda request: request[:2] + struct.pack("!HHH", 0, 60_000, 0) + b"END\r\n",
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
async def test_forgeries_change_nothing(forge: Callable[[bytes], bytes]) -> None:
    async with serving(lambda request, before: [forge(request), *honest(request, before)]) as (server,):
        assert await get(server.at, "key") == (0, ["key: the value of key"], [])


async def test_parts_that_contradict_each_other_are_never_put_together() -> None:
    def contradicting(request: bytes, before: int) -> list[bytes]:
        parts = in_parts(request, found(b"key", b"x" * 20), size=12)
        assert len(parts) > 2
        return [*parts[:2], request[:2] + struct.pack("!HHH", 0, 1, 0) + b"END\r\n"]

    async with serving(contradicting) as (server,):
        status, out, err = await get(server.at, "key", timeout=HASTY)
    assert (status, out) == (1, [])
    assert "it is one of 1 datagrams, and those before it were of " in err[0]


async def test_a_part_that_never_comes_is_told_of() -> None:
    def cut(request: bytes, before: int) -> list[bytes]:
        return in_parts(request, found(b"key", bytes(100)), size=50)[:2]

    async with serving(cut) as (server,):
        status, out, (line,) = await get(server.at, "key", timeout=HASTY)
    assert (status, out) == (1, [])
    assert line.startswith(f"key: no reply from {server.at} in {HASTY} s ")
    assert "2 of 3 datagrams of the answer came" in line


# ------------------------------------------------------------------------------------------------
# Arguments, and the format


@pytest.mark.parametrize("key", ["", " ", "a b", "a\n", "\x1b", "x" * 251])
def test_a_wrong_key_is_refused(key: str) -> None:
    check_refused(run("memcached_get.py", "127.0.0.1", key), "KEY", repr(key))


@pytest.fixture(scope="module")
def memcached_get() -> Iterator[ModuleType]:
    with imported("memcached_get") as module:
        yield module


@given(
    answers=st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=3),
    size=st.integers(1, 20),
    data=st.data(),
)
def test_any_order_makes_the_same_whole(
    memcached_get: ModuleType, answers: list[bytes], size: int, data: st.DataObject
) -> None:
    """The parts of several attempts, shuffled: the first that is complete counts, and is whole."""
    parts = [
        part for attempt, answer in enumerate(answers) for part in in_parts(FRAME.pack(attempt, 0, 1, 0), answer, size)
    ]
    collector = memcached_get.Collector()
    for part in data.draw(st.permutations(parts)):
        try:
            accepted = collector.accept(udpguard.Reply(part, udpguard.Peer("192.0.2.1", 11211), None, 1))
        except ValueError:
            continue
        assert accepted
        assert collector.whole == answers[FRAME.unpack_from(part)[0]]
        return
    pytest.fail("no answer was complete")
