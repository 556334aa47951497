"""A request, from the call to its end: whom to ask next, when, and what to wait for before that.

An exchange has no task and no timer of its own. It is a small state machine in one method, `step`, that is called
when it begins, when a name is resolved, when the time for the next attempt has come, and when something it waited for
is free. Each time it chooses a target and tries to send; what is in its way is a gate, at which it waits:

    turn     without a key, requests to one source go one after the other
    port     without a key, a local port to which no old reply may come
    quota    as many requests with a key as `in_flight_per_peer` allows
    id       a transaction id to assign
    room     one of `Limits.pending`; taken after the turn, so that a silent peer's queue takes up no room
    socket   the socket's send buffer

The caller awaits one future from beginning to end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from udpguard._errors import (
    DatagramTooLargeError,
    DuplicateTransactionError,
    InvalidAddressError,
    PeerUnreachableError,
    UdpGuardError,
)
from udpguard._guard import Guard
from udpguard._ports import NoPortError
from udpguard._resolve import Answer, Resolver
from udpguard._sending import check_size, checked_data, sending_error
from udpguard._typing import override
from udpguard.core.address import HostName, Sources, Wire, peer_of, refusal_to_ask
from udpguard.core.correlation import Book, Correlator, Slot, TransactionId, checked_id, request_key
from udpguard.core.gate import Gate
from udpguard.core.ids import IdPool
from udpguard.core.retransmission import Retry, RetryPolicy, drawn
from udpguard.core.source import Accept, Details, Entry, LongEntry, Source

if TYPE_CHECKING:
    from udpguard._seams import Channel

Data: TypeAlias = bytes | Callable[[int], bytes]
"""A datagram, or a function of the attempt's number (0, 1, …) that gives it."""

# Without a schedule the next address is tried after so many seconds (RFC 8305 section 5: Connection Attempt Delay).
_NEXT_ADDRESS: Final = 0.25
# An id is free by count, but callers' own ids are in the way: nobody tells when one of those ends.
_ID_AGAIN: Final = 0.05
# While all spare ports are in use, the endpoint's own may have become clean.
_PORT_AGAIN: Final = 1.0


class Quota:
    """How many requests with a key may be in flight to one peer.

    Args:
        limit: As many.
    """

    __slots__ = ("_gates", "_limit", "_sweep_at")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sweep_at = 1_024
        self._gates: dict[Wire, Gate[Entry]] = {}

    def gate(self, wire: Wire) -> Gate[Entry]:
        """The gate of a peer."""
        gate = self._gates.get(wire)
        if gate is None:
            if len(self._gates) >= self._sweep_at:
                self._gates = {w: g for w, g in self._gates.items() if g.free < self._limit}
                self._sweep_at = max(1_024, 2 * len(self._gates))
            gate = self._gates[wire] = Gate(self._limit)
        return gate


class Target:
    """One address that is asked."""

    __slots__ = (
        "channel",
        "failed",
        "gates",
        "kept",
        "latest",
        "latest_slots",
        "original",
        "payload",
        "peer",
        "place",
        "port",
        "refuses",
        "sent",
        "slots",
        "wire",
    )

    def __init__(self, wire: Wire, place: int, channel: Channel, peer: Source) -> None:
        self.wire = wire
        self.place = place
        """Where it stands in the caller's list."""
        self.channel = channel
        self.port: int | None = None
        """The number of the port it leaves from, once that is known."""
        self.peer = peer
        self.sent = 0
        self.failed = 0
        """How often the operating system would not send it again."""
        self.gates: list[Gate[Entry]] = []
        """The places it needs now."""
        self.kept: list[Gate[Entry]] = []
        """Those it keeps to the end, since it listens."""
        self.payload: bytes | None = None
        """What leaves, once it is known and the same for each attempt."""
        self.latest: bytes | None = None
        """What left last."""
        self.latest_slots: tuple[Slot, ...] = ()
        """Where its answer is listened for; the next attempt may have others, and wait for the socket."""
        self.refuses = False
        """Whether it said that nothing listens there. It keeps its places to the end, since the exchange listens."""
        self.slots: tuple[Slot, ...] = ()
        self.original: bytes | None = None


class _BusyError(Exception):
    """A target can't be asked now; perhaps there is a gate to wait at."""

    def __init__(
        self,
        target: Target,
        gate: Gate[Entry] | None,
        reason: str,
        error: UdpGuardError | None = None,
        *,
        until: float | None = None,
    ) -> None:
        super().__init__()
        self.error = error
        self.target = target
        self.gate = gate
        self.reason = reason
        self.until = until
        """When it can be asked, where time alone tells."""


class EndedError(Exception):
    """The data function, the correlator or the policy ended the request: cancelled it, or closed the endpoint."""


class Exchange(Details):
    """A request while it goes on.

    Args:
        guard: Where it is registered.
        correlator: Its client's, or None.
        book: The book of keys of that.
        data: What it sends.
        sources: Where its answer may come from.
        accept: Judges the answer.
        quota: How many may be in flight to one peer.
        policy: When it is sent again; None: it is sent once to each address.
        port: The number of the only port it may leave from; None: any.
    """

    __slots__ = (
        "_assigns",
        "_book",
        "_correlator",
        "_data",
        "_entry",
        "_error",
        "_fixed_end",
        "_fixed_port",
        "_guard",
        "_key",
        "_policy",
        "_port",
        "_quota",
        "_sources",
        "_targets",
        "_unresolved",
        "_waits",
    )

    def __init__(
        self,
        guard: Guard,
        correlator: Correlator | None,
        book: Book,
        data: Data,
        sources: Sources,
        *,
        accept: Accept | None,
        quota: Quota | None,
        policy: RetryPolicy | None,
        port: int | None = None,
    ) -> None:
        super().__init__(accept, asks=True)
        self._guard = guard
        self._correlator = correlator
        self._assigns = isinstance(correlator, TransactionId) and correlator.assign
        self._book = book
        self._data = data
        self._sources = sources
        self._quota = quota
        self._policy = policy
        self.adapts = policy is not None and not isinstance(policy, Retry)
        self._waits: tuple[float, ...] = ()
        self._targets: list[Target] = []
        self._unresolved = 0
        self._error: BaseException | None = None
        """Why the latest of the addresses that failed did."""
        self._key: object = None
        self._fixed_port = port is not None
        self._port = guard.some_port() if port is None else port
        """Which port it leaves from, where any will do, or no other."""
        self._fixed_end = True
        self._entry: Entry

    # ------------------------------------------------------------------------------------------- beginning

    def begin(
        self,
        future: object,
        addresses: Sequence[tuple[Wire | HostName, object]],
        resolver: Resolver,
        timeout: float | None,
        *,
        plain: bool,
    ) -> Entry:
        """Register, and send as soon as it can be.

        Args:
            future: The caller's.
            addresses: Whom to ask, each in canonical form and as the caller wrote it.
            resolver: Looks up names.
            timeout: Seconds; None: as long as the schedule.
            plain: Whether the caller wants the bytes alone.

        Raises:
            InvalidAddressError: No socket of the endpoint reaches one of the addresses.
            ValueError: The retransmission policy gives no schedule.
        """
        guard, registry = self._guard, self._guard.registry
        names = [(place, one) for place, (one, _) in enumerate(addresses) if isinstance(one, HostName)]
        for place, (one, written) in enumerate(addresses):
            if isinstance(one, bytes) and all(target.wire != one for target in self._targets):
                self._add_target(one, place, guard.channel_for(one, written))
        self._unresolved = len(names)
        self._name_it([address for address, _ in addresses])
        if isinstance(self._data, bytes):
            self._key = request_key(self._correlator, self._data)
        if self._policy is not None:
            self._draw(self._policy)
        guard.check_loop()  # request_key and the policy are foreign code, which may have closed it
        if timeout is None and not any(self._waits):
            raise ValueError(f"{self._policy!r} ends at once: a reply needs time to come")
        movable = timeout is None and bool(names)
        self._fixed_end = not movable
        entry = LongEntry(future, guard.clock(), sum(self._waits) if timeout is None else timeout, self, plain=plain)
        self._entry = entry
        entry.source = self._targets[0].peer if self._targets else None
        registry.enter(entry, movable=movable)
        guard.due_at(entry.deadline)
        for place, name in names:
            self.waits_for = "name"
            resolver.look_up(name, partial(self._resolved, place, name))
        if self._targets:
            guard.go_on(entry)
        return entry

    def _name_it(self, addresses: list[Wire | HostName]) -> None:
        names = [str(a) if isinstance(a, HostName) else str(peer_of(a)) for a in addresses]
        self.label = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

    def _draw(self, policy: RetryPolicy) -> None:
        peer = self._targets[0].peer if self._targets else None
        known = peer.statistics() if peer is not None and peer.was_asked else None
        self._waits = drawn(policy, known, self._guard.host.random)

    def _add_target(self, wire: Wire, place: int, channel: Channel) -> None:
        target = Target(wire, place, channel, self._guard.registry.source(wire))
        self._targets.append(target)
        self._targets.sort(key=lambda target: target.place)

    def _resolved(self, place: int, name: HostName, answer: Answer) -> None:
        """Take what the look-up of a name brought; others may wait for the same."""
        if self._entry.ended:
            return
        try:
            self._take_answer(place, name, answer)
        except BaseException as error:
            self._guard.fail(self._entry, error)

    def _take_answer(self, place: int, name: HostName, answer: Answer) -> None:
        self._unresolved -= 1
        known, waits = len(self._targets), bool(self._left)
        if isinstance(answer, BaseException):
            self._error = answer
        else:
            self._error = self._add_resolved(place, name, answer) or self._error
        self.trouble = str(self._error) if self._error is not None else None
        if not self._left:
            if not self._unresolved:
                self._guard.fail(self._entry, self._error or _nowhere(name))
            return
        if not known and not self._fixed_end and self._policy is not None:
            self._draw(self._policy)
            self._guard.registry.timetable.move(self._entry, sum(self._waits))
            self._guard.due_at(self._entry.deadline)
        if len(self._targets) == known:
            return
        if not self.attempts or not waits:
            self._guard.go_on(self._entry)
        elif self._policy is None and self.step_at == math.inf and not self.heard:
            self._step_in(_NEXT_ADDRESS)

    def _add_resolved(self, place: int, name: HostName, wires: list[Wire]) -> BaseException | None:
        """Make targets of a name's addresses; why the last of those that can't be asked can't."""
        error: BaseException | None = None
        for wire in wires:
            refusal = refusal_to_ask(wire)
            if refusal is not None:
                error = InvalidAddressError(f"{name.host!r} resolves to {peer_of(wire).host}: {refusal}", address=name)
                continue
            try:
                channel = self._guard.channel_for(wire, name)
            except InvalidAddressError as wrong_family:
                error = wrong_family
                continue
            if all(target.wire != wire for target in self._targets):
                self._add_target(wire, place, channel)
        return error

    # ------------------------------------------------------------------------------------------- going on

    @property
    def _left(self) -> list[Target]:
        """The targets that may answer yet."""
        return [target for target in self._targets if not target.refuses]

    @override
    def has_sent(self, wire: Wire, quote: bytes, port: int) -> bool:
        return any(port == (target.port or 0) for target in self._asked_with(wire, quote))

    def _asked_with(self, wire: Wire, quote: bytes) -> list[Target]:
        """The target there, if what was sent to it last begins like this."""
        return [
            target
            for target in self._left
            if target.wire == wire and target.latest is not None and target.latest.startswith(quote)
        ]

    @override
    def goes_on_without(self, wire: Wire, quote: bytes, error: UdpGuardError) -> bool:
        """Move on to the next target, at once where the one that refuses was asked last; False: none is left."""
        is_latest = False
        for target in self._asked_with(wire, quote):
            target.refuses = True
            self._guard.registry.note_refused(self, target.latest_slots)
            is_latest = target.peer is self._entry.source
        self._error = error
        self.trouble = str(error)
        if not self._left and not self._unresolved:
            return False
        self._name_untried()
        if is_latest and self._may_send():
            self._guard.registry.timetable.drop_step(self)
            self._guard.go_on(self._entry)
        return True

    @property
    @override
    def is_cut_short(self) -> bool:
        return self._tries() < len(self._waits)

    def _may_send(self) -> bool:
        """Whether anybody is left to be asked now: for the first time, or again as the schedule allows."""
        return any(not target.sent for target in self._left) or self.is_cut_short

    @override
    def step(self) -> None:
        """Make the next attempt, or wait for what is in its way."""
        entry, registry = self._entry, self._guard.registry
        if entry.ended or self.heard:
            registry.stop_waiting(entry, self)
            return
        if self._guard.is_abandoned(entry):
            self._guard.withdraw(entry)
            return
        registry.stop_waiting(entry, self)
        try:
            self._attempt()
        except EndedError:
            return
        except BaseException as error:
            # Whatever it is, it is this caller's, and no affair of whoever happened to let it go on.
            self._guard.fail(entry, error)

    def _attempt(self) -> None:
        """Send to the first target that can be asked now."""
        self.waits_for = None
        busy: list[_BusyError] = []
        for target in self._in_turn():
            try:
                self._send_to(target)
            except _BusyError as obstacle:
                busy.append(obstacle)
            except (PeerUnreachableError, InvalidAddressError, DatagramTooLargeError) as error:
                if self._survives(target, error):
                    return
            else:
                return
        if busy:
            self._pass_over(busy)
        elif not self._left and not self._unresolved:
            assert self._error is not None
            raise self._error

    def _survives(self, target: Target, error: UdpGuardError) -> bool:
        """Take note that a target can't be sent to; whether it was before, and may answer that yet.

        Raises:
            DatagramTooLargeError: No path carries it: that is the caller's own fault.
        """
        if isinstance(error, DatagramTooLargeError) and error.limit is not None:
            raise error
        self._error = error
        self.trouble = str(error)
        if not target.sent:
            self._targets.remove(target)
            return False
        target.failed += 1
        self._plan_next()
        return True

    def _in_turn(self) -> list[Target]:
        """The targets in the order in which they are to be tried; without a schedule each is asked once."""
        if self._policy is None:
            return [target for target in self._left if not target.sent]
        return sorted(self._left, key=lambda target: (target.sent + target.failed, target.place))

    def _leave_unused(self, keep: Sequence[Gate[Entry]] = ()) -> None:
        """Give back places that it was granted with targets that it did not ask after all, but for some."""
        registry = self._guard.registry
        used = [gate for target in self._targets for gate in target.kept]
        used += keep
        if self.attempts:
            used += self._rooms()
        for gate in [gate for gate in self.held if gate not in used]:
            registry.leave(self, gate)

    def _plan_next(self) -> None:
        """Set the time of the next attempt."""
        if self._policy is None:
            if any(not target.sent for target in self._left):
                self._step_in(_NEXT_ADDRESS)
        else:
            tries = self._tries()
            if tries < len(self._waits):
                self._step_in(self._waits[tries - 1])
        self._name_untried()

    def _tries(self) -> int:
        """How much of the schedule is used up; a server that refuses is none that was tried."""
        return self.attempts - self.refusals + sum(target.failed for target in self._targets)

    def _name_untried(self) -> None:
        self.untried = tuple(peer_of(target.wire) for target in self._left if not target.sent)

    def _pass_over(self, busy: list[_BusyError]) -> None:
        """Wait until one of the targets that are busy can be asked."""
        error = busy[0].error
        if error is not None and not self.attempts and all(one.error is not None for one in busy):
            raise error
        self.waits_for = busy[0].reason
        if not self.attempts and self._keeps_turn(busy[0]):
            self._wait_for_port(busy[0])
            return
        # Those who need several places take them in one order, the same for all, and hold what they have while they
        # wait for the next: so nobody waits for each other, and nothing is passed round for ever.
        half = next((one for one in busy if one.gate is not None and one.gate in one.target.gates[1:]), None)
        self._leave_unused(half.target.gates if half is not None and not self.attempts else ())
        if self.attempts or any(one.gate is None for one in busy):
            self._step_in(_NEXT_ADDRESS if self.attempts else _ID_AGAIN)
        elif half is not None:
            self._take_in_order(half.target.gates)
        else:
            for one in busy:
                assert one.gate is not None
                self._wait_at(one.gate)

    def _wait_for_port(self, busy: _BusyError) -> None:
        """Wait for a spare port, or for the old reply that is in the way, with the turn in hand."""
        self._leave_unused(busy.target.gates)
        if busy.gate is not None:
            self._wait_at(busy.gate)
            self._step_in(_PORT_AGAIN)
            return
        assert busy.until is not None
        for gate in self._guard.registry.quarantine(self._sources.tokens(busy.target.wire)):
            self._wait_at(gate)
        self._step_in(max(busy.until - self._guard.clock(), 0.0))

    def _take_in_order(self, gates: list[Gate[Entry]]) -> None:
        """Take places up to the first that is not free, and wait for that."""
        for gate in gates:
            if gate not in self.held:
                if not gate.enter():
                    self._wait_at(gate)
                    return
                self.held.append(gate)
        self._guard.registry.wake(self)

    def _wait_at(self, gate: Gate[Entry]) -> None:
        gate.wait(self._entry)
        self.queued.append(gate)

    def _step_in(self, seconds: float) -> None:
        when = self._guard.clock() + seconds
        self._guard.registry.timetable.add_step(self, when)
        self._guard.due_at(when)

    # --------------------------------------------------------------------------------------------- sending

    def _send_to(self, target: Target) -> None:
        """Send to a target, or wait for room or for the socket.

        Raises:
            _BusyError: The target can't be asked now.
            UdpGuardError: It can't be asked at all.
        """
        registry = self._guard.registry
        payload, key = self._payload(target)
        taken: list[Gate[Entry]] = []
        try:
            if target.payload is None:
                self._take_turn(target, key, taken)
            if not self._has_room() or not self._has_socket():
                return
            if target.payload is None:
                self._choose_port(target, key)
                payload = self._open_slots(target, payload, key)
            self._transmit(target, payload)
        except BaseException as error:
            if isinstance(error, _BusyError) and self._keeps_turn(error):
                raise
            # The places go to others; but what it was sent for already, it must keep.
            for gate in taken:
                if gate in self.held and gate not in target.kept:
                    registry.leave(self, gate)
            raise

    def _rooms(self) -> tuple[Gate[Entry], ...]:
        """What it needs a place in, whomever it asks; taken in this order, and after its turn."""
        return (self._guard.registry.room,)

    def _has_room(self) -> bool:
        for room in self._rooms():
            if room in self.held:
                continue
            if not room.enter():
                self.waits_for = "room"
                self._wait_at(room)
                return False
            self.held.append(room)
        return True

    def _has_socket(self) -> bool:
        if self._guard.takes(self._entry):
            return True
        self._guard.wait_for_socket(self._entry, self)
        return False

    def _transmit(self, target: Target, payload: bytes) -> None:
        guard, registry = self._guard, self._guard.registry
        if guard.outbox.screened:
            tokens = [slot[0] for slot in target.slots]
            if guard.screens.hold(target.channel, tokens, self._entry):
                return
        now = guard.clock()  # before it leaves: the process may lose its turn right after
        try:
            if not guard.outbox.transmit(target.channel, payload, target.wire):
                guard.wait_for_socket(self._entry, self)
                return
        except OSError as error:
            registry.counters.send_errors += 1
            raise sending_error(error, payload, target.wire) from error
        target.sent += 1
        target.latest, target.latest_slots = payload, target.slots
        registry.note_sent(self._entry, target.slots, target.peer, now, target.original, target.port or 0)
        self._leave_unused()
        self._plan_next()

    def _payload(self, target: Target) -> tuple[bytes, object]:
        """What to send to a target, and the key in it."""
        if isinstance(self._data, bytes):
            if target.payload is None:
                check_size(self._data, target.wire)
            return target.payload or self._data, self._key
        payload = checked_data(self._data(self.attempts), what="what the data function returns")
        key = request_key(self._correlator, payload)
        if self._entry.ended:
            raise EndedError
        check_size(payload, target.wire)
        target.payload = None
        return payload, key

    def _take_turn(self, target: Target, key: object, taken: list[Gate[Entry]]) -> None:
        """Take the places that a request to this target needs before it may be sent.

        Raises:
            _BusyError: One of them is not free.
        """
        registry = self._guard.registry
        needed: list[tuple[Gate[Entry], str]] = []
        if key is None:
            tokens = sorted(self._sources.tokens(target.wire), key=lambda token: (isinstance(token, tuple), token))
            needed += [(registry.turn(token), "turn") for token in tokens]
        else:
            if self._quota is not None:
                needed.append((self._quota.gate(target.wire), "quota"))
            if self._assigns:
                needed.append((self._pool(target).gate, "id"))
        target.gates = [gate for gate, _ in needed]
        for gate, reason in needed:
            if gate in self.held:
                continue
            if not gate.enter():
                raise _BusyError(target, gate, reason)
            self.held.append(gate)
            taken.append(gate)

    def _keeps_turn(self, busy: _BusyError) -> bool:
        """Whether it keeps its turn while it waits for a port: those behind it would have to wait for one as well."""
        return busy.reason in ("port", "quarantine", "session") and len(self._targets) == 1

    def _choose_port(self, target: Target, key: object) -> None:
        """Choose what it leaves from, once and for all attempts at this target.

        Raises:
            _BusyError: There is none now.
        """
        if target.port is not None:
            return
        guard, registry = self._guard, self._guard.registry
        port = self._port
        if self._fixed_port:
            until = registry.blocked_until(port, self._sources.tokens(target.wire), target.wire)
            if key is None and until > guard.clock():
                raise _BusyError(target, None, "session", until=until)
        elif key is None and guard.keeper is not None and (registry.soil.dirty or registry.rotates):
            try:
                port = guard.keeper.choose(target.wire, self._sources.tokens(target.wire))
            except NoPortError as error:
                if error.until is None:
                    raise _BusyError(target, registry.no_spare, "port") from None
                raise _BusyError(target, None, "quarantine", until=error.until) from None
        target.channel = guard.channel_at(port, target.wire)
        target.port = port
        if port > 0:
            self.ports.append(registry.spares.hold(port))
            registry.wake_first(registry.no_spare)  # who may perhaps use the same, or an idle one

    def _pool(self, target: Target) -> IdPool:
        return self._guard.registry.pool(self._sources.tokens(target.wire)[0], self._book)

    def _open_slots(self, target: Target, payload: bytes, key: object) -> bytes:
        """Listen for the answer to what is about to be sent; what is sent, with its id if one is assigned."""
        registry, entry = self._guard.registry, self._entry
        tokens = self._sources.tokens(target.wire)
        assigns = self._assigns and key is not None
        if assigns:
            pool = self._pool(target)
            assigned = registry.assign(pool, tokens, self._guard.clock(), target.wire)
            if assigned is None:
                raise _BusyError(target, None, "id")
            self.held.remove(pool.gate)  # from now on the place is the id's
            self.assigned.append(assigned)
            target.original, key = checked_id(key), assigned[2]
        try:
            target.slots = registry.listen(entry, tokens, self._book, key, target.wire)
        except DuplicateTransactionError as error:
            raise _BusyError(target, None, "id", error) from None
        if assigns:
            assert isinstance(self._correlator, TransactionId)
            assert isinstance(key, bytes)
            payload = self._correlator.stamped(payload, key)
        target.kept += [gate for gate in target.gates if gate not in target.kept]
        if isinstance(self._data, bytes):
            target.payload = payload
        return payload


def _nowhere(name: HostName) -> InvalidAddressError:
    return InvalidAddressError(f"{name.host!r} has no address that can be asked", address=tuple(name))
