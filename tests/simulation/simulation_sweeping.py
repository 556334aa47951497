"""Sweeps in a simulation: each question is an exchange of its own to the oracle, begun when the sweep takes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import simulation_oracle as oracle
import simulation_wire as wire
from simulation_writer import Writer

import udpguard

if TYPE_CHECKING:
    from simulation_program import Program

_MOST = 30


class Sweeper:
    """One sweep of a program.

    Args:
        program: Whose it is.
        name: Which of its clients asks.
    """

    def __init__(self, program: Program, name: str) -> None:
        self._program = program
        self._name = name
        generator = self._generator = program.generator
        self._count = generator.randint(2, _MOST)
        self._retry, self._timeout = program._schedule()
        self._kind, self._accept = program._acceptance()
        has_both = program.servers > 5  # those who answer from two ports are asked otherwise than the others
        self._reply_from = "host" if has_both and generator.random() < 0.2 else "peer"
        self._in_flight = generator.choice((1, 3, 1_000))
        self._rate = generator.choice((None, None, 5.0, 200.0))
        self.is_fed: bool = generator.random() < 0.3
        """Whether it takes its questions from an asynchronous iterable, perhaps before it can ask them."""
        # Who reads late does not know in time what was answered, and so whose duplicate the network makes.
        self._is_slow = generator.random() < 0.2 and not program.mode.allows_duplicates
        self._begun: list[tuple[oracle.Asked, Writer]] = []

    async def run(self) -> None:
        """Ask, and tell the oracle what came of each."""
        judge = self._program.oracle
        options = {"retry": self._retry, "timeout": self._timeout, "accept": self._accept, "rate": self._rate}
        more: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        client = self._program._clients[self._name]
        items = self._fed() if self.is_fed else self._items()
        try:
            sweep = client.sweep(items, in_flight=self._in_flight, reply_from=self._reply_from, **more)
            async with sweep as outcomes:
                async for _, _, tag, reply, error in outcomes:
                    asked, writer = self._begun[tag]  # type: ignore[index]
                    writer.give_back()
                    if error is None:
                        assert reply is not None
                        judge.answered(asked, reply)
                    else:
                        judge.failed(asked, error)
                    if self._is_slow:
                        await asyncio.sleep(self._generator.random())
        except udpguard.EndpointClosedError:
            if not judge.closing:
                raise
            # What was asked has its outcome; the sweep had but taken the rest.
            self._end_all(judge.never_asked)
        finally:
            self._end_all(judge.withdrawn)

    def _end_all(self, how: Callable[[oracle.Asked], None]) -> None:
        for asked, writer in self._begun:
            if asked.outcome is None:
                how(asked)
                writer.give_back()

    def _items(self) -> Iterator[Any]:
        for _ in range(self._count):
            yield self._item()

    async def _fed(self) -> AsyncIterator[Any]:
        for _ in range(self._count):
            await asyncio.sleep(self._generator.random() * 0.2)
            yield self._item()

    def _item(self) -> tuple[Any, Any, int]:
        program, generator = self._program, self._generator
        addresses, hosts, reply_from, alive = program._whom()
        while reply_from != self._reply_from:
            addresses, hosts, reply_from, alive = program._whom()
        asked = program.oracle.begin(hosts, has_key=self._name != "z", alive=alive)
        asked.started = True
        asked.read_late = self._is_slow
        by_send = self._retry is not None and (self._name == "z" or generator.random() < 0.3)
        ids = program._pool_of(addresses) if self._name == "x" else None
        writer = Writer(asked, self._name, self._kind, ids, program.loop.time)
        asked.distinct = by_send and self._name != "z" and (self._name != "x" or generator.random() < 0.5)
        self._begun.append((asked, writer))
        return addresses, writer if by_send else writer(wire.ANY_SEND), len(self._begun) - 1
