"""uptime_monitor.py: what it asks, what it makes of servers that are there, dead, lossy or lying, and its figures."""

from __future__ import annotations

import asyncio
import re
import sys

import pytest
from example_kit import (
    HEARS_ICMP,
    INTERRUPTED,
    PATIENT,
    Script,
    check_refused,
    free_address,
    imported,
    lines_of,
    needs_ctrl_c,
    needs_ipv6,
    run,
    serving,
    talking,
    talking_on_a_terminal,
)

OFTEN = ("--interval", "0.05", "--timeout", PATIENT)
HASTY = ("--interval", "0.05", "--timeout", "1.0")  # long enough for servers of the test's own, on a busy machine
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d (\S+): (.+)")
TIMES = re.compile(r"(\d+\.\d\d)/(\d+\.\d\d)/(\d+\.\d\d) ms, jitter (\d+\.\d\d) ms")


def echo(data: bytes, before: int) -> list[bytes]:
    return [data]


def lossy(data: bytes, before: int) -> list[bytes]:
    """Loses the second and the third of four."""
    return [] if before % 4 in (1, 2) else [data]


async def watch(*arguments: str) -> tuple[int, list[tuple[str, str]], list[str]]:
    """Run it; returns the exit status, its lines without their dates, and the lines at the end."""
    status, out, err = await lines_of("uptime_monitor.py", *arguments)
    assert err == []
    lines = [match.groups() for line in out if (match := LINE.fullmatch(line))]
    return status, [(server, text) for server, text in lines], [line for line in out if not LINE.fullmatch(line)]


# ------------------------------------------------------------------------------------------------
# Servers


async def test_live_dead_and_lossy_servers() -> None:
    dead = free_address()
    async with serving(echo, lossy) as (live, losing):
        status, lines, ends = await watch("--count", "4", *HASTY, live.at, losing.at, str(dead))
        assert [len(server.requests) for server in (live, losing)] == [4, 4]
        assert len({client for server in (live, losing) for client in server.clients}) == 1  # one socket for all
    assert status == 1
    assert [server for server, _ in lines].count(live.at) == 4
    assert all(re.fullmatch(r"\d+\.\d\d ms", text) for server, text in lines if server == live.at)
    assert [text == "no reply" for server, text in lines if server == losing.at] == [False, True, True, False]
    of_live, of_losing, of_dead = ends
    assert of_live.startswith(f"{live.at}: asked 4, lost 0%, min/avg/max ")
    assert "error" not in of_live
    assert of_losing.startswith(f"{losing.at}: asked 4, lost 50%, min/avg/max ")
    assert of_losing.endswith(", last error: no reply")
    for text in (of_live, of_losing):
        match = TIMES.search(text)
        assert match, text
        least, average, most, jitter = map(float, match.groups())
        assert 0 <= least <= average <= most < 200
        assert jitter <= most - least + 0.01
    error = "refused" if HEARS_ICMP else "no reply"
    assert of_dead == f"{dead}: asked 4, lost 100%, min/avg/max - ms, jitter - ms, last error: {error}"


async def test_an_answer_that_comes_late_is_not_the_next_ones() -> None:
    """Each answer comes when the next question does."""
    held: list[bytes] = []

    def late(data: bytes, before: int) -> list[bytes]:
        held.append(data)
        return held[-2:-1]

    async with serving(late) as (server,):
        status, lines, _ = await watch("--count", "3", "--interval", "0.2", server.at)
    assert status == 1
    assert lines == [(server.at, "no reply")] * 3
    assert len(set(held)) == 3


@needs_ipv6
async def test_names_and_families() -> None:
    async with serving(echo, host="::1") as (six,), serving(echo) as (four,):
        port = four.at.rpartition(":")[2]
        status, _, ends = await watch("--count", "1", *OFTEN, six.at, four.at, f"localhost:{port}", six.at)
    assert status == 0
    assert [end.partition(": asked 1, lost 0%")[0] for end in ends] == [six.at, four.at, f"localhost:{port}"]


async def test_a_name_that_is_none() -> None:
    status, lines, _ = await watch("--count", "2", *OFTEN, "no.such.host.invalid:7")
    assert (status, lines) == (1, [("no.such.host.invalid:7", "no address")] * 2)


# ------------------------------------------------------------------------------------------------
# Protocols


def dns(data: bytes, before: int) -> list[bytes]:
    assert data[2:] == b"\x01\0\0\1\0\0\0\0\0\0\0\0\2\0\1"
    return [data, data[:2] + b"\x81\x85" + data[4:]]  # the question itself is no answer; a refusal is one


def ntp(data: bytes, before: int) -> list[bytes]:
    assert (len(data), data[0], data[1:40]) == (48, 0x23, bytes(39))
    answer = b"\x24\1" + bytes(22) + data[40:48] + bytes(16)
    return [answer[:24] + bytes(8) + answer[32:], data, answer]


@pytest.mark.parametrize(("protocol", "script"), [("echo", echo), ("dns", dns), ("ntp", ntp)])
async def test_each_protocol_has_ids_that_nobody_guesses(protocol: str, script: Script) -> None:
    async with serving(script) as (server,):
        status, _, ends = await watch("--count", "3", "--protocol", protocol, *OFTEN, server.at)
    assert status == 0, ends
    assert ends[0].startswith(f"{server.at}: asked 3, lost 0%")
    assert len(set(server.requests)) == 3


# ------------------------------------------------------------------------------------------------
# Figures


def test_the_jitter_is_that_of_rfc_3550() -> None:
    """Section 6.4.1: J(i) = J(i-1) + (|D(i-1,i)| - J(i-1))/16."""
    with imported("uptime_monitor") as uptime_monitor, imported("command_line") as command_line:
        record = uptime_monitor.Record(command_line.Server("192.0.2.1", 7))
        record.note_answer(0.010)
        assert record.jitter == 0
        record.note_answer(0.026)
        assert record.jitter == pytest.approx(0.001)
        record.note_failure(TimeoutError("lost"))
        record.note_answer(0.010)
        assert record.jitter == pytest.approx(0.001 + (0.016 - 0.001) / 16)
        assert uptime_monitor.summary(record) == (
            "192.0.2.1:7: asked 4, lost 25%, min/avg/max 10.00/15.33/26.00 ms, jitter 1.94 ms, last error: lost"
        )


# ------------------------------------------------------------------------------------------------
# How it ends


@needs_ctrl_c
async def test_ctrl_c_ends_it_with_what_it_has() -> None:
    async with serving(echo) as (server,):
        with talking("uptime_monitor.py", "--interval", "0.05", server.at) as talk:
            await server.until(lambda: len(server.requests) == 3)
            await talk.until(" ms\n")
            talk.interrupt()
            status, out, err = await talk.end()
    assert (status, err) == (INTERRUPTED, "")
    assert re.fullmatch(rf"{re.escape(server.at)}: asked \d, lost 0%, min/avg/max .+", out.splitlines()[-1])


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are Unix'")
async def test_a_terminal_shows_a_live_table() -> None:
    dead = str(free_address())
    async with serving(echo) as (live,):
        at = (live.at, dead)
        with talking_on_a_terminal("uptime_monitor.py", "--interval", "0.05", "--timeout", PATIENT, *at) as talk:
            await live.until(lambda: len(live.requests) == 3)
            for text in ("jitter", live.at, dead, "times in ms", live.at):
                await talk.until(text)
            if HEARS_ICMP:
                await talk.until("refused")
            talk.press(b"\x03")
            assert await asyncio.to_thread(talk.process.wait) == INTERRUPTED


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["127.0.0.1:0"], "127.0.0.1:0"),
        (["127.0.0.1", "--count", "0"], "--count"),
        (["127.0.0.1", "--interval", "0"], "--interval"),
        (["127.0.0.1", "--protocol", "http"], "--protocol"),
        ([], "SERVER"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], word: str) -> None:
    check_refused(run("uptime_monitor.py", *arguments), word)
