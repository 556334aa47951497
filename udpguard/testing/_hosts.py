"""The hosts of a simulated network, and their sockets."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import random
import socket
import struct
from collections import Counter, deque
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Final, Self

from udpguard._errors import InvalidAddressError
from udpguard._typing import override
from udpguard.core.address import (
    IPV4_WIRE,
    Address,
    HostName,
    Wire,
    has_scope,
    host_token,
    is_limited_broadcast,
    is_multicast,
    is_unscoped_link_local,
    parse,
    peer_of,
    sockaddr_of,
)
from udpguard.core.icmp import NetworkError
from udpguard.testing._channel import SimulatedTransport

if TYPE_CHECKING:
    from udpguard._seams import BoundSocket
    from udpguard.testing._network import Network

# What Linux uses unless told otherwise (net.ipv4.ip_local_port_range, net.core.rmem_default), and what an endpoint's
# sockets ask for.
_EPHEMERAL: Final = (32_768, 60_999)
_PLAIN_BUFFER: Final = 212_992
_ENDPOINT_BUFFER: Final = 4 * 1024 * 1024
# What a datagram takes of a receive buffer besides its payload.
_OVERHEAD: Final = 512
_LARGEST: Final = {socket.AF_INET: 65_507, socket.AF_INET6: 65_527}
_SO_MEMINFO: Final = 55

_current: ContextVar[Host | None] = ContextVar("udpguard_testing_host", default=None)


def current_host(network: Network) -> Host:
    """The host that a network's program runs on: the one entered last, else the network's client."""
    host = _current.get()
    return network.client if host is None or host.network is not network else host


def literal_wire(host: str, port: int = 0) -> Wire:
    """The wire of a literal.

    Raises:
        InvalidAddressError: It is none.
    """
    wire = parse((host, port), socket.if_nametoindex, port_zero=True)
    if isinstance(wire, HostName):
        raise InvalidAddressError(f"{host!r} is not an IP address", address=(host, port))
    return wire


def is_loopback(wire: Wire) -> bool:
    """Whether it is the sender's own host."""
    return wire[2] == 127 if len(wire) == IPV4_WIRE else wire[6:22] == bytes(15) + b"\x01"


def failure(code: int, more: str = "") -> OSError:
    """An OSError as an operating system raises it."""
    return OSError(code, f"{os.strerror(code)}{more}")


class Host:
    """A host of a simulated network. `Simulation.host` and `Network.host` make them.

    `with host:` has what runs in it, and the tasks begun there, open their endpoints on this host.

    Args:
        network: Where it is.
        addresses: Its own, as wires with port 0.
        seed: Of its random numbers.
    """

    def __init__(self, network: Network, addresses: list[Wire], seed: str) -> None:
        self.network: Network = network
        self._addresses = addresses
        self._generator = random.Random(seed)  # noqa: S311 (a simulation is predictable)
        self._sockets: dict[tuple[int, Wire], SimulatedSocket] = {}
        self._ports: Counter[tuple[int, bytes]] = Counter()
        """How many sockets there are at a port of a family."""
        self._entered: list[Token[Host | None]] = []
        self.groups: set[bytes] = set()
        self.send_queue: tuple[int, float] | None = None
        self.receive_buffer: int | None = None
        """The bytes that sockets opened from now on hold unread, 512 counted for each datagram besides its payload."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its own, without those of its loopback interface."""
        return tuple(peer_of(wire).host for wire in self._addresses)

    def limit_sending(self, datagrams: int, rate: float) -> None:
        """Give sockets opened from now on a send buffer that fills.

        Args:
            datagrams: How many it holds.
            rate: How many leave in a second.

        Raises:
            ValueError: They are not positive.
        """
        if not (datagrams > 0 and rate > 0):
            raise ValueError(f"datagrams and rate must be positive, not {datagrams!r} and {rate!r}")
        self.send_queue = (datagrams, rate)

    def join(self, group: str) -> None:
        """Let sockets that are bound to every interface hear a multicast group from now on.

        Raises:
            ValueError: It is none.
        """
        wire = literal_wire(group)
        if not is_multicast(wire):
            raise ValueError(f"{group} is not a multicast group")
        self.groups.add(host_token(wire))

    def __enter__(self) -> Self:
        self._entered.append(_current.set(self))
        return self

    def __exit__(self, *exc_info: object) -> None:
        _current.reset(self._entered.pop())

    @override
    def __repr__(self) -> str:
        return f"<udpguard.testing.Host {', '.join(self.addresses)}>"

    # ----------------------------------------------------------------------------------- what an endpoint asks for

    def bind(
        self,
        address: Address,
        family: int,
        *,
        allow_broadcast: bool = False,
        receive_buffer: int | None = _ENDPOINT_BUFFER,
    ) -> SimulatedSocket:
        """A socket bound to a literal address; port 0 stands for a free one.

        Raises:
            OSError: The address is in use (EADDRINUSE), or not this host's (EADDRNOTAVAIL), or no port is free.
        """
        wire = literal_wire(address[0], address[1])
        if len(address) == 4 and address[3] and not has_scope(wire):
            wire = literal_wire(f"{address[0]}%{address[3]}", address[1])
        if (len(wire) == IPV4_WIRE) != (family == socket.AF_INET):
            raise failure(errno.EAFNOSUPPORT)
        if not self.has(wire) and any(host_token(wire)):
            host = peer_of(wire).host
            raise failure(
                errno.EADDRNOTAVAIL, f": {host} is not an address of {self!r}; network.host({host!r}) makes one"
            )
        wire = self._free(wire) if wire[:2] == b"\0\0" else wire
        if self._is_taken(wire):
            raise failure(errno.EADDRINUSE, f": {peer_of(wire)}")
        size = self.receive_buffer or receive_buffer or _PLAIN_BUFFER
        sock = SimulatedSocket(self, wire, size, allow_broadcast=allow_broadcast)
        self._add(sock)
        return sock

    def channel(
        self, loop: asyncio.AbstractEventLoop, sock: BoundSocket, protocol: asyncio.DatagramProtocol
    ) -> SimulatedTransport:
        """What sends and receives through a socket, and closes it in the end.

        Raises:
            TypeError: It is no socket of this network.
        """
        if not isinstance(sock, SimulatedSocket):
            raise TypeError(f"{sock!r} is a real socket: open the endpoint without sock= in a simulated network")
        return SimulatedTransport(loop, sock, protocol)

    def random_bits(self, count: int) -> int:
        """So many bits, for ids and ports; the same ones for the same seed."""
        return self._generator.getrandbits(count)

    def random(self) -> float:
        """A number in [0, 1), for schedules; the same one for the same seed."""
        return self._generator.random()

    def _free(self, wire: Wire) -> Wire:
        low, high = _EPHEMERAL
        first = self._generator.randint(low, high)
        for port in itertools.chain(range(first, high + 1), range(low, first)):
            candidate: Wire = port.to_bytes(2, "big") + wire[2:]
            if not self._is_taken(candidate):
                return candidate
        raise failure(errno.EADDRINUSE, ": no port is free")

    def _is_taken(self, wire: Wire) -> bool:
        family = socket.AF_INET if len(wire) == IPV4_WIRE else socket.AF_INET6
        if (family, wire) in self._sockets or (family, _everywhere(wire)) in self._sockets:
            return True
        if any(host_token(wire)):
            return False
        return self._ports[family, wire[:2]] > 0

    def _add(self, sock: SimulatedSocket) -> None:
        self._sockets[sock.family, sock.wire] = sock
        self._ports[sock.family, sock.wire[:2]] += 1

    # ------------------------------------------------------------------------------------------- what the network asks

    def has(self, wire: Wire) -> bool:
        """Whether an address is this host's, its loopback interface's included."""
        return is_loopback(wire) or bytes(2) + wire[2:] in self._addresses

    def source_for(self, wire: Wire) -> Wire:
        """The address, with port 0, that a datagram leaves from where its socket is bound to every interface."""
        if is_loopback(wire):
            return literal_wire("127.0.0.1" if len(wire) == IPV4_WIRE else "::1")
        if has_scope(wire):
            for own in self._addresses:
                if own[-4:] == wire[-4:] and len(own) == len(wire):
                    return own
            return self.network.give_link_local(self, wire)
        for own in self._addresses:
            if len(own) == len(wire) and not has_scope(own):
                return own
        raise failure(errno.ENETUNREACH)

    def listener(self, wire: Wire) -> SimulatedSocket | None:
        """The socket that takes what comes for this address."""
        family = socket.AF_INET if len(wire) == IPV4_WIRE else socket.AF_INET6
        return self._sockets.get((family, wire)) or self._sockets.get((family, _everywhere(wire)))

    def add_address(self, wire: Wire) -> None:
        """Have one more address."""
        self._addresses.append(wire)

    def move(self, sock: SimulatedSocket, wire: Wire) -> None:
        """Bind a socket elsewhere."""
        self.remove(sock)
        sock.wire = wire
        self._add(sock)

    def remove(self, sock: SimulatedSocket) -> None:
        """Free a socket's port."""
        del self._sockets[sock.family, sock.wire]
        self._ports[sock.family, sock.wire[:2]] -= 1


def _everywhere(wire: Wire) -> Wire:
    return wire[:2] + bytes(len(wire) - 2)


class SimulatedSocket:
    """A UDP socket of a host.

    Args:
        host: Whose.
        wire: Where it is bound.
        receive_buffer: What it holds unread, in bytes.
        allow_broadcast: Whether it may send to broadcast addresses.
    """

    def __init__(self, host: Host, wire: Wire, receive_buffer: int, *, allow_broadcast: bool) -> None:
        self.host: Host = host
        self.wire: Wire = wire
        self.family: socket.AddressFamily = socket.AF_INET if len(wire) == IPV4_WIRE else socket.AF_INET6
        self.receive_buffer: int = receive_buffer
        self.dropped: int = 0
        self.arrived: deque[tuple[bytes, Wire, float]] = deque()
        """What is unread: payload, source, and when it came."""
        self.errors: deque[NetworkError] = deque()
        self.channel: SimulatedTransport | None = None
        self.peer: Wire | None = None
        """The only peer, where it is connected."""
        self._everywhere = not any(host_token(wire))
        self._allow_broadcast = allow_broadcast
        self._used = 0
        self._queue = host.send_queue
        self._departures: deque[float] = deque()
        self._closed = False

    @override
    def __repr__(self) -> str:
        return f"<udpguard.testing socket {peer_of(self.wire)}{' (closed)' if self._closed else ''}>"

    # ------------------------------------------------------------------------------------ as sockets have it

    def getsockname(self) -> Address:
        """Where it is bound."""
        return sockaddr_of(self.wire)

    def getpeername(self) -> Address:
        """Its peer.

        Raises:
            OSError: It is not connected (ENOTCONN).
        """
        if self.peer is None:
            raise failure(errno.ENOTCONN)
        return sockaddr_of(self.peer)

    def fileno(self) -> int:
        """-1: the operating system knows nothing of it."""
        return -1

    def getsockopt(self, level: int, option: int, size: int = 0) -> int | bytes:
        """SO_RCVBUF; and with a size SO_MEMINFO, of which what was dropped is told.

        Raises:
            OSError: It is another option (ENOPROTOOPT).
        """
        if level == socket.SOL_SOCKET and option == socket.SO_RCVBUF:
            return self.receive_buffer
        if level == socket.SOL_SOCKET and option == _SO_MEMINFO and size:
            return struct.pack("=9I", *(0,) * 8, self.dropped)
        raise failure(errno.ENOPROTOOPT)

    def connect(self, wire: Wire) -> None:
        """Hear and ask one peer only."""
        self.peer = wire
        if self._everywhere:
            self.host.move(self, self.wire[:2] + self.host.source_for(wire)[2:])
            self._everywhere = False

    def close(self) -> None:
        """Free its port; what is unread is lost."""
        if not self._closed:
            self._closed = True
            self.host.remove(self)
            self.arrived.clear()
            self.errors.clear()

    # ------------------------------------------------------------------------------------------- sending

    def has_room(self, now: float) -> bool:
        """Whether it takes a datagram to send."""
        if self._queue is None:
            return True
        while self._departures and self._departures[0] <= now:
            self._departures.popleft()
        return len(self._departures) < self._queue[0]

    def room_at(self) -> float:
        """When half of its send buffer is free."""
        return self._departures[len(self._departures) // 2]

    def send(self, data: bytes, wire: Wire, now: float) -> None:
        """Send a datagram.

        Raises:
            OSError: This host will not send it.
        """
        if len(data) > _LARGEST[self.family]:
            raise failure(errno.EMSGSIZE)
        if wire[:2] == b"\0\0" or is_unscoped_link_local(wire):
            raise failure(errno.EINVAL)
        if is_limited_broadcast(wire) and not self._allow_broadcast:
            raise failure(errno.EACCES)
        if not any(host_token(wire)):  # Linux takes it for this host
            wire = wire[:2] + literal_wire("127.0.0.1" if len(wire) == IPV4_WIRE else "::1")[2:]
        if is_loopback(self.wire) and not is_loopback(wire):
            raise failure(errno.EINVAL)
        source = self.wire[:2] + self.host.source_for(wire)[2:] if self._everywhere else self.wire
        leaves = now
        if self._queue is not None:
            leaves = max(now, self._departures[-1] if self._departures else now) + 1 / self._queue[1]
        self.host.network.send(self.host, data, source, wire, leaves)
        if self._queue is not None:
            self._departures.append(leaves)

    # ------------------------------------------------------------------------------------------ receiving

    def take(self, data: bytes, source: Wire, now: float) -> str:
        """Take what arrives; "", or why not."""
        if self.peer is not None and source != self.peer:
            return "connected elsewhere"
        size = len(data) + _OVERHEAD
        if self._used + size > self.receive_buffer:
            self.dropped += 1
            return "receive buffer full"
        self._used += size
        self.arrived.append((data, source, now))
        if self.channel is not None:
            self.channel.wake()
        return ""

    def read(self, most: int) -> list[tuple[bytes, Wire, float]]:
        """Read up to so many datagrams: payload, source, and when each arrived."""
        got = [self.arrived.popleft() for _ in range(min(most, len(self.arrived)))]
        self._used -= sum(len(data) + _OVERHEAD for data, _, _ in got)
        return got

    def report(self, error: NetworkError) -> None:
        """Take note of an ICMP message."""
        self.errors.append(error)
        if self.channel is not None:
            self.channel.wake()
