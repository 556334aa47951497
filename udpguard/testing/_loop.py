"""An event loop in virtual time.

Where asyncio would wait, this loop's clock jumps: to the next timer, or to the next datagram that arrives, whichever
comes first. It knows nothing of real sockets, and a `Network` for them. What arrives is read before timers fire that
are due at the same time, as in asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import selectors
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, TypeVarTuple

from udpguard._typing import override
from udpguard.core.address import HostName, Wire, parse, sockaddr_of, wire_of_source
from udpguard.testing._hosts import SimulatedSocket, current_host
from udpguard.testing._network import Network

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

    from udpguard._seams import Host as HostSeam

_P = TypeVar("_P", bound=asyncio.BaseProtocol)
_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

# Timers that are due within so many seconds fire together, on every platform alike.
_RESOLUTION: Final = 1e-9
_MOST_TASKS_SHOWN: Final = 10


class DeadlockError(RuntimeError):
    """Nothing will ever happen any more in virtual time: no timer is set and no datagram is on its way."""


class _Jump(selectors.BaseSelector):
    """Where a loop would wait, its clock jumps."""

    def __init__(self, network: Network) -> None:
        self.now = 0.0
        self.sealed = False
        self._network = network
        self._keys: dict[FileDescriptorLike, selectors.SelectorKey] = {}

    @override
    def register(self, fileobj: FileDescriptorLike, events: int, data: object = None) -> selectors.SelectorKey:
        if self.sealed:
            raise NotImplementedError("a VirtualLoop has no real sockets, pipes or files: its network is simulated")
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, fd, events, data)
        return key

    @override
    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    @override
    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        return self._keys

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        arrives, before = self._network.next_arrival(), self.now
        if timeout is None:
            if arrives is None:
                raise DeadlockError(_deadlock(self.now))
            self.now = max(self.now, arrives)
        elif timeout > 0:
            wakes = self.now + timeout
            self.now = wakes if arrives is None else max(self.now, min(wakes, arrives))
        if arrives is not None and arrives <= self.now:
            self._network.deliver(self.now, idle=timeout != 0 and self.now == before)
        return []


def _deadlock(now: float) -> str:
    tasks = sorted(asyncio.all_tasks(asyncio.get_running_loop()), key=lambda task: task.get_name())
    lines = [
        f"at {now:.6f} s of virtual time nothing can happen any more (no timer is set, no datagram is on its way):",
        *(f"  {task.get_name()} waits {_place(task)}" for task in tasks[:_MOST_TASKS_SHOWN]),
    ]
    if len(tasks) > _MOST_TASKS_SHOWN:
        lines.append(f"  and {len(tasks) - _MOST_TASKS_SHOWN} more")
    return "\n".join(lines)


def _place(task: asyncio.Task[Any]) -> str:
    stack = task.get_stack()
    if not stack:
        return f"in {task.get_coro()!r}"
    code = stack[-1].f_code
    return f"in {code.co_name}, {code.co_filename}:{stack[-1].f_lineno}"


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop whose clock jumps, over a simulated network.

    Hours pass in moments, and what happens depends on the program and the network's seed alone. `time()` begins at 0.
    Datagram endpoints and names are the network's. What would run in a thread (`asyncio.to_thread`) runs at once, in
    the loop. There are no real sockets, no TCP, no subprocesses and no signal handlers.

    When tasks wait and nothing can happen any more, what runs the loop raises `DeadlockError`.

    Args:
        network: Where its datagrams travel; one without loss unless given.

    Raises:
        RuntimeError: The network serves another loop, which is not closed.
    """

    def __init__(self, network: Network | None = None) -> None:
        self.network: Network = Network() if network is None else network
        self._jump = _Jump(self.network)
        super().__init__(self._jump)
        self._jump.sealed = True
        try:
            self.network.attach(self)
        except BaseException:
            self.close()
            raise

    @property
    def udpguard_host(self) -> HostSeam:
        """The host whose sockets endpoints have that are opened now: the network's client, or the one entered."""
        return current_host(self.network)

    @property
    def _clock_resolution(self) -> float:
        """What asyncio adds to the time to see what is due; where nothing is left of it, no timer would ever fire."""
        return max(_RESOLUTION, 2 * math.ulp(self._jump.now))

    @_clock_resolution.setter
    def _clock_resolution(self, _: float) -> None:
        """It is the clock's own; asyncio sets that of the machine."""

    @override
    def time(self) -> float:
        """Seconds of virtual time, from 0."""
        return self._jump.now

    def block(self, seconds: float) -> None:
        """Let time pass at once, as while a program keeps its loop blocked: what arrives meanwhile is read late.

        Raises:
            ValueError: They are negative, or no number.
        """
        if not seconds >= 0:
            raise ValueError(f"seconds must be a number from 0, not {seconds!r}")
        self._jump.now += seconds

    # -------------------------------------------------------------------------------------------- the network

    @override
    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], _P],
        local_addr: tuple[str, int] | str | None = None,
        remote_addr: tuple[str, int] | str | None = None,
        *,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        reuse_address: bool | None = None,
        reuse_port: bool | None = None,
        allow_broadcast: bool | None = None,
        sock: socket.socket | None = None,
    ) -> tuple[asyncio.DatagramTransport, _P]:
        """A datagram endpoint on the network, at the host that has the local address; see asyncio.

        Raises:
            OSError: The address is in use, or nobody's.
            InvalidAddressError: An address is malformed.
            TypeError: The socket is a real one, or the protocol no `asyncio.DatagramProtocol`.
            ValueError: Neither a local address nor a family is given.
        """
        if sock is not None:
            raise TypeError(f"{sock!r} is a real socket: bind by local_addr in a simulated network")
        local = await self._one_of(local_addr, family)
        remote = await self._one_of(remote_addr, family if local is None else _family_of(local))
        if local is None and remote is None and not family:
            raise ValueError("unexpected address family: give local_addr, remote_addr or family")
        bound = self._bind(local, _family_of(local or remote) if local or remote else family, bool(allow_broadcast))
        try:
            if remote is not None:
                bound.connect(remote)
            protocol = protocol_factory()
            transport = bound.host.channel(self, bound, _checked_protocol(protocol))
        except BaseException:
            bound.close()
            raise
        try:
            await asyncio.sleep(0)  # it learns of its transport
        except BaseException:
            transport.abort()
            raise
        return transport, protocol

    def _bind(self, local: Wire | None, family: int, allow_broadcast: bool) -> SimulatedSocket:  # noqa: FBT001
        host = current_host(self.network)
        if local is None:
            everywhere = ("0.0.0.0", 0) if family == socket.AF_INET else ("::", 0)  # noqa: S104 (that is meant)
            return host.bind(everywhere, family, allow_broadcast=allow_broadcast, receive_buffer=None)
        host = self.network.owner(local, host) or host
        return host.bind(sockaddr_of(local), family, allow_broadcast=allow_broadcast, receive_buffer=None)

    async def _one_of(self, addr: object, family: int) -> Wire | None:
        if addr is None:
            return None
        wire = parse(addr, socket.if_nametoindex, port_zero=True)
        if isinstance(wire, HostName):
            found = await self.getaddrinfo(wire.host, wire.port, family=family, type=socket.SOCK_DGRAM)
            sockaddr = found[0][4]
            wire = wire_of_source(sockaddr[0], sockaddr[1], sockaddr[3] if len(sockaddr) > 2 else 0)
        return wire

    @override
    async def getaddrinfo(  # type: ignore[override]
        self,
        host: str | bytes | None,
        port: str | bytes | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]]:
        """The addresses of a name, as the network has them (`Network.name`).

        Raises:
            socket.gaierror: It has none.
        """
        return await self.network.look_up(host, port, family, type)

    @override
    async def getnameinfo(self, sockaddr: tuple[Any, ...], flags: int = 0) -> tuple[str, str]:
        """The address itself: the network has no names for addresses."""
        return str(sockaddr[0]), str(sockaddr[1])

    # --------------------------------------------------------------------------------------- what else there is

    @override
    def run_in_executor(self, executor: object, func: Callable[[*_Ts], _T], *args: *_Ts) -> asyncio.Future[_T]:
        """Call the function in the loop, in its next turn: threads would not heed virtual time."""
        future: asyncio.Future[_T] = self.create_future()
        self.call_soon(_call, future, func, args)
        return future

    @override
    async def create_connection(self, *args: object, **kwargs: object) -> NoReturn:
        """There is none: NotImplementedError."""
        raise _missing("TCP")

    @override
    async def create_server(self, *args: object, **kwargs: object) -> NoReturn:
        """There is none: NotImplementedError."""
        raise _missing("TCP")

    @override
    async def subprocess_exec(self, *args: object, **kwargs: object) -> NoReturn:
        """There is none: NotImplementedError."""
        raise _missing("subprocesses")

    @override
    async def subprocess_shell(self, *args: object, **kwargs: object) -> NoReturn:
        """There is none: NotImplementedError."""
        raise _missing("subprocesses")

    @override
    def add_signal_handler(self, *args: object, **kwargs: object) -> NoReturn:
        """There is none: NotImplementedError."""
        raise _missing("signal handlers")

    @override
    def close(self) -> None:
        """See `asyncio.BaseEventLoop.close`."""
        super().close()
        self.network.detach(self)


def _missing(what: str) -> NotImplementedError:
    return NotImplementedError(f"a VirtualLoop has datagrams, and no {what}")


def _call(future: asyncio.Future[Any], func: Callable[..., object], args: tuple[object, ...]) -> None:
    if future.cancelled():
        return
    try:
        future.set_result(func(*args))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        with contextlib.suppress(asyncio.InvalidStateError):
            future.set_exception(RuntimeError(repr(error)) if isinstance(error, StopIteration) else error)


def _checked_protocol(protocol: object) -> asyncio.DatagramProtocol:
    if not isinstance(protocol, asyncio.DatagramProtocol):
        raise TypeError(f"the protocol must be an asyncio.DatagramProtocol, not {protocol!r}")
    return protocol


def _family_of(wire: Wire | None) -> int:
    return socket.AF_INET if wire is not None and len(wire) == 6 else socket.AF_INET6
