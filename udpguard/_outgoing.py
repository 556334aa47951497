"""Datagrams to which no reply is expected: sent at once, or in their turn when the socket takes datagrams again."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, cast

from udpguard._guard import Guard
from udpguard._sending import check_size, sending_error
from udpguard._typing import override
from udpguard.core.address import Wire
from udpguard.core.source import Details, Entry, LongEntry

if TYPE_CHECKING:
    from udpguard._seams import Channel


class Outgoing(Details):
    """A datagram to which no reply is expected, while it waits for the socket.

    Args:
        guard: Where it waits.
        channel: What it leaves through.
        wire: Whom it is for.
        data: Its payload.
    """

    __slots__ = ("_channel", "_data", "_entry", "_guard", "_wire")

    def __init__(self, guard: Guard, channel: Channel, wire: Wire, data: bytes) -> None:
        super().__init__(asks=True)
        self._guard = guard
        self._channel = channel
        self._wire = wire
        self._data = data
        self._entry: Entry

    def begin(self, future: object) -> Entry:
        """Wait for the socket, behind those who wait already."""
        guard = self._guard
        self._entry = LongEntry(future, guard.clock(), math.inf, self, plain=True)
        guard.registry.enter(self._entry)
        guard.wait_for_socket(self._entry, self)
        return self._entry

    @override
    def step(self) -> None:
        """Send, now that the socket takes datagrams; or wait on."""
        guard, entry = self._guard, self._entry
        if entry.ended:
            return
        if guard.is_abandoned(entry):
            guard.hang_up(entry)
            return
        guard.registry.stop_waiting(entry, self)
        try:
            sent = guard.takes(entry) and send_now(guard, self._channel, self._wire, self._data)
        except Exception as error:
            guard.finish(entry, error)  # no request has failed: `Statistics.unreachable` counts those
            return
        if sent:
            guard.finish(entry)
        else:
            guard.wait_for_socket(entry, self)


def send_now(guard: Guard, channel: Channel, wire: Wire, data: bytes) -> bool:
    """Send a datagram to which no reply is expected; False: the socket takes none now.

    Raises:
        PeerUnreachableError: The operating system would not send it.
        DatagramTooLargeError: It is more than the path carries.
        InvalidAddressError: It is a broadcast address, which the endpoint does not allow.
    """
    counters = guard.registry.counters
    try:
        if not guard.outbox.transmit(channel, data, wire):
            return False
    except OSError as error:
        counters.send_errors += 1
        raise sending_error(error, data, wire) from error
    counters.sent += 1
    guard.registry.source(wire).sent += 1
    return True


async def post(guard: Guard, channel: Channel, wire: Wire, payload: bytes) -> None:
    """Send a datagram to which no reply is expected; wait only while the socket takes none.

    Raises:
        PeerUnreachableError: The operating system would not send it.
        DatagramTooLargeError: It is more than UDP, or the path, carries.
        InvalidAddressError: It is a broadcast address, which the endpoint does not allow.
        EndpointClosedError: The endpoint was closed.
    """
    check_size(payload, wire)
    if guard.takes(None) and send_now(guard, channel, wire, payload):
        return
    entry = Outgoing(guard, channel, wire, payload).begin(asyncio.get_running_loop().create_future())
    try:
        await cast("asyncio.Future[None]", entry.future)
    except BaseException:  # cancelled, or thrown into; a reply or a time-out has ended it already
        guard.hang_up(entry)
        raise
