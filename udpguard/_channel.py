"""What an endpoint sends through and listens to, whatever is behind it: the machine's socket or a simulated one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from udpguard.core.address import Wire
from udpguard.core.source import Entry

if TYPE_CHECKING:
    from udpguard._platform.routing import Routing


class Posted:
    """Questions that leave together: their payloads, their peers, and what becomes of them."""

    __slots__ = ("datas", "entries", "wires")

    def __init__(self) -> None:
        self.datas: list[bytes] = []
        self.wires: list[Wire] = []
        self.entries: list[Entry] = []


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
