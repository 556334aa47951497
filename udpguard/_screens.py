"""The socket filters of one endpoint: when there is one, and that no answer it stops is ever expected.

Each socket has a screen of its own; one that is opened later gets it when it is first needed. While none has a filter
(`Outbox.screened` is false) nothing of this costs a request anything. When a filter is attached it lets in what is
pending in the registry at that moment. From then on a question leaves only once its answer can come in: one to somebody
new waits for the end of the loop's turn, so that a program is loaded once for all of that turn. Where the kernel won't
have it, there is no filter from then on.

Let in is a superset of what is expected: see `core.sieve` for what stays in, `core.flood` for when a flood begins and
ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from udpguard._platform.choice import open_filter
from udpguard._platform.interface import SocketFilter
from udpguard._transport import UdpTransport
from udpguard.core.address import ANYWHERE, IPV4_WIRE, IPV6_WIRE, Token
from udpguard.core.flood import Backoff, Flood
from udpguard.core.gate import Gate
from udpguard.core.options import KernelFilter
from udpguard.core.sieve import Sieve
from udpguard.core.source import Entry

if TYPE_CHECKING:
    from udpguard._guard import Guard
    from udpguard._seams import Channel

logger = logging.getLogger("udpguard")

# So many strangers are read before anybody asks whether they are a flood: that takes 2 µs, they take 300.
_SAMPLE: Final = 256
_NEVER: Final = 1 << 62
# How often it is looked whether the flood is over.
_LOOK: Final = 1.0
# While something is expected from anywhere, so often it is asked whether it still is.
_OPEN_AGAIN: Final = 0.25
# Strangers that pass were perhaps let in lately, or one of the few whom the filter can't tell is all the flood. To make
# it anew takes up to 20 ms.
_REFRESH: Final = 1.0
# To let somebody in takes 0.1 to 0.7 ms, to take a filter away 5 µs.
_EAGER: Final = 4


class Screens:
    """The filters of one endpoint's sockets.

    Args:
        guard: Whose they are.
        mode: When there are any.
    """

    def __init__(self, guard: Guard, mode: KernelFilter) -> None:
        self._guard = guard
        self._mode = mode
        self._screens: WeakKeyDictionary[UdpTransport, Screen] = WeakKeyDictionary()
        self._deaf: WeakKeyDictionary[UdpTransport, None] = WeakKeyDictionary()
        """Those of which it is known that they can have none."""
        self._timer: asyncio.TimerHandle | None = None
        self._held: Gate[Entry] = Gate(0)
        """Those who wait for the end of the turn."""
        self._due = False
        self._eager = 0
        """How often something was let in at once, in this turn."""
        guard.registry.strangers_left = _NEVER if mode == "off" else _SAMPLE

    @property
    def attached(self) -> bool:
        """Whether a socket has a filter now."""
        return any(screen.filter.attached for screen in self._screens.values())

    def begin(self) -> None:
        """Look at the first sockets; attach filters where there is always to be one."""
        for channel in self._guard.channels:
            screen = self._screen(channel)
            if screen is not None and self._mode == "on":
                self._guard.outbox.screened = True
                screen.attach()

    def close(self) -> None:
        """Look no more; the sockets are closed."""
        self._mode = "off"
        self._screens.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def drop(self, channel: Channel) -> None:
        """Forget a socket that is about to be closed: it may take long until nobody holds it any more."""
        if isinstance(channel, UdpTransport):
            self._screens.pop(channel, None)

    # ------------------------------------------------------------------------------------- what is expected

    def lack(self, channel: Channel, tokens: Collection[Token]) -> bool:
        """Take note that these are expected to answer through this socket; whether `load` must come first."""
        screen = self._screen(channel)
        return screen is not None and screen.lacks(tokens)

    def load(self, channel: Channel, tokens: Collection[Token]) -> None:
        """Let in what comes from these, and from all others of whom note was taken, now."""
        screen = self._screen(channel)
        if screen is not None and screen.lacks(tokens):
            screen.load()

    def load_everywhere(self, tokens: Collection[Token]) -> None:
        """Let in what comes from these, now and through whatever socket: nobody says what will make them answer.

        Who expects many in one turn of the loop pays for a few of these; then the filter steps aside until it ends.
        """
        for screen in list(self._screens.values()):
            if screen.lacks(tokens):
                self._release_soon()
                self._eager += 1
                if self._eager > _EAGER:
                    screen.step_aside()
                else:
                    screen.load()

    def hold(self, channel: Channel, tokens: Sequence[Token], entry: Entry) -> bool:
        """Let an exchange wait for the end of the turn, if its answers are to be let in first, with those of others."""
        lacking = self.lack(channel, tokens)
        if len(tokens) > 1 or len(tokens[0]) not in (IPV4_WIRE, IPV6_WIRE):  # perhaps it hears the answer elsewhere
            for screen in list(self._screens.values()):
                lacking |= screen.lacks(tokens)
        more = entry.more
        if not lacking or more is None:
            return False
        if entry.listens and not more.attempts:
            self._guard.registry.held.add(entry)
        more.queued.append(self._held)
        self._held.wait(entry)
        self._release_soon()
        return True

    def _release_soon(self) -> None:
        if not self._due and self._guard.loop is not None:
            self._due = True
            self._guard.loop.call_soon(self._release)

    def _release(self) -> None:
        """Let in what is expected by now, and let those go on who waited for that."""
        self._due = False
        self._eager = 0
        if self._guard.closed:
            return
        for screen in list(self._screens.values()):
            screen.load()
        for _ in range(len(self._held.queue or ())):
            entry = self._held.first()
            if entry is not None:
                self._guard.go_on(entry)

    def _screen(self, channel: Channel) -> Screen | None:
        """The screen of a socket, made where there is none; None where it can have no filter."""
        if not isinstance(channel, UdpTransport):  # the loop's own, or a simulated one
            return None
        screen = self._screens.get(channel)
        if screen is None and channel not in self._deaf and self._mode != "off":
            found = open_filter(channel.get_extra_info("socket"))
            if found is None:
                self._deaf[channel] = None
                return None
            screen = self._screens[channel] = Screen(self._guard, channel, found, always=self._mode == "on")
        return screen

    # ------------------------------------------------------------------------------------------- the flood

    def strangers_came(self, channel: Channel | None) -> None:
        """Take note that as many strangers as were left came, the last of them through this socket."""
        registry = self._guard.registry
        screen = None if channel is None else self._screen(channel)
        if channel is None or screen is None:
            registry.strangers_left = _NEVER if self._mode == "off" else _SAMPLE
            return
        registry.strangers_left = _SAMPLE
        now = self._guard.clock()
        screen.junk += _SAMPLE
        if not screen.flood.is_on(now, _SAMPLE, channel.dropped()):
            return
        if screen.filter.attached:
            screen.refresh()
        elif screen.attach():
            screen.flood.begin(now, channel.dropped() + screen.junk)
            self._guard.outbox.screened = True
            if self._mode == "auto" and self._timer is None and self._guard.loop is not None:
                self._timer = self._guard.loop.call_later(_LOOK, self._look)

    def _look(self) -> None:
        """Take the filters away where it has been quiet for long enough."""
        self._timer = None
        now = self._guard.clock()
        for channel, screen in list(self._screens.items()):
            if screen.filter.attached and screen.flood.is_over(now, channel.dropped() + screen.junk):
                logger.debug("the flood is over: the socket filter is taken away")
                screen.filter.detach()
        if any(screen.is_on for screen in self._screens.values()) and self._guard.loop is not None:
            self._timer = self._guard.loop.call_later(_LOOK, self._look)
        else:
            self._guard.outbox.screened = False


class Screen:
    """The filter of one socket, and what it lets in.

    Args:
        guard: The endpoint's.
        channel: The socket's; it is not kept.
        filter_: What filters it.
        always: Whether there is always to be one.
    """

    __slots__ = (
        "_always",
        "_aside",
        "_backlog",
        "_backoff",
        "_guard",
        "_refresh_at",
        "_sieve",
        "filter",
        "flood",
        "junk",
    )

    def __init__(self, guard: Guard, channel: Channel, filter_: SocketFilter, *, always: bool) -> None:
        self.filter: SocketFilter = filter_
        self.flood: Flood = Flood()
        self.junk: int = 0
        """How many strangers' datagrams were read through the socket, in samples."""
        self._guard = guard
        self._always = always
        self._sieve = Sieve(ipv4=channel.carries(bytes(IPV4_WIRE)), ipv6=channel.carries(bytes(IPV6_WIRE)))
        self._backlog: list[Token] = []
        """What is expected, but not let in yet."""
        self._aside = False
        """Whether it is away for the rest of the turn."""
        self._backoff = Backoff()
        self._refresh_at = 0.0

    @property
    def is_on(self) -> bool:
        """Whether the filter is there, or is but away for the rest of the turn."""
        return self.filter.attached or self._aside

    def attach(self) -> bool:
        """Attach the filter, if it can be now; whether it is there."""
        now = self._guard.clock()
        self._aside = False
        if not self._backoff.is_ready(now):
            return False
        registry = self._guard.registry
        anywhere = registry.known_source(ANYWHERE)
        if anywhere is None or not anywhere.live:
            self._sieve.begin(registry.expected())
            if not self._sieve.is_open:
                return self._fill(self._sieve.sources)
        self._backoff.postpone(now, _OPEN_AGAIN)
        return False

    def lacks(self, tokens: Collection[Token]) -> bool:
        """Take note that these are expected; whether anything is to be let in before they answer."""
        if not self.filter.attached:
            return self._always and not self._aside and self._backoff.is_ready(self._guard.clock())
        if not self._sieve.covers(tokens):
            self._backlog += self._sieve.admit(tokens)
        return bool(self._backlog)

    def load(self) -> None:
        """Let in what is expected by now; where that can't be, there is no filter from now on."""
        sieve = self._sieve
        if not self.filter.attached:
            if self._always or self._aside:
                self.attach()
        elif not self._backlog:
            pass
        elif sieve.is_stale:
            sieve.rotate(self._guard.registry.expected())
            self._fill(sieve.sources, anew=False)
        else:
            self._fill(self._backlog, more=True)

    def step_aside(self) -> None:
        """Be away until the next `load`."""
        self.filter.detach()
        self._backlog = []
        self._aside = True

    def refresh(self) -> None:
        """Leave out what is expected no more, and let other strangers pass: too many do, perhaps all of them one."""
        now = self._guard.clock()
        if now >= self._refresh_at:
            self._refresh_at = now + _REFRESH
            self._sieve.begin(self._guard.registry.expected())
            self._fill(self._sieve.sources)

    def _fill(self, tokens: Collection[Token], *, more: bool = False, anew: bool = True) -> bool:
        """Have the filter let in these, or these as well; where it can't, have none."""
        now = self._guard.clock()
        self._backlog = []
        if self._sieve.is_open:
            self.filter.detach()
            self._backoff.postpone(now, _OPEN_AGAIN)
            return False
        try:
            if more:
                self.filter.extend(tokens)
            else:
                self.filter.attach(tokens, anew=anew)
        except OSError as error:
            self._backoff.failed(now)
            logger.debug("no socket filter for a while: %s", error)
            return False
        if not more:
            logger.debug("a socket filter lets %d sources in", len(tokens))
        self._backoff.worked()
        return True
