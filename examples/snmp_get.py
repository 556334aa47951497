"""Ask an SNMP agent for values: its name, its uptime, the counters of its network interfaces.

    python examples/snmp_get.py 192.0.2.1 1.3.6.1.2.1.1.5.0 1.3.6.1.2.1.1.3.0
    python examples/snmp_get.py [2001:db8::1]:1161 1.3.6.1.2.1.2.2.1.10.1 -c private

Prints a line for each value, as net-snmp's `snmpget -On` does. The exit status is 0 if the agent has them all, and 1
otherwise.

SNMPv2c (RFC 3416, RFC 3417) writes its messages in BER, where each field is as long as it needs to be. So the
request-id that ties a response to its request stands at no fixed place, and `TransactionId` can't find it: a
`Correlator` of the example's own reads the message up to there. `accept` reads the rest, and what it says of a
response that makes no sense is quoted when the request times out.
"""

from __future__ import annotations

import argparse
import asyncio
import enum
import ipaddress
import secrets
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import command_line
import udpguard

PORT = 161
VERSION_2C = 1  # RFC 1901 section 3
LARGEST_ARC = 2**32 - 1  # of an OID's numbers (RFC 2578 section 7.1.3)
LONGEST_NUMBER = 9  # bytes: Counter64, with a zero before it
SILENCE = "an agent that doesn't know the community is silent, too"

Oid: TypeAlias = tuple[int, ...]


class Tag(enum.IntEnum):
    """What a BER value is (RFC 3416 section 3, RFC 2578 section 2)."""

    INTEGER = 0x02
    OCTET_STRING = 0x04
    NULL = 0x05
    OID = 0x06
    SEQUENCE = 0x30
    IP_ADDRESS = 0x40
    COUNTER32 = 0x41
    GAUGE32 = 0x42
    TIME_TICKS = 0x43
    OPAQUE = 0x44
    COUNTER64 = 0x46
    NO_SUCH_OBJECT = 0x80
    NO_SUCH_INSTANCE = 0x81
    END_OF_MIB_VIEW = 0x82
    GET_REQUEST = 0xA0
    RESPONSE = 0xA2


MISSING: dict[int, str] = {
    Tag.NO_SUCH_OBJECT: "No Such Object available on this agent at this OID",
    Tag.NO_SUCH_INSTANCE: "No Such Instance currently exists at this OID",
    Tag.END_OF_MIB_VIEW: "No more variables left in this MIB View (It is past the end of the MIB tree)",
}
# What an error-status says that may come of a GET (RFC 3416 section 3).
ERRORS = {
    1: "tooBig: ask for fewer values at once",
    2: "noSuchName",
    5: "genErr: it can't get at the value",
    6: "noAccess",
    13: "resourceUnavailable",
    16: "authorizationError: it doesn't let you in",
}


# --------------------------------------------------------------------------------------------- BER


class Value(NamedTuple):
    """A tag, and the bytes that follow its length."""

    tag: int
    content: bytes


def encoded(tag: Tag, *contents: bytes) -> bytes:
    """A value made of encoded ones. Its length takes a byte, or several after their number (X.690 section 8.1.3)."""
    content = b"".join(contents)
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def encoded_number(value: int) -> bytes:
    return encoded(Tag.INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def encoded_oid(oid: Oid) -> bytes:
    """An OID: the first two numbers in one, and all in digits to the base 128 (X.690 section 8.19)."""
    content = bytearray()
    for arc in (40 * oid[0] + oid[1], *oid[2:]):
        digits = [arc & 0x7F]
        while arc := arc >> 7:
            digits.append(0x80 | arc & 0x7F)
        content += bytes(reversed(digits))
    return encoded(Tag.OID, bytes(content))


def decoded(data: bytes) -> list[Value]:
    """The values that these bytes are made of, without a look into them.

    Raises:
        ValueError: They are no whole values.
    """
    values: list[Value] = []
    at = 0
    while at < len(data):
        tag, size = data[at], data[at + 1] if at + 1 < len(data) else 0xFF
        at += 2
        if size & 0x80:  # The other bits say how many bytes the length has: some, for SNMP (RFC 3417 section 8).
            count = size & 0x7F
            size = int.from_bytes(data[at : at + count], "big") if 0 < count <= 4 else len(data)
            at += count
        if at + size > len(data):
            raise ValueError("it is cut off, or no BER")
        values.append(Value(tag, data[at : at + size]))
        at += size
    return values


def number(content: bytes, *, signed: bool = True) -> int:
    if not 0 < len(content) <= LONGEST_NUMBER:
        raise ValueError(f"it has a number of {len(content)} bytes")
    return int.from_bytes(content, "big", signed=signed)


def decoded_oid(content: bytes) -> Oid:
    arcs: list[int] = []
    arc = 0
    for byte in content:
        arc = arc << 7 | byte & 0x7F
        if arc > LARGEST_ARC:
            raise ValueError("it has an OID with a number that is too large")
        if byte < 0x80:
            arcs.append(arc)
            arc = 0
    if not content or content[-1] & 0x80:
        raise ValueError("it has an OID that is cut off")
    first = min(arcs[0] // 40, 2)
    return (first, arcs[0] - 40 * first, *arcs[1:])


# ------------------------------------------------------------------------------------ the protocol


class Message(NamedTuple):
    """An SNMPv2c message (RFC 1901 section 3) and its PDU (RFC 3416 section 3), with the bindings as they came."""

    version: int
    community: bytes
    request_id: int
    error_status: int
    error_index: int
    bindings: bytes


class Binding(NamedTuple):
    """An OID and its value, as it is shown."""

    oid: Oid
    tag: int
    text: str


def request(community: str, request_id: int, oids: Sequence[Oid]) -> bytes:
    """A message that asks for the values of these OIDs."""
    asked = [encoded(Tag.SEQUENCE, encoded_oid(oid), encoded(Tag.NULL)) for oid in oids]
    no_error = encoded_number(0)
    pdu = encoded(Tag.GET_REQUEST, encoded_number(request_id), no_error, no_error, encoded(Tag.SEQUENCE, *asked))
    head = encoded_number(VERSION_2C), encoded(Tag.OCTET_STRING, community.encode(errors="surrogateescape"))
    return encoded(Tag.SEQUENCE, *head, pdu)


def fields(data: bytes, *tags: Tag) -> list[bytes]:
    """The contents of these values, and no others.

    Raises:
        ValueError: That is not what it is made of.
    """
    values = decoded(data)
    if [value.tag for value in values] != list(tags):
        raise ValueError("it is no such message of SNMP")
    return [value.content for value in values]


def opened(data: bytes, kind: Tag) -> Message:
    """A message of a kind.

    Raises:
        ValueError: It is none.
    """
    (message,) = fields(data, Tag.SEQUENCE)
    version, community, pdu = fields(message, Tag.INTEGER, Tag.OCTET_STRING, kind)
    request_id, status, index, bindings = fields(pdu, Tag.INTEGER, Tag.INTEGER, Tag.INTEGER, Tag.SEQUENCE)
    return Message(number(version), community, number(request_id), number(status), number(index), bindings)


def bound(bindings: bytes) -> list[Binding]:
    """What a response says of the OIDs.

    Raises:
        ValueError: It is malformed.
    """
    found: list[Binding] = []
    for tag, content in decoded(bindings):
        pair = decoded(content) if tag == Tag.SEQUENCE else []
        if len(pair) != 2 or pair[0].tag != Tag.OID:
            raise ValueError("it binds no value to an OID")
        name, value = pair
        found.append(Binding(decoded_oid(name.content), value.tag, shown(value)))
    return found


class RequestId(udpguard.Correlator):
    """Finds the request-id, in requests and in responses."""

    def request_key(self, data: bytes) -> int:
        """The request-id of a question of our own."""
        return opened(data, Tag.GET_REQUEST).request_id

    def reply_key(self, data: bytes) -> int | None:
        """That of an answer; None for whatever else may come."""
        try:
            return opened(data, Tag.RESPONSE).request_id
        except ValueError:  # It is up to nobody here what comes off the wire.
            return None


def answers(reply: udpguard.Reply, community: str, oids: Sequence[Oid]) -> bool:
    """Whether a reply answers the question for these OIDs; what is raised here is quoted when it times out."""
    message = opened(reply.data, Tag.RESPONSE)
    if message.version != VERSION_2C or message.community != community.encode(errors="surrogateescape"):
        raise ValueError("it has another version or community")
    if not message.error_status and [each.oid for each in bound(message.bindings)] != list(oids):
        raise ValueError("it has other OIDs than were asked for")
    return True


# -------------------------------------------------------------------------------------- the values


def shown(value: Value) -> str:
    """A value as net-snmp shows it.

    Raises:
        ValueError: It is none.
    """
    if value.tag in MISSING:
        return MISSING[value.tag]
    form = FORMS.get(value.tag)
    return form(value.content) if form else f"type {value.tag:#04x}: {hexadecimal(value.content)}"


def shown_string(content: bytes) -> str:
    """A string where it is one, and else the bytes: many an agent puts addresses there."""
    if not content:
        return '""'
    text = content.decode("ascii", "replace")
    if all(letter.isascii() and (letter.isprintable() or letter.isspace()) for letter in text):
        quoted = text.replace("\\", r"\\").replace('"', r"\"")
        return f'STRING: "{command_line.shown(quoted)}"'
    return f"Hex-STRING: {hexadecimal(content)}"


def hexadecimal(content: bytes) -> str:
    return content.hex(" ").upper()


def shown_ticks(content: bytes) -> str:
    """Hundredths of a second."""
    ticks = number(content, signed=False)
    seconds, hundredths = divmod(ticks, 100)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    before = "" if not days else "1 day, " if days == 1 else f"{days} days, "
    return f"Timeticks: ({ticks}) {before}{hours}:{minutes:02}:{seconds:02}.{hundredths:02}"


def dotted(oid: Oid) -> str:
    return "".join(f".{arc}" for arc in oid)


def shown_address(content: bytes) -> str:
    if len(content) != 4:
        raise ValueError("it has an IP address that is none")
    return f"IpAddress: {ipaddress.IPv4Address(content)}"


FORMS: dict[int, Callable[[bytes], str]] = {
    Tag.INTEGER: lambda content: f"INTEGER: {number(content)}",
    Tag.OCTET_STRING: shown_string,
    Tag.NULL: lambda _: "NULL",
    Tag.OID: lambda content: f"OID: {dotted(decoded_oid(content))}",
    Tag.IP_ADDRESS: shown_address,
    Tag.COUNTER32: lambda content: f"Counter32: {number(content, signed=False)}",
    Tag.GAUGE32: lambda content: f"Gauge32: {number(content, signed=False)}",
    Tag.TIME_TICKS: shown_ticks,
    Tag.OPAQUE: lambda content: f"OPAQUE: {hexadecimal(content)}",
    Tag.COUNTER64: lambda content: f"Counter64: {number(content, signed=False)}",
}


# ---------------------------------------------------------------------------------------- the tool


async def run(server: command_line.Server, oids: Sequence[Oid], community: str, timeout: float) -> int:
    question = request(community, secrets.randbits(31), oids)
    async with udpguard.open_endpoint(
        correlate=RequestId(), retry=udpguard.Retry(attempts=3, initial=1.0, total=timeout)
    ) as endpoint:
        data = await endpoint.request(server, question, accept=lambda reply: answers(reply, community, oids))
    message = opened(data, Tag.RESPONSE)
    if message.error_status:
        print(f"{server}: {failure(message, oids)}", file=sys.stderr)
        return 1
    found = bound(message.bindings)
    for each in found:
        print(f"{dotted(each.oid)} = {each.text}")
    return 1 if any(each.tag in MISSING for each in found) else 0


def failure(message: Message, oids: Sequence[Oid]) -> str:
    """What the agent says is wrong, and with which OID: the index counts from 1, and 0 means none in particular."""
    status, index = message.error_status, message.error_index
    name = ERRORS.get(status, f"error {status}")
    about = f" for {dotted(oids[index - 1])}" if 0 < index <= len(oids) else ""
    return f"the agent's answer{about} is {name}"


def oid(text: str) -> Oid:
    """`1.3.6.1.2.1.1.5.0`, or the same with a dot before it."""
    words = text.removeprefix(".").split(".")
    arcs = tuple(int(word) for word in words if word.isdecimal() and int(word) <= LARGEST_ARC)
    # What the first two may be, X.690 section 8.19.4 says.
    if len(arcs) != len(words) or len(arcs) < 2 or arcs[0] > 2 or (arcs[0] < 2 and arcs[1] > 39):
        raise argparse.ArgumentTypeError(f"{text!r} is no OID: write its numbers with dots, as in 1.3.6.1.2.1.1.5.0")
    return arcs


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask an SNMP agent for values (SNMPv2c).")
    parser.add_argument("server", metavar="HOST[:PORT]", type=partial(command_line.server, default_port=PORT))
    parser.add_argument("oids", metavar="OID", type=oid, nargs="+", help="such as 1.3.6.1.2.1.1.5.0, its name")
    parser.add_argument("-c", "--community", default="public", help="what lets you in (default: %(default)s)")
    parser.add_argument(
        "--timeout", default=5.0, type=command_line.seconds, help="in seconds, for all attempts (default: %(default)s)"
    )
    arguments = parser.parse_args()
    try:
        return asyncio.run(run(arguments.server, arguments.oids, arguments.community, arguments.timeout))
    except BrokenPipeError:
        raise
    except (OSError, udpguard.UdpGuardError) as error:
        print(command_line.complaint_of(arguments.server, error, SILENCE), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    command_line.run(main)
