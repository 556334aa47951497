"""What ICMP says of the datagrams of an unconnected socket: Linux's error queue (`man 7 ip`, IP_RECVERR).

Without asking for it, such a socket is told nothing. Once asked, the kernel queues each message with the beginning of
the datagram that it is about and where that was going, and makes the socket's next call fail with its error, whomever
that call is about.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import sys
from typing import Any, Final

from udpguard.core.address import Wire, wire_of, wire_of_source
from udpguard.core.icmp import ICMP, ICMP6, LOCAL, NetworkError

IP_RECVERR: Final = 11
IPV6_RECVERR: Final = 25
MSG_ERRQUEUE: Final = 0x2000

_IPPROTO_IP: Final = 0
_IPPROTO_IPV6: Final = 41
_KINDS: Final = ((_IPPROTO_IP, IP_RECVERR), (_IPPROTO_IPV6, IPV6_RECVERR))
# As much of a quote as is kept. Linux quotes 520 bytes over IPv4, and 1,184 over IPv6 at the most.
_QUOTE: Final = 1_280
# Stamps and what else the user may have asked for come with it.
_CONTROL: Final = 1_024
# linux/errqueue.h: errno, origin, type, code, a byte of padding, info (the MTU), data; then the offender's sockaddr.
_EXTENDED: Final = struct.Struct("=IBBBxII")
# As the families are numbered on Linux, wherever this runs.
_AF_INET: Final = 2
_AF_INET6: Final = 10
_SOCKADDR_IN: Final = struct.Struct("=H2x4s")
_SOCKADDR_IN6: Final = struct.Struct("=H2x4x16sI")

assert sys.platform == "linux"


class ErrorQueue:
    """The error queue of one socket.

    Args:
        sock: A non-blocking UDP socket.

    Raises:
        OSError: There is none here.
    """

    __slots__ = ("_options", "_recvmsg", "_set")

    def __init__(self, sock: socket.socket) -> None:
        self._recvmsg = sock.recvmsg
        self._set = sock.setsockopt
        # Of an IPv6 socket, IPv4's covers the peers that are mapped.
        self._options = _KINDS if sock.family == socket.AF_INET6 else _KINDS[:1]
        for level, option in self._options:
            self._set(level, option, 1)
        self._probe()

    def close(self) -> None:
        """Have the kernel tell nothing any more."""
        for level, option in self._options:
            self._set(level, option, 0)

    def _probe(self) -> None:
        """Try it: a sandbox may forbid what the kernel has."""
        with contextlib.suppress(BlockingIOError):
            self._recvmsg(0, 0, MSG_ERRQUEUE)

    def read(self, most: int) -> tuple[int, list[NetworkError]]:
        """Take up to so many messages out of the queue; how many there were, and what could be made of them."""
        errors: list[NetworkError] = []
        for taken in range(most):
            try:
                data, ancillary, _, name = self._recvmsg(_QUOTE, _CONTROL, MSG_ERRQUEUE)
            except OSError:  # it is empty; or the socket was closed, which others will find
                return taken, errors
            error = decoded(data, ancillary, name)
            if error is not None:
                errors.append(error)
        return most, errors


def decoded(data: bytes, ancillary: list[tuple[int, int, bytes]], name: Any) -> NetworkError | None:
    """What one message of the queue says, or None where it makes no sense.

    Args:
        data: What it quotes of the datagram.
        ancillary: The control messages, as `socket.recvmsg` gives them.
        name: Where the datagram was going.
    """
    try:
        wire = wire_of_source(name[0], name[1], name[3] if len(name) > 3 else 0)
        for level, kind, control in ancillary:
            if (level, kind) in _KINDS and len(control) >= _EXTENDED.size:
                return _error(wire, data, control)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error):
        pass  # whoever may have sent the message must not be able to raise anything
    return None


def _error(wire: Wire, data: bytes, control: bytes) -> NetworkError | None:
    number, origin, type_, code, info, _ = _EXTENDED.unpack_from(control)
    if origin not in (LOCAL, ICMP, ICMP6):
        return None  # such as the time stamp of a send
    offender = _offender(control[_EXTENDED.size :])
    mtu = info if number == errno.EMSGSIZE else 0
    return NetworkError(wire, data, number, origin, type_, code, offender, mtu)


def _offender(sockaddr: bytes) -> Wire | None:
    family = int.from_bytes(sockaddr[:2], sys.byteorder)
    if family == _AF_INET and len(sockaddr) >= _SOCKADDR_IN.size:
        return wire_of(_SOCKADDR_IN.unpack_from(sockaddr)[1], 0)
    if family == _AF_INET6 and len(sockaddr) >= _SOCKADDR_IN6.size:
        _, packed, scope = _SOCKADDR_IN6.unpack_from(sockaddr)
        return wire_of(packed, 0, scope)
    return None
