"""The seam to the operating system: datagrams go through it by the batch, addresses as wires."""

from __future__ import annotations

from typing import Protocol

from udpguard.core.address import Wire


class Backend(Protocol):
    """Reads and writes one non-blocking socket."""

    ages: list[float] | None
    """How many seconds ago each datagram arrived that `receive` read last; None: just now, or nobody knows."""

    def receive(self, most: int) -> list[tuple[bytes, Wire]]:
        """Read up to so many datagrams, payload and source; fewer mean that no more are there.

        Raises:
            OSError: The socket has an error; what was read before it is not lost.
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
