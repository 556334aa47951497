"""Where an endpoint's sockets come from: this machine, or a network that is simulated.

A loop that has an attribute `udpguard_host` is asked for sockets there (`udpguard.testing`); every other loop has those
of the machine. All that an endpoint does lies above this seam, so what is simulated is what ships.

What has to do with the machine's sockets (`_transport`, `_platform`) is loaded when it is needed first: that would take
half of the time of `import udpguard`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, cast

from udpguard.core.address import Address

if TYPE_CHECKING:
    from udpguard._seams import BoundSocket, Channel, Host

logger = logging.getLogger("udpguard")


class Machine:
    """The machine this runs on."""

    def __init__(self) -> None:
        import random  # slow to load, as is the next, and only who opens an endpoint needs them
        import secrets

        self._random = random.random
        self._random_bits = secrets.randbits

    def bind(self, address: Address, family: int, *, allow_broadcast: bool) -> socket.socket:
        """See `Host.bind`."""
        from udpguard._platform.sockets import bound_socket

        return bound_socket(address, family, allow_broadcast=allow_broadcast)

    def channel(
        self, loop: asyncio.AbstractEventLoop, sock: BoundSocket, protocol: asyncio.DatagramProtocol
    ) -> Channel:
        """See `Host.channel`."""
        from udpguard._transport import UdpTransport

        return UdpTransport(loop, cast("socket.socket", sock), protocol)

    def random_bits(self, count: int) -> int:
        """See `Host.random_bits`."""
        return self._random_bits(count)

    def random(self) -> float:
        """See `Host.random`."""
        return self._random()


def host_of(loop: asyncio.AbstractEventLoop) -> Host:
    """Where the sockets of a loop's endpoints come from."""
    host: Host | None = getattr(loop, "udpguard_host", None)
    return Machine() if host is None else host


async def open_channel(
    loop: asyncio.AbstractEventLoop, host: Host, sock: BoundSocket, protocol: asyncio.DatagramProtocol
) -> Channel:
    """A transport for a socket: our own, or where the loop can't watch sockets, the loop's."""
    try:
        return host.channel(loop, sock, protocol)
    except NotImplementedError:
        logger.debug("%r cannot watch sockets: its own datagram transport serves", loop)
    from udpguard._transport import BorrowedTransport

    real = cast("socket.socket", sock)
    transport, _ = await loop.create_datagram_endpoint(lambda: protocol, sock=real)
    return BorrowedTransport(transport, real)
