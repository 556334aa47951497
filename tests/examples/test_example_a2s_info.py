"""a2s_info.py: how it answers challenges, and what it does not believe. tests/interop has it beside another client."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
from example_kit import HASTY, PATIENT, check_refused, imported, lines_of, run, serving
from hypothesis import given
from hypothesis import strategies as st

SINGLE = b"\xff\xff\xff\xff"
QUESTION = SINGLE + b"TSource Engine Query\0"
CHALLENGE = SINGLE + b"A" + b"\x01\x02\x03\x04"


def info(name: bytes = b"a server", app_id: int = 440, ship: bytes = b"", rest: bytes = b"") -> bytes:
    texts = b"".join(text + b"\0" for text in (name, b"ctf_2fort", b"tf", b"Team Fortress"))
    return SINGLE + b"I\x11" + texts + struct.pack("<HBBB", app_id, 3, 24, 1) + b"dl\0\1" + ship + b"1.2\0" + rest


TOLD = [
    "name:       a server",
    "map:        ctf_2fort",
    "game:       Team Fortress (tf, 440)",
    "players:    3 of 24, 1 of them bots",
    "server:     dedicated, Linux, version 1.2",
    "password:   none",
    "anti-cheat: on",
]


async def ask(at: str, timeout: str = PATIENT) -> tuple[int, list[str], list[str]]:
    """Run it; returns the exit status, and the lines on stdout and on stderr."""
    return await lines_of("a2s_info.py", "--timeout", timeout, at)


async def test_a_server_that_wants_no_challenge() -> None:
    async with serving(lambda request, _: [info()]) as (server,):
        assert await ask(server.at) == (0, TOLD, [])
    assert server.requests == [QUESTION]


async def test_a_challenge_is_answered() -> None:
    async with serving(lambda request, before: [info() if before else CHALLENGE]) as (server,):
        assert await ask(server.at) == (0, TOLD, [])
    assert server.requests == [QUESTION, QUESTION + b"\x01\x02\x03\x04"]
    assert len(set(server.clients)) == 1


async def test_the_question_is_asked_again() -> None:
    async with serving(lambda request, before: [info()] if before else []) as (server,):
        assert await ask(server.at, timeout="7") == (0, TOLD, [])
    assert server.requests == [QUESTION] * 2


async def test_challenges_without_end_are_told_of() -> None:
    async with serving(lambda request, before: [CHALLENGE[:-1] + bytes([before])]) as (server,):
        assert await ask(server.at) == (1, [], ["the server wants another challenge answered each time"])
    assert len(server.requests) == 4


async def test_the_ship_says_more() -> None:
    async with serving(lambda request, _: [info(app_id=2400, ship=b"\1\2\3")]) as (server,):
        status, out, err = await ask(server.at)
    assert (status, err, out[3:]) == (0, [], TOLD[3:])


async def test_what_others_wrote_is_shown_harmlessly() -> None:
    async with serving(lambda request, _: [info(b"\x1b[2J\xff")]) as (server,):
        _, out, _ = await ask(server.at)
    assert out[0] == "name:       \\x1b[2J\N{REPLACEMENT CHARACTER}"


FORGERIES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda request: b"",
    "the question": lambda request: request,
    "another answer": lambda request: SINGLE + b"D\0",
    "no header": lambda request: info()[4:],
    "a challenge that is cut short": lambda request: CHALLENGE[:-1],
    "cut short": lambda request: info()[:-1],
    "cut short after its flags": lambda request: info(rest=b"\x80\x01"),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
async def test_nonsense_changes_nothing(forge: Callable[[bytes], bytes]) -> None:
    async with serving(lambda request, _: [forge(request), info()]) as (server,):
        assert await ask(server.at) == (0, TOLD, [])


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"\xfe\xff\xff\xff" + bytes(20), "it is split over several datagrams: see clients/a2s_split.py"),
        (info()[:-1], "it is cut short"),
        (SINGLE + b"D\0", "it is no answer to A2S_INFO"),
    ],
)
async def test_who_gives_only_nonsense_is_told_of(answer: bytes, told: str) -> None:
    async with serving(lambda request, _: [answer]) as (server,):
        status, out, (line,) = await ask(server.at, timeout=HASTY)
    assert (status, out) == (1, [])
    assert line.startswith(f"no reply from {server.at} in {HASTY} s ")
    assert told in line


async def test_an_old_engine_is_told_of() -> None:
    async with serving(lambda request, _: [SINGLE + b"m127.0.0.1\0"]) as (server,):
        told = "the server answers as GoldSource did of old, which this does not read"
        assert await ask(server.at) == (1, [], [told])


@pytest.mark.parametrize("server", ["", "127.0.0.1:0", "[::1"])
def test_a_wrong_server_is_refused(server: str) -> None:
    check_refused(run("a2s_info.py", server), "HOST", repr(server))


@pytest.fixture(scope="module")
def a2s_info() -> Iterator[ModuleType]:
    with imported("a2s_info") as module:
        yield module


@given(rest=st.binary(max_size=60) | st.binary(max_size=60).map(lambda rest: info(rest=rest)[5:]))
def test_nonsense_is_a_value_error_at_worst(a2s_info: ModuleType, rest: bytes) -> None:
    try:
        read = a2s_info.parsed(SINGLE + b"I" + rest)
    except ValueError:
        return
    assert read.protocol == rest[0]
