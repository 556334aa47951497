"""What type checkers know of the seams between an endpoint and the machine, or a network that is simulated.

Nothing here is needed at run time.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from udpguard._platform.routing import Routing
from udpguard.core.address import Address, Wire
from udpguard.core.source import Posted


class Channel(Protocol):
    """What an endpoint sends through and listens to."""

    posted: Posted
    """What is to leave through it at the end of the loop's turn (`_outbox`)."""

    def carries(self, wire: Wire) -> bool:
        """Whether a peer of this family can be reached through it."""
        ...

    def transmit(self, data: bytes, wire: Wire, routing: Routing | None = None) -> bool:
        """Send now, perhaps by a certain interface; False: not now, `resume_writing` will tell.

        Raises:
            OSError: The operating system will not send it.
        """
        ...

    def transmit_many(self, datas: list[bytes], wires: list[Wire]) -> int:
        """Send these in their order; how many left. What is in the way of the next, `transmit` tells."""
        ...

    def catch_up(self) -> bool:
        """Read what has arrived already, as far as a turn of the loop may take; whether that is all of it."""
        ...

    def dropped(self) -> int:
        """How many datagrams the kernel dropped, for want of room or by a socket filter, as far as it tells."""
        ...

    def get_extra_info(self, name: str, default: object = None) -> object:
        """What `asyncio.BaseTransport.get_extra_info` tells."""
        ...

    def close(self) -> None:
        """Close, after what is queued has left."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...


class BoundSocket(Protocol):
    """A socket that is bound, as far as an endpoint wants to know."""

    @property
    def family(self) -> int:
        """AF_INET or AF_INET6."""
        ...

    def getsockname(self) -> Any:
        """Where it is bound."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class Host(Protocol):
    """Has sockets, and random numbers."""

    def bind(self, address: Address, family: int, *, allow_broadcast: bool) -> BoundSocket:
        """A UDP socket bound to a literal address; port 0 stands for a free one.

        Raises:
            OSError: The family is missing (EAFNOSUPPORT), or the address is in use or not this machine's.
        """
        ...

    def channel(
        self, loop: asyncio.AbstractEventLoop, sock: BoundSocket, protocol: asyncio.DatagramProtocol
    ) -> Channel:
        """What sends and receives through a socket, and closes it in the end.

        Raises:
            NotImplementedError: The loop can't watch sockets.
        """
        ...

    def random_bits(self, count: int) -> int:
        """So many bits that nobody can guess, for transaction ids and ports."""
        ...

    def random(self) -> float:
        """A number in [0, 1), for schedules."""
        ...
