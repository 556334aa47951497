"""Which backend serves a socket: the fast one where it works, else the portable one."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Hashable
from typing import Final

from udpguard._platform.interface import Backend, SocketFilter
from udpguard._platform.portable import PortableBackend

logger = logging.getLogger("udpguard")

VARIABLE: Final = "UDPGUARD_BACKEND"


def open_backend(sock: socket.socket, owner: Hashable) -> Backend:
    """A backend for a socket. `UDPGUARD_BACKEND=portable` in the environment forces the portable one.

    Args:
        sock: A non-blocking UDP socket.
        owner: The event loop it is used in.

    Raises:
        ValueError: The environment asks for a backend that there is not.
    """
    wanted = _wanted()
    if sys.platform == "linux" and wanted == "auto":
        from udpguard._platform.linux_mmsg import MmsgBackend  # with ctypes, which is slow to load

        try:
            return MmsgBackend(sock, owner)
        except OSError as error:
            logger.debug("plain recvfrom and sendto serve, since recvmmsg and sendmmsg do not: %s", error)
    return PortableBackend(sock)


def open_filter(sock: object) -> SocketFilter | None:
    """A filter for a socket; None where there can't be one, or somebody else has attached one already.

    Args:
        sock: What may be a socket of this machine.
    """
    if sys.platform == "linux" and isinstance(sock, socket.socket) and _wanted() == "auto":
        from udpguard._platform.linux_filter import LinuxFilter, has_filter  # with ctypes, too

        try:
            if not has_filter(sock):
                return LinuxFilter(sock)
            logger.debug("%r has a socket filter of its own, which is left alone", sock)
        except (OSError, AttributeError) as error:
            logger.debug("%r can have no socket filter: %r", sock, error)
    return None


def _wanted() -> str:
    wanted = os.environ.get(VARIABLE, "auto") or "auto"
    if wanted not in ("auto", "portable"):
        raise ValueError(f"{VARIABLE} must be 'auto' or 'portable', not {wanted!r}")
    return wanted
