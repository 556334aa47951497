"""Look very many names up, from a file or a pipe, and print a line of JSON for each.

    python examples/dns_sweep.py names.txt @192.0.2.1 @192.0.2.2 > answers.jsonl
    zcat names.gz | python examples/dns_sweep.py - @192.0.2.1 --type AAAA --rate 5000

The names go round the servers. Lines come as the answers do, not in the order of the names; a name that
was not answered has a line with its error. A progress bar is drawn where stderr is a terminal (it needs
rich: `pip install rich`). Ctrl-C ends it, with what it has. The exit status is 0 if all names were answered
(that there is no such name is an answer, too), 1 otherwise, and 130 after Ctrl-C.

Ask your own name servers, or somebody's who agreed to it: thousands of questions a second are a flood.

The sweep takes names as it can ask them, so that the list may be as long as you like. Its correlator has
the whole question in the key, besides the id: so a reply counts only if it answers that very question
(RFC 5452 section 9.1), and each name is one plain request for udpguard.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import secrets
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import TextIO, cast

import udpguard
from command_line import Server, seconds
from command_line import run as run_program
from dns_lookup import (
    EDNS,
    HEADER,
    RESPONSE,
    TYPES,
    MalformedError,
    pack_name,
    pack_query,
    read_response,
    server_address,
)

Question = tuple[udpguard.Address, bytes, str]
Found = dict[str, object]
Say = Callable[[Found], object]


class DnsQuestion(udpguard.Correlator):
    """A query's id, and its question with the name in small letters."""

    def request_key(self, data: bytes) -> bytes:
        """The key of a query, which is made below: it ends with the EDNS record."""
        return data[:2] + data[HEADER.size : -len(EDNS)].lower()

    def reply_key(self, data: bytes) -> bytes | None:
        """The key of an answer; None for whatever else may come."""
        if len(data) < HEADER.size or not data[2] & RESPONSE >> 8 or data[4:6] != b"\0\1":
            return None
        end = HEADER.size
        while end < len(data) and data[end]:
            end += data[end] + 1
        return data[:2] + data[HEADER.size : end + 5].lower()


def questions(lines: Iterable[str], rrtype: int, servers: Iterator[Server], say: Say) -> Iterator[Question]:
    """What to ask: a name a line, without blank lines and comments."""
    for line in lines:
        name = line.partition("#")[0].strip()
        if not name:
            continue
        try:
            query = pack_query(pack_name(name), rrtype)
        except ValueError as error:
            say({"name": name, "error": f"it is no domain name: {error}"})
            continue
        server = next(servers)
        yield (server.host, server.port), secrets.token_bytes(2) + query[2:], name


async def piped(file: TextIO, rrtype: int, servers: Iterator[Server], say: Say) -> AsyncIterator[Question]:
    """The same from a pipe, however slowly the names come: nothing else waits for them."""
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    try:
        async for line in reader:
            for question in questions([line.decode(errors="replace")], rrtype, servers, say):
                yield question
    finally:
        transport.close()


def found(outcome: udpguard.Outcome) -> Found:
    """What became of one name, as it is printed."""
    line: Found = {"name": outcome.tag}
    if outcome.reply is None:
        return line | {"error": " ".join(str(outcome.error).split())}
    try:
        response = read_response(outcome.reply.data)
    except MalformedError as error:
        return line | {"error": f"the answer is malformed: {error}"}
    line |= {"server": str(outcome.reply.peer), "status": response.rcode, "records": response.records}
    if response.truncated:
        line["truncated"] = True
    if outcome.reply.rtt is not None:
        line["ms"] = round(outcome.reply.rtt * 1000, 3)
    return line


async def show(sweep: udpguard.Sweep, total: int | None) -> None:
    """Draw a progress bar until it is cancelled."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TimeRemainingColumn

    columns = (
        "{task.completed:,.0f} names",
        BarColumn(),
        "{task.fields[rate]:,.0f}/s",
        "{task.fields[failed]:,} failed",
    )
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("", total=total, rate=0.0, failed=0)
        while True:
            progress = sweep.progress
            done = progress.answered + progress.failed
            bars.update(bar, completed=done, rate=progress.rate, failed=progress.failed)
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def progress_bar(sweep: udpguard.Sweep, total: int | None) -> AsyncGenerator[None, None]:
    """A progress bar meanwhile, where somebody sees it, and there is what draws it."""
    if not sys.stderr.isatty() or find_spec("rich") is None:
        yield
        return
    task = asyncio.create_task(show(sweep, total))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Tally:
    """Counts, and prints."""

    def __init__(self) -> None:
        self.answered = 0
        self.failed = 0

    def say(self, line: Found) -> None:
        """Print what became of a name."""
        if "error" in line:
            self.failed += 1
        else:
            self.answered += 1
        sys.stdout.write(json.dumps(line) + "\n")


async def run(arguments: argparse.Namespace, file: TextIO, say: Say) -> None:
    """Ask, and print what comes."""
    rrtype, servers = TYPES[arguments.type], cycle(arguments.servers)
    retry = udpguard.Retry(attempts=arguments.attempts, initial=arguments.timeout, multiplier=1.0)
    names: AsyncIterator[Question] | Iterator[Question]
    if file.seekable():
        total = sum(1 for _ in file)
        file.seek(0)
        names = questions(file, rrtype, servers, say)
    else:
        total = None
        names = piped(file, rrtype, servers, say)
    async with (
        udpguard.open_endpoint(correlate=DnsQuestion(), retry=retry) as endpoint,
        endpoint.sweep(names, in_flight=arguments.in_flight, rate=arguments.rate) as sweep,
        progress_bar(sweep, total),
    ):
        async for outcome in sweep:
            say(found(outcome))


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def main() -> int:
    parser = argparse.ArgumentParser(description="Look very many names up.")
    parser.add_argument("names", metavar="NAMES", help="a file with a name a line, or - for stdin")
    parser.add_argument("servers", metavar="@SERVER", type=server_address, nargs="+", help="@HOST[:PORT]")
    parser.add_argument(
        "--type", default="A", type=str.upper, choices=TYPES, help="of the records wanted (default: %(default)s)"
    )
    parser.add_argument(
        "--in-flight", default=1000, type=positive, help="questions at once, at the most (default: %(default)s)"
    )
    parser.add_argument("--rate", type=seconds, help="datagrams a second, at the most (default: as fast as it goes)")
    parser.add_argument(
        "--timeout", default=1.0, type=seconds, help="for each attempt, in seconds (default: %(default)s)"
    )
    parser.add_argument("--attempts", default=3, type=positive, help="for each name (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        names = sys.stdin if arguments.names == "-" else Path(arguments.names).open(errors="replace")  # noqa: SIM115
    except OSError as error:
        parser.error(f"can't read {arguments.names}: {error.strerror}")
    if not names.seekable():  # whoever feeds it slowly wants to see what comes
        cast("io.TextIOWrapper", sys.stdout).reconfigure(line_buffering=True)
    tally, status = Tally(), 130
    with names as file, contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(arguments, file, tally.say))
        status = 1 if tally.failed else 0
    sys.stdout.flush()
    print(f"{tally.answered} answered, {tally.failed} failed", file=sys.stderr)
    return status


if __name__ == "__main__":
    run_program(main)
