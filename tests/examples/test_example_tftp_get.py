"""tftp_get.py: what it asks, what it makes of bad networks and of servers that misbehave, and what it leaves behind."""

from __future__ import annotations

import asyncio
import random
import struct
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

import pytest
from example_kit import (
    HASTY,
    INTERRUPTED,
    PATIENT,
    Script,
    ScriptedServer,
    check_refused,
    free_address,
    imported,
    lines_of,
    needs_ctrl_c,
    needs_icmp,
    needs_ipv6,
    run,
    serving,
    silent,
    talking,
    talking_on_a_terminal,
)

READ, DATA, ACK, ERROR, OPTIONS = 1, 3, 4, 5, 6
SIZE = 1_428
CONTENT = random.Random(69).randbytes(10 * SIZE + 100)  # 11 blocks


def packet(kind: int, number: int, rest: bytes = b"") -> bytes:
    return struct.pack("!HH", kind, number) + rest


def head(data: bytes) -> tuple[int, int]:
    kind, number = struct.unpack_from("!HH", data)
    return kind, number


def is_request(data: bytes) -> bool:
    return data[:2] == b"\0\1"


def agreement(**options: int) -> bytes:
    return b"\0\6" + b"".join(b"%s\0%d\0" % (name.encode(), value) for name, value in options.items())


def giving(content: bytes = CONTENT, size: int = SIZE, first: bytes | None = None) -> Script:
    """The script of a server that does all as it should."""

    def script(data: bytes, before: int) -> list[bytes]:
        if is_request(data) and size != 512:
            return [first or agreement(blksize=size, tsize=len(content))]
        number = 0 if is_request(data) else head(data)[1]
        start = number * size
        return [packet(DATA, number + 1, content[start : start + size])] if start <= len(content) else []

    return script


def acknowledged(server: ScriptedServer) -> list[int]:
    return [head(data)[1] for data in server.requests if head(data)[0] == ACK]


def told_off(server: ScriptedServer) -> list[int]:
    """The codes of the errors that it was sent."""
    return [head(data)[1] for data in server.requests if head(data)[0] == ERROR]


async def get(server: ScriptedServer, out: Path, *arguments: str, timeout: str = PATIENT) -> tuple[int, str, list[str]]:
    """Run it; returns the exit status, what it printed, and the lines on stderr."""
    status, lines, err = await lines_of(
        "tftp_get.py", server.at, "some/file", "-o", str(out), "--timeout", timeout, *arguments
    )
    return status, "\n".join(lines), err


def got(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """Where the file is to be. Nothing else may be left beside it."""
    path = tmp_path / "out"
    yield path
    assert set(tmp_path.iterdir()) <= {path}


class NewPorts(ScriptedServer):
    """Answers from a port of its own for each file, as TFTP servers do, and from two, where it is asked twice."""

    def __init__(self, *scripts: Script) -> None:
        super().__init__(silent)
        self._scripts = scripts
        self.opened: list[ScriptedServer] = []

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        super().datagram_received(data, addr)
        self._opening = asyncio.ensure_future(self._open(data, addr))

    async def _open(self, data: bytes, addr: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        for script in self._scripts:
            _, own = await loop.create_datagram_endpoint(
                lambda s=script: ScriptedServer(s),  # type: ignore[misc]
                local_addr=("127.0.0.1", 0),
            )
            self.opened.append(own)
            own.datagram_received(data, addr)


@asynccontextmanager
async def answering_from_new_ports(*scripts: Script) -> AsyncIterator[NewPorts]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: NewPorts(*scripts), local_addr=("127.0.0.1", 0))
    try:
        yield server
    finally:
        transport.close()
        for own in server.opened:
            own.transport.close()


# ------------------------------------------------------------------------------------------------
# What should be


async def test_a_file_from_a_new_port(out: Path) -> None:
    async with answering_from_new_ports(giving()) as server:
        status, told, err = await get(server, out)
        (own,) = server.opened
    assert (status, err) == (0, [])
    assert told.startswith("14,380 bytes in 11 blocks, ")
    assert told.endswith("; sent again: 0")
    assert got(out) == CONTENT
    assert server.requests == [b"\0\1some/file\0octet\0blksize\x001428\0tsize\x000\0"]
    assert acknowledged(own) == list(range(12))
    assert set(own.clients) == set(server.clients)


@needs_ipv6
async def test_a_file_over_ipv6(out: Path) -> None:
    async with serving(giving(), host="::1") as (server,):
        assert (await get(server, out))[0] == 0
    assert got(out) == CONTENT


@pytest.mark.parametrize("size", [0, 1, 511, 512, 1024])
async def test_a_server_that_knows_no_options(size: int, out: Path) -> None:
    content = CONTENT[:size]
    async with serving(giving(content, 512)) as (server,):
        status, told, _ = await get(server, out)
    assert status == 0
    assert told.startswith(f"{size:,} bytes in {size // 512 + 1} blocks")
    assert got(out) == content


async def test_options_are_asked_for_and_a_smaller_block_is_taken(out: Path) -> None:
    async with serving(giving(size=1_000)) as (server,):
        status, told, _ = await get(server, out, "--block-size", "8192", "--server-timeout", "3")
    assert status == 0
    assert told.startswith("14,380 bytes in 15 blocks")
    assert server.requests[0].endswith(b"\0blksize\x008192\0tsize\x000\0timeout\x003\0")
    assert got(out) == CONTENT


async def test_standard_output_has_the_file_and_nothing_else() -> None:
    content = b"hello\n" * 100
    async with serving(giving(content)) as (server,):
        done = await asyncio.to_thread(run, "tftp_get.py", server.at, "file", "-o", "-")
    assert (done.returncode, done.stdout) == (0, content.decode())
    assert done.stderr.startswith("600 bytes in 1 blocks")


async def test_a_directory_gets_the_file_under_its_own_name(tmp_path: Path) -> None:
    async with serving(giving()) as (server,):
        assert (await get(server, tmp_path))[0] == 0
    assert got(tmp_path / "file") == CONTENT


def test_the_number_of_a_block_wraps() -> None:
    with imported("tftp_get") as tftp_get:
        check_numbers(tftp_get)


def check_numbers(tftp_get: ModuleType) -> None:
    for number, written in ((1, 1), (65_535, 65_535), (65_536, 0), (65_537, 1), (200_000, 3_392)):
        assert tftp_get.acknowledgement(number) == packet(ACK, written)
        assert tftp_get.is_block(packet(DATA, written, b"x"), number)
        assert not tftp_get.is_block(packet(DATA, (written + 1) % 65_536, b"x"), number)


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are Unix'")
async def test_a_terminal_shows_a_progress_bar(out: Path) -> None:
    async with serving(giving()) as (server,):
        with talking_on_a_terminal("tftp_get.py", server.at, "some/file", "-o", str(out)) as talk:
            await talk.until("some/file")
            await talk.until("14.4/14.4 kB")
            await talk.until("14,380 bytes in 11 blocks")
            assert await asyncio.to_thread(talk.process.wait) == 0
    assert got(out) == CONTENT


# ------------------------------------------------------------------------------------------------
# A bad network


async def test_a_block_that_comes_twice_is_not_acknowledged_twice(out: Path) -> None:
    """The Sorcerer's Apprentice: else each of the two acknowledgements has the next block sent."""

    def twice(data: bytes, before: int) -> list[bytes]:
        return giving()(data, before) * 2

    async with serving(twice) as (server,):
        status, _, _ = await get(server, out)
    assert status == 0
    assert got(out) == CONTENT
    assert Counter(acknowledged(server)) == Counter(range(12))


async def test_what_is_lost_is_asked_for_again(out: Path) -> None:
    """Be it the request, an acknowledgement, or the last of them, which is never answered."""
    seen: Counter[bytes] = Counter()

    def script(data: bytes, before: int) -> list[bytes]:
        seen[data] += 1
        if seen[data] > 1 or not (is_request(data) or head(data) in ((ACK, 1), (ACK, 11))):
            return giving()(data, before)
        # The server doesn't hear it. In the last case it will send the last block again.
        return giving()(packet(ACK, 10), before) if head(data) == (ACK, 11) else []

    async with serving(script) as (server,):
        status, told, err = await get(server, out)
    assert (status, err) == (0, [])
    assert told.endswith("; sent again: 2")
    assert got(out) == CONTENT
    assert [head(data) for data, count in seen.items() if count == 2] == [head(b"\0\1so"), (ACK, 1), (ACK, 11)]


async def test_who_else_answers_disturbs_nothing(out: Path) -> None:
    """A request that the network doubled has a server begin twice: the first to answer counts."""
    async with answering_from_new_ports(giving(), lambda data, before: [packet(DATA, 1, b"forged")]) as server:
        status, _, _ = await get(server, out)
    assert status == 0
    assert got(out) == CONTENT


# ------------------------------------------------------------------------------------------------
# Servers that say no, nonsense, or nothing


@pytest.mark.parametrize("after", [0, 3])
async def test_an_error_of_the_server_is_shown(after: int, out: Path) -> None:
    def script(data: bytes, before: int) -> list[bytes]:
        return giving()(data, before) if before < after else [packet(ERROR, 1, b"No such \x1b[2Jfile\0")]

    async with serving(script) as (server,):
        status, told, err = await get(server, out)
    assert (status, told) == (1, "")
    assert err == ["some/file: the server says: No such \\x1b[2Jfile (error 1)"]
    assert got(out) is None
    assert told_off(server) == []


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (agreement(blksize=2_000), "blocks of 2000 bytes"),
        (agreement(blksize=4), "blocks of 4 bytes"),
        (agreement(windowsize=4), "windowsize"),
        (b"\0\6blksize\0many\0", "blksize"),
        (b"\0\6tsize\0" + b"9" * 5_000 + b"\0", "tsize"),
    ],
)
async def test_options_that_nobody_asked_for_end_it(first: bytes, words: str, out: Path) -> None:
    async with serving(giving(first=first)) as (server,):
        status, _, err = await get(server, out)
        await server.until(lambda: len(server.requests) == 2)
    assert status == 1
    assert words in err[0]
    assert got(out) is None
    assert told_off(server) == [8]


@pytest.mark.parametrize("before_it", [0, 1])
async def test_a_block_that_is_too_long_is_not_taken_for_the_last(before_it: int, out: Path) -> None:
    def script(data: bytes, before: int) -> list[bytes]:
        size = SIZE if before < 1 + before_it else SIZE + 1
        return [agreement(blksize=SIZE)] if is_request(data) else [packet(DATA, head(data)[1] + 1, b"x" * size)]

    async with serving(script) as (server,):
        status, told, err = await get(server, out, "--block-size", str(SIZE))
        await server.until(lambda: len(server.requests) == 3 + before_it)
    assert (status, told) == (1, "")
    assert err == [f"some/file: the server sends a block of more than the {SIZE} bytes that were agreed on"]
    assert got(out) is None
    assert told_off(server) == [4]


async def test_a_silent_server(out: Path) -> None:
    async with serving(silent) as (server,):
        status, _, err = await get(server, out, timeout=HASTY)
    assert status == 1
    assert err[0].startswith(f"some/file: no reply from {server.at} in {HASTY} s (1 sent)")


async def test_what_is_no_tftp_is_told_of(out: Path) -> None:
    async with serving(lambda data, before: [b"?"]) as (server,):
        status, _, err = await get(server, out, timeout=HASTY)
    assert status == 1
    assert "it is too short for TFTP" in err[0]


@needs_icmp
async def test_a_dead_server(out: Path) -> None:
    at = str(free_address())
    status, _, err = await lines_of("tftp_get.py", at, "some/file", "-o", str(out))
    assert status == 1
    assert f"{at} refused" in err[0]


async def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    async with serving(giving()) as (server,):
        status, _, err = await get(server, tmp_path / "missing" / "out")
    assert status == 1
    assert err == [f"some/file: {tmp_path / 'missing' / 'out.part'}: No such file or directory"]
    assert server.requests == []


@needs_ctrl_c
async def test_ctrl_c_tells_the_server_and_leaves_no_file(out: Path) -> None:
    asked = asyncio.Event()

    def half(data: bytes, before: int) -> list[bytes]:
        if head(data) == (ACK, 5):
            asked.set()
            return []
        return giving()(data, before)

    async with serving(half) as (server,):
        with talking("tftp_get.py", server.at, "some/file", "-o", str(out)) as talk:
            await asked.wait()
            talk.interrupt()
            assert (await talk.end())[::2] == (INTERRUPTED, "")
        await server.until(lambda: told_off(server))
    assert told_off(server) == [0]
    assert got(out) is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["127.0.0.1:0", "file"], ["127.0.0.1:0"]),
        (["127.0.0.1", ""], ["FILE"]),
        (["127.0.0.1", "x" * 500], ["FILE"]),
        (["127.0.0.1", "file", "--block-size", "7"], ["7 is not 8 to 65464"]),
        (["127.0.0.1", "file", "--server-timeout", "256"], ["256 is not 1 to 255"]),
        (["127.0.0.1", "file", "--timeout", "0"], ["--timeout"]),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], words: list[str]) -> None:
    check_refused(run("tftp_get.py", *arguments), *words)
