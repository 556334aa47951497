"""UDP sockets as an endpoint wants them: made, or checked where the user brings one."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias, TypeVar
from weakref import WeakSet

from udpguard.core.address import IPV4_WIRE, Address, Wire, sockaddr_of, wire_of_source

logger = logging.getLogger("udpguard")

# The kernel caps it (net.core.rmem_max). What it holds is what a busy event loop may leave unread.
_RECEIVE_BUFFER: Final = 4 * 1024 * 1024
_SO_MEMINFO: Final = 55
_PORT_TRIES: Final = 16
# A kernel without IPv6, or one that has it turned off.
_MISSING_FAMILY: Final = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EADDRNOTAVAIL)
_EVERY_INTERFACE: Final = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}  # noqa: S104 (that is meant)


S = TypeVar("S", bound="Closable")


class Closable(Protocol):
    """What can be opened in vain."""

    def getsockname(self) -> Any:
        """Where it is bound."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


Bind: TypeAlias = Callable[[Address, int], S]
"""Gives a socket bound to an address, of a family, as `bound_socket` does."""


def open_sockets(family: int, bind: Bind[S]) -> list[S]:
    """Sockets on a random port of every interface: one of the family, or one of each the machine has.

    Two get the same port number where one is free in both families.

    Raises:
        OSError: The machine has no such family, or no port is free.
    """
    families = [socket.AF_INET, socket.AF_INET6] if family == socket.AF_UNSPEC else [socket.AddressFamily(family)]
    for _ in range(_PORT_TRIES):
        opened, same = _open_each(families, bind, insist=True)
        if same:
            return opened
        for sock in opened:
            sock.close()
    return _open_each(families, bind, insist=False)[0]


def _open_each(families: list[socket.AddressFamily], bind: Bind[S], *, insist: bool) -> tuple[list[S], bool]:
    opened: list[S] = []
    missing: OSError | None = None
    port = 0
    for family in families:
        try:
            sock = bind((_EVERY_INTERFACE[family], port), family)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and port:
                if insist:
                    return opened, False
                port = 0
                opened.append(bind((_EVERY_INTERFACE[family], 0), family))
                continue
            if error.errno not in _MISSING_FAMILY:
                for other in opened:
                    other.close()
                raise
            logger.debug("no socket of family %s: %s", family, error)
            missing = error
            continue
        opened.append(sock)
        port = sock.getsockname()[1]
    if not opened and missing is not None:
        raise missing
    return opened, True


def bound_socket(address: Address, family: int, *, allow_broadcast: bool) -> socket.socket:
    """A UDP socket bound to a literal address.

    SO_REUSEADDR and SO_REUSEPORT stay off: a neighbour could take the replies.

    Raises:
        OSError: The family is missing, or the address is in use or not this machine's.
    """
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        prepare(sock, allow_broadcast=allow_broadcast)
    except BaseException:
        sock.close()
        raise
    return sock


def prepare(sock: socket.socket, *, allow_broadcast: bool) -> None:
    """Set what every socket of an endpoint needs."""
    sock.setblocking(False)  # noqa: FBT003 (the standard library's signature)
    if allow_broadcast:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    with contextlib.suppress(OSError):
        before = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        if before < _RECEIVE_BUFFER and before < _obtainable_buffer(sock.family):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)


def _obtainable_buffer(family: int) -> int:
    """The receive buffer that is granted to who asks for ours.

    It may be less than a socket has (by SO_RCVBUFFORCE, as from systemd's `ReceiveBuffer=`, or net.core.rmem_default),
    and asking for more would take that away.
    """
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        return probe.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def kernel_dropped(sock: socket.socket) -> int | None:
    """How many datagrams the kernel dropped, for want of room or by a socket filter; None: it doesn't tell."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, ValueError, struct.error):  # of a closed one, perhaps by another loop
            words = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
            return int(struct.unpack("=9I", words)[8])  # SK_MEMINFO_DROPS, linux/sock_diag.h
    return None


class Drops:
    """What `kernel_dropped` tells since this was made, and of a closed socket what it told last.

    The kernel counts in 32 bits. A flood makes that go round within hours, which shows as long as somebody asks once
    meanwhile.

    Args:
        sock: The socket.
    """

    __slots__ = ("_latest", "_sock", "_total")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._latest = kernel_dropped(sock) or 0
        self._total = 0

    def count(self) -> int:
        """How many."""
        latest = kernel_dropped(self._sock)
        if latest is not None:
            self._total += (latest - self._latest) % (1 << 32)
            self._latest = latest
        return self._total


users_sockets: Final[WeakSet[socket.socket]] = WeakSet()
"""Those that endpoints serve, or have served and closed."""


def check_users_socket(sock: object) -> socket.socket:
    """Refuse a socket that can't serve.

    Raises:
        TypeError: It is no socket.
        ValueError: It is not a UDP socket, closed, not bound, connected, or another endpoint's.
    """
    if not isinstance(sock, socket.socket):
        raise TypeError(f"sock must be a socket.socket, not {type(sock).__name__}")
    if sock.fileno() < 0:
        raise ValueError(f"{sock!r} is closed")
    if sock in users_sockets:
        raise ValueError(f"{sock!r} belongs to another endpoint already: each needs a socket of its own")
    if sock.type != socket.SOCK_DGRAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
        raise ValueError(f"{sock!r} is not a UDP socket: pass one of AF_INET or AF_INET6 and SOCK_DGRAM")
    try:
        sock.getpeername()
    except OSError:
        pass
    else:
        raise ValueError(f"{sock!r} is connected, so it hears one peer only: pass one without connect()")
    if not sock.getsockname()[1]:
        raise ValueError(f"{sock!r} is not bound: call its bind(('0.0.0.0', 0)) first for any free port")
    return sock


def is_directed_broadcast(wire: Wire) -> bool:
    """Whether the kernel takes it for the broadcast address of one of its networks.

    It refuses both these and what a prohibiting route forbids with EACCES (`ip_route_connect`, net/ipv4); only the
    former it allows once the socket says that it means it. What a security module forbids, connects either way.
    """
    if len(wire) != IPV4_WIRE:
        return False
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            with contextlib.suppress(PermissionError):
                probe.connect(sockaddr_of(wire))
                return False
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            probe.connect(sockaddr_of(wire))
    except OSError:
        return False
    return True


def local_wire(sock: Closable) -> Wire:
    """The wire of the address a socket is bound to."""
    name = sock.getsockname()
    return wire_of_source(name[0], name[1], name[3] if len(name) > 2 else 0)
