"""Look a name up on several DNS servers at once, over one socket.

    python examples/dns_lookup.py example.org @9.9.9.9 @1.1.1.1
    python examples/dns_lookup.py --type MX example.org @192.0.2.1:5301 @[2001:db8::1]:5301

Prints each server's answer as it comes, its records in the style of `dig +noall +answer`. The exit
status is 0 if all servers answered (that there is no such name is an answer, too), and 1 otherwise.

Such a client takes three things from udpguard: a correlator that says where the transaction id is (with
`assign=True` udpguard picks ids that nobody can guess, and writes them), a schedule for retransmission,
and `accept`, which sees to it that a reply answers the very question that was asked (RFC 5452, section
9.1). The rest of this file packs and reads DNS messages (RFC 1035), and trusts not a byte of those that
come.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Callable
from typing import NamedTuple

import command_line
import udpguard
from command_line import Server

PORT = 53
TYPES = {
    "A": 1,
    "NS": 2,
    "CNAME": 5,
    "SOA": 6,
    "PTR": 12,
    "MX": 15,
    "TXT": 16,
    "AAAA": 28,
    "SRV": 33,
    "DNAME": 39,
}
TYPE_NAMES = {number: name for name, number in TYPES.items()}
RCODES = dict(enumerate(("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED")))
INTERNET = 1
RESPONSE, OPCODE, TRUNCATED, RECURSION_DESIRED, RCODE = 0x8000, 0x7800, 0x0200, 0x0100, 0x000F  # flags

HEADER = struct.Struct("!HHHHHH")  # id, flags, and how many questions, answers, authorities and additionals
RECORD = struct.Struct("!HHIH")  # type, class, time to live, length of the data
OPT, BUFFER_SIZE = 41, 4096
LONGEST_NAME = 255  # bytes (RFC 1035 section 2.3.4)
MOST_POINTERS = 16  # one after the other; servers need one or two
EDNS = b"\0" + RECORD.pack(OPT, BUFFER_SIZE, 0, 0)  # allows answers of that size (RFC 6891 section 6.1.2)


# --------------------------------------------------------------------------------------- questions


def pack_name(name: str) -> bytes:
    """A domain name, as it goes over the wire."""
    labels = name.encode("idna").removesuffix(b".").split(b".") if name != "." else []
    if not all(1 <= len(label) <= 63 for label in labels) or sum(len(label) + 1 for label in labels) > 254:
        raise ValueError("the parts of a name have 1 to 63 bytes, and all together no more than 253")
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def pack_query(name: bytes, rrtype: int) -> bytes:
    """A query. Its id is 0: udpguard puts its own there."""
    return HEADER.pack(0, RECURSION_DESIRED, 1, 0, 0, 1) + name + struct.pack("!HH", rrtype, INTERNET) + EDNS


def answers(message: bytes, query: bytes) -> bool:
    """Whether the message is a response to the query's very question."""
    asked = query[HEADER.size : -len(EDNS)]
    if len(message) < HEADER.size + len(asked):
        return False
    _, flags, questions, *_ = HEADER.unpack_from(message)
    repeated = message[HEADER.size : HEADER.size + len(asked)]
    return (
        flags & (RESPONSE | OPCODE) == RESPONSE
        and questions == 1
        and repeated[:-4].lower() == asked[:-4].lower()  # a name; the lengths in it are no letters
        and repeated[-4:] == asked[-4:]  # type and class
    )


# --------------------------------------------------------------------------------------- responses


class MalformedError(Exception):
    """What came is no DNS message."""


class Response(NamedTuple):
    """What a name server said."""

    rcode: str
    truncated: bool
    records: list[str]  # of the answer section, as dig writes them


class Reader:
    """Reads a stretch of a message, front to back. Whatever is in it, only MalformedError is raised."""

    def __init__(self, message: bytes, start: int, end: int) -> None:
        self._message = message
        self._at = start
        self._end = end

    def remaining(self) -> int:
        """How many bytes of the stretch are left."""
        return self._end - self._at

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count > self.remaining():
            raise MalformedError(f"it ends where {count} more bytes should be")
        self._at += count
        return self._message[self._at - count : self._at]

    def integer(self, size: int) -> int:
        """A number of `size` bytes."""
        return int.from_bytes(self.take(size), "big")

    def name(self) -> str:
        """A domain name, of which any tail may be a pointer to an earlier one (RFC 1035 section 4.1.4)."""
        labels: list[bytes] = []
        reader, size, jumps = self, 1, 0
        while length := reader.integer(1):
            if length >= 0xC0:
                target = (length & 0x3F) << 8 | reader.integer(1)
                reader, jumps = Reader(self._message, target, len(self._message)), jumps + 1
            elif length <= 63:
                labels.append(reader.take(length))
                size += 1 + length
            else:
                raise MalformedError("a name has a label of an unknown kind")
            # Where many names point to such a one, a datagram could take minutes, and be a gigabyte of text.
            if size > LONGEST_NAME or jumps > MOST_POINTERS:
                raise MalformedError("a name is too long, or has no end")
        return "".join(escape(label, b'."\\();@$', lowest=0x21) + "." for label in labels) or "."

    def string(self) -> str:
        """A length and as many bytes of text, in quotes."""
        return '"' + escape(self.take(self.integer(1)), b'"\\', lowest=0x20) + '"'

    def record(self) -> str:
        """A resource record, as dig writes it."""
        name = self.name()
        rrtype, rrclass, ttl, length = RECORD.unpack(self.take(RECORD.size))
        start = self._at
        self.take(length)
        data = Reader(self._message, start, self._at)
        read = DATA.get(rrtype, generic) if rrclass == INTERNET else generic
        text = read(data)
        if data.remaining():
            raise MalformedError("a record's data is longer than its type allows")
        class_name = "IN" if rrclass == INTERNET else f"CLASS{rrclass}"
        return "\t".join((name, str(ttl), class_name, TYPE_NAMES.get(rrtype, f"TYPE{rrtype}"), text))


def escape(text: bytes, special: bytes, lowest: int) -> str:
    r"""As in a zone file: `\.` for what is special, `\007` for the unprintable (RFC 1035 section 5.1)."""

    def shown(byte: int) -> str:
        if byte in special:
            return "\\" + chr(byte)
        return chr(byte) if lowest <= byte <= 0x7E else f"\\{byte:03}"

    return "".join(map(shown, text))


def generic(data: Reader) -> str:
    """The data of a type we know nothing of (RFC 3597 section 5)."""
    length = data.remaining()
    return rf"\# {length} {data.take(length).hex().upper()}".rstrip()


def soa(data: Reader) -> str:
    return " ".join([data.name(), data.name(), *(str(data.integer(4)) for _ in range(5))])


def txt(data: Reader) -> str:
    strings: list[str] = []
    while data.remaining():
        strings.append(data.string())
    return " ".join(strings)


DATA: dict[int, Callable[[Reader], str]] = {
    TYPES["A"]: lambda data: socket.inet_ntop(socket.AF_INET, data.take(4)),
    TYPES["AAAA"]: lambda data: socket.inet_ntop(socket.AF_INET6, data.take(16)),
    TYPES["NS"]: Reader.name,
    TYPES["CNAME"]: Reader.name,
    TYPES["DNAME"]: Reader.name,
    TYPES["PTR"]: Reader.name,
    TYPES["MX"]: lambda data: f"{data.integer(2)} {data.name()}",
    TYPES["SRV"]: lambda data: f"{data.integer(2)} {data.integer(2)} {data.integer(2)} {data.name()}",
    TYPES["SOA"]: soa,
    TYPES["TXT"]: txt,
}


def read_response(message: bytes) -> Response:
    reader = Reader(message, 0, len(message))
    _, flags, questions, records, _, _ = HEADER.unpack(reader.take(HEADER.size))
    for _ in range(questions):
        reader.name()
        reader.take(4)
    rcode = flags & RCODE
    return Response(
        RCODES.get(rcode, f"RCODE{rcode}"),
        bool(flags & TRUNCATED),
        [reader.record() for _ in range(records)],
    )


# ---------------------------------------------------------------------------------------- the tool


async def ask(endpoint: udpguard.Endpoint, server: Server, query: bytes) -> bool:
    """Ask one server and print its answer. Returns whether there was one."""
    address = (server.host, server.port)
    try:
        reply = await endpoint.exchange(address, query, accept=lambda reply: answers(reply.data, query))
        response = read_response(reply.data)
    except (OSError, udpguard.UdpGuardError, MalformedError) as error:
        print(f"; {complaint(server, error)}", file=sys.stderr)
        return False
    # Which of several datagrams was answered can't be told, so there is no round-trip time then.
    time = f"{reply.attempts} datagrams" if reply.rtt is None else f"{reply.rtt * 1000:.1f} ms"
    print(f"; {server}: {response.rcode}, records: {len(response.records)}, {time}")
    if response.truncated:
        print(f"; {server}: truncated, the rest does not fit into a datagram; ask over TCP: dig +tcp")
    for record in response.records:
        print(record)
    sys.stdout.flush()
    return True


def complaint(server: Server, error: Exception) -> str:
    """Why there is no answer, in a line that names the server: most errors do that themselves."""
    if isinstance(error, MalformedError):
        return f"{server}: the answer is malformed: {error}"
    text = command_line.complaint(error)
    return text if str(server) in text or isinstance(error, socket.gaierror) else f"{server}: {text}"


async def run(servers: list[Server], query: bytes, timeout: float) -> int:
    async with udpguard.open_endpoint(
        correlate=udpguard.TransactionId(0, 2, assign=True),
        retry=udpguard.Retry(attempts=3, initial=1.0, total=timeout),
    ) as endpoint:
        answered = await asyncio.gather(*(ask(endpoint, server, query) for server in servers))
    return 0 if all(answered) else 1


def domain_name(text: str) -> bytes:
    try:
        return pack_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a domain name: {error}") from None


def server_address(text: str) -> Server:
    """`@192.0.2.1`, `@192.0.2.1:5301`, `@2001:db8::1`, `@[2001:db8::1]:5301`, or a name for the address."""
    if text.startswith("@"):
        with contextlib.suppress(argparse.ArgumentTypeError):
            return command_line.server(text[1:], PORT)
    raise argparse.ArgumentTypeError(f"{text!r} is not a server: write @HOST, @HOST:PORT or @[IPV6]:PORT")


def main() -> int:
    parser = argparse.ArgumentParser(description="Look a name up on several DNS servers at once.")
    parser.add_argument("name", metavar="NAME", type=domain_name)
    parser.add_argument("servers", metavar="@SERVER", type=server_address, nargs="+", help="@HOST[:PORT]")
    parser.add_argument(
        "--type",
        default="A",
        type=str.upper,
        choices=TYPES,
        help="of the records wanted (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout", default=5.0, type=command_line.seconds, help="for each server, in seconds (default: %(default)s)"
    )
    arguments = parser.parse_args()
    query = pack_query(arguments.name, TYPES[arguments.type])
    try:
        return asyncio.run(run(arguments.servers, query, arguments.timeout))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
