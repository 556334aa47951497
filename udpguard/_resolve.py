"""Host names to peers, off the event loop: one lookup for all who ask at once."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Callable
from typing import Any, Final

from udpguard._errors import EndpointClosedError
from udpguard.core.address import HostName, Wire, wire_of_source

# What only looks like an address: a name's last part is no number (RFC 1123 section 2.1).
_NUMBERS: Final = re.compile(r"[\d.]+")

Answer = list[Wire] | BaseException
"""The addresses of a name, each once, in the resolver's order; or why there are none."""


class Resolver:
    """Looks names up with the loop's `getaddrinfo`, and keeps nothing: caching is the operating system's business.

    Args:
        loop: Whose.
        family: AF_INET or AF_INET6 where an endpoint has but one of them, else AF_UNSPEC.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, family: int) -> None:
        self._loop = loop
        self._family = family
        self._asked: dict[HostName, list[Callable[[Answer], None]]] = {}
        self._tasks: set[asyncio.Future[Any]] = set()

    def look_up(self, name: HostName, told: Callable[[Answer], None]) -> None:
        """Look a name up; `told` gets the answer in a later turn of the loop."""
        waiting = self._asked.get(name)
        if waiting is not None:
            waiting.append(told)
            return
        self._asked[name] = [told]
        task = asyncio.ensure_future(self._getaddrinfo(name), loop=self._loop)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._done(name, done))

    async def _getaddrinfo(self, name: HostName) -> Any:
        return await self._loop.getaddrinfo(name.host, name.port, family=self._family, type=socket.SOCK_DGRAM)

    def close(self) -> None:
        """Stop looking up, and tell those who asked."""
        asked, self._asked = self._asked, {}
        for told in [told for waiting in asked.values() for told in waiting]:
            with contextlib.suppress(RuntimeError):  # a closed loop takes no calls: nobody is left to tell
                told(EndpointClosedError("the endpoint was closed while a name was being looked up"))
        if not self._loop.is_closed():
            for task in list(self._tasks):
                task.cancel()

    def _done(self, name: HostName, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        answer = _answer(task)
        for told in self._asked.pop(name, ()):
            told(self._own(name, answer))

    def _own(self, name: HostName, answer: Answer) -> Answer:
        """The answer for one who asked: one exception shared by several would grow a wrong traceback."""
        return unresolved(answer, name.host, self._family) if isinstance(answer, socket.gaierror) else answer


def unresolved(error: socket.gaierror, host: str, family: int) -> socket.gaierror:
    """Another of the same kind, that names the host and says what to do."""
    if error.errno == socket.EAI_AGAIN:
        advice = (
            f"nobody could be asked for {host!r}: is this machine's network up, "
            f"and does its name server answer (on Linux /etc/resolv.conf names it)?"
        )
    elif _NUMBERS.fullmatch(host):
        advice = f"{host!r} is no IPv4 address: that is four numbers of 0 to 255"
    else:
        only = {socket.AF_INET: " for IPv4", socket.AF_INET6: " for IPv6"}.get(socket.AddressFamily(family), "")
        advice = f"no address{only} is known of {host!r}: is it spelt right?"
    return socket.gaierror(error.errno, f"{error.strerror}: {advice}")


def _answer(task: asyncio.Future[Any]) -> Answer:
    if task.cancelled():
        return socket.gaierror(socket.EAI_AGAIN, "the lookup was cancelled")
    error = task.exception()
    if error is not None:
        return error
    wires: dict[Wire, None] = {}
    for _, _, _, _, address in task.result():
        wires[wire_of_source(address[0], address[1], address[3] if len(address) > 2 else 0)] = None
    return list(wires) or socket.gaierror(socket.EAI_NONAME, "no address was given")
