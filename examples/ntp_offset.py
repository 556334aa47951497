"""Ask several NTP servers at once how far this machine's clock is off.

    python examples/ntp_offset.py pool.ntp.org 192.0.2.1:1123 [2001:db8::1]:1123

Prints each server's answer as it comes. A positive offset means that this machine's clock is behind. The
exit status is 0 if all servers told the time, and 1 otherwise.

An NTP server copies the transmit timestamp of a request into the origin timestamp of its reply (RFC
5905, section 8): to udpguard, that is a transaction id. Each retransmission gets a fresh one from a
function in the place of the data, and whichever attempt is answered, the reply itself tells when that
one left.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import struct
import sys
import time
from dataclasses import dataclass
from functools import partial

import command_line
import udpguard
from command_line import Server

PORT = 123
UNIX_EPOCH = 2_208_988_800  # seconds since 1900-01-01, where NTP's time begins
SECOND = 1 << 32  # of a timestamp's units
CLIENT, SERVER = 3, 4  # modes
VERSION = 4
UNSYNCHRONISED = 3  # leap indicator

# Leap indicator, version and mode; stratum; poll; precision; root delay; root dispersion; reference id; and
# four timestamps: reference, origin, receive, transmit (RFC 5905 section 7.3).
PACKET = struct.Struct("!BBbbII4sQQQQ")


# ------------------------------------------------------------------------------------ the protocol


def timestamp() -> int:
    """The time, in units of 2**-32 s. The lowest bits are random: finer than the clock, and hard to forge."""
    now = time.time_ns() + UNIX_EPOCH * 1_000_000_000
    return (now * SECOND // 1_000_000_000 & ~0x3FF | secrets.randbits(10)) % 2**64


def seconds_between(later: int, earlier: int) -> float:
    """The difference of two timestamps, be it negative, be there the end of an era (2036) in between."""
    return ((later - earlier + 2**63) % 2**64 - 2**63) / SECOND


def request(attempt: int) -> bytes:
    """A request, stamped anew in each attempt."""
    del attempt
    return PACKET.pack(VERSION << 3 | CLIENT, 0, 0, 0, 0, 0, b"", 0, 0, 0, timestamp())


def tells_time(reply: udpguard.Reply) -> bool:
    """Whether to believe a reply; what is raised here is quoted when the request times out."""
    if len(reply.data) < PACKET.size:
        raise ValueError("it is too short for NTP")
    first, stratum, _, _, _, _, _, _, _, received, sent = PACKET.unpack_from(reply.data)
    if first & 0x07 != SERVER:
        raise ValueError("it is not from a server")
    if kiss_code(reply.data):
        return True  # It does not tell the time, but that the server won't, and it is not to be asked again.
    if first >> 6 == UNSYNCHRONISED or not 1 <= stratum <= 15 or not received or not sent:
        raise ValueError("the server's own clock is not synchronised")
    return True


def kiss_code(packet: bytes) -> str:
    """The letters by which a server says that it won't tell the time (RFC 5905 section 7.4), or none."""
    stratum, code = packet[1], packet[12:16].rstrip(b"\0")
    return code.decode() if stratum == 0 and code.isalnum() else ""


@dataclass(frozen=True)
class Measurement:
    """What an exchange says of two clocks, in seconds, and how far the server is from a reference clock."""

    offset: float
    delay: float
    stratum: int


def measure(packet: bytes, t4: int) -> Measurement:
    """Offset and delay, from the four timestamps of an exchange (RFC 5905 section 8): t4 is the packet's arrival."""
    _, stratum, *_, t1, t2, t3 = PACKET.unpack_from(packet)
    offset = (seconds_between(t2, t1) + seconds_between(t3, t4)) / 2
    delay = seconds_between(t4, t1) - seconds_between(t3, t2)
    return Measurement(offset, delay, stratum)


# ---------------------------------------------------------------------------------------- the tool


async def ask(endpoint: udpguard.Endpoint, server: Server) -> bool:
    """Ask one server and print what it says. Returns whether it told the time."""
    arrival = 0

    def accept(reply: udpguard.Reply) -> bool:
        nonlocal arrival
        arrival = timestamp()  # The task goes on later than this, by whatever else there is to do.
        return tells_time(reply)

    try:
        reply = await endpoint.exchange(server, request, accept=accept)
    except (OSError, udpguard.UdpGuardError) as error:
        print(command_line.complaint_of(server, error), file=sys.stderr)
        return False
    code = kiss_code(reply.data)
    if code:
        print(f"{server}: it refuses to tell the time: kiss-o'-death {code}", file=sys.stderr)
        return False
    result = measure(reply.data, arrival)
    print(
        f"{server}: offset {result.offset:+.6f} s, delay {result.delay:.6f} s, stratum {result.stratum}",
        flush=True,
    )
    return True


async def run(servers: list[Server], timeout: float) -> int:
    async with udpguard.open_endpoint(
        correlate=udpguard.TransactionId(40, 8, reply_offset=24),
        retry=udpguard.Retry(attempts=3, initial=1.0, total=timeout),
    ) as endpoint:
        answered = await asyncio.gather(*(ask(endpoint, server) for server in servers))
    return 0 if all(answered) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask several NTP servers how far this machine's clock is off.")
    parser.add_argument(
        "servers", metavar="SERVER", type=partial(command_line.server, default_port=PORT), nargs="+", help="HOST[:PORT]"
    )
    parser.add_argument(
        "--timeout", default=5.0, type=command_line.seconds, help="for each server, in seconds (default: %(default)s)"
    )
    arguments = parser.parse_args()
    try:
        return asyncio.run(run(arguments.servers, arguments.timeout))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
