"""When questions leave: the first of a turn of the loop at once, the others together at the turn's end.

One call for many datagrams costs about two thirds of a call for each (docs/performance.md). The first is not held up
for that: its peer can begin while the others are put together, and who asks one thing at a time loses nothing.

What the socket does not take with the others waits like any other question that finds it busy; what the operating
system refuses fails its own caller.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from udpguard._errors import EndpointClosedError
from udpguard._sending import sending_error
from udpguard._transport import Channel
from udpguard.core.address import Wire
from udpguard.core.source import Details, Entry

if TYPE_CHECKING:
    from udpguard._guard import Guard

# As many leave with one call; a turn that asks more often sends in between, so that the first peers need not wait.
_TOGETHER: Final = 64
# A turn that takes longer is treated as several.
_TURN: Final = 0.001


class Outbox:
    """The questions of one endpoint that leave at the end of this turn.

    Args:
        guard: Whose they are.
    """

    __slots__ = ("_due", "_guard", "_turn_ends", "filled")

    def __init__(self, guard: Guard) -> None:
        self.filled: list[Channel] = []
        """The channels that something is posted for."""
        self._guard = guard
        self._due = False
        self._turn_ends = -math.inf

    def send(self, channel: Channel, data: bytes, wire: Wire, entry: Entry) -> bool:
        """Send a question now or at the end of the turn; False: it can't be sent now."""
        if entry.began < self._turn_ends:
            posted = channel.posted
            posted.append((data, wire, entry))
            if len(posted) == 1:
                self.filled.append(channel)
                self.expect_more()
            elif len(posted) >= _TOGETHER:
                self.flush()
            return True
        self._turn_ends = entry.began + _TURN
        try:
            return self.transmit(channel, data, wire)
        except (OSError, EndpointClosedError):
            return False  # whoever tries again meets it again, and can explain it

    def transmit(self, channel: Channel, data: bytes, wire: Wire) -> bool:
        """Send a datagram now, behind those that were posted before; see `Channel.transmit`."""
        if self.filled:
            self.flush()
        return channel.transmit(data, wire)

    def expect_more(self) -> None:
        """See to it that what is posted from now on leaves when those had their turn who may go on already."""
        if not self._due:
            loop = self._guard.loop
            assert loop is not None
            loop.call_soon(self._end_turn)
            self._due = True

    def begin_turn(self) -> None:
        """The next question is the first of a turn."""
        self._turn_ends = -math.inf

    def _end_turn(self) -> None:
        self._due = False
        self._turn_ends = -math.inf
        if self.filled:
            self.flush()

    def flush(self) -> None:
        """Send what is posted."""
        filled, self.filled = self.filled, []
        for channel in filled:
            posted, channel.posted = channel.posted, []
            self._send_all(channel, posted)

    def _send_all(self, channel: Channel, posted: list[tuple[bytes, Wire, Entry]]) -> None:
        now = self._guard.clock()
        while posted:
            datas: list[bytes] = []
            wires: list[Wire] = []
            for data, wire, entry in posted:
                if entry.ended:  # given up in the meantime
                    continue
                entry.sent_at = now
                datas.append(data)
                wires.append(wire)
            if len(datas) < len(posted):
                posted = self._without_ended(posted)
            done = channel.transmit_many(datas, wires) if datas else 0
            if done == len(posted):
                return
            Held(self._guard, channel, *posted[done]).step()
            posted = posted[done + 1 :]

    def _without_ended(self, posted: list[tuple[bytes, Wire, Entry]]) -> list[tuple[bytes, Wire, Entry]]:
        for _, _, entry in posted:
            if entry.ended:
                self._guard.registry.unsend(entry)
        return [one for one in posted if not one[2].ended]


class Held(Details):
    """A question that did not leave with the others: it waits for the socket, or learns why it can't be sent.

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
        self._original = None if entry.assigned is None else entry.assigned.original
        guard.registry.unsend(entry)
        guard.registry.extend(entry, self)

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
            self.waits_for = None
            registry.note_sent(entry, entry.slots(), entry.source, now, self._original)
        else:
            guard.wait_for_socket(entry, self)
