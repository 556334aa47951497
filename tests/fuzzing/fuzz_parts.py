"""The parts that meet hostile bytes and callers' mistakes first, each alone: correlators, addresses, sources."""

from __future__ import annotations

import ipaddress
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import fuzz_foreign as foreign
from fuzz_tables import ODD, PAYLOADS
from fuzz_world import Event, Failure

import udpguard
from udpguard import TransactionId
from udpguard.core.address import (
    HostName,
    Sources,
    covers,
    host_token,
    mapped,
    mapped_sockaddr_of,
    network_tokens,
    parse,
    peer_of,
    sockaddr_of,
    unmapped,
    wire_of,
    wire_of_source,
)
from udpguard.core.correlation import sealed

decoded: Callable[..., Any] | None = None
if sys.platform == "linux":
    from udpguard._platform.linux_errqueue import decoded

KINDS: Final = ("transaction", "wire", "parse", "sources", "key", "error queue")
_CHARACTERS: Final = "0123456789abcdef:.%/[] -_xé\0٣"
_HOSTS: Final = [
    "192.0.2.1", "::1", "fe80::1%2", "::ffff:192.0.2.1", "server.example", "2001:db8::", "1.2.3", "0x7f.1",
    "fe80::1%lo", "a" * 64, "a." * 140, "xn--", "[::1]", "192.0.2.1:53", "", "::%", "%1", "1.2.3.4%1", "10.0.0.0/8",
    "fe80::/64", "::/0",
]  # fmt: skip


def generate(seed: int, count: int) -> Iterator[Event]:
    """So many events, the same ones for the same seed."""
    draw = random.Random(seed).getrandbits
    for _ in range(count):
        number = draw(64)
        yield KINDS[number % len(KINDS)], number // len(KINDS)


class Parts:
    """Each alone: what goes in, and what must hold of what comes out."""

    def __init__(self, setting: int) -> None:
        self.setting = setting
        self.index = 0
        self._checks: dict[str, Callable[[int], object]] = {
            kind: getattr(self, f"_{kind.replace(' ', '_')}") for kind in KINDS
        }

    def run(self, events: Iterable[Event]) -> int:
        """Put these in; how many they were.

        Raises:
            Failure: Something came out that never may.
        """
        for kind, number in events:
            try:
                self._checks[kind](number)
            except BaseException as error:
                raise Failure(self.index, f"{type(error).__name__}: {error}") from error
            self.index += 1
        return self.index

    def _transaction(self, number: int) -> None:
        """What a correlator reads, writes and puts back."""
        number, offset = divmod(number, 24)
        number, length = divmod(number, 12)
        number, back = divmod(number, 24)
        number, payload = divmod(number, len(PAYLOADS))
        data = PAYLOADS[payload]
        ids = TransactionId(offset, length + 1, reply_offset=back, assign=bool(number & 1))
        key = ids.request_key(data)
        assert (key is None) == (len(data) < offset + length + 1)
        reply = ids.reply_key(data)
        assert (reply is None) == (len(data) < back + length + 1)
        if key is not None:
            other = bytes([number & 255]) * (length + 1)
            stamped = ids.stamped(data, other)
            assert (len(stamped), ids.request_key(stamped)) == (len(data), other)
            assert ids.stamped(stamped, key) == data
        if reply is not None:
            restored = ids.restored(data, b"\xaa" * (length + 1))
            assert (len(restored), ids.reply_key(restored)) == (len(data), b"\xaa" * (length + 1))

    def _wire(self, number: int) -> None:
        """Any source that a socket may tell."""
        number, kind = divmod(number, 4)
        number, port = divmod(number, 65_536)
        number, scope = divmod(number, 3)
        if kind < 2:
            wire = wire_of((number * 0x9E3779B1 % 2**32).to_bytes(4, "big"), port)
        else:
            start = (bytes(10) + b"\xff\xff", b"\xfe\x80", b"\xff\x02", b"\x20\x01", b"")[number % 5]
            wire = wire_of((start + random.Random(number).randbytes(16))[:16], port, scope)
        peer = peer_of(wire)
        assert peer.port == port
        bare = peer.host.partition("%")[0]
        assert ipaddress.ip_address(bare).packed == (wire[2:] if len(wire) == 6 else wire[6:22])
        sockaddr = sockaddr_of(wire)
        assert wire_of_source(sockaddr[0], sockaddr[1], sockaddr[3] if len(sockaddr) > 2 else 0) == wire
        assert parse(tuple(peer), _no_interface, port_zero=True) == wire
        assert unmapped(mapped(wire)) == wire
        full = mapped_sockaddr_of(wire)
        assert wire_of_source(full[0], full[1], full[3] if len(full) > 2 else 0) == wire
        for token in network_tokens(wire, (0, 8, 24, 32)):
            assert covers(token, wire)  # type: ignore[arg-type]
        assert len(host_token(wire)) == len(wire) - (2 if len(wire) == 6 else 6)

    def _text(self, number: int) -> str:
        number, how = divmod(number, 4)
        number, which = divmod(number, len(_HOSTS))
        host = _HOSTS[which]
        if how == 0:
            return host
        if how == 1:
            return host[: number % (len(host) + 1)]
        draw = random.Random(number)
        if how == 2 and host:
            at = draw.randrange(len(host))
            return host[:at] + draw.choice(_CHARACTERS) + host[at + 1 :]
        return "".join(draw.choices(_CHARACTERS, k=draw.randrange(30)))

    def _parse(self, number: int) -> None:
        """Whatever a caller may give for an address: a wire, a name, or one kind of error."""
        number, how = divmod(number, 16)
        address: Any = ODD[number % len(ODD)] if how == 0 else (self._text(number), number % 70_000)
        if how == 1:
            address = (*address, number % 7, number % 2**33)
        try:
            found = parse(address, _no_interface)
        except udpguard.InvalidAddressError as error:
            str(error)
            return
        if isinstance(found, HostName):
            assert found.host
            assert 0 < found.port < 65_536
            return
        assert parse(tuple(peer_of(found)), _no_interface) == found

    def _sources(self, number: int) -> None:
        """Whatever may be given for `reply_from`."""
        number, count = divmod(number, 4)
        parts: list[Any] = []
        for _ in range(count + 1):
            number, how = divmod(number, 8)
            parts.append(
                self._text(number) if how < 3 else (self._text(number), number % 70_000) if how < 5
                else ("peer", "host", "anywhere")[how - 5]
            )  # fmt: skip
            number = number * 6_364_136_223_846_793_005 % 2**64
        try:
            sources = Sources(parts if count else parts[0], _no_interface)
        except ValueError:  # InvalidAddressError is one
            return
        tokens = sources.tokens(b"\0\7\xc0\0\2\1")
        assert tokens
        assert len(set(tokens)) == len(tokens)

    def _key(self, number: int) -> None:
        """Foreign keys, as they are kept."""
        choice: list[Any] = [
            b"a",
            1,
            1.5,
            float("nan"),
            (1, b"x"),
            (1.5,),
            "s",
            foreign.Evil(number % 256),
            [],
            {},
            None,
        ]
        try:
            key = sealed(choice[number % len(choice)])
        except (TypeError, foreign.Foreign):
            return
        kept = {key: 1, foreign.Words: 2, 1: 3}
        assert kept.pop(key) in (1, 3)

    def _error_queue(self, number: int) -> None:
        """Whatever the kernel, or who made it do so, may put into a socket's error queue."""
        if decoded is None:
            return
        draw = random.Random(number)
        number, count = divmod(number, 4)
        ancillary: list[Any] = []
        for _ in range(count):
            level, kind = draw.choice(((0, 11), (0, 11), (41, 25), (41, 25), (1, 2), (0, 0)))
            control = draw.randbytes(draw.choice((0, 3, 15, 16, 18, 24, 32, 44, 60)))
            if draw.random() < 0.6 and len(control) >= 16:
                number_, origin = draw.choice((111, 113, 101, 90, 0)), draw.choice((0, 1, 2, 3, 4))
                control = number_.to_bytes(4, sys.byteorder) + bytes([origin]) + control[5:]
                family = draw.choice((2, 10, 0, 1)).to_bytes(2, sys.byteorder)
                control = control[:16] + family + control[18:]
            ancillary.append((level, kind, control))
        name = draw.choice(
            (
                ("192.0.2.1", 7),
                ("fe80::1", 7, 0, 2),
                ("::ffff:192.0.2.1", 7, 0, 0),
                ("", 0),
                None,
                (),
                ("x", 7),
                7,
                "ab",
            )
        )
        error = decoded(PAYLOADS[number % len(PAYLOADS)], ancillary, name)
        if error is not None:
            assert len(error.wire) in (6, 26)
            assert error.origin in (1, 2, 3)
            assert error.offender is None or len(error.offender) in (6, 26)


def _no_interface(name: str) -> int:
    raise OSError(f"no interface {name}")
