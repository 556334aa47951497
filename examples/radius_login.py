"""Ask a RADIUS server whether a user may log in.

    python examples/radius_login.py 192.0.2.1 alice --secret 'shared with the server'
    echo "$PASSWORD" | RADIUS_SECRET='shared with the server' python examples/radius_login.py [2001:db8::1]:1645 alice

The password is read from the terminal, or from standard input where that is none. The exit status is 0 if the server
lets the user in, and 1 otherwise.

All that keeps an answer from being forged is the secret, and `accept` checks what the server computes with it: the
Response Authenticator (RFC 2865 section 3) and the Message-Authenticator (RFC 3579 section 3.2), without which MD5's
weakness lets others turn a Reject into an Accept (CVE-2024-3596, "BlastRADIUS"). A reply that fails is passed over, and
the true one still counts.

The identifier has one byte, and udpguard picks it as the datagram leaves (`assign=True`). Since the request's
Message-Authenticator covers it, a class derived from `TransactionId` signs there; and since the reply's authenticators
cover it as well, it leaves the reply as it came.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import hashlib
import hmac
import os
import secrets
import struct
import sys
from collections.abc import Iterator
from functools import partial
from typing import Final

import command_line
import udpguard
from command_line import Server

PORT = 1812
HEAD = struct.Struct("!BBH16s")  # code, identifier, length, authenticator (RFC 2865 section 3)
REQUEST, ACCEPT, REJECT, CHALLENGE = 1, 2, 3, 11
USER_NAME, USER_PASSWORD, REPLY_MESSAGE, NAS_IDENTIFIER, MESSAGE_AUTHENTICATOR = 1, 2, 18, 32, 80
BLOCK = 16  # MD5's bytes
LONGEST_VALUE, LONGEST_PASSWORD = 253, 128
VERDICTS = {
    ACCEPT: "is let in",
    REJECT: "is refused",
    CHALLENGE: "is asked for more, which this example has no answer to",
}
SILENCE = "a server that doesn't know this machine, or has another secret for it, is silent, too"


# ------------------------------------------------------------------------------------ the protocol


def request(user: bytes, password: bytes, secret: bytes, nas: bytes) -> bytes:
    """An Access-Request that has neither its identifier nor its signature yet."""
    authenticator = secrets.token_bytes(BLOCK)
    attributes = (
        # The first one, so that nobody can choose what stands before it.
        (MESSAGE_AUTHENTICATOR, bytes(BLOCK)),
        (USER_NAME, user),
        (USER_PASSWORD, hidden(password, secret, authenticator)),
        (NAS_IDENTIFIER, nas),
    )
    body = b"".join(bytes((kind, 2 + len(value))) + value for kind, value in attributes)
    return HEAD.pack(REQUEST, 0, HEAD.size + len(body), authenticator) + body


def hidden(password: bytes, secret: bytes, authenticator: bytes) -> bytes:
    """A password under a chain of MD5s, in whole blocks (RFC 2865 section 5.2)."""
    result, previous = b"", authenticator
    for at in range(0, max(len(password), 1), BLOCK):
        mask = hashlib.md5(secret + previous).digest()
        previous = bytes(a ^ b for a, b in zip(password[at : at + BLOCK].ljust(BLOCK, b"\0"), mask, strict=True))
        result += previous
    return result


def attributes(packet: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The attributes of a packet: of each its type, where its value begins, and the value.

    Raises:
        ValueError: They are malformed.
    """
    at = HEAD.size
    while at < len(packet):
        size = packet[at + 1] if at + 1 < len(packet) else 0
        if size < 2 or at + size > len(packet):
            raise ValueError("it has an attribute that is cut off")
        yield packet[at], at + 2, packet[at + 2 : at + size]
        at += size


def message_authenticator(packet: bytes, at: int, secret: bytes) -> bytes:
    """What the Message-Authenticator should be whose value begins there (RFC 3579 section 3.2)."""
    return hmac.digest(secret, packet[:at] + bytes(BLOCK) + packet[at + BLOCK :], "md5")


class SignedIdentifier(udpguard.TransactionId):
    """The identifier, and the signature of a request that covers it."""

    def __init__(self, secret: bytes) -> None:
        super().__init__(1, 1, assign=True)
        self.secret: Final = secret

    def stamped(self, data: bytes, key: bytes) -> bytes:
        """The request with its identifier, signed."""
        packet, at = super().stamped(data, key), HEAD.size + 2
        return packet[:at] + message_authenticator(packet, at, self.secret) + packet[at + BLOCK :]

    def restored(self, data: bytes, original: bytes) -> bytes:
        """The response as it came, since its authenticator covers the identifier."""
        del original
        return data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SignedIdentifier) and other.secret == self.secret

    def __hash__(self) -> int:
        return hash((SignedIdentifier, self.secret))


def opened(data: bytes) -> bytes:
    """A reply without what comes after its end, which counts for nothing (RFC 2865 section 3).

    Raises:
        ValueError: It is none.
    """
    if len(data) < HEAD.size:
        raise ValueError("it is too short for RADIUS")
    code, _, size, _ = HEAD.unpack_from(data)
    if code not in VERDICTS or not HEAD.size <= size <= len(data):
        raise ValueError("it is no answer to a login")
    return data[:size]


def is_genuine(reply: udpguard.Reply, asked: bytes, secret: bytes, *, unsigned: bool) -> bool:
    """Whether who sent it knows the secret, and the request; what is raised here is quoted when it times out."""
    packet = opened(reply.data)
    _, _, _, authenticator = HEAD.unpack_from(asked)
    signed = packet[:4] + authenticator + packet[HEAD.size :]  # as both authenticators are computed
    if not hmac.compare_digest(hashlib.md5(signed + secret).digest(), packet[4 : HEAD.size]):
        raise ValueError("its authenticator is wrong: it is forged, or the secrets differ")
    found = [(at, value) for kind, at, value in attributes(packet) if kind == MESSAGE_AUTHENTICATOR]
    if not found and not unsigned:
        raise ValueError("it has no Message-Authenticator: update that server, or pass --unsigned to believe it")
    if not all(hmac.compare_digest(message_authenticator(signed, at, secret), value) for at, value in found):
        raise ValueError("its Message-Authenticator is wrong: it is forged, or the secrets differ")
    return True


# ---------------------------------------------------------------------------------------- the tool


async def run(server: Server, asked: bytes, secret: bytes, timeout: float | None, *, unsigned: bool) -> bytes:
    async with udpguard.open_endpoint(
        correlate=SignedIdentifier(secret),
        retry=udpguard.Retry.radius(),
        timeout=udpguard.DEFAULT if timeout is None else timeout,
    ) as endpoint:
        genuine = partial(is_genuine, asked=asked, secret=secret, unsigned=unsigned)
        return opened(await endpoint.request(server, asked, accept=genuine))


def typed_password() -> bytes:
    """The password: hidden while it is typed, if it is."""
    return octets(getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n"))


def octets(text: str) -> bytes:
    """What was typed, in UTF-8 (RFC 2865 section 5); or as it was, where it is none."""
    return text.encode("utf-8", "surrogateescape")


def value(text: str) -> bytes:
    """The value of an attribute."""
    found = octets(text)
    if not 1 <= len(found) <= LONGEST_VALUE:
        raise argparse.ArgumentTypeError(f"it must have 1 to {LONGEST_VALUE} bytes, not {len(found)}")
    return found


def tell(user: bytes, packet: bytes) -> int:
    """Print the verdict and what the server has to say; returns the exit status."""
    print(f"{shown(user)} {VERDICTS[packet[0]]}")
    for kind, _, text in attributes(packet):
        if kind == REPLY_MESSAGE:
            print(f"the server says: {shown(text)}")
    return 0 if packet[0] == ACCEPT else 1


def shown(text: bytes) -> str:
    return command_line.shown(text.decode(errors="replace"))


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask a RADIUS server whether a user may log in.")
    server = partial(command_line.server, default_port=PORT)
    parser.add_argument("server", metavar="SERVER", type=server, help="HOST[:PORT]")
    parser.add_argument("user", metavar="USER", type=value)
    parser.add_argument("--secret", help="shared with the server (default: RADIUS_SECRET, from the environment)")
    parser.add_argument("--nas-identifier", metavar="NAME", type=value, default=b"radius_login", help="who asks")
    parser.add_argument("--unsigned", action="store_true", help="believe a server that sends no Message-Authenticator")
    parser.add_argument("--timeout", type=command_line.seconds, help="in seconds (default: 30, by RFC 5080)")
    arguments = parser.parse_args()
    secret = octets(arguments.secret or os.environ.get("RADIUS_SECRET", ""))
    if not secret:
        parser.error("a --secret is needed, or RADIUS_SECRET in the environment")
    try:
        password = typed_password()
        if len(password) > LONGEST_PASSWORD:
            parser.error(f"a password has {LONGEST_PASSWORD} bytes at the most (RFC 2865 section 5.2)")
        asked = request(arguments.user, password, secret, arguments.nas_identifier)
        answer = run(arguments.server, asked, secret, arguments.timeout, unsigned=arguments.unsigned)
        return tell(arguments.user, asyncio.run(answer))
    except BrokenPipeError:
        raise
    except (OSError, udpguard.UdpGuardError) as error:
        print(command_line.complaint_of(arguments.server, error, SILENCE), file=sys.stderr)
        return 1
    except (KeyboardInterrupt, EOFError):
        return 130


if __name__ == "__main__":
    command_line.run(main)
