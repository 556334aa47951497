"""When questions leave: the first of a turn of the loop at once, the others together at the turn's end.

One call for many datagrams costs about two thirds of a call for each (docs/explanation/performance.md). The first is
not held up for that: its peer can begin while the others are put together, and who asks one thing at a time loses
nothing.

What the socket does not take with the others waits like any other question that finds it busy; what the operating
system refuses fails its own caller.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, cast

from udpguard._errors import EndpointClosedError, UdpGuardError
from udpguard._sending import sending_error
from udpguard._typing import override
from udpguard.core.address import Wire
from udpguard.core.source import Details, Entry, Posted, SweptQuestion

if TYPE_CHECKING:
    from udpguard._guard import Guard
    from udpguard._platform.routing import Routing
    from udpguard._seams import Channel

# As many leave with one call; a turn that asks more often sends in between, so that the first peers need not wait.
_TOGETHER: Final = 64
# So long after the first was posted, deadlines are looked at.
_LONG_TURN: Final = 0.005
_BUSY: Final = UdpGuardError()
# A turn that takes longer is treated as several.
_TURN: Final = 0.001


class Outbox:
    """The questions of one endpoint that leave at the end of this turn.

    Args:
        guard: Whose they are.
    """

    __slots__ = ("_due", "_filled", "_guard", "screened", "turn_ends")

    watermarks: Final = (1, _TOGETHER)
    """How many are posted for a channel when `fill` must be called."""

    def __init__(self, guard: Guard) -> None:
        self.turn_ends: float = -math.inf
        """Until when questions are not the first of their turn."""
        self.screened: bool = False
        """Whether a socket has, or is to have, a filter: nothing may leave before its answer is let in."""
        self._guard = guard
        self._filled: list[Channel] = []
        self._due = False

    def begin(self, channel: Channel, data: bytes, wire: Wire, entry: Entry) -> bool:
        """Send the first question of a turn; False: it can't be sent now."""
        self.turn_ends = entry.began + _TURN
        if self.screened and self._guard.screens.lack(channel, (wire,)):
            self._post(channel, data, wire, entry)  # it leaves with the others, once their answers are let in
            return True
        try:
            sent = self.transmit(channel, data, wire)
        except (OSError, EndpointClosedError):
            return False  # whoever tries again meets it again, and can explain it
        self._guard.registry.counters.sent += sent
        return sent

    def _post(self, channel: Channel, data: bytes, wire: Wire, entry: Entry) -> None:
        posted = channel.posted
        posted.datas.append(data)
        posted.wires.append(wire)
        posted.entries.append(entry)
        if len(posted.datas) in self.watermarks:
            self.fill(channel)

    def fill(self, channel: Channel) -> None:
        """Take note of a channel for which the first question was posted, or so many that they should leave."""
        if len(channel.posted.datas) >= _TOGETHER:
            self._flush()
        else:
            self._filled.append(channel)
            self.expect_more()

    def fill_up(self, channels: Iterable[Channel | None]) -> None:
        """Take note of channels for which several questions may have been posted together."""
        many = False
        for channel in channels:
            if channel is None or not (posted := len(channel.posted.datas)):
                continue
            many |= posted >= _TOGETHER
            if channel not in self._filled:
                self._filled.append(channel)
                self.expect_more()
        if many:
            self._flush()

    def transmit(self, channel: Channel, data: bytes, wire: Wire, routing: Routing | None = None) -> bool:
        """Send a datagram now, behind those that were posted before; see `Channel.transmit`."""
        if self._filled:
            self._flush()
        return channel.transmit(data, wire) if routing is None else channel.transmit(data, wire, routing)

    def expect_more(self) -> None:
        """See to it that what is posted from now on leaves when those had their turn who may go on already."""
        if not self._due:
            loop = self._guard.loop
            assert loop is not None
            loop.call_soon(self._end_turn)
            self._due = True

    def begin_turn(self) -> None:
        """Send what is posted; the next question is the first of a turn."""
        self.turn_ends = -math.inf
        if self._filled:
            self._flush()

    def _end_turn(self) -> None:
        self._due = False
        self.begin_turn()

    def unsent(self) -> list[Entry]:
        """Those whose questions are posted."""
        return [entry for channel in self._filled for entry in channel.posted.entries]

    def _flush(self) -> None:
        while self._filled:
            channel = self._filled.pop(0)
            posted, channel.posted = channel.posted, Posted()
            self._send_all(channel, posted)

    def _send_all(self, channel: Channel, posted: Posted) -> None:
        if self.screened:
            self._guard.screens.load(channel, posted.wires)
        now = self._guard.clock()
        if now - posted.entries[0].began > _LONG_TURN:  # somebody blocked the loop, perhaps past deadlines
            posted = self._without_given_up(posted)
        for entry in posted.entries:
            entry.sent_at = now
            # What belongs to a sweep is withdrawn at once, if it is.
            if entry.ended or (
                type(entry) is not SweptQuestion and cast("asyncio.Future[object]", entry.future).done()
            ):
                posted = self._without_given_up(posted)
                break
        self._send_each(channel, posted.datas, posted.wires, posted.entries)

    def _without_given_up(self, posted: Posted) -> Posted:
        """What is left to be sent: some callers gave up in the meantime, or time did, though nobody noticed yet."""
        left, now = Posted(), self._guard.clock()
        for data, wire, entry in zip(posted.datas, posted.wires, posted.entries, strict=True):
            if entry.ended or self._guard.is_abandoned(entry):
                self._guard.registry.unsend(entry)
            elif entry.deadline <= now:
                self._guard.registry.unsend(entry)
                self._guard.registry.extend(entry, Details(asks=True))
            else:
                entry.sent_at = now
                left.datas.append(data)
                left.wires.append(wire)
                left.entries.append(entry)
        return left

    def _send_each(self, channel: Channel, datas: list[bytes], wires: list[Wire], entries: list[Entry]) -> None:
        guard, registry = self._guard, self._guard.registry
        failed: list[tuple[Entry, UdpGuardError]] = []
        while datas:
            done = channel.transmit_many(datas, wires)
            registry.counters.sent += done
            datas, wires, entries = datas[done:], wires[done:], entries[done:]
            if not datas:
                break
            error = self._send_next(channel, datas[0], wires[0])
            if error is _BUSY:
                for data, wire, entry in zip(datas, wires, entries, strict=True):
                    registry.unsend(entry)
                    Held(guard, channel, data, wire, entry).wait()
                break
            if error is not None:
                failed.append((entries[0], error))
            del datas[0], wires[0], entries[0]
        for entry, error in failed:  # only now, since it may let others go on, which must not overtake these
            registry.unsend(entry)
            guard.fail(entry, error)

    def _send_next(self, channel: Channel, data: bytes, wire: Wire) -> UdpGuardError | None:
        """Send what did not leave with the others; why it can't be sent, `_BUSY` for not now."""
        try:
            if not channel.transmit(data, wire):
                return _BUSY
        except EndpointClosedError as error:
            return error
        except OSError as error:
            self._guard.registry.counters.send_errors += 1
            return sending_error(error, data, wire)
        self._guard.registry.counters.sent += 1
        return None


class Held(Details):
    """A question that the socket did not take with the others, while it waits.

    Args:
        guard: Whose it is.
        channel: What it leaves through.
        data: Its payload.
        wire: Its peer.
        entry: The exchange, which has had no extras until now.
    """

    __slots__ = ("_channel", "_data", "_entry", "_guard", "_original", "_wire")

    def __init__(self, guard: Guard, channel: Channel, data: bytes, wire: Wire, entry: Entry) -> None:
        super().__init__(asks=True)
        self._guard = guard
        self._channel = channel
        self._data = data
        self._wire = wire
        self._entry = entry
        self._original = None if entry.assigned is None else entry.assigned[1]
        if entry.more is None:
            guard.registry.extend(entry, self)

    def wait(self) -> None:
        """Wait until the socket takes it, behind those who wait already."""
        self._guard.wait_for_socket(self._entry, self)

    @override
    def has_sent(self, wire: Wire, quote: bytes, port: int) -> bool:
        left = self.attempts > 0 and (wire, port) == (self._wire, self._entry.port)
        return left and self._data.startswith(quote)

    @override
    def step(self) -> None:
        """Send it, or wait until the socket takes it."""
        guard, entry, registry = self._guard, self._entry, self._guard.registry
        if entry.ended:
            return
        if guard.is_abandoned(entry):
            guard.withdraw(entry)
            return
        registry.stop_waiting(entry, self)
        now = guard.clock()
        try:
            sent = guard.takes(entry) and guard.outbox.transmit(self._channel, self._data, self._wire)
        except OSError as error:
            registry.counters.send_errors += 1
            guard.fail(entry, sending_error(error, self._data, self._wire))
            return
        except EndpointClosedError as error:
            guard.fail(entry, error)
            return
        if sent:
            assert entry.source is not None
            self.waits_for: str | None = None
            registry.note_sent(entry, entry.slots(), entry.source, now, self._original, entry.port)
        else:
            guard.wait_for_socket(entry, self)
