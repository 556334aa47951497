"""Which backend serves a socket: the fast one where it works, else the portable one."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Hashable
from typing import Final

from udpguard._platform.interface import Backend
from udpguard._platform.portable import PortableBackend

if sys.platform == "linux":
    from udpguard._platform.linux_mmsg import MmsgBackend

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
    wanted = os.environ.get(VARIABLE, "auto") or "auto"
    if wanted not in ("auto", "portable"):
        raise ValueError(f"{VARIABLE} must be 'auto' or 'portable', not {wanted!r}")
    if sys.platform == "linux" and wanted == "auto":
        try:
            return MmsgBackend(sock, owner)
        except OSError as error:
            logger.debug("plain recvfrom and sendto serve, since recvmmsg and sendmmsg do not: %s", error)
    return PortableBackend(sock)
