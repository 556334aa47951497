"""Fetch a file from a TFTP server, however many datagrams are lost on the way.

    python examples/tftp_get.py 192.0.2.1 pxelinux.0
    python examples/tftp_get.py [2001:db8::1]:6969 images/disk.img -o disk.img --block-size 8192

TFTP (RFC 1350) is asked at port 69 and answers from a port of its own for each file, where the client then goes
on. That is a session with `reply_from="host"`: the first answer's port becomes its peer, and nobody else is heard.

Each acknowledgement asks for the next block, so the whole protocol is `session.request`, again and again. It is sent
again when no block comes, as the measured round trips say (`AdaptiveRetry`), and `accept` takes the very next block
alone. So a block that comes twice is not acknowledged twice: where both sides answer duplicates, each doubles
all that follow (the "Sorcerer's Apprentice", RFC 1123 section 4.2.3.1).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import struct
import sys
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import command_line
import udpguard

try:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
except ImportError:
    sys.exit(command_line.missing("the progress bar comes", "rich"))

PORT = 69
READ, DATA, ACK, ERROR, OPTIONS = 1, 3, 4, 5, 6  # what a packet begins with (RFC 1350 section 5, RFC 2347)
HEAD = struct.Struct("!HH")
PLAIN_BLOCK_SIZE, MIN_BLOCK_SIZE, MAX_BLOCK_SIZE = 512, 8, 65_464  # RFC 2348
BLOCK_SIZE = 1_428  # fits into Ethernet's frames, over IPv6 in a tunnel, too
GIVEN_UP, ILLEGAL, BAD_OPTIONS = 0, 4, 8  # error codes (RFC 1350 section 5, RFC 2347)
LONGEST_NUMBER = 20  # digits of an option's value
NUMBERS = 1 << 16  # Block 65,535 is followed by block 0.
LINGER = 1.5  # seconds in which the server may ask for the last acknowledgement again; most do after one
RETRY = udpguard.AdaptiveRetry(attempts=60, minimum=0.1, maximum=1.0)
PORTS = udpguard.Ports(quarantine=0)  # Blocks have numbers: no request need wait for late answers to the last one.


class TftpError(Exception):
    """The server said no."""


class NonsenseError(TftpError):
    """The server does what it must not, and is told so with an error code."""

    code = ILLEGAL


class OptionsError(NonsenseError):
    """The server wants what nobody asked for."""

    code = BAD_OPTIONS


class Terms(NamedTuple):
    """What was agreed on."""

    block_size: int = PLAIN_BLOCK_SIZE
    file_size: int | None = None


# ------------------------------------------------------------------------------------ the protocol


def read_request(name: str, options: dict[str, int]) -> bytes:
    """The packet that asks for a file, as it is."""
    words = [name, "octet", *(word for option, value in options.items() for word in (option, str(value)))]
    return struct.pack("!H", READ) + b"".join(word.encode() + b"\0" for word in words)


def acknowledgement(block: int) -> bytes:
    return HEAD.pack(ACK, block % NUMBERS)


def is_block(packet: bytes, number: int) -> bool:
    """Whether it is this block, of which the packet has the last 16 bits."""
    return HEAD.unpack_from(packet) == (DATA, number % NUMBERS)


def content(packet: bytes, terms: Terms) -> bytes:
    """What of the file is in a block: one that is shorter than the others is the last."""
    if len(packet) > HEAD.size + terms.block_size:
        raise NonsenseError(f"the server sends a block of more than the {terms.block_size} bytes that were agreed on")
    return packet[HEAD.size :]


async def ask(session: udpguard.Session, question: bytes, block: int, *, or_options: bool = False) -> bytes:
    """Send a packet until the block comes; or else, if that may be, the options that the server agrees to."""

    def accept(reply: udpguard.Reply) -> bool:
        if len(reply.data) < HEAD.size:
            raise ValueError("it is too short for TFTP")  # quoted, when it times out
        kind = HEAD.unpack_from(reply.data)[0]
        return kind == ERROR or is_block(reply.data, block) or (or_options and kind == OPTIONS)

    packet = await session.request(question, accept=accept)
    kind, code = HEAD.unpack_from(packet)
    if kind == ERROR:
        text = packet[HEAD.size :].partition(b"\0")[0].decode(errors="replace")
        raise TftpError(f"the server says: {command_line.shown(text)} (error {code})")
    return packet


def agreed(packet: bytes, asked: dict[str, int]) -> Terms:
    """What the server makes of the options: it may name those that were asked for (RFC 2347)."""
    words = packet[2:].decode("ascii", "replace").split("\0")
    values: dict[str, int] = {}
    for option, value in zip(words[0::2], words[1::2], strict=False):
        if option.lower() not in asked or not value.isdecimal() or len(value) > LONGEST_NUMBER:
            raise OptionsError(f"the server sets an option that makes no sense: {command_line.shown(option)}")
        values[option.lower()] = int(value)
    terms = Terms(values.get("blksize", PLAIN_BLOCK_SIZE), values.get("tsize"))
    if "blksize" in values and not MIN_BLOCK_SIZE <= terms.block_size <= asked["blksize"]:  # RFC 2348
        raise OptionsError(f"the server wants blocks of {terms.block_size} bytes, more than were asked for, or too few")
    return terms


async def fetch(
    session: udpguard.Session,
    name: str,
    options: dict[str, int],
    begin: Callable[[Terms], object],
    write: Callable[[bytes], object],
) -> int:
    """Fetch a file: `begin` is told what was agreed on, `write` gets the blocks. Returns how many there were."""
    try:
        terms, number = Terms(), 1
        packet = await ask(session, read_request(name, options), number, or_options=True)
        if not is_block(packet, number):
            terms = agreed(packet, options)
            packet = await ask(session, acknowledgement(0), number)
        begin(terms)
        write(content(packet, terms))
        while len(packet) == HEAD.size + terms.block_size:
            packet = await ask(session, acknowledgement(number), number + 1)
            number += 1
            write(content(packet, terms))
    except (OSError, NonsenseError, asyncio.CancelledError) as error:
        # A server that isn't told would send its block again for a while.
        code = error.code if isinstance(error, NonsenseError) else GIVEN_UP
        with contextlib.suppress(OSError, udpguard.UdpGuardError):
            await session.send(HEAD.pack(ERROR, code) + b"the client gives up\0")
        raise
    await session.send(acknowledgement(number))
    return number


async def linger(session: udpguard.Session, number: int) -> None:
    """See to it that the server learns of the end: the last acknowledgement may be lost, too (RFC 1350 section 6)."""
    with contextlib.suppress(TimeoutError, udpguard.PeerRefusedError):
        async with asyncio.timeout(LINGER):
            async for packet in session:
                if len(packet) >= HEAD.size and is_block(packet, number):
                    await session.send(acknowledgement(number))


# ---------------------------------------------------------------------------------------- the tool


@contextlib.contextmanager
def saved(path: Path | None) -> Generator[BinaryIO, None, None]:
    """A file that bears its name only once it is whole; standard output, for None."""
    if path is None:
        yield sys.stdout.buffer
        return
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


async def run(server: command_line.Server, name: str, options: dict[str, int], timeout: float, file: BinaryIO) -> None:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    began, size = time.monotonic(), 0
    async with (
        udpguard.open_endpoint(timeout=timeout, retry=RETRY, ports=PORTS) as endpoint,
        endpoint.session(server, reply_from="host") as session,
    ):
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            bar = progress.add_task(command_line.shown(name), total=None)

            def begin(terms: Terms) -> None:
                progress.update(bar, total=terms.file_size)

            def write(block: bytes) -> None:
                nonlocal size
                size += len(block)
                file.write(block)
                progress.advance(bar, len(block))

            blocks = await fetch(session, name, options, begin, write)
        seconds, again = time.monotonic() - began, endpoint.statistics().retransmitted
        told = sys.stderr if file is sys.stdout.buffer else sys.stdout
        print(f"{size:,} bytes in {blocks:,} blocks, {seconds:.1f} s; sent again: {again:,}", file=told, flush=True)
        if again:  # Where nothing was lost until now, nothing will be.
            await linger(session, blocks)


def target(output: str | None, name: str) -> Path | None:
    """Where the file is to be."""
    if output == "-":
        return None
    path = Path(output or ".")
    return path / PurePosixPath(name).name if path.is_dir() else path


def whole_number(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not {least} to {most}")
        return value

    return number


def main() -> int:
    parser = argparse.ArgumentParser(description="Fetch a file from a TFTP server.")
    parser.add_argument("server", metavar="HOST[:PORT]", type=partial(command_line.server, default_port=PORT))
    parser.add_argument("name", metavar="FILE", help="as the server calls it")
    parser.add_argument("-o", "--output", metavar="OUT", help="where to put it; - for standard output")
    parser.add_argument(
        "--block-size",
        type=whole_number(MIN_BLOCK_SIZE, MAX_BLOCK_SIZE),
        default=BLOCK_SIZE,
        help="the most bytes in a block; 512 needs no option (default: %(default)s)",
    )
    parser.add_argument(
        "--server-timeout",
        type=whole_number(1, 255),
        metavar="SECONDS",
        help="when the server is to send a block again; it knows itself unless told",
    )
    parser.add_argument(
        "--timeout",
        type=command_line.seconds,
        default=30.0,
        help="seconds to wait for each block (default: %(default)s)",
    )
    arguments = parser.parse_args()
    name: str = arguments.name
    options = {"blksize": arguments.block_size, "tsize": 0, "timeout": arguments.server_timeout}
    options = {option: value for option, value in options.items() if value is not None}
    if not name or "\0" in name or len(read_request(name, options)) > PLAIN_BLOCK_SIZE:
        parser.error("FILE must be a name, not longer than fits into the request (RFC 2347)")
    try:
        with saved(target(arguments.output, name)) as file:
            asyncio.run(run(arguments.server, name, options, arguments.timeout, file))
    except BrokenPipeError:
        raise
    except (OSError, TftpError, udpguard.UdpGuardError) as error:
        print(f"{command_line.shown(name)}: {command_line.complaint(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    command_line.run(main)
