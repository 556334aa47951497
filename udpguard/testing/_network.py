"""A simulated network: hosts, what happens between them, names, and ICMP.

Everything on its way waits in one heap, in the order in which it arrives. The loop asks when the next thing does, jumps
there, and has it delivered. All that is random comes from one generator, in an order that depends on nothing but what
is sent; each host has a generator of its own for ports and ids. So the same program and seed give the same trace.
"""

from __future__ import annotations

import asyncio
import errno
import heapq
import itertools
import random
import socket
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeAlias, Unpack

from udpguard._errors import InvalidAddressError
from udpguard.core.address import (
    IPV4_WIRE,
    Address,
    HostName,
    Peer,
    Wire,
    host_token,
    is_limited_broadcast,
    is_multicast,
    parse,
    peer_of,
    sockaddr_of,
    wire_of,
)
from udpguard.testing._conditions import ConditionArguments, Conditions
from udpguard.testing._hosts import Host, failure, is_loopback, literal_wire
from udpguard.testing._icmp import NO_HOST, NO_PORT, TOO_LARGE, Message, network_error, origin_of
from udpguard.testing._links import Links
from udpguard.testing._trace import Event, Icmp, Kind, Seed, Trace

# For documentation, and nobody's (RFC 5737, RFC 3849).
_CLIENT: Final = ("198.51.100.1", "2001:db8:ffff::1")

_LOOPBACK: Final = {socket.AF_INET: bytes((127, 0, 0, 1)), socket.AF_INET6: bytes(15) + b"\x01"}

AT: Final = "at "
"""How the note of what came to a group begins; a host's address follows."""
FORGED: Final = "forged"


class Datagram(NamedTuple):
    """A datagram on its way.

    Attributes:
        source: Where it comes from.
        destination: Where it goes.
        data: Its payload.
    """

    source: Peer
    destination: Peer
    data: bytes


Route: TypeAlias = Callable[[Datagram], Datagram | Iterable[Datagram] | None]
"""What goes on in a datagram's place: itself, another (translated, say), several, or none."""


class _Sent(NamedTuple):
    number: int
    host: Host
    """Whose it really is."""
    source: Wire
    wire: Wire
    data: bytes


class Network:
    """A network that is simulated, for one `VirtualLoop`.

    Args:
        seed: Decides all that is random.
        trace: Whether to record what happens.
        route: Called with each datagram that leaves, and says what goes on in its place.
        conditions: What happens on the way between any two hosts, as `Conditions` has it.
    """

    def __init__(
        self,
        seed: Seed = 0,
        *,
        trace: bool = True,
        route: Route | None = None,
        **conditions: Unpack[ConditionArguments],
    ) -> None:
        if isinstance(seed, bool) or not isinstance(seed, (int, str)):
            raise TypeError(f"seed must be an int or a str, not {seed!r}")
        self.seed: Seed = seed
        self.trace: Trace | None = Trace(seed) if trace else None
        """What has happened."""
        self.route: Route | None = route
        self._links = Links(Conditions(**conditions))
        self._generator = random.Random(f"udpguard network {seed!r}")  # noqa: S311 (a simulation is predictable)
        self._hosts: list[Host] = []
        self._owners: dict[bytes, Host] = {}
        self._names: dict[str, tuple[tuple[str, ...], float]] = {"localhost": (("127.0.0.1", "::1"), 0.0)}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._sent: int = 0
        self.client: Host = self.host(*_CLIENT)
        """The host that the program runs on, unless it enters another: 198.51.100.1 and 2001:db8:ffff::1."""

    # --------------------------------------------------------------------------------------------- what there is

    def host(self, *addresses: str) -> Host:
        """The host that has these addresses; a new one, if the first is nobody's yet.

        Args:
            addresses: Literals. A link-local one has the number of its link as its scope, as in `fe80::1%2`.

        Raises:
            ValueError: There are none, one is no literal, nobody can have it, or another host has it.
        """
        wires = [literal_wire(address) for address in addresses]
        if not wires:
            raise ValueError("a host needs an address, such as '192.0.2.1'")
        for wire in wires:
            if not any(host_token(wire)) or is_loopback(wire) or is_multicast(wire) or is_limited_broadcast(wire):
                raise ValueError(f"{peer_of(wire).host} can't be the address of a host")
        host = self._owners.get(host_token(wires[0]))
        if host is None:
            host = Host(self, [], f"udpguard host {addresses[0]} {self.seed!r}")
            self._hosts.append(host)
        for wire in wires:
            if self._owners.setdefault(host_token(wire), host) is not host:
                raise ValueError(f"{peer_of(wire).host} is another host's")
            if not host.has(wire):
                host.add_address(wire)
        return host

    def name(self, name: str, *addresses: str, delay: float = 0.0) -> None:
        """Give a name to addresses, in their order; to none, and it is unknown.

        Args:
            name: Such as "server.example".
            addresses: Literals.
            delay: How many seconds a look-up takes.
        """
        for address in addresses:
            literal_wire(address)
        self._names[name.lower().removesuffix(".")] = (addresses, delay)

    def owner(self, wire: Wire, asker: Host) -> Host | None:
        """The host that has an address, as seen from another."""
        return asker if is_loopback(wire) else self._owners.get(host_token(wire))

    def give_link_local(self, host: Host, wire: Wire) -> Wire:
        """Give a host an address on the link of this one, as every interface has one."""
        scope = peer_of(wire).host.partition("%")[2]
        number = zlib.crc32(host.addresses[0].encode("ascii"))  # of the host alone, whatever others there are
        own = literal_wire(f"fe80::ff:{number >> 16:x}:{number & 0xFFFF:x}%{scope}")
        self._owners[host_token(own)] = host
        host.add_address(own)
        return own

    # ------------------------------------------------------------------------------------------- how it behaves

    @property
    def conditions(self) -> Conditions:
        """What happens on every way for which `link` says nothing else; it can be set at any time."""
        return self._links.default

    @conditions.setter
    def conditions(self, conditions: Conditions) -> None:
        self._links.set_default(conditions)

    def link(
        self, a: str | Host, b: str | Host, *, both_ways: bool = True, **conditions: Unpack[ConditionArguments]
    ) -> None:
        """Have other conditions between some hosts from now on; what was said last counts.

        Args:
            a: A host, an address, a network such as "192.0.2.0/24", or "any".
            b: Likewise.
            both_ways: Whether it holds for what `b` sends to `a`, too.
            conditions: What differs from the network's conditions as they are now.

        Raises:
            ValueError: It is no address, or a number makes no sense.
        """
        self._links.add(a, b, replace(self.conditions, **conditions), both_ways=both_ways)

    async def look_up(self, host: object, port: object, family: int, kind: int) -> list[Any]:
        """The addresses of a name, as `loop.getaddrinfo` gives them.

        Raises:
            socket.gaierror: There are none.
        """
        text = host.decode("ascii") if isinstance(host, bytes) else "localhost" if host is None else str(host)
        number = int(port) if isinstance(port, (int, str, bytes)) and port else 0
        found = parse((text, number), socket.if_nametoindex, port_zero=True)
        wires = [found] if isinstance(found, bytes) else await self._wires_of(found)
        if not wires:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        fitting = [wire for wire in wires if family in (socket.AF_UNSPEC, _family(wire))]
        if not fitting:
            raise socket.gaierror(socket.EAI_NODATA, "No address associated with hostname")
        of = socket.SocketKind(kind or socket.SOCK_DGRAM)
        proto = socket.IPPROTO_TCP if of == socket.SOCK_STREAM else socket.IPPROTO_UDP
        return [(_family(wire), of, int(proto), "", sockaddr_of(wire)) for wire in fitting]

    async def _wires_of(self, name: HostName) -> list[Wire]:
        addresses, delay = self._names.get(name.host.lower().removesuffix("."), ((), 0.0))
        if delay:
            await asyncio.sleep(delay)
        return [literal_wire(address, name.port) for address in addresses]

    # ------------------------------------------------------------------------------------------------- the loop

    @property
    def now(self) -> float:
        """The time on its loop's clock."""
        return 0.0 if self._loop is None else self._loop.time()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve a loop from now on.

        Raises:
            RuntimeError: It serves another.
        """
        if self._loop is not None:
            raise RuntimeError("the network serves another loop, which is not closed yet")
        self._loop = loop

    def detach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve a loop no more, which is closed."""
        if self._loop is loop:
            self._loop = None
            self._heap.clear()

    def next_arrival(self) -> float | None:
        """When the next of what is on its way arrives; None where nothing is."""
        return self._heap[0][0] if self._heap else None

    def deliver(self, now: float, *, idle: bool) -> None:  # noqa: ARG002 (a replay wants to know)
        """Deliver what has arrived.

        Args:
            now: The time.
            idle: Whether the program has nothing more to do before time passes.
        """
        while self._heap and self._heap[0][0] <= now:
            when, _, action, args = heapq.heappop(self._heap)
            action(when, *args)

    def _later(self, when: float, action: Callable[..., None], *args: object) -> None:
        heapq.heappush(self._heap, (when, next(self._order), action, args))

    def _record(self, at: float, kind: Kind, sent: _Sent, note: str = "", data: bytes | None = None) -> None:
        if self.trace is not None:
            payload = sent.data if data is None else data
            source, destination = peer_of(sent.source), peer_of(sent.wire)
            self.trace.events.append(Event(at, kind, sent.number, source, destination, payload, note))

    # ------------------------------------------------------------------------------------------------- sending

    def send(self, host: Host, data: bytes, source: Wire, wire: Wire, leaves: float) -> None:
        """Send a datagram from a host.

        Args:
            host: Whose.
            data: The payload.
            source: Where it comes from.
            wire: Where it goes.
            leaves: When it is out of the send buffer.

        Raises:
            OSError: The conditions say that the host will not send it.
        """
        refusal = self._links.conditions(source, wire).send_error
        if refusal is not None:
            self._record(
                leaves, "failed", _Sent(0, host, source, wire, data), errno.errorcode.get(refusal, str(refusal))
            )
            raise failure(refusal)
        if leaves > self.now:
            self._later(leaves, self._leave, host, data, source, wire)
        else:
            self._leave(leaves, host, data, source, wire)

    def inject(self, data: bytes, source: Address, destination: Address, *, delay: float = 0.0) -> None:
        """Have a datagram arrive that claims to come from somewhere; nothing happens to it on the way.

        Args:
            data: The payload.
            source: Where it claims to come from; it may be anybody's.
            destination: Where it goes. A loopback address is the client's, and so is that of a socket which is bound to
                every interface (0.0.0.0, ::).
            delay: In how many seconds it arrives.

        Raises:
            InvalidAddressError: An address is no literal.
        """
        wires = (_literal(source), _destined(destination))
        self._sent += 1
        sent = _Sent(self._sent, self.client, *wires, bytes(data))
        self._record(self.now, "sent", sent, FORGED)
        self._later(self.now + delay, self._arrive, sent, sent.data, None)

    def inject_icmp(
        self,
        destination: Address,
        about: Address,
        quote: bytes = b"",
        *,
        type: int | None = None,  # noqa: A002 (that is what it is called)
        code: int | None = None,
        mtu: int = 0,
        delay: float = 0.0,
    ) -> None:
        """Have an ICMP message arrive, which may be a lie.

        Args:
            destination: The socket that is told, as in `inject`.
            about: Where the datagram was going that the message is about.
            quote: What it quotes of its payload.
            type: Its type; "destination unreachable" unless given.
            code: Its code; "port unreachable" unless given.
            mtu: The most that fits through, in a message about that.
            delay: In how many seconds it arrives.

        Raises:
            InvalidAddressError: An address is no literal.
        """
        told, wire = _destined(destination), _literal(about)
        default = NO_PORT[origin_of(wire)]
        message = Message(default.type if type is None else type, default.code if code is None else code, mtu)
        sent = _Sent(0, self.owner(told, self.client) or self.client, told, wire, bytes(quote))
        self._later(self.now + delay, self._tell, sent, message, bytes(2) + wire[2:])

    def _leave(self, at: float, host: Host, data: bytes, source: Wire, wire: Wire) -> None:
        self._sent += 1
        sent = _Sent(self._sent, host, source, wire, data)
        self._record(at, "sent", sent)
        if self.route is None:
            self._travel(at, sent)
            return
        goes_on = self.route(Datagram(peer_of(source), peer_of(wire), data))
        if goes_on is None:
            self._record(at, "lost", sent, "not routed")
            return
        for one in [goes_on] if isinstance(goes_on, Datagram) else goes_on:
            self._travel(at, _Sent(sent.number, host, _literal(one.source), _literal(one.destination), one.data))

    def _travel(self, at: float, sent: _Sent) -> None:
        conditions = self._links.conditions(sent.source, sent.wire)
        if conditions.is_too_large(sent.data, sent.wire):
            self._record(at, "lost", sent, "larger than the MTU")
            self._answer_icmp(at, sent, TOO_LARGE[origin_of(sent.wire)]._replace(mtu=conditions.mtu or 0))
            return
        if is_multicast(sent.wire) or is_limited_broadcast(sent.wire):
            for host in self._hosts:
                if host_token(sent.wire) in host.groups or (is_limited_broadcast(sent.wire) and host is not sent.host):
                    self._copy(at, sent, conditions, host)
        else:
            self._copy(at, sent, conditions, None)

    def _copy(self, at: float, sent: _Sent, conditions: Conditions, host: Host | None) -> None:
        copies = conditions.copies(sent.data, self._generator)
        if not copies:
            self._record(at, "lost", sent)
        if len(copies) > 1:
            self._record(at, "duplicated", sent)
        for delay, data in copies:
            if data != sent.data:
                self._record(at, "corrupted", sent, data=data)
            self._later(at + delay, self._arrive, sent, data, host)

    # ------------------------------------------------------------------------------------------------ arriving

    def _arrive(self, at: float, sent: _Sent, data: bytes, host: Host | None) -> None:
        """A datagram arrives, at a host of its own choice or the one that has its destination."""
        to_group = host is not None
        host = host or self.owner(sent.wire, sent.host)
        sock = None if host is None else host.listener(sent.wire)
        if host is None or sock is None:
            self._record(at, "dropped", sent, "no such host" if host is None else "nobody listens", data)
            if not to_group:
                message = (NO_HOST if host is None else NO_PORT)[origin_of(sent.wire)]
                self._answer_icmp(at, sent, message, from_host=host is not None)
            return
        objection = sock.take(data, sent.source, at)
        note = objection or (f"{AT}{host.addresses[0]}" if to_group else "")
        self._record(at, "dropped" if objection else "delivered", sent, note, data)

    def _answer_icmp(self, at: float, sent: _Sent, message: Message, *, from_host: bool = True) -> None:
        back = self._links.conditions(sent.wire, sent.source)
        if not (back.icmp if from_host else back.unreachable):
            return
        copies = back.copies(sent.data, self._generator)
        for delay, _ in copies:
            offender = bytes(2) + sent.wire[2:] if from_host else None
            self._later(at + delay, self._tell, sent, message, offender)

    def _tell(self, at: float, sent: _Sent, message: Message, offender: Wire | None) -> None:
        """An ICMP message arrives where a datagram came from, if the socket is still there."""
        owner = self.owner(sent.source, sent.host)
        sock = None if owner is None else owner.listener(sent.source)
        if sock is None:
            return
        error = network_error(sent.wire, sent.data, message, offender)
        sock.report(error)
        if self.trace is not None:
            source, destination = peer_of(offender or bytes(len(sent.wire))), peer_of(sent.source)
            icmp = Icmp(message.type, message.code, peer_of(sent.wire), message.mtu)
            self.trace.events.append(Event(at, "icmp", sent.number, source, destination, error.quote, "", icmp))


def _family(wire: Wire) -> socket.AddressFamily:
    return socket.AF_INET if len(wire) == IPV4_WIRE else socket.AF_INET6


def _destined(address: Address) -> Wire:
    """Where something goes: the address of no host stands for the sender's own, as on Linux and macOS."""
    wire = _literal(address)
    if any(host_token(wire)):
        return wire
    return wire_of(_LOOPBACK[_family(wire)], peer_of(wire).port)


def _literal(address: Address) -> Wire:
    wire = parse(address, socket.if_nametoindex, port_zero=True)
    if isinstance(wire, HostName):
        raise InvalidAddressError(f"{wire.host!r} is a name: give an IP address", address=address)
    return wire
