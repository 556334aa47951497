"""Forgers who guess, against the registry that ships; RFC 5452's formula; and a test of uniformity.

An off-path forger does not see what is sent. He knows (or sets off) when a server is asked, forges its address, and
must guess the rest: the local port and the transaction id. RFC 5452 section 7.2 has the odds, in its letters:

    D   how many of the client's questions a forgery may answer that are pending at once
    F   forgeries that arrive in one window, from the question to its true answer
    N   servers that may be asked, and must be guessed as well
    P   local ports it may be asked from
    I   transaction ids
    A   windows that the forger gets (the time he has, by the time after which a question is asked again)

    one window:   D F / (N P I)
    A windows:    1 - (1 - D F / (N P I)) ** A
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

from udpguard import Limits, Ports, TransactionId
from udpguard.core.address import Wire, wire_of
from udpguard.core.registry import Registry
from udpguard.core.source import Entry, assigned_id

RandomBits = Callable[[int], int]
Strategy = Literal["random", "after what he saw", "what he saw"]

_TOGETHER = 64


def odds_of_a_window(
    forgeries: float, *, questions: int = 1, servers: float = 1, ports: int = 1, ids: int = 1
) -> float:
    """RFC 5452 section 7.2, one window."""
    return questions * forgeries / (servers * ports * ids)


def odds_of_an_attack(window: float, windows: float) -> float:
    """RFC 5452 section 7.2, so many windows."""
    return 1.0 - (1.0 - window) ** windows


@dataclass(frozen=True)
class Case:
    """One client, and what its forger has to guess."""

    name: str
    ports: int
    id_bytes: int
    forgeries: int
    windows: int
    questions: int = 1
    strategy: Strategy = "random"

    @property
    def ids(self) -> int:
        return 256**self.id_bytes

    @property
    def odds(self) -> float:
        return odds_of_a_window(self.forgeries, questions=self.questions, ports=self.ports, ids=self.ids)


@dataclass(frozen=True)
class Result:
    """How many forgeries were believed, and in which windows."""

    case: Case
    believed: int
    windows_won: tuple[bool, ...]

    @property
    def sigmas(self) -> float:
        """How far from the formula that is. Guesses differ from each other, as the ids do: so it varies a bit less."""
        expected = self.case.windows * self.case.odds
        share = self.case.odds / self.case.questions
        return (self.believed - expected) / math.sqrt(expected * (1 - share))

    def attacks_won(self, windows: int) -> tuple[int, int]:
        """Of how many attacks of so many windows each, how many had success."""
        attacks = [self.windows_won[i : i + windows] for i in range(0, len(self.windows_won) - windows + 1, windows)]
        return sum(map(any, attacks)), len(attacks)


class Client:
    """A registry with ports and ids as an endpoint has them, whose questions are answered when the test says so."""

    def __init__(self, case: Case, random_bits: RandomBits) -> None:
        self.case = case
        self.registry = Registry(Limits(), random_bits, Ports(pool=case.ports))
        correlator = TransactionId(0, case.id_bytes, assign=True) if case.id_bytes else None
        self.book = self.registry.book(correlator)
        self.now = 0.0

    def ask(self, server: Wire) -> tuple[Entry, int, bytes]:
        """Ask a server: the exchange, the port it left from, and its id."""
        port = -self.registry.draw(self.case.ports) if self.case.ports > 1 else 0
        original = bytes(self.case.id_bytes) if self.case.id_bytes else None
        entry = self.registry.ask(None, server, self.book, original, original, math.inf, self.now, True, port)
        assert entry is not None
        return entry, port, assigned_id(entry) if original is not None else b""

    def receive(self, datas: list[bytes], server: Wire, port: int) -> int:
        """How many of these, in the name of a server, are believed at a port."""
        return len(self.registry.receive_batch([(data, server) for data in datas], self.now, port=port))

    def forged(self, guesses: Iterable[tuple[int, bytes]], server: Wire) -> int:
        """How many forgeries are believed, each at the port and with the id it guesses."""
        believed = 0
        for port, run in itertools.groupby(guesses, lambda guess: guess[0]):
            for datas in _by(_TOGETHER, (key + b"forged" for _, key in run)):
                believed += self.receive(datas, server, port)
        return believed


def _by(count: int, datas: Iterator[bytes]) -> Iterator[list[bytes]]:
    while batch := list(itertools.islice(datas, count)):
        yield batch


def attack(case: Case, random_bits: RandomBits, forger: Random) -> Result:
    """Let a forger try: in each window the client asks, the forgeries arrive, and then the true answers do."""
    client = Client(case, random_bits)
    believed, won = 0, list[bool]()
    for window in range(case.windows):
        server = wire_of(b"\x0a" + window.to_bytes(3, "big"), 53, 0)
        client.now += 10.0
        seen = _seen(client)
        asked = [client.ask(server) for _ in range(case.questions)]
        count = client.forged(_guesses(case, forger, seen), server)
        believed += count
        won.append(count > 0)
        for entry, port, key in asked:
            if not entry.ended:
                assert client.receive([key + b"true"], server, port) == 1, "the true answer is believed, at least"
    return Result(case, believed, tuple(won))


def _seen(client: Client) -> tuple[int, bytes]:
    """What the client asked the forger's own server with, just before."""
    entry, port, key = client.ask(wire_of(bytes((203, 0, 113, 5)), 53, 0))
    client.registry.withdraw(entry, client.now)
    client.registry.soil.clear()  # without ids, the next question would leave from a spare port
    return port, key


def _guesses(case: Case, forger: Random, seen: tuple[int, bytes]) -> list[tuple[int, bytes]]:
    """As many different guesses as he has forgeries, sorted by port."""
    space = case.ports * case.ids
    if case.strategy == "random":
        numbers: Iterable[int] = forger.sample(range(space), case.forgeries)
    else:
        first = -seen[0] * case.ids + int.from_bytes(seen[1], "big") + (case.strategy == "after what he saw")
        numbers = [(first + step) % space for step in range(case.forgeries)]
    pairs = sorted(divmod(number, case.ids) for number in numbers)
    return [(-port, key.to_bytes(case.id_bytes, "big")) for port, key in pairs]


def tokens_believed(forgeries: int, random_bits: RandomBits, forger: Random, questions: int = 1_000) -> tuple[int, int]:
    """How many forgeries with guessed 64-bit ids are believed while many are pending; and how many true answers."""
    client = Client(Case("64-bit tokens", 1, 8, forgeries, 1), random_bits)
    server = wire_of(bytes((10, 0, 0, 1)), 53, 0)
    asked = [client.ask(server) for _ in range(questions)]
    believed = 0
    for begin in range(0, forgeries, _TOGETHER):
        count = min(_TOGETHER, forgeries - begin)
        pot = forger.randbytes(8 * count)
        believed += client.receive([pot[at : at + 8] + b"forged" for at in range(0, 8 * count, 8)], server, 0)
    return believed, sum(client.receive([key + b"true"], server, port) for _, port, key in asked)


# ---------------------------------------------------------------------------------------------------- uniformity


def chi_square_sigmas(counts: Counter[int], cells: int) -> float:
    """How many standard deviations Pearson's chi-square is off, for cells of equal odds (Wilson and Hilferty, 1931).

    Far above 0 they are not equal; far below, they are more so than chance would have it.
    """
    assert len(counts) <= cells
    draws, freedom = sum(counts.values()), cells - 1
    expected = draws / cells
    chi_square = sum((count - expected) ** 2 for count in counts.values()) / expected
    chi_square += (cells - len(counts)) * expected
    spread = 2 / (9 * freedom)
    return float(((chi_square / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread))
