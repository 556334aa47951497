"""The seam to the operating system: datagrams go through it by the batch, addresses as wires."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from udpguard.core.address import Token, Wire


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


class SocketFilter(Protocol):
    """Has the kernel drop what comes from strangers, before it is queued. It may let some of them pass.

    Sources are told by tokens; link-local scopes and a port that doesn't fit beside many hosts are not looked at.
    """

    attached: bool
    """Whether it is there now; without it everything comes in."""

    def attach(self, tokens: Iterable[Token], *, anew: bool = True) -> None:
        """Let in only what comes from these sources, from now on; there may be a filter already.

        Args:
            tokens: The sources.
            anew: Whether other strangers are to pass than before, which takes longer.

        Raises:
            OSError: The kernel won't; nothing is filtered now.
        """
        ...

    def extend(self, tokens: Iterable[Token]) -> None:
        """Let in what comes from these sources as well.

        Raises:
            OSError: The kernel won't; nothing is filtered now.
        """
        ...

    def detach(self) -> None:
        """Let everything in."""
        ...
