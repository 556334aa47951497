"""Watch servers for as long as you like: is each there, how fast is it, and how steady?

    python examples/uptime_monitor.py --protocol dns 9.9.9.9 1.1.1.1
    python examples/uptime_monitor.py --protocol ntp --interval 10 --count 6 pool.ntp.org [2001:db8::1]:1123

Each is asked once in every interval, all of them over one socket; what is slow or dead holds up nobody else. On a
terminal a table shows the round trips, how many questions were lost, the jitter (as in RFC 3550 section 6.4.1) and
the last error; elsewhere there is a line for each answer, and in the end one for each server. It ends after `--count`
questions to each, or with Ctrl-C. The exit status is 0 if each server answered at least once.

Nothing is sent again here: a question that is lost shall count as lost. `Reply.rtt` ends when the answer arrived, not
when this program got to it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

import command_line
import udpguard

try:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
except ImportError:
    sys.exit(command_line.missing("the table comes", "rich"))


# ----------------------------------------------------------------------------------- the protocols


class Protocol(NamedTuple):
    """How to ask whether a server is there."""

    port: int
    question: bytes
    correlator: udpguard.TransactionId  # With ids, what comes late is no answer to the next question.
    is_answer: Callable[[bytes], bool]


def is_echo(data: bytes) -> bool:
    return data == ECHO


def is_response(data: bytes) -> bool:
    """Whether it is a name server's, whatever it says."""
    return len(data) >= 12 and data[2] & 0x80 != 0


def is_time(data: bytes) -> bool:
    return len(data) >= 48 and data[0] & 0x07 == 4  # from a server


ECHO = bytes(16)
ROOT_SERVERS = struct.pack("!6H", 0, 0x0100, 1, 0, 0, 0) + b"\0" + struct.pack("!2H", 2, 1)  # . IN NS
TIME = b"\x23".ljust(48, b"\0")  # version 4, client

PROTOCOLS = {
    "echo": Protocol(7, ECHO, udpguard.TransactionId(0, 8, assign=True), is_echo),
    "dns": Protocol(53, ROOT_SERVERS, udpguard.TransactionId(0, 2, assign=True), is_response),
    "ntp": Protocol(123, TIME, udpguard.TransactionId(40, 8, reply_offset=24, assign=True), is_time),
}


# ------------------------------------------------------------------------------------- the figures


class Record:
    """What is known of a server. Times are in seconds."""

    def __init__(self, server: command_line.Server) -> None:
        self.server = server
        self.asked = 0
        self.answered = 0
        self.last: float | None = None
        self.least = self.most = self.total = 0.0
        self.jitter = 0.0
        self.error = ""
        self.news = ""

    def note_answer(self, rtt: float) -> None:
        """Count an answer that took so long."""
        if self.last is None:
            self.least = self.most = rtt
        else:
            self.jitter += (abs(rtt - self.last) - self.jitter) / 16
        self.asked += 1
        self.answered += 1
        self.last, self.total = rtt, self.total + rtt
        self.least, self.most = min(self.least, rtt), max(self.most, rtt)
        self.news = f"{milliseconds(rtt)} ms"

    def note_failure(self, error: Exception) -> None:
        """Count a question without an answer."""
        self.asked += 1
        self.error = self.news = in_a_word(error)

    @property
    def figures(self) -> tuple[str, str, str, str]:
        """How many questions, the share that was lost, the round trips, the jitter."""
        lost = f"{1 - self.answered / self.asked:.0%}" if self.asked else "-"
        if not self.answered:
            return f"{self.asked:,}", lost, "-", "-"
        times = (self.least, self.total / self.answered, self.most)
        return f"{self.asked:,}", lost, "/".join(map(milliseconds, times)), milliseconds(self.jitter)


def in_a_word(error: Exception) -> str:
    """What went wrong, short enough for a table."""
    if isinstance(error, udpguard.ReplyTimeoutError):
        return f"no reply: {error.icmp[0].meaning}" if error.icmp else "no reply"
    if isinstance(error, udpguard.PeerRefusedError):
        return "refused"
    if isinstance(error, socket.gaierror):
        return "no address"
    return command_line.complaint(error).partition(";")[0]


def milliseconds(time: float) -> str:
    return f"{time * 1000:.2f}"


def table(records: Sequence[Record]) -> Table:
    drawn = Table("server", "asked", "lost", "last", "min/avg/max", "jitter", "last error", caption="times in ms")
    for record in records:
        asked, lost, times, jitter = record.figures
        last = "-" if record.last is None else milliseconds(record.last)
        drawn.add_row(str(record.server), asked, lost, last, times, jitter, record.error)
    return drawn


def summary(record: Record) -> str:
    asked, lost, times, jitter = record.figures
    error = f", last error: {record.error}" if record.error else ""
    return f"{record.server}: asked {asked}, lost {lost}, min/avg/max {times} ms, jitter {jitter} ms{error}"


# ---------------------------------------------------------------------------------------- the tool


async def watch(
    endpoint: udpguard.Endpoint,
    record: Record,
    protocol: Protocol,
    interval: float,
    count: int | None,
    tell: Callable[[Record], object],
) -> None:
    """Ask a server again and again."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    for _ in itertools.count() if count is None else range(count):
        await asyncio.sleep(due - loop.time())
        due = max(due + interval, loop.time())
        try:
            reply = await endpoint.exchange(
                record.server, protocol.question, accept=lambda reply: protocol.is_answer(reply.data)
            )
        except (OSError, udpguard.UdpGuardError) as error:
            record.note_failure(error)
        else:
            assert reply.rtt is not None  # It was sent once.
            record.note_answer(reply.rtt)
        tell(record)


async def run(records: Sequence[Record], arguments: argparse.Namespace, tell: Callable[[Record], object]) -> None:
    protocol = PROTOCOLS[arguments.protocol]
    async with (
        udpguard.open_endpoint(correlate=protocol.correlator, timeout=arguments.timeout) as endpoint,
        asyncio.TaskGroup() as tasks,
    ):
        for record in records:
            tasks.create_task(watch(endpoint, record, protocol, arguments.interval, arguments.count, tell))


def print_line(record: Record) -> None:
    now = datetime.now().astimezone().isoformat(timespec="milliseconds")
    print(f"{now} {record.server}: {record.news}", flush=True)


def show(records: Sequence[Record], arguments: argparse.Namespace) -> None:
    """Watch, with a live table on a terminal, and lines elsewhere."""
    if not sys.stdout.isatty():
        try:
            asyncio.run(run(records, arguments, print_line))
        finally:
            print(*map(summary, records), sep="\n", flush=True)
        return
    console = Console(highlight=False, markup=False, emoji=False)
    with Live(console=console, get_renderable=lambda: table(records)):
        asyncio.run(run(records, arguments, lambda _record: None))


def main() -> int:
    parser = argparse.ArgumentParser(description="Watch servers: round trips, loss, jitter, errors.")
    parser.add_argument("servers", metavar="SERVER", nargs="+", help="HOST[:PORT]")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="echo", help="how to ask them (default: %(default)s)")
    parser.add_argument(
        "--interval", type=command_line.seconds, default=1.0, help="seconds between questions (default: %(default)s)"
    )
    parser.add_argument(
        "--timeout", type=command_line.seconds, help="seconds to wait for an answer (default: the interval)"
    )
    parser.add_argument("--count", type=int, help="how many questions to each (default: no end)")
    arguments = parser.parse_args()
    arguments.timeout = arguments.timeout or arguments.interval
    if arguments.count is not None and arguments.count < 1:
        parser.error("--count must be 1 or more")
    try:
        port = PROTOCOLS[arguments.protocol].port
        servers = [command_line.server(text, port) for text in dict.fromkeys(arguments.servers)]
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    records = [Record(server) for server in servers]
    show(records, arguments)
    return 0 if all(record.answered for record in records) else 1


if __name__ == "__main__":
    command_line.run(main)
