"""The seam to the operating system: datagrams go through it by the batch, addresses as wires."""

from __future__ import annotations

from typing import Protocol

from udpguard.core.address import Wire


class Ages(Protocol):
    """`Backend.ages`."""

    def __call__(self, *, exactly: bool) -> list[float] | None:
        """See there."""
        ...


class Backend(Protocol):
    """Reads and writes one non-blocking socket."""

    def receive(self, most: int) -> list[tuple[bytes, Wire]]:
        """Read up to so many datagrams, 64 at the most, payload and source; fewer mean that no more are there.

        Raises:
            OSError: The socket has an error; what was read before it is not lost.
        """
        ...

    def ages(self, *, exactly: bool) -> list[float] | None:
        """How many seconds ago each datagram arrived that `receive` read last, unless the loop has read more since.

        Args:
            exactly: Whether less than half a millisecond matters.

        Returns:
            One for each; none at all where they arrived just now; None where nobody knows.
        """
        ...

    def send(self, data: bytes, wire: Wire) -> bool:
        """Send one datagram; False: the socket takes none now.

        Raises:
            OSError: The operating system will not send it.
        """
        ...

    def send_many(self, datas: list[bytes], wires: list[Wire]) -> int:
        """Send datagrams in their order, with one call if that can be.

        Returns:
            How many left. Fewer than all mean nothing yet: `send` tells what is in the way of the next.
        """
        ...
