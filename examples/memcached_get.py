"""Get values from a memcached server by UDP.

    python examples/memcached_get.py 192.0.2.1 greeting
    python examples/memcached_get.py [2001:db8::1]:11211 first second third
    python examples/memcached_get.py 192.0.2.1 picture --raw > picture.png

The server must be started with `-U 11211`: its UDP port is closed unless asked for. (Let nobody else reach that port:
who can forge a sender's address makes it send large values to others.)

Each datagram begins with a frame of eight bytes: a request id, its number, how many datagrams there are, and two bytes
that are kept for later (memcached's doc/protocol.txt, "UDP protocol"). A value that needs several datagrams may come in
any order. udpguard picks the request ids (`assign=True`), a new one for each attempt, and `accept` puts the datagrams
together: it refuses each until the last one is there, so that the question is asked again if one was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import struct
import sys
from functools import partial

import command_line
import udpguard
from command_line import Server

PORT = 11_211
FRAME = struct.Struct("!HHHH")
REQUEST_IDS = udpguard.TransactionId(0, 2, assign=True)
MOST_PARTS = 1_024  # at 1,400 bytes, more than the largest value of a server that isn't told otherwise, 1 MiB
LONGEST_KEY = 250
LONGEST_NUMBER = 10  # digits of a value's size
AT_ONCE = 16  # questions in flight: a burst of answers has to fit into the receive buffer


class MemcachedError(Exception):
    """The server said no, or what makes no sense."""


# ------------------------------------------------------------------------------------ the protocol


def question(key: bytes, attempt: int) -> bytes:
    """What asks for a key. The request id is udpguard's affair; each answer has the attempt's number in its place."""
    return FRAME.pack(attempt % (1 << 16), 0, 1, 0) + b"get " + key + b"\r\n"


class Collector:
    """Puts together what comes in several datagrams, in whatever order. An attempt's are never mixed with another's."""

    def __init__(self) -> None:
        self.whole = b""
        self._parts: dict[int, tuple[int, dict[int, bytes]]] = {}  # by attempt: how many there are, and which came

    def accept(self, reply: udpguard.Reply) -> bool:
        """Take a datagram in; True if it was the last one that was missing."""
        if len(reply.data) < FRAME.size:
            raise ValueError("it is too short for memcached")
        attempt, number, count, _ = FRAME.unpack_from(reply.data)
        if not number < count <= MOST_PARTS:
            raise ValueError(f"it claims to be datagram {number} of {count}")
        first_said, parts = self._parts.setdefault(attempt, (count, {}))
        if count != first_said:
            raise ValueError(f"it is one of {count} datagrams, and those before it were of {first_said}")
        parts.setdefault(number, reply.data[FRAME.size :])
        if len(parts) < count:
            raise ValueError(f"{len(parts)} of {count} datagrams of the answer came")  # quoted, when it times out
        self.whole = b"".join(parts[each] for each in sorted(parts))
        return True


def value(answer: bytes, key: bytes) -> bytes | None:
    """The value that an answer to `get` gives, or None: `VALUE <key> <flags> <bytes>`, the value, `END`."""
    if answer == b"END\r\n":
        return None
    head, _, rest = answer.partition(b"\r\n")
    words = head.split(b" ")
    if len(words) < 4 or words[:2] != [b"VALUE", key] or not is_size(words[3]):
        raise MemcachedError(f"the server says: {command_line.shown(head.decode(errors='replace'))}")
    size = int(words[3])
    if rest[size:] != b"\r\nEND\r\n":
        raise MemcachedError(f"the server gives a value that is not the {size:,} bytes long that it says")
    return rest[:size]


def is_size(word: bytes) -> bool:
    return word.isdigit() and len(word) <= LONGEST_NUMBER


async def get(client: udpguard.Client, server: udpguard.Address, key: bytes) -> bytes | None:
    """The value of a key, or None if there is none."""
    collector = Collector()
    await client.request(server, partial(question, key), accept=collector.accept)
    return value(collector.whole, key)


# ---------------------------------------------------------------------------------------- the tool


async def look_up(client: udpguard.Client, server: udpguard.Address, key: str) -> bytes | str:
    """The value of a key, or why there is none."""
    try:
        found = await get(client, server, key.encode())
    except (OSError, MemcachedError, udpguard.UdpGuardError) as error:
        return command_line.complaint(error)
    return "the server has no such key" if found is None else found


def show(key: str, found: bytes | str, *, raw: bool) -> None:
    if isinstance(found, str):
        print(f"{key}: {found}", file=sys.stderr)
    elif raw:
        sys.stdout.buffer.write(found)
    else:
        print(f"{key}: {command_line.shown(found.decode(errors='replace'))}")


async def run(server: Server, keys: list[str], timeout: float, *, raw: bool) -> int:
    retry = udpguard.Retry(attempts=4, initial=timeout / 15, final_wait=timeout, total=timeout)
    async with udpguard.open_endpoint(correlate=REQUEST_IDS, retry=retry) as endpoint:
        peer = await endpoint.resolve(server.host, server.port)
        client = endpoint.client(in_flight_per_peer=AT_ONCE)
        answers = await asyncio.gather(*(look_up(client, peer, key) for key in keys))
    for key, found in zip(keys, answers, strict=True):
        show(key, found, raw=raw)
    return 0 if all(isinstance(found, bytes) for found in answers) else 1


def a_key(text: str) -> str:
    """A key as memcached has them: no spaces, nothing that can't be seen, not too long."""
    if not 1 <= len(text.encode()) <= LONGEST_KEY or not text.isprintable() or text.split() != [text]:
        raise argparse.ArgumentTypeError(f"{text!r} is no key: 1 to {LONGEST_KEY} bytes without spaces")
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description="Get values from a memcached server by UDP.")
    parser.add_argument("server", metavar="HOST[:PORT]", type=partial(command_line.server, default_port=PORT))
    parser.add_argument("keys", metavar="KEY", type=a_key, nargs="+")
    parser.add_argument("--raw", action="store_true", help="write the values as they are, and nothing else")
    parser.add_argument(
        "--timeout",
        type=command_line.seconds,
        default=5.0,
        help="seconds to wait for each value (default: %(default)s)",
    )
    arguments = parser.parse_args()
    return asyncio.run(run(arguments.server, arguments.keys, arguments.timeout, raw=arguments.raw))


if __name__ == "__main__":
    command_line.run(main)
