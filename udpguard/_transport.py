"""A datagram transport over a socket of our own: it drains in bulk, and one bad datagram never closes it.

asyncio's own reads one datagram a wake-up, drops empty ones before Python 3.13, and closes itself on a malformed
address. Where a loop can't watch a socket (`add_reader`; Windows' Proactor), its own transport serves instead, as a
`BorrowedTransport`.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from udpguard._errors import EndpointClosedError, InvalidAddressError
from udpguard._platform.choice import open_backend
from udpguard._platform.interface import Ages, Backend
from udpguard._platform.portable import PortableBackend, is_dual_stack
from udpguard._platform.routing import Routing, send_routed
from udpguard._platform.sockets import Drops
from udpguard._platform.watch import watch
from udpguard._reports import MOST, TRIES, listener_of, open_reports
from udpguard._typing import Buffer, override
from udpguard._watermarks import WaterMarks
from udpguard.core.address import IPV4_WIRE, HostName, Wire, mapped_sockaddr_of, parse, peer_of, sockaddr_of
from udpguard.core.source import Posted

# One wake-up reads at most so many datagrams, for at most so long, so that other tasks get their turn; what those who
# are answered do takes several times as long.
_BATCH: Final = 64
_MORE_BATCHES: Final = 3
_DRAIN_SECONDS: Final = 0.002
# The room in the receive buffer that the smallest datagram takes at least: `struct sk_buff` and its data.
_SMALLEST: Final = 512
# The device's queue was full (`man 2 send`, ENOBUFS): nothing tells when it has room again.
_NO_BUFFERS_WAIT: Final = 0.005
# What a loop has read it may hand over a turn later (Proactor's completions are futures).
_QUIET_TURNS: Final = 3


Deliver: TypeAlias = Callable[[list[tuple[bytes, Wire]], Ages], None]
"""Takes what one drain read, and what tells when that arrived."""


class UdpTransport(WaterMarks):
    """An `asyncio.DatagramTransport` for an unconnected UDP socket.

    Args:
        loop: An event loop with `add_reader`.
        sock: A bound, non-blocking socket; the transport closes it.
        protocol: Told of datagrams, by the batch if it has `batch_received`.

    Raises:
        NotImplementedError: The loop has no `add_reader`.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: asyncio.DatagramProtocol
    ) -> None:
        granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        super().__init__({"socket": sock, "sockname": sock.getsockname(), "receive_buffer": granted})
        self._loop = loop
        self._sock = sock
        self._reports = open_reports(loop, sock, protocol)
        self._backend: Backend = open_backend(sock, loop)
        self._family = sock.family
        self.posted: Posted = Posted()
        self._dual = is_dual_stack(sock)
        self._queue: deque[tuple[bytes, Wire]] = deque()
        self._watched = False
        self._closing = False
        self._over = False
        self._drops = Drops(sock)
        self._behind = 0
        """How much there may be to be read still of what a blocked loop left."""
        self.set_protocol(protocol)
        self._begun = False
        try:
            self._watch = watch(
                loop, sock, self._on_readable, self._on_writable, has_error_queue=self._reports is not None
            )
        except NotImplementedError:
            if self._reports is not None:
                self._reports.close()
            raise
        loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._begun = True
        self._protocol.connection_made(self)

    # --------------------------------------------------------------------------------------------- reading

    def _on_readable(self) -> None:
        count = self._drain(_BATCH)
        if not count and self._reports is not None and not self._closing:
            # Only an error wakes the loop for nothing; it would for ever, and what is queued fills the receive buffer.
            self._reports.read()
        if count < _BATCH:
            return
        stop = time.monotonic() + _DRAIN_SECONDS
        for _ in range(_MORE_BATCHES):
            if self._drain(_BATCH) < _BATCH or time.monotonic() >= stop:
                return

    def catch_up(self) -> bool:
        """See `Channel.catch_up`."""
        if self._behind <= 0:
            self._behind = self.get_extra_info("receive_buffer") // _SMALLEST
        stop = time.monotonic() + _DRAIN_SECONDS
        while self._begun and not self._closing and self._reports is not None and self._behind > 0:
            if not self._reports.read():
                break
            self._behind -= MOST
            if time.monotonic() >= stop:
                return False
        while self._drain(_BATCH) == _BATCH:
            self._behind -= _BATCH  # an error counts as much, so that a socket that has nothing else ends this too
            if self._behind <= 0:  # what the buffer held has been read: the rest came since
                return True
            if time.monotonic() >= stop:
                return False
        self._behind = 0
        return True

    def _drain(self, most: int) -> int:
        if self._closing or not self._begun:
            return 0
        try:
            batch = self._backend.receive(most)
        except OSError as error:
            found = self._receive_again(error, most)
            if found is None:
                return most  # there may be more behind it
            batch = found
        if batch:
            self._deliver(batch, self._backend.ages)
        return len(batch)

    def _receive_again(self, error: OSError, most: int) -> list[tuple[bytes, Wire]] | None:
        """Read what an error was in the way of that has to do with a datagram sent before; None: there are more."""
        if error.errno in (errno.EBADF, errno.ENOTSOCK):
            self._end(error)
            return []
        if self._reports is None or not self._reports.excuses(error, 0):
            self._protocol.error_received(error)
            return None
        try:
            return self._backend.receive(most)
        except OSError:
            return None
        finally:
            self._reports.read_and_tell_soon()

    def dropped(self) -> int:
        """See `Channel.dropped`."""
        return self._drops.count()

    # ------------------------------------------------------------------------------------------ the protocol

    @override
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Tell another protocol from now on."""
        if not isinstance(protocol, asyncio.DatagramProtocol):
            raise TypeError(f"protocol must be an asyncio.DatagramProtocol, not {protocol!r}")
        self._protocol = protocol
        batched: Deliver | None = getattr(protocol, "batch_received", None)
        self._deliver = self._deliver_each if batched is None else batched
        if self._reports is not None:
            self._reports.listener = listener_of(protocol)

    @override
    def get_protocol(self) -> asyncio.DatagramProtocol:
        """The protocol that is told."""
        return self._protocol

    def _deliver_each(self, batch: list[tuple[bytes, Wire]], _ages: Ages) -> None:
        for data, wire in batch:
            if self._closing:
                return
            self._call_protocol(self._protocol.datagram_received, data, sockaddr_of(wire))

    # --------------------------------------------------------------------------------------------- writing

    def carries(self, wire: Wire) -> bool:
        """Whether a peer of this family can be reached through it."""
        return (self._family == socket.AF_INET) == (len(wire) == IPV4_WIRE) or self._dual

    def transmit(self, data: bytes, wire: Wire, routing: Routing | None = None) -> bool:
        """See `Channel.transmit`."""
        if self._closing:
            raise EndpointClosedError("the transport is closed")
        if self._queue or self._watched:
            self._pause()
            return False
        if self._send(data, wire, routing):
            return True
        self._pause()
        return False

    def transmit_many(self, datas: list[bytes], wires: list[Wire]) -> int:
        """See `Channel.transmit_many`."""
        if self._closing or self._queue or self._watched:
            return 0
        done = self._backend.send_many(datas, wires)
        if done < len(datas) and self._reports is not None:
            # Perhaps for an error, which the call has taken off the socket, so that nobody else would meet it.
            self._reports.read_and_tell_soon()
        return done

    @override
    def sendto(self, data: Buffer, addr: tuple[Any, ...] | str | Buffer | None = None) -> None:
        """Send a datagram, or queue it while the socket is busy.

        Errors of the operating system go to the protocol's `error_received`, as with asyncio's own transports.

        Raises:
            TypeError: The data is not bytes-like.
            InvalidAddressError: The address is malformed, a host name, or of another family.
        """
        wire = parse(addr, socket.if_nametoindex)
        if isinstance(wire, HostName):
            raise InvalidAddressError(f"{wire.host!r} is a name: resolve it first", address=addr)
        if not self.carries(wire):
            raise InvalidAddressError(f"{peer_of(wire)} is of another family than the socket", address=addr)
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
        self._queued += len(payload) or 1  # they need room, too
        if self._queued > self._high:
            self._pause()

    def _send(self, data: bytes, wire: Wire, routing: Routing | None = None) -> bool:
        """Send; if the socket or the device is busy, see to it that `_on_writable` will be called."""
        try:
            sent: bool | None = self._backend.send(data, wire) if routing is None else self._route(data, wire, routing)
        except OSError as error:
            sent = self._send_again(error, data, wire, routing)
        if sent:
            return True
        if sent is None:
            self._loop.call_later(_NO_BUFFERS_WAIT, self._on_writable)
        else:
            self._watch.watch_writable()
        self._watched = True
        return False

    def _route(self, data: bytes, wire: Wire, routing: Routing) -> bool:
        return send_routed(self._sock, data, wire, routing)

    def _send_again(self, error: OSError, data: bytes, wire: Wire, routing: Routing | None) -> bool | None:
        """Send what failed, if that was for an error which was pending already; None: later."""
        for tries in range(TRIES):
            if error.errno == errno.ENOBUFS:
                return None
            if self._reports is None or not self._reports.excuses(error, tries):
                raise error
            try:
                sent = self._backend.send(data, wire) if routing is None else self._route(data, wire, routing)
            except OSError as another:
                error = another
            else:
                self._reports.read_and_tell_soon()
                return sent
        return None  # somebody sends forged errors as fast as they can be read

    def _on_writable(self) -> None:
        if self._over:
            return
        if self._watched:
            self._watched = False
            self._watch.ignore_writable()
        self._flush()
        if self._watched and self._reports is not None:
            self._reports.read_and_tell_soon()  # which may be why it was called
        if self._closing:
            if not self._queue:
                self._end(None)
        elif self._paused and self._queued <= self._low and (self._queue or not self._watched):
            self._paused = False
            self._protocol.resume_writing()

    def _flush(self) -> None:
        while self._queue:
            data, wire = self._queue[0]
            refusal: OSError | None = None
            try:
                if not self._send(data, wire):
                    return
            except OSError as error:
                refusal = error
            self._queue.popleft()
            self._queued -= len(data) or 1
            if refusal is not None:
                self._call_protocol(self._protocol.error_received, refusal)

    def _call_protocol(self, method: Callable[..., object], *arguments: object) -> None:
        """Tell the protocol something, where an exception in it must not keep the rest from being done."""
        try:
            method(*arguments)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            message = f"Exception in {method.__name__}"
            self._loop.call_exception_handler({"message": message, "exception": error, "protocol": self._protocol})

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
        if self._queue and not self._loop.is_closed():
            self._watch.ignore_readable()
        else:
            self._end(None)

    @override
    def abort(self) -> None:
        """Close at once; what is queued is lost."""
        self._queue.clear()
        self._queued = 0
        self._end(None)

    def _end(self, error: OSError | None) -> None:
        if self._over:
            return
        self._over = self._closing = True
        self.dropped()
        is_closed = self._loop.is_closed()
        self._watch.end(loop_is_closed=is_closed)
        if not is_closed:
            self._loop.call_soon(self._protocol.connection_lost, error)
        self._sock.close()


class BorrowedTransport:
    """The loop's own datagram transport as a `Channel`: it reads, and sends what the socket does not take at once.

    What the socket takes at once is sent past it, since it would drop datagrams of no bytes before Python 3.13, and
    tell nobody what the operating system refuses.

    Args:
        transport: From the loop's `create_datagram_endpoint`.
        sock: The socket it was given.
    """

    __slots__ = (
        "_backend", "_behind", "_drops", "_dual", "_family", "_granted", "_quiet", "_sock", "_transport", "posted",
    )  # fmt: skip

    def __init__(self, transport: asyncio.DatagramTransport, sock: socket.socket) -> None:
        self._transport = transport
        self._sock = sock
        self._behind = 0
        """See `UdpTransport._behind`."""
        self._quiet = 0
        """For how many turns of the loop there was nothing to be read."""
        self._drops = Drops(sock)
        self._granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self.posted: Posted = Posted()
        self._backend: Backend = PortableBackend(sock)
        self._family: int = sock.family
        self._dual = is_dual_stack(sock)

    def carries(self, wire: Wire) -> bool:
        """See `Channel.carries`."""
        return (self._family == socket.AF_INET) == (len(wire) == IPV4_WIRE) or self._dual

    def transmit(self, data: bytes, wire: Wire, routing: Routing | None = None) -> bool:
        """See `Channel.transmit`. It always takes the datagram, and pauses the protocol when it has too many."""
        if routing is not None:
            # The loop's own transport knows nothing of interfaces. What the socket does not take now is lost, as it
            # may be on the way: who asks many asks again.
            send_routed(self._sock, data, wire, routing)
            return True
        if self._transport.get_write_buffer_size() or not self._backend.send(data, wire):  # type: ignore[attr-defined]
            self._transport.sendto(data, mapped_sockaddr_of(wire) if self._dual else sockaddr_of(wire))
        return True

    def transmit_many(self, datas: list[bytes], wires: list[Wire]) -> int:
        """See `Channel.transmit_many`."""
        if self._transport.get_write_buffer_size():  # type: ignore[attr-defined]
            return 0
        return self._backend.send_many(datas, wires)

    def catch_up(self) -> bool:
        """See `Channel.catch_up`. Nothing can be read here ahead of the loop, which reads one datagram a turn."""
        if self._behind <= 0:
            self._behind, self._quiet = self._granted // _SMALLEST, 0
        self._behind -= 1
        self._quiet = 0 if self._has_more() else self._quiet + 1
        if self._quiet < _QUIET_TURNS and self._behind > 0:
            return False
        self._behind = 0
        return True

    def _has_more(self) -> bool:
        try:
            self._sock.recvfrom(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError as error:  # Windows tells so of a datagram that is longer
            return error.errno not in (errno.EBADF, errno.ENOTSOCK)
        return True

    def dropped(self) -> int:
        """See `Channel.dropped`."""
        return self._drops.count()

    def get_extra_info(self, name: str, default: object = None) -> object:
        """See `Channel.get_extra_info`."""
        return self._granted if name == "receive_buffer" else self._transport.get_extra_info(name, default)

    def close(self) -> None:
        """See `Channel.close`."""
        self.dropped()
        self._transport.close()

    def abort(self) -> None:
        """See `Channel.abort`."""
        self.dropped()
        self._transport.abort()
