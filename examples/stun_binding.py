"""Ask STUN servers which address and port this machine is seen at, from beyond its NAT.

    python examples/stun_binding.py stun.example.org
    python examples/stun_binding.py 192.0.2.1 192.0.2.2:3479 [2001:db8::1]:3478

All are asked at once from one socket, and that is the point: a NAT gives an address to a socket, and only servers that
are asked from the same one can tell whether it gives the same to all (RFC 5780 section 4.3). The exit status is 0 if
all servers answered, and 1 otherwise.

A Binding request (RFC 8489) has 96 random bits for a transaction id, which the example draws itself: nobody can guess
them, and no two clash. With `assign=True` udpguard would pick them, but put back the caller's own into the reply: here
an IPv6 address is hidden under the id, and the fingerprint is computed over it, so the reply must stay as it came.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import secrets
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from functools import partial

import command_line
import udpguard
from command_line import Server

PORT = 3478
COOKIE = 0x2112A442
HEAD = struct.Struct("!HHI12s")  # type, length of what follows, cookie, transaction id (RFC 8489 section 5)
ID = udpguard.TransactionId(8, 12)
REQUEST, SUCCESS, ERROR = 0x0001, 0x0101, 0x0111  # of the method Binding

# Attributes (RFC 8489 section 14). Those below 0x8000 must be understood; some need nothing more: addresses that only
# old clients want, and what proves the server to those who share a password with it.
ERROR_CODE, XOR_MAPPED_ADDRESS, FINGERPRINT = 0x0009, 0x0020, 0x8028
MAPPED_ADDRESS, SOURCE_ADDRESS, CHANGED_ADDRESS, MESSAGE_INTEGRITY = 0x0001, 0x0004, 0x0005, 0x0008
UNDERSTOOD = {ERROR_CODE, XOR_MAPPED_ADDRESS, MAPPED_ADDRESS, SOURCE_ADDRESS, CHANGED_ADDRESS, MESSAGE_INTEGRITY}
OPTIONAL = 0x8000
FINGERPRINT_MASK = 0x5354554E  # "STUN": so that it differs from other protocols' checksums (section 14.7)
IPV4, IPV6 = 1, 2


class RefusedError(Exception):
    """The server says no."""


# ------------------------------------------------------------------------------------ the protocol


def request() -> bytes:
    """A Binding request without attributes."""
    return HEAD.pack(REQUEST, 0, COOKIE, secrets.token_bytes(12))


def attributes(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes of a message; each is padded to four bytes (RFC 8489 section 14).

    Raises:
        ValueError: They are malformed, or the fingerprint is wrong.
    """
    at = HEAD.size
    while at < len(message):
        if at + 4 > len(message):
            raise ValueError("its last attribute is cut off")
        kind, size = struct.unpack_from("!HH", message, at)
        value = message[at + 4 : at + 4 + size]
        if len(value) != size:
            raise ValueError("its last attribute is cut off")
        if kind == FINGERPRINT and value != fingerprint(message[:at]):
            raise ValueError("its fingerprint is wrong: it was damaged, or is no STUN")
        yield kind, value
        at += 4 + (size + 3) // 4 * 4


def fingerprint(before: bytes) -> bytes:
    """The checksum of all that stands before it; the length in the head counts it already (section 14.7)."""
    return (zlib.crc32(before) ^ FINGERPRINT_MASK).to_bytes(4, "big")


def mapped(message: bytes) -> udpguard.Peer:
    """The address that a Binding response tells.

    Raises:
        RefusedError: It tells an error instead.
        ValueError: It is no such response.
    """
    if len(message) < HEAD.size:
        raise ValueError("it is too short for STUN")
    kind, size, cookie, _ = HEAD.unpack_from(message)
    if kind not in {SUCCESS, ERROR} or cookie != COOKIE or size != len(message) - HEAD.size or size % 4:
        raise ValueError("it is no response of STUN")
    found = dict(reversed([*attributes(message)]))  # Of several of a kind the first counts (section 14).
    if kind == ERROR:
        raise RefusedError(refusal(found.get(ERROR_CODE, b"")))
    unknown = [f"{each:#06x}" for each in found if each < OPTIONAL and each not in UNDERSTOOD]
    if unknown:
        raise ValueError(f"it has an attribute that must be understood: {', '.join(unknown)}")
    if XOR_MAPPED_ADDRESS not in found:
        raise ValueError("it tells no address")
    return unmasked(found[XOR_MAPPED_ADDRESS], message[4:20])


def unmasked(value: bytes, mask: bytes) -> udpguard.Peer:
    """An address under the cookie and the transaction id, lest some NAT rewrite it (section 14.2)."""
    if len(value) not in {8, 20} or value[1] != {8: IPV4, 20: IPV6}[len(value)]:
        raise ValueError("it tells an address that is none")
    port, host = (bytes(a ^ b for a, b in zip(part, mask, strict=False)) for part in (value[2:4], value[4:]))
    return udpguard.Peer(str(ipaddress.ip_address(host)), int.from_bytes(port, "big"))


def refusal(value: bytes) -> str:
    """What an ERROR-CODE says: hundreds, the rest, and why (section 14.8)."""
    if len(value) < 4:
        return "the server refuses, and does not say why"
    return (
        f"the server refuses: {value[2] & 0x7:d}{value[3]:02d} {command_line.shown(value[4:].decode(errors='replace'))}"
    )


def tells_address(reply: udpguard.Reply) -> bool:
    """Whether a reply is a response; what is raised here is quoted when the request times out."""
    with contextlib.suppress(RefusedError):
        mapped(reply.data)
    return True


# ---------------------------------------------------------------------------------------- the tool


async def ask(endpoint: udpguard.Endpoint, server: Server) -> udpguard.Peer | None:
    """Ask a server, and print what it says."""
    try:
        seen = mapped(await endpoint.request(server, request(), accept=tells_address))
    except (OSError, udpguard.UdpGuardError, RefusedError) as error:
        print(command_line.complaint_of(server, error), file=sys.stderr)
        return None
    print(f"{server}: this machine is seen at {seen}", flush=True)
    return seen


def comparison(seen: Sequence[udpguard.Peer]) -> str | None:
    """What the answers say of the NAT, where there are two of a family: each has a socket of its own."""
    families = [[peer for peer in seen if (":" in peer.host) == is_ipv6] for is_ipv6 in (False, True)]
    if any(len(set(family)) > 1 for family in families):
        return "they differ: a NAT gives this socket another address for each server"
    if any(len(family) > 1 for family in families):
        return "they agree: this socket is seen at the same address whoever is asked"
    return None


async def run(servers: Sequence[Server], timeout: float | None) -> int:
    async with udpguard.open_endpoint(
        correlate=ID, retry=udpguard.Retry.stun(), timeout=udpguard.DEFAULT if timeout is None else timeout
    ) as endpoint:
        answers = await asyncio.gather(*(ask(endpoint, server) for server in servers))
    seen = [peer for peer in answers if peer is not None]
    found = comparison(seen)
    if found is not None:
        print(found)
    return 0 if len(seen) == len(servers) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask STUN servers at which address this machine is seen.")
    parser.add_argument(
        "servers", metavar="SERVER", type=partial(command_line.server, default_port=PORT), nargs="+", help="HOST[:PORT]"
    )
    parser.add_argument(
        "--timeout", type=command_line.seconds, help="for each server, in seconds (default: 39.5, by RFC 8489)"
    )
    arguments = parser.parse_args()
    return asyncio.run(run(arguments.servers, arguments.timeout))


if __name__ == "__main__":
    command_line.run(main)
