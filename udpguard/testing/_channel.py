"""What sends and receives through a simulated socket: the counterpart of `udpguard._transport.UdpTransport`."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from udpguard._errors import EndpointClosedError, InvalidAddressError
from udpguard._platform.routing import Routing
from udpguard._transport import Deliver
from udpguard._typing import Buffer, override
from udpguard._watermarks import WaterMarks
from udpguard.core.address import HostName, Wire, parse, peer_of, sockaddr_of
from udpguard.core.icmp import NetworkError
from udpguard.core.source import Posted

if TYPE_CHECKING:
    from udpguard.testing._hosts import SimulatedSocket

_BATCH: Final = 64
_BATCHES: Final = 4


class SimulatedTransport(WaterMarks):
    """An `asyncio.DatagramTransport`, and a `udpguard._transport.Channel`, for a simulated socket.

    A protocol that has `batch_received` gets what arrives by the batch, one that has `errors_received` every ICMP
    message. Another one that is connected gets those by `error_received`, as on Linux, and one that isn't gets none.

    Args:
        loop: A `VirtualLoop`.
        sock: Its socket, which it closes.
        protocol: Who is told.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: SimulatedSocket, protocol: asyncio.DatagramProtocol
    ) -> None:
        extra: dict[str, object] = {
            "socket": sock,
            "sockname": sock.getsockname(),
            "receive_buffer": sock.receive_buffer,
        }
        if sock.peer is not None:
            extra["peername"] = sockaddr_of(sock.peer)
        super().__init__(extra)
        self.posted: Posted = Posted()
        self._loop = loop
        self._sock = sock
        self._arrivals: list[float] = []
        self._queue: deque[tuple[bytes, Wire]] = deque()
        self._watched = False
        self._woken = False
        self._closing = False
        self._over = False
        self._begun = False
        self.set_protocol(protocol)
        sock.channel = self
        loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._begun = True
        self._protocol.connection_made(self)
        self.wake()

    # --------------------------------------------------------------------------------------------- reading

    def wake(self) -> None:
        """Something has arrived: read it in this turn, or the next."""
        if self._begun and not self._woken and (self._sock.arrived or self._sock.errors):
            self._woken = True
            self._loop.call_soon(self._on_readable)

    def _on_readable(self) -> None:
        self._woken = False
        if all(self._drain() for _ in range(_BATCHES)):
            self.wake()  # others have their turn first

    def catch_up(self) -> bool:
        """See `Channel.catch_up`."""
        self._sock.host.network.deliver(self._loop.time(), idle=False)
        if not (self._sock.arrived or self._sock.errors):
            return True  # mostly, and there may be many sockets
        return not all(self._drain() for _ in range(_BATCHES))

    def _drain(self) -> bool:
        """Read once; whether there may be more."""
        if self._closing or not self._begun:
            return False
        if self._sock.errors:
            errors = list(self._sock.errors)
            self._sock.errors.clear()
            self._report(errors)
        got = self._sock.read(_BATCH)
        if got and not self._closing:
            self._arrivals = [arrived for _, _, arrived in got]
            self._deliver([(data, wire) for data, wire, _ in got], self.ages)
        return len(got) == _BATCH

    def ages(self, *, exactly: bool) -> list[float] | None:  # noqa: ARG002 (they are exact)
        """How many seconds ago the datagrams arrived that were read last (`Backend.ages`)."""
        now = self._loop.time()
        if self._arrivals and self._arrivals[0] >= now:  # they are in their order
            return []
        return [now - arrived for arrived in self._arrivals]

    def dropped(self) -> int:
        """See `Channel.dropped`."""
        return self._sock.dropped

    # ------------------------------------------------------------------------------------------ the protocol

    @override
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Tell another protocol from now on."""
        if not isinstance(protocol, asyncio.DatagramProtocol):
            raise TypeError(f"protocol must be an asyncio.DatagramProtocol, not {protocol!r}")
        self._protocol = protocol
        batched: Deliver | None = getattr(protocol, "batch_received", None)
        self._deliver = self._deliver_each if batched is None else batched
        reports: Callable[[Sequence[NetworkError]], object] | None = getattr(protocol, "errors_received", None)
        self._report = self._report_each if reports is None else reports

    @override
    def get_protocol(self) -> asyncio.DatagramProtocol:
        """The protocol that is told."""
        return self._protocol

    def _deliver_each(self, batch: list[tuple[bytes, Wire]], _ages: object) -> None:
        for data, wire in batch:
            if self._closing:
                return
            self._call(self._protocol.datagram_received, data, cast("tuple[str, int]", sockaddr_of(wire)))

    def _report_each(self, errors: Sequence[NetworkError]) -> None:
        if self._sock.peer is not None:
            for error in errors:
                self._call(self._protocol.error_received, OSError(error.errno, os.strerror(error.errno)))

    def _call(self, function: Callable[..., object], *args: object) -> None:
        try:
            function(*args)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # it must not cost the others of the batch
            name = function.__name__
            context = {"message": f"Exception in {name}", "exception": error, "protocol": self._protocol}
            self._loop.call_exception_handler(context)

    # --------------------------------------------------------------------------------------------- writing

    def carries(self, wire: Wire) -> bool:
        """See `Channel.carries`."""
        return len(wire) == len(self._sock.wire)

    def transmit(self, data: bytes, wire: Wire, routing: Routing | None = None) -> bool:  # noqa: ARG002
        """See `Channel.transmit`; every interface leads to the same network."""
        if self._closing:
            raise EndpointClosedError("the transport is closed")
        if not self._queue and not self._watched and self._send(data, wire):
            return True
        self._pause()
        return False

    def transmit_many(self, datas: list[bytes], wires: list[Wire]) -> int:
        """See `Channel.transmit_many`."""
        if self._closing or self._queue or self._watched:
            return 0
        now = self._loop.time()
        for done, (data, wire) in enumerate(zip(datas, wires, strict=True)):
            if not self._sock.has_room(now):
                return done
            try:
                self._sock.send(data, wire, now)
            except OSError:
                return done
        return len(datas)

    @override
    def sendto(self, data: Buffer, addr: tuple[Any, ...] | str | Buffer | None = None) -> None:
        """Send a datagram, or queue it while the send buffer is full.

        Errors of the simulated operating system go to the protocol's `error_received`.

        Raises:
            TypeError: The data is not bytes-like.
            InvalidAddressError: The address is malformed, a host name, or of another family.
            ValueError: It is connected, and the address is another.
        """
        wire = self._wire(addr)
        if self._closing:
            return
        payload = memoryview(data).tobytes()
        try:
            if not self._queue and not self._watched and self._send(payload, wire):
                return
        except OSError as error:
            self._protocol.error_received(error)
            return
        self._queue.append((payload, wire))
        self._queued += len(payload) or 1
        if self._queued > self._high:
            self._pause()

    def _wire(self, addr: object) -> Wire:
        peer = self._sock.peer
        if addr is None and peer is not None:
            return peer
        wire = parse(addr, socket.if_nametoindex)
        if isinstance(wire, HostName):
            raise InvalidAddressError(f"{wire.host!r} is a name: resolve it first", address=addr)
        if not self.carries(wire):
            raise InvalidAddressError(f"{peer_of(wire)} is of another family than the socket", address=addr)
        if peer not in (None, wire):
            raise ValueError(f"Invalid address: must be None or {self.get_extra_info('peername')}")
        return wire

    def _send(self, data: bytes, wire: Wire) -> bool:
        now = self._loop.time()
        if self._sock.has_room(now):
            self._sock.send(data, wire, now)
            return True
        self._watched = True
        self._loop.call_at(self._sock.room_at(), self._on_writable)
        return False

    def _on_writable(self) -> None:
        self._watched = False
        if self._over:
            return
        self._flush()
        if self._closing:
            if not self._queue:
                self._end()
        elif self._paused and self._queued <= self._low and (self._queue or not self._watched):
            self._paused = False
            self._protocol.resume_writing()

    def _flush(self) -> None:
        while self._queue:
            data, wire = self._queue[0]
            try:
                if not self._send(data, wire):
                    return
            except OSError as error:
                self._protocol.error_received(error)
            if self._queue:  # unless the protocol had enough, and aborted
                self._queue.popleft()
                self._queued -= len(data) or 1

    # --------------------------------------------------------------------------------------------- closing

    @override
    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._closing

    @override
    def close(self) -> None:
        """Close, after what is queued has left."""
        if self._closing:
            return
        self._closing = True
        if not self._queue or self._loop.is_closed():
            self._end()

    @override
    def abort(self) -> None:
        """Close at once; what is queued is lost."""
        self._queue.clear()
        self._queued = 0
        self._end()

    def _end(self) -> None:
        if self._over:
            return
        self._over = self._closing = True
        self._sock.close()
        if not self._loop.is_closed():
            self._loop.call_soon(self._protocol.connection_lost, None)
