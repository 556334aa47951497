"""Plain `recvfrom` and `sendto`, drained: what every operating system has."""

from __future__ import annotations

import contextlib
import socket
from typing import Final

from udpguard.core.address import Wire, mapped_sockaddr_of, sockaddr_of, wire_of_source

# A UDP datagram's length is 16 bits, with its header of 8: nothing is ever cut off.
_LARGEST: Final = 65_535


class PortableBackend:
    """The `Backend` over `socket.socket` alone.

    Args:
        sock: A non-blocking UDP socket.
    """

    __slots__ = ("_error", "_recvfrom", "_sendto", "_sockaddr_of")

    def __init__(self, sock: socket.socket) -> None:
        self._recvfrom = sock.recvfrom
        self._sendto = sock.sendto
        self._sockaddr_of = mapped_sockaddr_of if is_dual_stack(sock) else sockaddr_of
        self._error: OSError | None = None

    def receive(self, most: int) -> list[tuple[bytes, Wire]]:
        """See `Backend.receive`."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        batch: list[tuple[bytes, Wire]] = []
        try:
            for _ in range(most):
                data, source = self._recvfrom(_LARGEST)
                # The flow label (source[2]) is no part of who somebody is.
                wire = wire_of_source(*source) if len(source) == 2 else wire_of_source(source[0], source[1], source[3])
                batch.append((data, wire))
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            if not batch:
                raise
            self._error = error
        return batch

    def ages(self, *, exactly: bool) -> list[float] | None:  # noqa: ARG002
        """See `Backend.ages`: nobody knows."""
        return None

    def send(self, data: bytes, wire: Wire) -> bool:
        """See `Backend.send`."""
        try:
            self._sendto(data, self._sockaddr_of(wire))
        except (BlockingIOError, InterruptedError):
            return False
        return True

    def send_many(self, datas: list[bytes], wires: list[Wire]) -> int:
        """See `Backend.send_many`."""
        done = 0
        with contextlib.suppress(OSError):
            for data, wire in zip(datas, wires, strict=True):
                self._sendto(data, self._sockaddr_of(wire))
                done += 1
        return done


def is_dual_stack(sock: socket.socket) -> bool:
    """Whether it is an IPv6 socket that serves IPv4 too (RFC 3493 section 5.3)."""
    if sock.family != socket.AF_INET6:
        return False
    return not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
