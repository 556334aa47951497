"""What a socket is told of datagrams that could not be delivered, on its way to the protocol.

A pending error makes the socket's next call fail, whomever that is about: 50 of 50 datagrams to a live peer were lost
after sends to a dead one. So whoever meets it tries again, and takes the messages out of the queue. In the middle of a
send nobody is told yet, since that may end requests and let others send; it is done when the loop turns.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias

from udpguard._platform.choice import VARIABLE
from udpguard.core.icmp import LOCAL, NetworkError

if sys.platform == "linux":
    from udpguard._platform.linux_errqueue import ErrorQueue

logger = logging.getLogger("udpguard")

Listener: TypeAlias = Callable[[Sequence[NetworkError]], object]
"""`GuardProtocol.errors_received`."""

# So many are read at once, and count as much as a batch of datagrams. So many are kept until the loop turns, where a
# turn sends to many dead peers.
MOST: Final = 64
_MOST_KEPT: Final = 8_192
# A send that fails is tried so often again; where nothing tells that the error was pending, so often.
TRIES: Final = 16
_BLIND_TRIES: Final = 2
# What ICMP makes of a socket's next call: `icmp_err_convert` in net/ipv4/icmp.c, `tab_unreach` in net/ipv6/icmp.c.
_PENDING_ONLY: Final = frozenset(
    getattr(errno, name, errno.ECONNREFUSED)
    for name in ("ECONNREFUSED", "ENOPROTOOPT", "EOPNOTSUPP", "EHOSTDOWN", "ENONET", "EPROTO")
)
_PENDING_OR_OWN: Final = frozenset((errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EMSGSIZE))


class Queue(Protocol):
    """An `ErrorQueue`, where there is such a thing."""

    def read(self, most: int) -> tuple[int, list[NetworkError]]:
        """See there."""
        ...

    def close(self) -> None:
        """See there."""
        ...


class Reports:
    """The error queue of one socket, and what was read of it and not told yet.

    Args:
        loop: Its loop.
        queue: The queue.
        listener: Who is to be told.
    """

    __slots__ = ("_kept", "_loop", "_queue", "_soon", "listener")

    def __init__(self, loop: asyncio.AbstractEventLoop, queue: Queue, listener: Listener | None) -> None:
        self._loop = loop
        self._queue = queue
        self._kept: list[NetworkError] = []
        self._soon = False
        self.listener: Listener | None = listener

    def close(self) -> None:
        """Don't ask for them any more: somebody else will serve the socket, and not expect them."""
        self._queue.close()

    def read(self) -> bool:
        """Take what is in the queue, as much as is read at once, and tell it; whether there may be more."""
        taken = self._take()
        self.tell()
        return taken == MOST

    def tell(self) -> None:
        """Tell what was read."""
        kept, self._kept = self._kept, []
        if kept and self.listener is not None:
            self.listener(kept)

    def read_and_tell_soon(self) -> bool:
        """Take it, and have it told when the loop turns; whether there was any."""
        known = len(self._kept)
        self._take()
        if self._kept and not self._soon:
            self._soon = True
            self._loop.call_soon(self._tell_soon)
        return len(self._kept) > known or known == _MOST_KEPT

    def excuses(self, error: OSError, tries: int) -> bool:
        """Whether a call that failed may have met somebody else's error, and is to be tried again.

        The call has taken the error off the socket, but not out of the queue, of which every message that is read puts
        the next one's error back. So the queue is read only when the call has been made; or when it tells something.

        Args:
            error: What it failed with.
            tries: How often it was tried again already.
        """
        if error.errno in _PENDING_ONLY:
            return True
        if error.errno not in _PENDING_OR_OWN:
            return False
        # Where the receive buffer is full the error is pending without anything in the queue.
        return tries < _BLIND_TRIES or self.read_and_tell_soon()

    def _tell_soon(self) -> None:
        self._soon = False
        self.tell()

    def _take(self) -> int:
        taken, errors = self._queue.read(MOST)
        found = [error for error in errors if error.origin != LOCAL]  # whose send failed knows already
        self._kept += found[: _MOST_KEPT - len(self._kept)]
        return taken


def open_reports(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: asyncio.DatagramProtocol
) -> Reports | None:
    """What tells a protocol of them; None where it does not want to know, or the operating system does not tell."""
    listener = listener_of(protocol)
    if sys.platform == "linux" and listener is not None and os.environ.get(VARIABLE) != "portable":
        try:
            return Reports(loop, ErrorQueue(sock), listener)
        except OSError as error:
            logger.debug("dead peers are not told from silent ones, since there is no error queue: %s", error)
    return None


def listener_of(protocol: asyncio.DatagramProtocol) -> Listener | None:
    """How a protocol is told."""
    listener: Listener | None = getattr(protocol, "errors_received", None)
    return listener
