"""ask.py: whatever bytes to whatever server, what comes back, and the line that does the same."""

from __future__ import annotations

import ast
import re

import pytest
from example_kit import (
    HASTY,
    HEARS_ICMP,
    INTERRUPTED,
    PATIENT,
    check_refused,
    free_address,
    imported,
    lines_of,
    needs_ctrl_c,
    needs_ipv6,
    run,
    serving,
    silent,
    talking,
)

import udpguard
from udpguard.testing import Answer, Server


async def ask(*arguments: str, timeout: str = PATIENT) -> tuple[int, list[str], list[str]]:
    """Run it; returns the exit status, and the lines on stdout and on stderr."""
    return await lines_of("ask.py", "--timeout", timeout, *arguments)


@pytest.mark.parametrize(
    ("parts", "sent"),
    [
        (["text:hello"], b"hello"),
        (["text:"], b""),
        (["text:größer"], "größer".encode()),
        (["1b"], b"\x1b"),
        (["23", "00x47"], b"\x23" + bytes(47)),
        (["1234", "ABcdx2", "text:a b"], b"\x12\x34\xab\xcd\xab\xcda b"),
        (["ffx0"], b""),
    ],
)
async def test_it_sends_the_parts_and_shows_both_sides(parts: list[str], sent: bytes) -> None:
    async with serving(lambda request, before: [b"\x00good day\xff" + bytes(10)]) as (server,):
        status, out, err = await ask(server.at, *parts)
    assert (status, err, server.requests) == (0, [], [sent])
    assert out[0] == f"To {server.at}, {len(sent)} byte{'s' * (len(sent) != 1)}:"
    answer = next(number for number, line in enumerate(out) if line.startswith("From"))
    assert re.fullmatch(rf"From {server.at} in \d+\.\d ms, 20 bytes:", out[answer])
    assert out[answer + 1 : answer + 3] == [
        "  0000  00 67 6f 6f 64 20 64 61 79 ff 00 00 00 00 00 00  .good day.......",
        "  0010  00 00 00 00                                      ....",
    ]


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
async def test_the_line_it_prints_does_the_same(host: str) -> None:
    async with serving(lambda request, before: [request[::-1]], host=host) as (server,):
        _, out, _ = await ask(server.at, "0001", "text:hello")
        code = f"async def again(endpoint):\n  {out[-1].strip()}\n  return data"
        names: dict[str, object] = {}
        exec(compile(ast.parse(code), "printed", "exec"), names)
        async with udpguard.open_endpoint() as endpoint:
            assert await names["again"](endpoint) == b"olleh\1\0"  # type: ignore[operator]
    assert server.requests == [b"\0\1hello"] * 2


async def test_an_answer_from_another_port() -> None:
    async with Server(lambda request: Answer(b"here", sent_from="port")) as server:
        at = str(server.address)
        status, out, err = await ask(at, "00", timeout=HASTY)
        assert (status, len(out)) == (1, 2)
        assert err[-1] == "With --any-port, answers from any port of that host are believed."
        status, out, err = await ask("--any-port", at, "00")
        assert (status, err) == (0, [])
        assert out[-1].endswith(', bytes.fromhex("00"), reply_from="host")')


async def test_it_is_sent_again() -> None:
    async with serving(lambda request, before: [b"at last"] if before else []) as (server,):
        status, out, _ = await ask(server.at, "00")
    assert (status, len(server.requests)) == (0, 2)
    assert f"From {server.at} after 2 sends, 7 bytes:" in out


async def test_a_silent_server() -> None:
    async with serving(silent) as (server,):
        status, _, (complaint,) = await ask(server.at, "00", timeout=HASTY)
    assert status == 1
    assert complaint.startswith(f"no reply from {server.at} in {HASTY} s (1 sent)")
    assert "any-port" not in complaint


async def test_a_server_that_is_off() -> None:
    at = free_address()
    status, _, (complaint,) = await ask(str(at), "00", timeout=PATIENT if HEARS_ICMP else HASTY)
    assert status == 1
    assert complaint.startswith(f"{at} refused: " if HEARS_ICMP else f"no reply from {at}")


async def test_a_name_that_nobody_has() -> None:
    status, _, (complaint,) = await ask("no-such-host.invalid:7", "00")
    assert status == 1
    assert "'no-such-host.invalid': is " in complaint  # spelt right, or the network up


@pytest.mark.parametrize("part", ["0", "0g", "hello", "00x", "x3", "00x-1", "00x100000", "", "00 01", "text"])
def test_what_is_no_bytes(part: str) -> None:
    check_refused(run("ask.py", "127.0.0.1:7", part), repr(part), "text:hello")


@pytest.mark.parametrize("server", ["127.0.0.1", "127.0.0.1:0", ":7"])
def test_what_is_no_server(server: str) -> None:
    check_refused(run("ask.py", server, "00"), "HOST:PORT")


def test_too_many_bytes() -> None:
    check_refused(run("ask.py", "127.0.0.1:7", "00x65508"), "65508 bytes")


def test_the_most_that_a_part_can_be() -> None:
    with imported("ask") as module:
        assert len(module.part("00x65507")) == 65_507


@needs_ctrl_c
async def test_ctrl_c() -> None:
    async with serving(silent) as (server,):
        with talking("ask.py", server.at, "00") as talk:
            await server.first_request()
            talk.interrupt()
            status, _, err = await talk.end()
    assert (status, err) == (INTERRUPTED, "")
