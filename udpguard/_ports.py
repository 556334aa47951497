"""The local ports of one endpoint: its own, and spare ones that are opened when needed and closed when long idle.

Which port may still get an old reply, and which spare one is to be used, `core.ports` knows; here are the sockets.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from udpguard._guard import Guard
from udpguard._protocol import GuardProtocol
from udpguard.core.address import IPV4_WIRE, Address, Token, Wire, sockaddr_of
from udpguard.core.memory import REMEMBERED
from udpguard.core.ports import Ports

if TYPE_CHECKING:
    from udpguard._seams import BoundSocket, Channel, Host

logger = logging.getLogger("udpguard")

# `man 7 ip`: ports that the administrator keeps for services.
_RESERVED: Final = "/proc/sys/net/ipv4/ip_local_reserved_ports"
_TAKEN: Final = (errno.EADDRINUSE, errno.EACCES)
# A range that is taken but for a few ports is still searched for those, if it is no larger: all of it takes 50 ms.
_RANGE_TRIES: Final = 1_024
# A port that the system gives may be soiled for the very peer that needs it.
_FRESH_TRIES: Final = 16


class NoPortError(Exception):
    """No port may be used now.

    Attributes:
        until: When one may; None: when a spare one is idle.
    """

    def __init__(self, until: float | None) -> None:
        super().__init__()
        self.until = until


def checked_ports(ports: object, fixed: str | None) -> Ports:
    """What ports an endpoint may have.

    Args:
        ports: What the caller gave.
        fixed: Why it can have no port but one; None where it can.

    Raises:
        TypeError: It is no `Ports`.
        ValueError: It needs more ports than it can have.
    """
    if not isinstance(ports, Ports):
        raise TypeError(f"ports must be a udpguard.Ports such as Ports(pool=4), not {ports!r}")
    if fixed is None:
        return ports
    if ports.pool > 1 or ports.rotate or ports.range is not None:
        raise ValueError(f"{fixed} means one port and no other: leave it out, or Ports(pool=…, rotate=…, range=…)")
    from dataclasses import replace  # slow to load, and few ports are fixed

    return replace(ports, spares=0)


class Binder:
    """Binds sockets: to a port of the operating system's choice, or to a random one of a range.

    Args:
        guard: Has the randomness.
        host: Has the sockets.
        ports: Says which range.
        allow_broadcast: Whether they may send to broadcast addresses.
    """

    def __init__(self, guard: Guard, host: Host, ports: Ports, *, allow_broadcast: bool) -> None:
        self._draw = guard.registry.draw
        self._host = host
        self._range = ports.range
        self._allow_broadcast = allow_broadcast
        self._reserved: frozenset[int] | None = None

    @property
    def has_choice(self) -> bool:
        """Whether it chooses ports, and not the operating system."""
        return self._range is not None

    def __call__(self, address: Address, family: int, is_clean: Callable[[int], bool] | None = None) -> BoundSocket:
        """A socket bound to an address; port 0 stands for any.

        Where there is a choice, those ports that are clean go first.

        Raises:
            OSError: It can't be bound.
        """
        if address[1] or self._range is None:
            return self._host.bind(address, family, allow_broadcast=self._allow_broadcast)
        if self._reserved is None:
            self._reserved = reserved_ports(_RESERVED)
        lowest, highest = self._range
        failure = OSError(errno.EADDRINUSE, f"every port tried of Ports(range={self._range}) is reserved")
        drawn = (port for port in self._drawn(lowest, highest) if port not in self._reserved)
        for port in drawn if is_clean is None else _clean_first(drawn, is_clean):
            try:
                chosen: Address = (address[0], port) if len(address) == 2 else (address[0], port, *address[2:])
                return self._host.bind(chosen, family, allow_broadcast=self._allow_broadcast)
            except OSError as error:
                if error.errno not in _TAKEN:
                    raise
                failure = OSError(error.errno, f"no port tried of Ports(range={self._range}) is free: {error.strerror}")
        raise failure

    def _drawn(self, lowest: int, highest: int) -> Iterator[int]:
        """Ports of the range in random order, none of them twice: the beginning of a Fisher-Yates shuffle."""
        size = highest - lowest + 1
        moved: dict[int, int] = {}
        for last in range(size - 1, max(size - _RANGE_TRIES, 0) - 1, -1):
            place = self._draw(last + 1)
            yield lowest + moved.get(place, place)
            moved[place] = moved.get(last, last)


def _clean_first(ports: Iterable[int], is_clean: Callable[[int], bool]) -> Iterator[int]:
    others: list[int] = []
    for port in ports:
        if is_clean(port):
            yield port
        else:
            others.append(port)
    yield from others


def reserved_ports(path: str | os.PathLike[str]) -> frozenset[int]:
    """The ports that the administrator keeps for services: `ip_local_reserved_ports` in `man 7 ip`."""
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123 (to load pathlib takes 5 % of `import udpguard`)
            text = file.read()
        spans = [part.partition("-") for part in text.strip().split(",") if part]
        return frozenset(port for low, _, high in spans for port in range(int(low), int(high or low) + 1))
    except (OSError, ValueError):
        return frozenset()


class PortKeeper:
    """What requests leave from.

    Args:
        guard: Whose they are.
        host: Has the sockets.
        binder: Binds spare ones.
        local: Where the endpoint's own ports are bound; the spare ones are, too.
    """

    def __init__(self, guard: Guard, host: Host, binder: Binder, local: Sequence[Wire]) -> None:
        self._guard = guard
        self._registry = guard.registry
        self._host = host
        self._binder = binder
        self._local = {len(wire) == IPV4_WIRE: sockaddr_of(b"\0\0" + wire[2:]) for wire in local}
        self._channels: dict[int, Channel] = {}
        self._timer: asyncio.TimerHandle | None = None

    def channel(self, port: int) -> Channel | None:
        """What leaves from a spare port; None where it is none, or is closed."""
        return self._channels.get(port)

    def choose(self, wire: Wire, tokens: Sequence[Token]) -> int:
        """A port for a request without a key to this peer, whose reply may come from these sources.

        Raises:
            NoPortError: None may be used now.
        """
        registry, now = self._registry, self._guard.clock()
        own = self._guard.own_ports(wire)
        fit = registry.clean(own, tokens, wire, now)
        if fit:
            return fit[registry.draw(len(fit))] if len(fit) > 1 else fit[0]
        if registry.spares.limit:
            try:
                port = self._spare((wire,), tokens, now)
            except NoPortError:
                shared = registry.unsoiled(own, tokens, wire, now)
                if not shared:
                    raise
                port = shared[0]  # somebody listens there who lets requests have their answers first
            if port is not None:
                return port
        return self._least_blocked(own, wire, tokens, now)

    def choose_to_listen(self, port: int, wire: Wire, tokens: Sequence[Token]) -> int:
        """A port for who goes on listening to this peer, where no answer that another waits for may come too late.

        That one of the endpoint's own, if it will do: mostly it does, and to look at one is soon done.

        Raises:
            NoPortError: Old replies may come to all.
        """
        registry, now = self._registry, self._guard.clock()
        is_clean = not registry.soil.dirty or (registry.spares.limit and registry.may_use(port, tokens, wire, now))
        if is_clean and not registry.is_awaited(port, wire):
            return port
        fit = self._quiet(registry.clean(self._guard.own_ports(wire), tokens, wire, now), (wire,))
        if fit:
            return fit[registry.draw(len(fit))]
        spare = self.choose_spare((wire,), tokens)
        return self.choose(wire, tokens) if spare is None else spare

    def choose_spare(self, wires: Sequence[Wire], tokens: Sequence[Token]) -> int | None:
        """A spare port for who asks these, and listens to those sources for a while; None where there is none.

        What comes late to it then comes where nobody else listens.
        """
        if not self._registry.spares.limit:
            return None
        try:
            return self._spare(wires, tokens, self._guard.clock(), listens=True)
        except NoPortError:
            return None

    def _quiet(self, ports: Sequence[int], wires: Sequence[Wire]) -> Sequence[int]:
        """Those of the ports where nobody waits for an answer that one of these may give."""
        awaited = self._registry.is_awaited
        return [port for port in ports if not any(awaited(port, wire) for wire in wires)]

    def _spare(
        self, wires: Sequence[Wire], tokens: Sequence[Token], now: float, *, listens: bool = False
    ) -> int | None:
        """A spare port that is clean, opened now where none is; None where that is not possible.

        Raises:
            NoPortError: As many as may be are open and in use.
        """

        def clean(ports: Sequence[int]) -> Sequence[int]:
            for wire in wires:
                ports = self._registry.clean(ports, tokens, wire, now)
            return self._quiet(ports, wires) if listens else ports

        port = self._registry.spares.choose(clean, ipv4=len(wires[0]) == IPV4_WIRE)
        return self._fresh(wires[0], tokens, now) if port is None else port

    def _least_blocked(self, own: Sequence[int], wire: Wire, tokens: Sequence[Token], now: float) -> int:
        """The one of the endpoint's own ports where an old reply is the least likely by now."""
        until, port = min((self._registry.blocked_until(port, tokens, wire), port) for port in own)
        if until > now:
            raise NoPortError(until)
        return port

    def _fresh(self, wire: Wire, tokens: Sequence[Token], now: float) -> int | None:
        """A spare port that is opened now; None where that is not possible."""
        spares = self._registry.spares
        if len(spares) >= spares.limit:
            idle = spares.replaceable()
            if idle is None:
                raise NoPortError(None)
            self._close(idle)
        try:
            return self._open(wire, tokens, now)
        except OSError as error:
            logger.debug("no spare port could be opened: %s", error)
            return None

    def _open(self, wire: Wire, tokens: Sequence[Token], now: float) -> int:
        guard, loop = self._guard, self._guard.loop
        assert loop is not None
        ipv4 = len(wire) == IPV4_WIRE
        address, family = self._local[ipv4], socket.AF_INET if ipv4 else socket.AF_INET6
        refused: list[BoundSocket] = []

        def is_clean(port: int) -> bool:
            return bool(self._registry.clean((port,), tokens, wire, now))

        tries = 0 if self._binder.has_choice else _FRESH_TRIES
        try:
            while True:
                sock = self._binder(address, family, is_clean)
                port: int = sock.getsockname()[1]
                will_do = len(refused) >= tries or is_clean(port)
                if will_do and port not in self._channels:  # the other family may have the same number
                    break
                refused.append(sock)  # kept until then, so that it is not given again
        finally:
            for other in refused:
                other.close()
        try:
            channel = self._host.channel(loop, sock, GuardProtocol.of(guard, port))
        except BaseException:
            sock.close()
            raise
        self._channels[port] = channel
        guard.channels.append(channel)
        self._registry.spares.add(port, now, ipv4=ipv4)
        if self._timer is None:
            self._timer = loop.call_later(REMEMBERED, self._tidy)
        return port

    def _close(self, port: int) -> None:
        channel = self._channels.pop(port)
        self._registry.spares.remove(port)
        self._guard.drop_channel(channel)

    def forget(self, port: int, channel: object) -> bool:
        """Take note that the socket of a spare port is closed; False: another has the port by now."""
        if self._channels.get(port) is not channel:
            return False
        self._close(port)
        return True

    def _tidy(self) -> None:
        """Close what has been idle for long."""
        self._timer = None
        for port in self._registry.spares.long_idle(self._guard.clock()):
            self._close(port)
        if self._channels and self._guard.loop is not None:
            self._timer = self._guard.loop.call_later(REMEMBERED / 2, self._tidy)

    def close(self) -> None:
        """Forget all; the guard closes the sockets."""
        self._channels.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
