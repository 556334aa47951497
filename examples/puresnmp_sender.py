"""Ask SNMP agents with puresnmp, all of its requests over one udpguard endpoint.

    python examples/puresnmp_sender.py -c public 192.0.2.1 192.0.2.2:1161
    python examples/puresnmp_sender.py -c public --walk 1.3.6.1.2.1.2.2.1.2 [2001:db8::1]

All agents are asked at once, for their names (sysName), or for the values that `--oid` or `--walk` say, and the values
are printed as they come. The exit status is 0 if all agents answered, and 1 otherwise. It takes puresnmp:
`pip install puresnmp`.

puresnmp opens a socket for each try of each request, and its request-ids are the time in seconds: anybody can guess
them, and what is asked within a second has one. `UdpguardSender` has it ask through an endpoint instead: one socket for
all, and request-ids that udpguard picks. It is what `puresnmp.Client` takes as `sender`:

    async with udpguard.open_endpoint() as endpoint:
        client = puresnmp.Client("192.0.2.1", puresnmp.V2C("public"), sender=UdpguardSender(endpoint))
        print(await puresnmp.PyWrapper(client).get("1.3.6.1.2.1.1.5.0"))

SNMPv3 signs its messages, the ids in them as well, so that none can be picked for it: requests to one agent take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from functools import partial
from typing import Any, NamedTuple

import command_line
import udpguard
from command_line import Server

try:
    import puresnmp
    import puresnmp.exc
    import puresnmp.transport
    from x690.exc import X690Error
except ImportError:
    sys.exit("this is about puresnmp: pip install puresnmp")

PORT = 161
SYS_NAME = "1.3.6.1.2.1.1.5.0"

# Tags of BER (X.690) and of SNMP's messages (RFC 3416 section 3).
INTEGER, OCTET_STRING, SEQUENCE, RESPONSE, PDUS = 0x02, 0x04, 0x30, 0xA2, range(0xA0, 0xA9)
PICKED = 3  # bytes

# ---------------------------------------------------------------------------------------- the sender


class Field(NamedTuple):
    """An element of BER: its tag, and where its contents begin and end."""

    tag: int
    begin: int
    end: int


def field(data: bytes, at: int, end: int) -> Field:
    """The element that begins there (X.690 section 8.1).

    Raises:
        ValueError: There is none, or it goes beyond the end.
    """
    if at + 2 > end:
        raise ValueError("it is cut off")
    size, begin = data[at + 1], at + 2
    if size >= 0x80:  # then it tells how many bytes the size has
        begin += size & 0x7F
        size = int.from_bytes(data[at + 2 : begin]) if at + 2 < begin <= end else end
    if begin + size > end:
        raise ValueError("it is cut off")
    return Field(data[at], begin, begin + size)


def picked(message: bytes, kind: int | None = None) -> slice:
    """Where the part of a message's request-id is that is picked (RFC 3416 section 3).

    Raises:
        ValueError: It is none of SNMPv1 or SNMPv2c, or not of this kind; or its request-id hasn't four bytes.
    """
    whole = field(message, 0, len(message))
    version = field(message, whole.begin, whole.end)
    community = field(message, version.end, whole.end)
    pdu = field(message, community.end, whole.end)
    ident = field(message, pdu.begin, pdu.end)
    tags = (whole.tag, version.tag, community.tag, ident.tag)
    if tags != (SEQUENCE, INTEGER, OCTET_STRING, INTEGER) or pdu.tag not in ([kind] if kind else PDUS):
        raise ValueError("it is no such message")
    if ident.end - ident.begin != 1 + PICKED:
        raise ValueError("its request-id hasn't four bytes")
    return slice(ident.end - PICKED, ident.end)


class RequestId(udpguard.TransactionId):
    """The request-id of SNMPv1 and SNMPv2c, wherever it is, in requests and responses.

    Of its four bytes the last three are picked. puresnmp's first one stays, so that they are a number that needs just
    four bytes, as BER wants it (X.690 section 8.3.2).
    """

    def __init__(self) -> None:
        super().__init__(0, PICKED, assign=True)  # the offset is where the methods find it

    def request_key(self, data: bytes) -> bytes | None:
        """The part that is picked; None for what has none."""
        try:
            return data[picked(data)]
        except ValueError:
            return None

    def reply_key(self, data: bytes) -> bytes | None:
        """That of a response; None for whatever else may come."""
        try:
            return data[picked(data, RESPONSE)]
        except ValueError:
            return None

    def stamped(self, data: bytes, key: bytes) -> bytes:
        """The request with another request-id."""
        part = picked(data)
        return data[: part.start] + key + data[part.stop :]

    def restored(self, data: bytes, original: bytes) -> bytes:
        """The response with the caller's own request-id."""
        return self.stamped(data, original)


class UdpguardSender:
    """Sends for any number of puresnmp's clients through one endpoint.

    Args:
        endpoint: An open endpoint, of the running event loop.
    """

    def __init__(self, endpoint: udpguard.Endpoint) -> None:
        self._client = endpoint.client(correlate=RequestId())

    async def __call__(
        self,
        endpoint: puresnmp.transport.Endpoint,
        packet: bytes,
        timeout: int = 1,
        loop: asyncio.AbstractEventLoop | None = None,
        retries: int = 10,
    ) -> bytes:
        """Ask, and give the response.

        Args:
            endpoint: The agent.
            packet: The request.
            timeout: Seconds after which it is sent again, and after the last time given up.
            loop: Nothing; the endpoint has its own.
            retries: How often it is sent at the most.

        Raises:
            puresnmp.exc.Timeout: There was no response; its cause tells why that may be.
            ConnectionRefusedError: Nothing listens there.
        """
        del loop
        schedule = udpguard.Retry(max(retries, 1), initial=timeout, maximum=timeout, multiplier=1.0, jitter=0.0)
        try:
            return await self._client.request((str(endpoint.ip), endpoint.port), packet, retry=schedule)
        except udpguard.ReplyTimeoutError as error:
            raise puresnmp.exc.Timeout(str(error)) from error


# ------------------------------------------------------------------------------------------ the tool


ATTEMPTS = 3


async def ask(endpoint: udpguard.Endpoint, agent: Server, arguments: argparse.Namespace) -> bool:
    """Ask one agent, and print its values. Returns whether it gave any."""
    try:
        peer = await endpoint.resolve(*agent)
        client = puresnmp.Client(
            peer.host, puresnmp.V2C(arguments.community), peer.port, sender=UdpguardSender(endpoint)
        )
        client.configure(timeout=arguments.timeout / ATTEMPTS, retries=ATTEMPTS)
        return await show(puresnmp.PyWrapper(client), agent, arguments)
    except (OSError, udpguard.UdpGuardError, puresnmp.exc.SnmpError, X690Error) as error:
        print(command_line.complaint_of(agent, error), file=sys.stderr)
    except Exception as error:  # puresnmp doesn't check what it takes apart
        print(f"{agent}: puresnmp can't read the response: {error!r}", file=sys.stderr)
    return False


async def show(client: puresnmp.PyWrapper, agent: Server, arguments: argparse.Namespace) -> bool:
    count = 0
    if arguments.walk is None:
        for oid in arguments.oid or [SYS_NAME]:
            print(f"{agent} {oid} = {text(await client.get(oid))}", flush=True)
            count += 1
    else:
        async for oid, value in client.bulkwalk([arguments.walk]):
            print(f"{agent} {oid} = {text(value)}", flush=True)
            count += 1
        if not count:
            print(f"{agent}: nothing under {arguments.walk}", file=sys.stderr)
    return count > 0


def text(value: Any) -> str:
    """A value, for a line."""
    if isinstance(value, bytes):
        return command_line.shown(value.decode()) if value.isascii() else value.hex(" ")
    return command_line.shown(str(value))


async def run(arguments: argparse.Namespace) -> int:
    async with udpguard.open_endpoint() as endpoint:
        answered = await asyncio.gather(*(ask(endpoint, agent, arguments) for agent in arguments.agents))
    return 0 if all(answered) else 1


def oid(text: str) -> str:
    """`1.3.6.1.2.1.1.5.0`, or the same with a dot before it."""
    numbers = text.removeprefix(".")
    if not all(part.isdecimal() for part in numbers.split(".")) or "." not in numbers:
        raise argparse.ArgumentTypeError(f"{text!r} is no OID: write its numbers with dots, as in {SYS_NAME}")
    return numbers


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask SNMP agents with puresnmp, over one udpguard endpoint.")
    parser.add_argument(
        "agents", metavar="HOST[:PORT]", type=partial(command_line.server, default_port=PORT), nargs="+"
    )
    parser.add_argument("-c", "--community", default="public", help="what lets you in (default: %(default)s)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--oid", type=oid, action="append", help="of a value, again for more (default: sysName)")
    what.add_argument("--walk", metavar="OID", type=oid, help="all values under this one")
    parser.add_argument(
        "--timeout", default=5.0, type=command_line.seconds, help="for each request, in seconds (default: %(default)s)"
    )
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    command_line.run(main)
