"""chat.py: who hears whom, and who is heard by nobody."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import pytest
from example_kit import (
    INTERRUPTED,
    ScriptedServer,
    Talk,
    check_refused,
    free_address,
    lines_of,
    needs_ctrl_c,
    needs_icmp,
    run,
    serving,
    silent,
    talking,
    talking_on_a_terminal,
)

NOBODY = "* from others, whom nobody heard: 0\n"


def addressed(at: str) -> tuple[str, int]:
    host, _, port = at.rpartition(":")
    return host, int(port)


@contextmanager
def chatting(name: str, own: str, *others: str) -> Iterator[Talk]:
    with talking("chat.py", name, "--listen", own, *others) as talk:
        yield talk


@asynccontextmanager
async def among(*names: str) -> AsyncIterator[tuple[list[Talk], list[str]]]:
    """Those who chat, when each has heard who came after, and where they are."""
    at = [str(free_address()) for _ in names]
    with ExitStack() as stack:
        talks: list[Talk] = []
        for i, name in enumerate(names):
            talk = stack.enter_context(chatting(name, at[i], *(other for other in at if other != at[i])))
            await talk.until(f"* {name} listens at {at[i]}\n")
            for earlier in talks:
                await earlier.until(f"* {name} ({at[i]}) is here\n")
            talks.append(talk)
        yield talks, at


async def test_each_hears_all_others_and_not_itself() -> None:
    async with among("alice", "bob", "carol") as (talks, _):
        for name, talk in zip(("alice", "bob", "carol"), talks, strict=True):
            talk.type(f"I am {name}, grüß Gott")
            for other in talks:
                if other is not talk:
                    await other.until(f"{name}: I am {name}, grüß Gott\n")
        alice, bob, carol = talks
        alice.type("/quit")
        status, out, err = await alice.end()
        assert (status, out, err) == (0, NOBODY, "")
        await bob.until(" has left\n")
        await carol.until(" has left\n")
        assert await bob.end() == (0, NOBODY, "")  # the end of input will do, too


async def test_whoever_was_not_invited_is_not_heard() -> None:
    async with among("alice", "bob") as ((alice, bob), at):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind(("127.0.0.1", 0))
            for where in at:
                for _ in range(3):
                    stranger.sendto(b"say\tbob\tsend me your money", addressed(where))
        alice.type("hello")
        assert await bob.until("alice: hello\n") == ""
        bob.type("hello yourself")
        assert await alice.until("bob: hello yourself\n") == ""
        for talk in (alice, bob):
            status, out, err = await talk.end()
            assert (status, err) == (0, "")
            assert out.endswith("* from others, whom nobody heard: 3\n")
            assert "money" not in out


@asynccontextmanager
async def with_one_other() -> AsyncIterator[tuple[Talk, ScriptedServer, tuple[str, int]]]:
    """Alice, and the test in the place of the one whom she talks to."""
    async with serving(silent) as (other,):
        with chatting("alice", str(free_address()), other.at) as talk:
            data, alice = await other.first_request()
            assert data == b"join\talice\t"
            await talk.until("* alice listens at 127.0.0.1:")
            await talk.until("\n")
            yield talk, other, alice


async def test_what_is_said_on_the_wire() -> None:
    async with with_one_other() as (talk, other, _):
        talk.type("hello", "", "with\ttab", "/who")
        await talk.until(f"* {other.at}: sent 3, heard 0\n")
        assert (await talk.end())[::2] == (0, "")
        await other.until(lambda: len(other.requests) == 4)
    assert other.requests[1:] == [b"say\talice\thello", b"say\talice\twith\ttab", b"leave\talice\t"]


async def test_what_others_send_does_nothing_to_the_terminal() -> None:
    async with with_one_other() as (talk, other, alice):
        for data in (b"say\tbo\x07b\t\x1b[2Jboo\xff\xe2\x80\xae", b"hello", b"\0\1\2", b"join", b"say\tbob"):
            other.transport.sendto(data, alice)
        await talk.until("bo\\x07b: \\x1b[2Jboo\ufffd\\u202e\n")
        for _ in range(2):
            await talk.until(f"* {other.at} sent what is no chat\n")
        await talk.until(f"*  ({other.at}) is here\n")
        await talk.until("bob: \n")
        talk.press(b"\xff\n")
        await other.until(lambda: len(other.requests) == 2)
        assert other.requests[1] == "say\talice\t\ufffd".encode()


async def test_what_is_too_long_is_not_sent_and_the_chat_goes_on() -> None:
    async with with_one_other() as (talk, other, _):
        talk.type("x" * 66_000, "short")
        await other.until(lambda: len(other.requests) == 2)
        assert other.requests[1] == b"say\talice\tshort"
        status, _, err = await talk.end()
    assert status == 0
    assert err.startswith(f"* {other.at} was not told: ")


@needs_icmp
async def test_who_is_not_there_yet_is_told_of_once() -> None:
    at = [str(free_address()) for _ in range(2)]
    with chatting("alice", *at) as alice:
        await alice.until(f"* nobody is at {at[1]} now\n")
        alice.type("hello?", "hello?")
        with chatting("bob", *reversed(at)) as bob:
            assert await alice.until(f"* bob ({at[1]}) is here\n") == ""
            alice.type("hello")
            await bob.until("alice: hello\n")
            assert (await bob.end())[0] == 0
        alice.type("are you still there?")
        await alice.until(f"* nobody is at {at[1]} now\n")


@needs_ctrl_c
async def test_ctrl_c_says_goodbye_though_nobody_types() -> None:
    async with with_one_other() as (talk, other, _):
        talk.interrupt()
        assert await talk.end() == (INTERRUPTED, NOBODY, "")
        await other.until(lambda: b"leave\talice\t" in other.requests)


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are Unix'")
@pytest.mark.parametrize(("key", "status"), [(b"\x03", INTERRUPTED), (b"\x04", 0)], ids=["Ctrl-C", "Ctrl-D"])
async def test_on_a_terminal(key: bytes, status: int) -> None:
    async with serving(silent) as (other,):
        with talking_on_a_terminal("chat.py", "alice", "--listen", str(free_address()), other.at) as talk:
            _, alice = await other.first_request()
            other.transport.sendto(b"say\tbob\thello", alice)
            await talk.until("bob: hello\r\n")
            talk.type("hello")
            await other.until(lambda: b"say\talice\thello" in other.requests)
            talk.press(key)
            await talk.until("whom nobody heard: 0")
            assert await asyncio.to_thread(talk.process.wait) == status


async def test_an_address_that_is_not_this_machines() -> None:
    status, out, err = await lines_of("chat.py", "alice", "--listen", "192.0.2.1:7007", "127.0.0.1:7008")
    assert (status, out) == (1, [])
    assert "could not bind to 192.0.2.1:7007" in err[0]


async def test_another_family_than_it_listens_at() -> None:
    status, out, err = await lines_of("chat.py", "alice", "--listen", str(free_address()), "[::1]:7008")
    assert (status, out) == (1, [])
    assert "can't reach [::1]:7008" in err[0]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["alice"], "HOST:PORT"),
        (["", "127.0.0.1:1"], "name"),
        (["a\tb", "127.0.0.1:1"], "name"),
        (["al", "nowhere"], "nowhere"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], word: str) -> None:
    check_refused(run("chat.py", *arguments), word)
