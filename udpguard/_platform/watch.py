"""How an event loop watches a socket that has an error queue.

A loop is told of an error in the queue by EPOLLERR. asyncio's own loop takes that for readable and writable; uvloop's
(libuv's) stops watching the socket for good, and tells nobody. But the socket may be registered in an epoll object,
and the loop watch that, which has no errors of its own.
"""

from __future__ import annotations

import asyncio
import select
import socket
import sys
from collections.abc import Callable
from typing import Protocol

from udpguard._typing import override


class Loop(Protocol):
    """What is needed of an event loop."""

    def add_reader(self, fd: int, callback: Callable[[], object], /) -> object:
        """Call back when a descriptor can be read."""
        ...

    def remove_reader(self, fd: int, /) -> object:
        """Don't, any more."""
        ...

    def add_writer(self, fd: int, callback: Callable[[], object], /) -> object:
        """Call back when a descriptor can be written to."""
        ...

    def remove_writer(self, fd: int, /) -> object:
        """Don't, any more."""
        ...


class Watch:
    """A loop's eye on a socket.

    Args:
        loop: The loop.
        sock: The socket.
        on_readable: Called while there may be something to read.
        on_writable: Called while it takes datagrams, if that was asked for.

    Raises:
        NotImplementedError: The loop can't watch sockets.
    """

    def __init__(
        self, loop: Loop, sock: socket.socket, on_readable: Callable[[], None], on_writable: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._fd: int = sock.fileno()
        self._on_readable = on_readable
        self._on_writable = on_writable
        self._begin()

    def _begin(self) -> None:
        self._loop.add_reader(self._fd, self._on_readable)

    def watch_writable(self) -> None:
        """Call back when it takes datagrams."""
        self._loop.add_writer(self._fd, self._on_writable)

    def ignore_writable(self) -> None:
        """Don't, any more."""
        self._loop.remove_writer(self._fd)

    def ignore_readable(self) -> None:
        """Don't call back when there is something to read, any more."""
        self._loop.remove_reader(self._fd)

    def end(self, *, loop_is_closed: bool = False) -> None:
        """Let go of the socket, before it is closed."""
        if (
            not loop_is_closed and self._sock.fileno() == self._fd
        ):  # else somebody closed it, and the number may be another's
            self.ignore_readable()
            self.ignore_writable()


if sys.platform == "linux":

    class EpollWatch(Watch):
        """The same by way of an epoll object, for loops that don't bear EPOLLERR."""

        @override
        def _begin(self) -> None:
            self._readable = select.EPOLLIN
            self._writable = 0
            self._epoll = select.epoll()
            try:
                self._epoll.register(self._fd, self._readable)
                self._loop.add_reader(self._epoll.fileno(), self._on_event)
            except BaseException:
                self._epoll.close()
                raise

        def _on_event(self) -> None:
            events = 0
            if self._writable or not self._readable:  # mostly it can but be readable
                events = next((events for _, events in self._epoll.poll(0)), 0)
            if self._readable and (not self._writable or events & ~select.EPOLLOUT):
                self._on_readable()
            if events & ~select.EPOLLIN and self._writable:
                self._on_writable()

        def _update(self) -> None:
            if self._sock.fileno() == self._fd:
                self._epoll.modify(self._fd, self._readable | self._writable)

        @override
        def watch_writable(self) -> None:
            self._writable = select.EPOLLOUT
            self._update()

        @override
        def ignore_writable(self) -> None:
            self._writable = 0
            self._update()

        @override
        def ignore_readable(self) -> None:
            self._readable = 0
            self._update()

        @override
        def end(self, *, loop_is_closed: bool = False) -> None:
            if self._epoll.closed:
                return
            if not loop_is_closed:
                self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()


def watch(
    loop: Loop,
    sock: socket.socket,
    on_readable: Callable[[], None],
    on_writable: Callable[[], None],
    *,
    has_error_queue: bool,
) -> Watch:
    """A watch that serves this loop and this socket: see `Watch`."""
    if sys.platform == "linux" and has_error_queue and not isinstance(loop, asyncio.SelectorEventLoop):
        return EpollWatch(loop, sock, on_readable, on_writable)
    return Watch(loop, sock, on_readable, on_writable)
