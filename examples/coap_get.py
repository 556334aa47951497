"""Fetch what a CoAP server has at an address.

    python examples/coap_get.py coap://192.0.2.1/.well-known/core
    python examples/coap_get.py "coap://[2001:db8::1]:5683/sensors/temperature?unit=C"

CoAP (RFC 7252) is to small devices what HTTP is to others. The question is a confirmable message: it is sent again, at
the times of section 4.2 (`Retry.coap()`), until it is acknowledged. The answer comes with the acknowledgement; or
later, as a message that is acknowledged in turn. Then the empty acknowledgement is a sign of life
(`Decision.PROVISIONAL`): nothing more is sent, and udpguard waits on.

An acknowledgement is tied to its question by a message id, an answer by a token. Here each token begins with the
message id, so that a `Correlator` finds one key in both; the rest of the token is random, and `accept` compares it.

What is too large for a datagram comes in blocks, each of which is asked for (RFC 7959).
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import itertools
import secrets
import struct
import sys
from typing import NamedTuple
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import command_line
import udpguard
from command_line import Server

PORT = 5683
VERSION = 1
CON, NON, ACK, RST = range(4)  # types of messages
EMPTY, GET, CONTENT = 0, 0x01, 0x45  # codes: three bits of class, five of detail, written 0.00, 0.01, 2.05
URI_HOST, ETAG, URI_PATH, URI_QUERY, BLOCK2 = 3, 4, 11, 15, 23  # options
HEAD = struct.Struct("!BBH")  # version, type and length of the token; code; message id (section 3)
TOKEN = 8  # bytes
MARKER = 0xFF  # what a payload begins with
LARGEST = 1 << 24  # bytes of a resource that this takes in
MESSAGE_IDS = itertools.count(secrets.randbits(16))  # The next one each time: none comes again soon (section 4.4).

# Section 12.1.2, RFC 7959 section 2.9, RFC 8516 section 3.
MEANINGS = {
    "2.03": "Valid",
    "4.00": "Bad Request",
    "4.01": "Unauthorized",
    "4.02": "Bad Option",
    "4.03": "Forbidden",
    "4.04": "Not Found",
    "4.05": "Method Not Allowed",
    "4.06": "Not Acceptable",
    "4.08": "Request Entity Incomplete",
    "4.12": "Precondition Failed",
    "4.13": "Request Entity Too Large",
    "4.15": "Unsupported Content-Format",
    "4.29": "Too Many Requests",
    "5.00": "Internal Server Error",
    "5.01": "Not Implemented",
    "5.02": "Bad Gateway",
    "5.03": "Service Unavailable",
    "5.04": "Gateway Timeout",
    "5.05": "Proxying Not Supported",
}

Options = list[tuple[int, bytes]]


class CoapError(Exception):
    """The server said no, or what makes no sense."""


class Message(NamedTuple):
    """What a datagram says."""

    kind: int
    code: int
    message_id: int
    token: bytes
    options: Options
    payload: bytes

    def option(self, number: int) -> bytes | None:
        """The first option of this number, or None."""
        return next((value for each, value in self.options if each == number), None)


# ------------------------------------------------------------------------------------ the protocol


def packed_options(options: Options) -> bytes:
    """Options in the order of their numbers, each as the difference to the one before it (section 3.1)."""
    packed, before = b"", 0
    for number, value in sorted(options, key=lambda option: option[0]):
        (delta, more_delta), (length, more_length) = _nibble(number - before), _nibble(len(value))
        packed += bytes([delta << 4 | length]) + more_delta + more_length + value
        before = number
    return packed


def _nibble(value: int) -> tuple[int, bytes]:
    """The four bits that stand for a number, and the bytes that follow where these are too few."""
    if value < 13:
        return value, b""
    return (13, bytes([value - 13])) if value < 269 else (14, (value - 269).to_bytes(2, "big"))


def parsed(packet: bytes) -> Message:
    """What a datagram says; a ValueError if it is no CoAP."""
    if len(packet) < HEAD.size:
        raise ValueError("it is too short for CoAP")
    first, code, message_id = HEAD.unpack_from(packet)
    version, kind, length = first >> 6, first >> 4 & 3, first & 15
    if version != VERSION:
        raise ValueError("it is not CoAP, or of another version")
    if length > TOKEN or (code == EMPTY and len(packet) > HEAD.size):
        raise ValueError("it breaks the format of CoAP")
    at = HEAD.size + length
    try:
        options, payload = _options(packet, at)
    except IndexError:
        raise ValueError("it is cut short") from None
    return Message(kind, code, message_id, packet[HEAD.size : at], options, payload)


def _options(packet: bytes, at: int) -> tuple[Options, bytes]:
    options: Options = []
    number = 0
    while at < len(packet) and packet[at] != MARKER:
        (delta, length), at = divmod(packet[at], 16), at + 1
        delta, at = _extended(delta, packet, at)
        length, at = _extended(length, packet, at)
        number += delta
        if at + length > len(packet):
            raise IndexError
        options.append((number, packet[at : at + length]))
        at += length
    if at == len(packet) - 1:
        raise ValueError("it breaks the format of CoAP: no payload follows the marker")
    return options, packet[at + 1 :]


def _extended(nibble: int, packet: bytes, at: int) -> tuple[int, int]:
    """The number that four bits, and perhaps some bytes, stand for; and where these bytes end."""
    if nibble == 13:
        return packet[at] + 13, at + 1
    if nibble == 14:
        return (packet[at] << 8 | packet[at + 1]) + 269, at + 2
    if nibble == 15:
        raise ValueError("it breaks the format of CoAP: a reserved length")
    return nibble, at


class MessageIds(udpguard.Correlator):
    """An empty message has the message id of its question; all others have the token, which begins with it."""

    def request_key(self, data: bytes) -> bytes:
        """The message id."""
        return data[2:4]

    def reply_key(self, data: bytes) -> bytes | None:
        """The message id of the question, from wherever it is."""
        if len(data) < HEAD.size:
            return None
        return data[2:4] if data[1] == EMPTY else data[4:6]


def judge(message: Message, message_id: int, token: bytes) -> bool | udpguard.Decision:
    """What a message is to the question with this id and token."""
    if message.code == EMPTY:
        if message.kind == ACK:
            return udpguard.Decision.PROVISIONAL  # The answer comes later (section 5.2.2).
        return message.kind == RST  # else a ping (section 4.3)
    if message.token != token or (message.kind == ACK and message.message_id != message_id):
        raise ValueError("it has not the token, or the message id, of the question")
    if message.kind == RST or message.code >> 5 not in {2, 4, 5}:
        raise ValueError("it is no answer")
    unknown = [number for number, _ in message.options if number % 2 and number != BLOCK2]
    if unknown:  # Odd numbers are critical: who doesn't know them must not take the message (section 5.4.1).
        raise ValueError(f"its critical option {unknown[0]} is unknown here")
    return True


async def ask(endpoint: udpguard.Endpoint, server: udpguard.Address, options: Options) -> tuple[Message, udpguard.Peer]:
    """Ask once; returns the answer, and who gave it."""
    message_id = next(MESSAGE_IDS) % (1 << 16)
    token = message_id.to_bytes(2, "big") + secrets.token_bytes(TOKEN - 2)
    question = HEAD.pack(VERSION << 6 | CON << 4 | TOKEN, GET, message_id) + token + packed_options(options)
    reply = await endpoint.exchange(server, question, accept=lambda reply: judge(parsed(reply.data), message_id, token))
    message = parsed(reply.data)
    if message.kind == RST:
        raise CoapError("the server rejects the message (RST): it may have just started; try again")
    if message.kind == CON:  # Were this lost the answer would come again; clients/coap_separate.py answers that, too.
        await endpoint.send(reply.peer, HEAD.pack(VERSION << 6 | ACK << 4, EMPTY, message.message_id))
    if message.code != CONTENT:
        code = f"{message.code >> 5}.{message.code & 31:02}"
        meaning, why = MEANINGS.get(code, "which is unknown here"), message.payload.decode(errors="replace")
        more = f": {command_line.shown(why)}" if why not in {"", meaning} else ""
        raise CoapError(f"the server says {code} {meaning}{more}")
    return message, reply.peer


class Block(NamedTuple):
    """Which block, whether there are more, and the code of its size (RFC 7959 section 2.2)."""

    number: int
    more: bool
    code: int

    @property
    def size(self) -> int:
        """In bytes."""
        return 1 << self.code + 4

    def packed(self) -> bytes:
        """The option's value."""
        value = self.number << 4 | self.more << 3 | self.code
        return value.to_bytes((value.bit_length() + 7) // 8, "big")


def block_of(message: Message) -> Block:
    """Which block it is; what isn't in blocks is the first and last."""
    option = message.option(BLOCK2)
    value = int.from_bytes(option or b"", "big")
    block = Block(value >> 4, bool(value & 8), value & 7)
    if block.code == 7 or (block.more and len(message.payload) != block.size):
        raise CoapError("the server sends a block that makes no sense")
    return block


async def fetch(endpoint: udpguard.Endpoint, server: udpguard.Address, options: Options) -> tuple[bytes, int]:
    """Fetch a resource; returns it, and how many blocks it came in."""
    message, peer = await ask(endpoint, server, options)
    block, body, etag, count = block_of(message), bytearray(message.payload), message.option(ETAG), 1
    if block.number:
        raise CoapError("the server does not begin at the beginning")
    while block.more:
        if len(body) > LARGEST:
            raise CoapError(f"it is larger than {LARGEST:,} bytes")
        wanted = block._replace(number=len(body) // block.size, more=False)
        message, _ = await ask(endpoint, peer, [*options, (BLOCK2, wanted.packed())])
        block, count = block_of(message), count + 1
        if message.option(ETAG) != etag:  # RFC 7959 section 2.4
            raise CoapError("it has changed while it was fetched; try again")
        if (block.number, block.code) != (wanted.number, wanted.code):
            raise CoapError("the server sends another block than it was asked for")
        body += message.payload
    return bytes(body), count


# ---------------------------------------------------------------------------------------- the tool


class Target(NamedTuple):
    """Whom to ask, and for what."""

    server: Server
    options: Options


def target(uri: str) -> Target:
    """What a coap URI asks for (RFC 7252 section 6.4); a ValueError if it is none."""
    try:
        parts = urlsplit(uri)
        host, port = unquote(parts.hostname or ""), parts.port if parts.port is not None else PORT
    except ValueError as error:
        raise ValueError(f"{uri!r} is no address: {error}") from None
    if parts.scheme == "coaps":
        raise ValueError("coaps needs DTLS, which this does not speak: write coap://")
    if parts.scheme != "coap" or not host or not port or parts.username is not None or parts.fragment:
        raise ValueError(f"{uri!r} is no address: write coap://HOST[:PORT]/PATH")
    options: Options = [] if _is_literal(host) else [(URI_HOST, host.encode())]
    if parts.path not in {"", "/"}:
        options += [(URI_PATH, unquote_to_bytes(segment)) for segment in parts.path[1:].split("/")]
    if parts.query:
        options += [(URI_QUERY, unquote_to_bytes(one)) for one in parts.query.split("&")]
    if any(len(value) > 255 for _, value in options):
        raise ValueError(f"{uri!r} has a part that is too long for CoAP: at most 255 bytes")
    return Target(Server(host, port), options)


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def run(target: Target, timeout: float, *, verbose: bool) -> None:
    async with udpguard.open_endpoint(correlate=MessageIds(), retry=udpguard.Retry.coap(), timeout=timeout) as endpoint:
        body, count = await fetch(endpoint, target.server, target.options)
        if verbose:
            again = endpoint.statistics().retransmitted
            print(f"bytes: {len(body):,}, blocks: {count:,}, sent again: {again:,}", file=sys.stderr)
    if sys.stdout.isatty():
        print("\n".join(command_line.shown(line) for line in body.decode(errors="replace").splitlines()))
    else:
        sys.stdout.buffer.write(body)


def main() -> int:
    parser = argparse.ArgumentParser(description="Fetch what a CoAP server has at an address.")
    parser.add_argument("target", metavar="URI", help="coap://HOST[:PORT]/PATH[?QUERY]")
    parser.add_argument(
        "--timeout",
        type=command_line.seconds,
        default=30.0,
        help="seconds to wait for each answer (default: %(default)s)",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="tell how it came, on standard error")
    arguments = parser.parse_args()
    try:
        wanted = target(arguments.target)
    except ValueError as error:
        parser.error(f"argument URI: {error}")
    asyncio.run(run(wanted, arguments.timeout, verbose=arguments.verbose))
    return 0


if __name__ == "__main__":
    command_line.run(main, CoapError)
