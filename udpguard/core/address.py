"""Who a datagram comes from: the form users see, the form that keys the registry, and the way between them.

Addresses take one canonical form where they enter. Users see a `Peer`. Inside, a peer is its **wire**: the bytes that
the kernel hands over, without the family, which their length tells:

    IPv4,  6 bytes: port (2, network order), address (4)
    IPv6, 26 bytes: port (2, network order), flow label (4, always zero), address (16), scope (4, native order)

so that slicing a `sockaddr_in` or `sockaddr_in6` from its third byte gives it. `::ffff:a.b.c.d` is its IPv4 peer. A
scope is kept only where one means anything: for link-local addresses (RFC 4007).

Where a reply may come from is told by **tokens**, from the most to the least specific:

    a wire                     that host and port
    4 bytes, or 16 + scope     any port of that host
    (prefix length, network)   any port of any host in that network
    b""                        anywhere

Zero as the scope of a wire or host token means that it matches on any link.
"""

# Annotations are no strings here: `typing.NamedTuple` would compile each, which doubles the time that it takes.

import re
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from udpguard._errors import InvalidAddressError
from udpguard._typing import TypeIs, override

if TYPE_CHECKING:
    from udpguard.core.reply_from import Network, ReplyFrom

Address: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
"""A host (a name or a literal) and a port, or the 4-tuple of an IPv6 socket address."""

Wire: TypeAlias = bytes
Token: TypeAlias = bytes | tuple[int, bytes]

ANYWHERE: Final = b""
IPV4_WIRE: Final = 6
IPV6_WIRE: Final = 26
_MAPPED: Final = bytes(10) + b"\xff\xff"
_NO_SCOPE: Final = bytes(4)
_MAX_NAME: Final = 253
_LABEL: Final = re.compile(r"(?!-)[^\s\x00-\x20\x7f:/?#@\[\]%\\.]{1,63}")


class Peer(NamedTuple):
    """A host and a port in canonical form, equal to the plain tuple `(host, port)`.

    Attributes:
        host: An IPv4 or IPv6 literal in canonical form (RFC 5952); a link-local one carries the index of its
            interface as in `fe80::1%2`.
        port: 1 to 65535. A datagram may come from port 0; none can be sent there.
    """

    host: str
    port: int

    @property
    def sockaddr(self) -> Address:
        """The address to hand to a socket: `(host, port)`, or `(host, port, 0, scope_id)` for IPv6."""
        if ":" not in self.host:
            return (self.host, self.port)
        host, _, scope = self.host.partition("%")
        return (host, self.port, 0, int(scope or 0))

    @override
    def __str__(self) -> str:
        """`192.0.2.1:53` or `[2001:db8::1]:53`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class HostName(NamedTuple):
    """A host that is a name, to be looked up, and a port."""

    host: str
    port: int

    @override
    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def _packed4(host: str) -> bytes:
    from ipaddress import IPv4Address  # slow to load, and not needed for `import udpguard`

    return IPv4Address(host).packed


def _packed6(host: str) -> bytes:
    from ipaddress import IPv6Address

    return IPv6Address(host).packed


def _written6(packed: bytes) -> str:
    from ipaddress import IPv6Address

    return str(IPv6Address(packed))


def wire_of(packed: bytes, port: int, scope: int = 0) -> Wire:
    """The wire of a packed IPv4 or IPv6 address; a mapped one gives its IPv4 peer's."""
    if len(packed) == 4:
        return port.to_bytes(2, "big") + packed
    if packed[:12] == _MAPPED:
        return port.to_bytes(2, "big") + packed[12:]
    scope_bytes = scope.to_bytes(4, sys.byteorder) if _takes_scope(packed) else _NO_SCOPE
    return port.to_bytes(2, "big") + _NO_SCOPE + packed + scope_bytes


def _takes_scope(packed: bytes) -> bool:
    if packed[0] == 0xFF:
        return packed[1] & 0x0F in (1, 2)  # interface-local and link-local multicast, RFC 4291 section 2.7
    return packed[0] == 0xFE and packed[1] & 0xC0 == 0x80


@lru_cache(maxsize=16_384)
def peer_of(wire: Wire) -> Peer:
    """The peer that a wire stands for."""
    port = int.from_bytes(wire[:2], "big")
    if len(wire) == IPV4_WIRE:
        return Peer(f"{wire[2]}.{wire[3]}.{wire[4]}.{wire[5]}", port)
    host = _written6(wire[6:22])
    scope = int.from_bytes(wire[22:], sys.byteorder)
    return Peer(f"{host}%{scope}" if scope else host, port)


def mapped(wire: Wire) -> Wire:
    """A wire in the form an IPv6 socket has it that serves IPv4 as well."""
    return wire[:2] + _NO_SCOPE + _MAPPED + wire[2:] + _NO_SCOPE if len(wire) == IPV4_WIRE else wire


def unmapped(wire: Wire) -> Wire:
    """The opposite of `mapped`."""
    return wire[:2] + wire[18:22] if wire[6:18] == _MAPPED else wire


@lru_cache(maxsize=16_384)
def sockaddr_of(wire: Wire) -> Address:
    """The socket address that a wire stands for."""
    return peer_of(wire).sockaddr


@lru_cache(maxsize=16_384)
def mapped_sockaddr_of(wire: Wire) -> Address:
    """The socket address of a wire for an IPv6 socket that serves IPv4 as well."""
    if len(wire) == IPV4_WIRE:
        host, port = peer_of(wire)
        return (f"::ffff:{host}", port, 0, 0)
    return sockaddr_of(wire)


@lru_cache(maxsize=16_384)
def wire_of_source(host: str, port: int, scope: int = 0) -> Wire:
    """The wire of an address that came from a socket: always a literal, perhaps with a scope."""
    bare, _, zone = host.partition("%")
    if ":" not in bare:
        return wire_of(_packed4(bare), port)
    return wire_of(_packed6(bare), port, scope or (int(zone) if zone.isdecimal() else 0))


# ------------------------------------------------------------------------------------------- what callers write


def parse(address: object, scope_index: Callable[[str], int], *, port_zero: bool = False) -> Wire | HostName:
    """A caller's address in canonical form.

    Args:
        address: What the caller gave.
        scope_index: Turns the name of an interface into its index, or raises OSError.
        port_zero: Whether port 0 is meant (to bind to a free one).

    Returns:
        The wire of a literal, or the name that has to be looked up.

    Raises:
        InvalidAddressError: It is neither; the message says what is wrong with it.
    """
    if not is_tuple(address) or len(address) not in (2, 4):
        from udpguard.core import meant  # only who errs needs it

        raise InvalidAddressError(meant.no_address(address), address=address)
    host, port = address[0], address[1]
    if not isinstance(host, str):
        from udpguard.core import meant

        what = f"the host in {address!r} must be a str, not {type(host).__name__}"
        raise InvalidAddressError(f"{what}{meant.instead(address)}", address=address)
    port = _checked_port(port, address, lowest=0 if port_zero else 1)
    scope = _scope_argument(address)
    wire = _literal(host, port, scope) if "%" not in host else None
    if wire is not None:
        return wire
    if ":" in host or "%" in host:
        return _scoped(host, port, scope, address, scope_index)
    if scope:
        raise InvalidAddressError(f"{address!r} has a scope, but {host!r} is no IPv6 literal", address=address)
    return HostName(_host_name(host, address), port)


def is_several(value: object) -> TypeIs[list[object] | tuple[object, ...]]:
    """Whether it is a list or a tuple, of which nothing more is known."""
    return isinstance(value, (list, tuple))


def is_tuple(value: object) -> TypeIs[tuple[object, ...]]:
    """Whether it is a tuple, of which nothing more is known."""
    return isinstance(value, tuple)


def _checked_port(port: object, address: object, *, lowest: int) -> int:
    if not isinstance(port, int) or isinstance(port, bool):
        hint = f": pass {int(port)}, not {port!r}" if isinstance(port, str) and port.isdecimal() else ""
        if isinstance(port, str) and port.isalpha():
            hint = f": socket.getservbyname({port!r}, 'udp') looks a service up"
        raise InvalidAddressError(
            f"the port in {address!r} must be an int, not {type(port).__name__}{hint}", address=address
        )
    if not lowest <= port <= 65_535:
        raise InvalidAddressError(
            f"port {port} in {address!r} is out of range: a port is {lowest} to 65535",
            address=address,
        )
    return int(port)


def _scope_argument(address: tuple[object, ...]) -> int:
    if len(address) == 2:
        return 0
    flow, scope = address[2], address[3]
    if not isinstance(flow, int) or not isinstance(scope, int) or not 0 <= scope < 2**32:
        raise InvalidAddressError(
            f"{address!r} is not an IPv6 socket address: (host, port, flow label, scope id)", address=address
        )
    return scope


@lru_cache(maxsize=16_384, typed=True)
def _literal(host: str, port: int, scope: int) -> Wire | None:
    """The wire of a literal without a zone; None for anything else."""
    try:
        if ":" in host:
            return wire_of(_packed6(host), port, scope)
        return wire_of(_packed4(host), port) if not scope else None
    except ValueError:
        return None


def _scoped(host: str, port: int, scope: int, address: object, scope_index: Callable[[str], int]) -> Wire:
    bare, _, zone = host.partition("%")
    try:
        packed = _packed6(bare)
    except ValueError:
        from udpguard.core import meant

        raise InvalidAddressError(meant.no_literal(host, address), address=address) from None
    if not zone:
        raise InvalidAddressError(f"{host!r} in {address!r} has an empty scope", address=address)
    try:
        index = int(zone) if zone.isdecimal() and zone.isascii() else scope_index(zone)
    except (OSError, ValueError):
        raise InvalidAddressError(f"this machine has no interface {zone!r} (in {address!r})", address=address) from None
    if not 0 < index < 2**32 or (scope and scope != index):
        raise InvalidAddressError(f"the scope in {address!r} is contradictory or out of range", address=address)
    return wire_of(packed, port, index)


def _host_name(host: str, address: object) -> str:
    """The name, checked as far as a resolver would only fail obscurely on it (RFC 1123 section 2.1)."""
    ascii_host = host
    if not host.isascii():
        try:
            ascii_host = host.encode("idna").decode("ascii")
        except UnicodeError as error:
            raise InvalidAddressError(f"{host!r} is not a host name: {error}", address=address) from None
    ascii_host = ascii_host.removesuffix(".")
    labels = ascii_host.split(".")
    if len(ascii_host) > _MAX_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        what = "the host is empty" if not host else f"{host!r} is neither an IP address nor a host name"
        from udpguard.core import meant

        raise InvalidAddressError(f"{what} (in {address!r}){meant.instead(address)}", address=address)
    return host


# --------------------------------------------------------------------------------------------- what can be asked


def refusal_to_send(wire: Wire) -> str | None:
    """Why no datagram can usefully be sent to this address, or None where one can."""
    packed = wire[2:] if len(wire) == IPV4_WIRE else wire[6:22]
    if not any(packed):
        name = peer_of(wire).host
        return f"{name} stands for no host: give the server's own address (127.0.0.1 or ::1 for this machine)"
    return None


def refusal_to_ask(wire: Wire) -> str | None:
    """Why a request to this address can't be answered from it, or None where it can."""
    refusal = refusal_to_send(wire)
    if refusal is not None:
        return refusal
    if is_limited_broadcast(wire):
        return (
            "255.255.255.255 is the broadcast address: no reply ever comes from it, so a request can't be matched; "
            "endpoint.discover(…) asks many at once"
        )
    if is_multicast(wire):
        return (
            f"{peer_of(wire).host} is a multicast group: no reply ever comes from it, so a request can't be matched; "
            f"endpoint.discover(…) asks many at once"
        )
    return None


known_wires: dict[object, Wire] = {}
"""The wires of plain literals by the addresses they were given as; beware of equal ones of other types."""
_MOST_WIRES: Final = 65_536


def known_wire(addr: object) -> Wire | None:
    """The wire of a plain literal `(host, port)` that can be asked, known from now on; None for what is not plain."""
    if not is_tuple(addr) or len(addr) != 2:
        return None
    host, port = addr
    if type(host) is not str or type(port) is not int or not 0 < port < 65_536 or "%" in host:
        return None
    packed = _dotted(host)
    # Remembered here, once is enough.
    wire = _literal.__wrapped__(host, port, 0) if packed is None else port.to_bytes(2, "big") + packed
    if wire is None or refusal_to_ask(wire) is not None:
        return None
    if len(known_wires) >= _MOST_WIRES:
        known_wires.clear()
    known_wires[addr if type(addr) is tuple else (host, port)] = wire
    return wire


def _dotted(host: str) -> bytes | None:
    """The address of an IPv4 literal as it is mostly written, in a third of the time that `ipaddress` takes."""
    try:
        packed = bytes(map(int, host.split(".")))
    except ValueError:
        return None
    return packed if len(packed) == 4 and "{}.{}.{}.{}".format(*packed) == host else None


def is_limited_broadcast(wire: Wire) -> bool:
    """Whether it is 255.255.255.255 (RFC 919)."""
    return wire[2:] == b"\xff\xff\xff\xff"


def is_multicast(wire: Wire) -> bool:
    """Whether it is a group (RFC 5771, RFC 4291 section 2.7)."""
    return 224 <= wire[2] < 240 if len(wire) == IPV4_WIRE else wire[6] == 0xFF


def is_unscoped_link_local(wire: Wire) -> bool:
    """Whether it is a link-local address of which nobody said the link."""
    return len(wire) == IPV6_WIRE and wire[22:] == _NO_SCOPE and _takes_scope(wire[6:22])


# ------------------------------------------------------------------------------------- where replies may come from


def host_token(wire: Wire) -> bytes:
    """The token of any port of this host."""
    return wire[2:] if len(wire) == IPV4_WIRE else wire[6:]


def without_scope(token: bytes) -> bytes:
    """A wire or host token that matches on any link (IPv4 has no scopes)."""
    return token[:-4] + _NO_SCOPE if len(token) > IPV4_WIRE else token


def has_scope(wire: Wire) -> bool:
    """Whether the wire tells its link."""
    return len(wire) == IPV6_WIRE and wire[22:] != _NO_SCOPE


def network_tokens(wire: Wire, lengths: Sequence[int]) -> list[Token]:
    """The tokens of the networks of these prefix lengths that hold this peer."""
    packed = wire[2:] if len(wire) == IPV4_WIRE else wire[6:22]
    bits = len(packed) * 8
    number = int.from_bytes(packed, "big")
    return [(length, (number >> (bits - length) << (bits - length)).to_bytes(len(packed), "big")) for length in lengths]


def plain_tokens(wire: Wire) -> tuple[bytes, ...]:
    """The tokens of the peer alone and of its host, on its own link and on any."""
    host = host_token(wire)
    return (wire, without_scope(wire), host, without_scope(host))


def covers(network: tuple[int, bytes], wire: Wire) -> bool:
    """Whether a peer is in a network."""
    return len(network[1]) == (4 if len(wire) == IPV4_WIRE else 16) and network_tokens(wire, (network[0],)) == [network]


class Sources:
    """Where a reply may come from, as the caller said it: the tokens for each address that is asked.

    Args:
        reply_from: "peer", "host", "anywhere", an address, a network, or a list of these.
        scope_index: Turns the name of an interface into its index.

    Raises:
        InvalidAddressError: An address in it is malformed or is a name.
        ValueError: A string in it is none of the words and no network.
    """

    __slots__ = ("_fixed", "anywhere", "host", "peer")

    def __init__(self, reply_from: "ReplyFrom", scope_index: Callable[[str], int]) -> None:
        self.peer: bool = False
        self.host: bool = False
        fixed: list[Token] = []
        parts = [reply_from] if not _is_several(reply_from) else list(reply_from)
        if not parts:
            raise ValueError("reply_from is empty: no reply could ever come")
        for part in parts:
            if part == "peer":
                self.peer = True
            elif part == "host":
                self.host = True
            else:
                token = _token(part, scope_index)
                if token not in fixed:
                    fixed.append(token)
        self.anywhere: bool = ANYWHERE in fixed
        self._fixed = tuple(fixed)

    @property
    def is_peer(self) -> bool:
        """Whether that is who is asked, and nobody else."""
        return self.peer and not self.host and not self._fixed

    def tokens(self, wire: Wire) -> tuple[Token, ...]:
        """The tokens of the replies to what is sent to this peer."""
        own: tuple[Token, ...] = ()
        if self.peer:
            own = (wire,)
        if self.host:
            own = (*own, host_token(wire))
        return own + tuple(token for token in self._fixed if token not in own)


def _is_several(reply_from: object) -> bool:
    """Whether it is a list of sources (perhaps as a tuple), not one address."""
    if isinstance(reply_from, (str, bytes)):
        return False
    if is_tuple(reply_from):
        return not (len(reply_from) in (2, 4) and isinstance(reply_from[0], str) and isinstance(reply_from[1], int))
    return isinstance(reply_from, (list, set, frozenset, Sequence))


def _token(part: object, scope_index: Callable[[str], int]) -> Token:
    if part == "anywhere":
        return ANYWHERE
    if is_tuple(part):
        wire = parse(part, scope_index)
        if isinstance(wire, HostName):
            raise InvalidAddressError(
                f"reply_from={part!r} has a host name: resolve it first, with `await endpoint.resolve(host, port)`",
                address=part,
            )
        return wire
    if isinstance(part, str) and "%" in part:
        return host_token(_scoped(part, 1, 0, part, scope_index))
    try:
        network = _network(part)
    except ValueError as error:
        from udpguard.core import meant

        raise ValueError(
            f"reply_from={part!r} is none of 'peer', 'host', 'anywhere', an address (host, port), "
            f"a network such as '192.0.2.0/24', or a list of these: {meant.source(part) or error}"
        ) from None
    return _network_token(network)


def _network(part: object) -> "Network":
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

    # ip_network would take a number, or four bytes, for an address.
    kinds = (str, IPv4Network, IPv6Network, IPv4Address, IPv6Address)
    return ip_network(part if isinstance(part, kinds) else repr(part))


def _network_token(network: "Network") -> Token:
    packed, length = network.network_address.packed, network.prefixlen
    if len(packed) == 16 and length >= 96 and packed[:12] == _MAPPED:
        packed, length = packed[12:], length - 96
    if length == len(packed) * 8:
        return packed if len(packed) == 4 else packed + _NO_SCOPE
    return (length, packed)
