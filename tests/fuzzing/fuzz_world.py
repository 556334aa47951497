"""A world in which anything happens: an endpoint, or a bare protocol, in virtual time, and events of every kind.

An event is a kind and a number, from which all that it does follows, together with how things stand: so a list of
events can be written down, cut and played again. Datagrams and network errors go straight into the protocol, as a
transport hands them over; what is sent stays in a list, so that replies can be made of it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, Final

import fuzz_foreign as foreign
from at_rest import entries, leftovers, leftovers_of, unbalanced
from fuzz_tables import (
    ASKED,
    CORRELATORS,
    KINDS,
    LIMITS,
    ODD,
    PAYLOADS,
    PORTS,
    RARE,
    REPLY_FROM,
    SEND_ERRORS,
    SOURCES,
    TIMEOUTS,
    WEIGHTS,
    WRONG_TIMEOUTS,
    mangled,
)

import udpguard
from udpguard import Ports
from udpguard._guard import Guard
from udpguard._protocol import GuardProtocol
from udpguard.core.address import Wire, sockaddr_of
from udpguard.core.icmp import NetworkError
from udpguard.testing import Network, VirtualLoop

Event = tuple[str, int]

EXPECTED: Final = (
    udpguard.UdpGuardError, foreign.Foreign, foreign.ForeignBase, socket.gaierror, asyncio.CancelledError,
)  # fmt: skip
MISUSE: Final = (*EXPECTED, ValueError, TypeError)

_MOST_TASKS: Final = 200
_MOST_SESSIONS: Final = 40
_CHECK_EVERY: Final = 128


class Failure(Exception):
    """Something went wrong that never may; `index` says after which event."""

    def __init__(self, index: int, text: str) -> None:
        super().__init__(text)
        self.index = index


def generate(seed: int, count: int) -> Iterator[Event]:
    """So many events, the same ones for the same seed."""
    draw = random.Random(seed).getrandbits
    for _ in range(count):
        number = draw(82)
        if number >> 72:
            yield KINDS[number & 255], (number >> 8) % RARE
        else:
            yield "close", number


class _Ear(logging.Handler):
    """Hears what asyncio complains of."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        self._world.wrong(f"logged: {record.getMessage()}")


class World:
    """Args:
    setting: Says how it is set up.
    """

    def __init__(self, setting: int) -> None:
        self.setting = setting
        self.network = Network(setting, trace=False)
        self.network.name("server.example", "192.0.2.1", delay=0.03)
        self.network.name("both.example", "2001:db8::1", "192.0.2.2", delay=0.1)
        self.network.send = self._take  # type: ignore[method-assign]
        self.loop = VirtualLoop(self.network)
        self.loop.set_exception_handler(lambda _, context: self.wrong(f"the loop was told: {context}"))
        self.sent: deque[tuple[bytes, Wire, Wire]] = deque(maxlen=48)
        """What left lately: payload, where to, where from."""
        self.datagrams = 0
        """How many came in."""
        self.index = 0
        self.problems: list[str] = []
        self.tasks: list[asyncio.Future[Any]] = []
        self.endless: set[Any] = set()
        """Those of them that have no deadline."""
        self.clients: list[Any] = []
        self.sessions: list[udpguard.Session] = []
        self.endpoint: udpguard.Endpoint | None = None
        self.protocol: GuardProtocol | None = None
        self.guard: Guard
        self.closed: list[Guard] = []
        self.refusal = 0
        self._calling_back = 0
        self._told = 0
        self._actions: dict[str, Callable[[int], float | None]] = {
            kind: getattr(self, f"_{kind}") for kind in (*WEIGHTS, "close")
        }

    # ------------------------------------------------------------------------------------------------ running

    def run(self, events: Iterable[Event]) -> int:
        """Let these things happen; how many did, each datagram counted.

        Raises:
            Failure: Something went wrong.
        """
        ear, logger = _Ear(self), logging.getLogger("asyncio")
        logger.addHandler(ear)
        disabled = logging.root.manager.disable
        level = logging.getLogger("udpguard").level
        logging.getLogger("udpguard").setLevel(logging.CRITICAL)
        try:
            self.loop.run_until_complete(self._run(events))
        except Failure:
            raise
        except BaseException as error:
            raise Failure(self.index, f"{type(error).__name__}: {error}") from error
        finally:
            logging.getLogger("udpguard").setLevel(level)
            logging.disable(disabled)
            logger.removeHandler(ear)
            self.loop.close()
        return self.index + self.datagrams

    async def _run(self, events: Iterable[Event]) -> None:
        await self._open()
        for kind, number in events:
            pause = self._actions[kind](number)
            self.index += 1
            if pause is not None:
                await asyncio.sleep(pause)
                if self.guard.closed:
                    await self._reopen()
            if self.problems or not self.index % _CHECK_EVERY:
                self._check()
        await self._end()

    def wrong(self, text: str) -> None:
        """Take note of what never may happen."""
        self.problems.append(text)

    def _check(self) -> None:
        guard = self.guard
        problems = self.problems + unbalanced(guard)
        statistics, listening = guard.statistics(), set[Any]()
        for where, entry in entries(guard):
            if entry.ended:
                problems.append(f"{where}: has ended")
            if entry.listens:
                listening.add(entry)
        held = len(guard.registry.held)
        if (statistics.pending, statistics.waiting) != (len(listening) - held, len(guard.registry.waiting) + held):
            problems.append(f"gauges are wrong: {len(listening)} listen, {held} of them held: {statistics}")
        if problems:
            raise Failure(self.index, "\n".join(problems))

    async def _open(self) -> None:
        setting, which = divmod(self.setting, 8)
        setting, limits = divmod(setting, len(LIMITS))
        hook = self._unexpected if setting % 4 else None
        setting, ports = divmod(setting // 4, len(PORTS))
        setting, correlator = divmod(setting, CORRELATORS)
        setting, schedule = divmod(setting, len(foreign.SCHEDULES))
        self.network.client.send_queue = (4, 1_000.0) if setting % 5 == 4 else None
        chosen = foreign.correlator(self, correlator)
        self.clients.clear()
        if which == 0:
            self.protocol = GuardProtocol(correlate=chosen, on_unexpected=hook, limits=LIMITS[limits])
            protocol = self.protocol
            await self.loop.create_datagram_endpoint(lambda: protocol, local_addr=("198.51.100.1", 0))
            self.guard = protocol._guard
            return
        if which == 1:
            options: dict[str, Any] = {"local_addr": ("198.51.100.1", 4_444), "ports": Ports(quarantine=0.2)}
        else:
            options = {"ports": PORTS[ports]}
        self.endpoint = await udpguard.open_endpoint(
            correlate=chosen,
            on_unexpected=hook,
            limits=LIMITS[limits],
            retry=foreign.SCHEDULES[schedule],
            timeout=0.5,
            **options,
        )
        self.guard = self.endpoint._guard
        self.clients.append(self.endpoint)

    async def _reopen(self) -> None:
        """Begin anew, after it was closed: of the old one nothing may be left."""
        if self.endpoint is not None:
            await self.endpoint.wait_closed()
        await self._all_end()
        self._check_rest()
        self.setting = self.setting * 31 + self.index
        self.sent.clear()
        self.endpoint = self.protocol = None
        await self._open()

    async def _all_end(self) -> None:
        self._hang_up()
        for task in self.tasks:
            if isinstance(task, udpguard._guard.ReplyFuture):  # type: ignore[attr-defined]
                task.cancel()
        if self.tasks:
            _, waiting = await asyncio.wait(self.tasks, timeout=2_000.0)
            for task in waiting & self.endless:
                task.cancel()
            if waiting:  # a sweep's question has its time when it was sent, and those may have had its turn for good
                _, waiting = await asyncio.wait(waiting, timeout=2_000.0)
            if waiting - self.endless:
                self.wrong(f"{len(waiting)} wait for ever: {list(waiting)[:3]}")
        self._hang_up()  # those that were opened meanwhile, too
        for _ in range(3):  # what was told of the end has its turn
            await asyncio.sleep(0)

    def _hang_up(self) -> None:
        """Close all sessions; where the endpoint is closed they are."""
        for session in self.sessions:
            if self.guard.closed and not session.is_closing():
                self.wrong(f"open on a closed endpoint: {session.statistics()}")
            session.close()
        for session in self.sessions:
            line = session._line
            assert line is not None
            if line.queue or any(not reader.future.done() for reader in line._readers):
                self.wrong("somebody reads from a closed session")
        self.sessions.clear()

    async def _end(self) -> None:
        self._check()
        self.refusal = 0
        for channel in self.guard.channels:
            channel._protocol.resume_writing()  # type: ignore[attr-defined]
        if self.setting % 2:
            for task in self.tasks[::3]:
                task.cancel()
            await self._all_end()
            await asyncio.sleep(1_000.0)
        else:
            self._close(0)
            await asyncio.sleep(0)
            await self._all_end()
        self._check_rest()
        self._close(0)
        await asyncio.sleep(1_000.0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left or self.tasks:
            self.wrong(f"left: {left} {self.tasks}")
        if self.network.client._sockets:
            self.wrong(f"sockets left: {self.network.client._sockets}")
        self._check()

    def _check_rest(self) -> None:
        if self.endpoint is not None:
            self.problems += leftovers_of(self.endpoint, *self.clients[1:])
        else:
            self.problems += leftovers(self.guard)
        if self.problems:
            raise Failure(self.index, "\n".join(["when all had ended:", *self.problems]))

    # ------------------------------------------------------------------------------------------- what is foreign

    def call_back(self, number: int) -> None:
        """Call back into the endpoint from within foreign code: ask, cancel, close."""
        if self._calling_back > 3:
            return
        self._calling_back += 1
        try:
            choice = number % 32
            if choice == 0:
                self._close(number)
            elif choice < 12:
                self._cancel(number // 32)
            elif choice < 20:
                self._expect(number // 32)
            elif choice < 24:
                self._reply(number // 32)
            elif choice < 27:
                self._converse(number // 32)
            else:
                self._request(number // 32)
        finally:
            self._calling_back -= 1

    def _unexpected(self, datagram: udpguard.Unexpected) -> None:
        self._told += 1
        if self._told % 16 == 1:
            raise foreign.Foreign("does not want to know")
        if self._told % 16 == 2:
            raise foreign.ForeignBase
        if self._told % 16 == 3:
            self.call_back(self._told * 7 + len(datagram.data))
        elif self._told % 256 == 4:
            raise KeyboardInterrupt

    # ------------------------------------------------------------------------------------------- the network

    def _take(self, host: object, data: bytes, source: Wire, wire: Wire, leaves: float) -> None:
        """What the endpoint sends goes nowhere, but is known."""
        if self.refusal:
            self.refusal -= 1
            code = SEND_ERRORS[self.refusal % len(SEND_ERRORS)]
            raise OSError(code, "refused")
        self.sent.append((data, wire, source))

    def _deliver(self, protocol: Any, batch: list[tuple[bytes, Wire]], ages: int) -> None:
        self.datagrams += len(batch) - 1
        try:
            if ages == 7:
                for data, wire in batch:
                    protocol.datagram_received(data, sockaddr_of(wire))
            elif ages < 4:
                protocol.batch_received(batch, _now)
            else:
                seconds = (0.0, 0.02, 0.4)[ages - 4]
                protocol.batch_received(batch, lambda *, exactly: [seconds] * len(batch))
        except KeyboardInterrupt:  # out of an accept, or the hook
            self.guard._pump()

    def _channel(self, number: int, source: Wire | None = None) -> Any:
        channels = self.guard.channels
        if source is not None:
            sock = self.network.client.listener(source)
            if sock is not None and sock.channel is not None:
                return sock.channel
        if channels:
            return channels[number % len(channels)]
        return next((sock.channel for sock in self.network.client._sockets.values() if sock.channel is not None), None)

    def _reply(self, number: int) -> None:
        """A reply to what was sent: as it should be, or mangled."""
        if not self.sent:
            return self._junk(number)
        number, which = divmod(number, len(self.sent))
        number, how = divmod(number, 24)
        number, ages = divmod(number, 8)
        number, at = divmod(number, 256)
        data, wire, source = self.sent[-1 - which // 4 if number & 1 else which]
        if how == 13:
            wire = SOURCES[at % len(SOURCES)]
        elif how == 14:
            wire = at.to_bytes(2, "big") + wire[2:]
        channel = self._channel(at, None if how == 15 else source)
        if channel is not None:
            self._deliver(channel._protocol, [(copy, wire) for copy in mangled(data, how, at, number)], ages)
        return None

    def _junk(self, number: int) -> None:
        """Anything from anywhere."""
        number, at = divmod(number, 256)
        number, ages = divmod(number, 8)
        number, count = divmod(number, 6)
        channel = self._channel(at)
        if channel is None:
            return
        batch = []
        for _ in range(count + 1):
            number, source = divmod(number, len(SOURCES))
            number, payload = divmod(number, len(PAYLOADS))
            batch.append((PAYLOADS[payload], SOURCES[source]))
        self._deliver(channel._protocol, batch, ages)

    def _icmp(self, number: int) -> None:
        """A message about a datagram of ours, or a forged one."""
        number, at = divmod(number, 256)
        channel = self._channel(at)
        report = getattr(getattr(channel, "_protocol", None), "errors_received", None)
        if report is None:
            return self._socket(number)
        report([self._message(number // 3 >> 20 * place) for place in range(number % 3 + 1)])
        return None

    def _message(self, number: int) -> NetworkError:
        number, how = divmod(number, 16)
        number, about = divmod(number, 64)
        data, wire = PAYLOADS[about], SOURCES[about % len(SOURCES)]
        if self.sent and how < 10:
            data, wire, _ = self.sent[about % len(self.sent)]
        if how == 6:
            wire = SOURCES[about % len(SOURCES)]
        quote = {3: b"", 11: b"", 4: data[: about % (len(data) + 1)], 5: data + b"more"}.get(how, data)
        number, code = divmod(number, 6)
        number, origin = divmod(number, 4)
        what = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EMSGSIZE, errno.EACCES, 0)[code]
        kind = (number % 256, how * 17 % 256) if how > 12 else (3, 3) if origin < 3 else (1, 4)
        return NetworkError(wire, quote[:520], what, 2 + origin // 2 if how < 14 else origin, *kind, None, code * 100)

    def _socket(self, number: int) -> None:
        """The socket has an error, or a spare port is lost."""
        number, at = divmod(number, 256)
        channel = self._channel(at)
        if channel is None:
            return
        if number % 8 == 0 and channel._protocol._port > 0:
            channel.abort()
        else:
            channel._protocol.error_received(OSError(SEND_ERRORS[number % len(SEND_ERRORS)], "pending"))

    def _pause(self, number: int) -> None:
        channel = self._channel(number)
        if channel is not None:
            channel._protocol.pause_writing()

    def _resume(self, number: int) -> None:
        for channel in [*self.guard.channels] if number % 4 else [self._channel(number // 4)]:
            if channel is not None:
                channel._protocol.resume_writing()

    def _refuse(self, number: int) -> None:
        """The operating system will not send the next few."""
        self.refusal = number % 7

    def _turn(self, number: int) -> float:
        return 0.0

    def _time(self, number: int) -> float:
        number, how = divmod(number, 16)
        if how:
            return (number % 1_000) * 1e-4
        return (1.0, 5.0, 130.0, 400.0)[number % 4]

    def _block(self, number: int) -> None:
        self.loop.block((number % 1_000) * 1e-3)

    # ------------------------------------------------------------------------------------------------- calls

    def _client_for(self, number: int) -> Any:
        return self.clients[number % len(self.clients)]

    def _begin(self, coroutine: Coroutine[Any, Any, Any], expected: tuple[type[BaseException], ...], kind: type) -> Any:
        if len(self.tasks) >= _MOST_TASKS:
            coroutine.close()
            return None
        return self._watch(asyncio.ensure_future(coroutine), expected, kind)

    def _watch(
        self, task: asyncio.Future[Any], expected: tuple[type[BaseException], ...], kind: type
    ) -> asyncio.Future[Any]:
        self.tasks.append(task)

        def ended(task: asyncio.Future[Any]) -> None:
            self.tasks.remove(task)
            self.endless.discard(task)
            if task.cancelled():
                return
            error = task.exception()
            if error is None:
                if not isinstance(task.result(), kind):
                    self.wrong(f"gave {task.result()!r}")
            elif not isinstance(error, expected):
                self.wrong(f"raised {error!r}")
                raise error

        task.add_done_callback(ended)
        return task

    def _plain(self, number: int) -> None:
        """A plain request."""
        if self.endpoint is None:
            return self._expect(number)
        number, peer = divmod(number, 10)
        number, payload = divmod(number, len(PAYLOADS))
        client = self.clients[number % len(self.clients)] if number & 256 else self.endpoint
        self._begin(client.request(ASKED[peer], PAYLOADS[payload]), (*MISUSE, StopIteration), bytes)
        return None

    def _request(self, number: int) -> None:
        """A request with whatever there is."""
        if self.endpoint is None:
            return self._expect(number)
        number, which = divmod(number, 64)
        client = self._client_for(which)
        number, peer = divmod(number, 128)
        addr = ASKED[peer % len(ASKED)] if peer < 120 else ODD[number % len(ODD)]
        number, payload = divmod(number, 128)
        data: Any = PAYLOADS[payload % len(PAYLOADS)] if payload < 112 else foreign.Payload(self, number)
        number, options = divmod(number, 1 << 22)
        more = self._options(options)
        accept = more.get("accept")
        verb, kind = (client.request, bytes) if number & 1 else (client.exchange, udpguard.Reply)
        task = self._begin(verb(addr, data, **more), (*MISUSE, RuntimeError), kind)
        if accept is not None:
            accept.task = task
        if task is not None and foreign.is_endless(more):
            self.endless.add(task)
        return None

    def _options(self, number: int) -> dict[str, Any]:
        """What may be said of a request."""
        more: dict[str, Any] = {}
        number, timeout = divmod(number, 64)
        if timeout < 60:
            more["timeout"] = TIMEOUTS[timeout % len(TIMEOUTS)]
        elif timeout == 63:
            more["timeout"] = WRONG_TIMEOUTS[number % len(WRONG_TIMEOUTS)]
        number, schedule = divmod(number, 16)
        if schedule < 5:
            more["retry"] = foreign.SCHEDULES[schedule]
        elif schedule == 5:
            more["retry"] = foreign.Odd(self, number)
        number, where = divmod(number, 32)
        if where < len(REPLY_FROM):
            more["reply_from"] = REPLY_FROM[where]
        if number % 4 == 0:
            more["accept"] = foreign.Once(self, number * 7 + where)
        return more

    def _expect(self, number: int) -> None:
        number, which = divmod(number, 64)
        source = self.protocol if self.endpoint is None else self._client_for(which)
        number, peer = divmod(number, 12)
        number, timeout = divmod(number, len(TIMEOUTS))
        number, where = divmod(number, 16)
        number, judged = divmod(number, 4)
        more: dict[str, Any] = {"timeout": TIMEOUTS[timeout]}
        if where < len(REPLY_FROM):
            more["reply_from"] = REPLY_FROM[where]
        if judged == 0:
            more["accept"] = foreign.Once(self, number)
        elif judged == 1:
            more["transaction"] = PAYLOADS[number % len(PAYLOADS)][:2] if number & 64 else foreign.Evil(number % 256)
        try:
            expected = source.expect(ASKED[peer], **more)
        except (*MISUSE, RuntimeError):
            return
        future = getattr(expected, "_future", expected)
        if "accept" in more:
            more["accept"].task = future
        self._watch(future, EXPECTED, udpguard.Reply)
        if number & 7 == 0 and self.endpoint is not None:
            self._begin(expected.send(PAYLOADS[number % len(PAYLOADS)]), MISUSE, type(None))

    def _send(self, number: int) -> None:
        if self.endpoint is None:
            return
        number, peer = divmod(number, 64)
        addr = ASKED[peer % len(ASKED)] if peer < 60 else ODD[number % len(ODD)]
        self._begin(self.endpoint.send(addr, PAYLOADS[number % len(PAYLOADS)]), MISUSE, type(None))

    def _session(self, number: int) -> None:
        """Open a session with somebody."""
        if self.endpoint is None:
            return
        number, which = divmod(number, 64)
        number, peer = divmod(number, 64)
        addr = ASKED[peer % len(ASKED)] if peer < 60 else ODD[number % len(ODD)]
        more: dict[str, Any] = {"drop": ("oldest", "newest")[number % 2], "max_queue": (1, 3, 1_024)[number // 2 % 3]}
        if number // 8 % 3 == 0:
            more["reply_from"] = "host"
        if len(self.sessions) < _MOST_SESSIONS:
            self._begin(self._open_session(self._client_for(which), addr, more), (*MISUSE, RuntimeError), bytes)

    async def _open_session(self, client: udpguard.Client, addr: Any, more: dict[str, Any]) -> bytes:
        self.sessions.append(await client.session(addr, **more))
        return b""

    def _converse(self, number: int) -> None:  # noqa: C901 (a table)
        """Do something with a session: send, receive, ask, iterate, look, close."""
        if not self.sessions:
            return self._session(number)
        number, which = divmod(number, len(self.sessions))
        session = self.sessions[which]
        number, what = divmod(number, 16)
        number, timeout = divmod(number, len(TIMEOUTS))
        seconds, expected = TIMEOUTS[timeout], (*MISUSE, RuntimeError)
        if what < 5:
            self._begin(session.send(PAYLOADS[number % len(PAYLOADS)]), expected, type(None))
        elif what < 10:
            self._begin(session.receive(timeout=seconds), expected, bytes)
        elif what < 13:
            options = self._options(number >> 8)
            options.pop("reply_from", None)
            task = self._begin(session.request(PAYLOADS[number % len(PAYLOADS)], **options), expected, bytes)
            if "accept" in options:
                options["accept"].task = task
            if task is not None and foreign.is_endless(options):
                self.endless.add(task)
        elif what == 13:
            self._begin(_first(session), expected, bytes)
        elif what == 14:
            session.statistics(), session.peer, session.is_closing()
        else:
            self.sessions.remove(session)
            session.close()
        return None

    def _discover(self, number: int) -> None:
        """Ask many, and read some of the replies."""
        if self.endpoint is None:
            return
        number, which = divmod(number, 64)
        number, peer = divmod(number, 64)
        addr = ASKED[peer % len(ASKED)] if peer < 56 else (*ODD, ("ff02::1%2", 7), ("224.0.0.251", 7))[number % 17]
        number, payload = divmod(number, 128)
        number, options = divmod(number, 1 << 22)
        more = self._options(options)
        more["window"] = more.pop("timeout", None) or 0.3
        if number & 1:
            more["limit"] = number // 2 % 4 + 1
        if number & 16:
            more |= {"repeats": True, "ttl": number // 32 % 3 + 1}
        reads = number // 256 % 8 or 99
        data = PAYLOADS[payload % len(PAYLOADS)]
        task = self._begin(self._read(which, addr, data, more, reads), (*MISUSE, RuntimeError), list)
        if "accept" in more:
            more["accept"].task = task

    async def _read(self, which: int, addr: Any, data: bytes, more: dict[str, Any], reads: int) -> list[Any]:
        found: list[Any] = []
        discovery = self._client_for(which).discover(addr, data, **more)
        async with discovery as replies:
            async for reply in replies:
                found.append(reply)
                if len(found) >= reads:
                    break
        call = discovery._call
        assert call is not None
        if not call.entry.ended or call._readers or call.queue:
            self.wrong("a discovery has something left")
        if not more.get("repeats") and len(found) != len({(reply.peer, reply.data) for reply in found}):
            self.wrong(f"the same reply twice: {found}")
        return found

    def _sweep(self, number: int) -> None:
        """Ask very many, or a few, and read some of the outcomes."""
        if self.endpoint is None:
            return
        number, which = divmod(number, 64)
        number, count = divmod(number, 24)
        number, options = divmod(number, 1 << 22)
        more = self._options(options)
        more["in_flight"] = number % 5 + 1
        if number & 32:
            more["rate"] = (20.0, 3_000.0)[number // 64 % 2]
        items = []
        for place in range(count):
            picked = (number >> place) * 7 + place
            addr = ASKED[picked % len(ASKED)] if picked % 9 else ODD[picked % len(ODD)]
            items.append((addr, PAYLOADS[picked % len(PAYLOADS)], place))
        reads = number // 256 % 8 or 99
        task = self._begin(self._read_sweep(which, items, more, reads, is_fed=bool(number & 128)),
                           (*MISUSE, RuntimeError), list)  # fmt: skip
        if "accept" in more:
            more["accept"].task = task
        if task is not None and foreign.is_endless(more):
            self.endless.add(task)

    async def _read_sweep(
        self, which: int, items: list[Any], more: dict[str, Any], reads: int, *, is_fed: bool
    ) -> list[Any]:
        async def feed() -> Any:
            for item in items:
                await asyncio.sleep(0)
                yield item

        found: list[Any] = []
        sweep = self._client_for(which).sweep(feed() if is_fed else items, **more)
        async with sweep as outcomes:
            async for outcome in outcomes:
                found.append(outcome)
                if (outcome.reply is None) == (outcome.error is None):
                    self.wrong(f"neither answered nor failed, or both: {outcome}")
                if len(found) >= reads:
                    break
        engine = sweep._engine
        if any(not question.ended for question in engine._questions) or engine in self.guard.sweeps:
            self.wrong("a sweep has something left")
        if len(found) != len({outcome.tag for outcome in found}) or (reads == 99 and len(found) != len(items)):
            self.wrong(f"of {len(items)} questions {len(found)} have outcomes: {found}")
        return found

    def _cancel(self, number: int) -> None:
        if self.tasks:
            number, which = divmod(number, len(self.tasks))
            task = self.tasks[which]
            if task is not asyncio.current_task():
                task.cancel()

    def _client(self, number: int) -> None:
        if self.endpoint is None or self.endpoint.is_closing():
            return
        number, correlator = divmod(number, CORRELATORS + 2)
        more: dict[str, Any] = {}
        if correlator < CORRELATORS:
            more["correlate"] = foreign.correlator(self, correlator)
        number, schedule = divmod(number, 8)
        if schedule < len(foreign.SCHEDULES):
            more["retry"] = foreign.SCHEDULES[schedule]
        if number & 1:
            more["in_flight_per_peer"] = number % 5 + 1
        client = self.endpoint.client(**more)
        if len(self.clients) < 6:
            self.clients.append(client)
        else:
            self.clients[1 + number % 5] = client

    def _look(self, number: int) -> None:
        """What only looks."""
        if self.endpoint is None:
            assert self.protocol is not None
            self.protocol.statistics()
            return
        self.endpoint.statistics()
        number, peer = divmod(number, 10)
        self.endpoint.peer_statistics(ASKED[peer])
        if number & 1:
            self._begin(
                self.endpoint.resolve(("server.example", "both.example", "no.example")[number % 3], 7), MISUSE, tuple
            )

    def _close(self, number: int) -> float:
        if self.endpoint is not None:
            self.endpoint.close()
        else:
            for sock in list(self.network.client._sockets.values()):
                if sock.channel is not None:
                    sock.channel.close()
        return 0.0


async def _first(session: udpguard.Session) -> bytes:
    async for data in session:
        return data
    return b""


def _now(*, exactly: bool) -> list[float] | None:
    return []
