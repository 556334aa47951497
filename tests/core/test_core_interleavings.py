"""Every interleaving of a small alphabet, to a fixed depth, against the oracle.

Two peers are asked two questions each; these are answered, answered again, forged, cancelled, and time passes. The
tree of all that can happen is walked; on each path the last step is compared, since those before it were compared on
the shorter paths. Where two paths differ only in the names of the peers, or of the questions of one, one is walked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from core_harness import Harness
from core_oracle import Where

START = 1000.0
PEERS: list[Where] = [("192.0.2.1", 7), ("192.0.2.9", 7)]
ELSEWHERE: list[Where] = [("192.0.2.1", 8), ("198.51.100.9", 7)]
KEYS = [b"a", b"b"]


class Scenario(NamedTuple):
    """How the exchanges of a walk are begun.

    `kinds` has for each question of a peer: the book, or what goes on listening, where its answer may come from, and
    its `accept`. `never` has what can't happen.
    """

    name: str
    kinds: list[tuple[str, object, str | None]]
    depth: int
    never: frozenset[str] = frozenset()


NO_REFUSAL = frozenset({"rejected"})
"""All that comes from the right place is an answer."""
NO_END = frozenset({"timed_out", "cancelled"})
"""Who goes on listening ends otherwise."""
SCENARIOS = [
    Scenario("with keys", [("short", "peer", None), ("short", "peer", None)], 5),
    Scenario("without keys", [("none", "peer", None), ("none", "peer", None)], 5, NO_REFUSAL),
    Scenario("with a key and without", [("short", "peer", None), ("none", "host", None)], 4),
    Scenario("from wide sources", [("short", "192.0.2.0/24", None), ("none", ["peer", "anywhere"], None)], 4),
    Scenario(
        "a session, and a question to its peer", [("session", "peer", None), ("none", "peer", None)], 4, NO_REFUSAL
    ),
    Scenario(
        "a session, and a question to its net",
        [("session", "peer", None), ("none", "192.0.2.0/24", None)],
        4,
        NO_REFUSAL,
    ),
    Scenario("a session with a host", [("session", "host", None), ("none", "host", "by data")], 4),
    Scenario(
        "a discovery, and a session", [("discovery", "192.0.2.0/24", "by data"), ("session", "host", None)], 4, NO_END
    ),
    Scenario("a discovery with a key", [("keyed discovery", "anywhere", None), ("short", "peer", None)], 4),
    Scenario("with accept", [("short", "peer", "cancel another"), ("none", "peer", "by data")], 4),
]


class Walk:
    """One path: what was done so far, and what can be done next."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.harness = Harness()
        self.now = START
        self.numbers: dict[tuple[int, int], int] = {}

    def letters(self) -> Iterator[tuple[str, int, int]]:
        """All that can be done now."""
        first = not self.numbers
        same_kinds = self.scenario.kinds[0] == self.scenario.kinds[1]
        for peer in (0, 1):
            if peer == 1 and first:
                break
            for question in (0, 1):
                if (peer, question) in self.numbers:
                    yield "cancel", peer, question
                elif question == 0 or not same_kinds or (peer, 0) in self.numbers:
                    yield "begin", peer, question
            for question in (0, 1):
                yield "answer", peer, question
            yield "answer with a wrong key", peer, 0
            yield "answer from elsewhere", peer, 0
        if not first:
            yield "expire", 0, 0
            yield "forget", 0, 0

    def do(self, letter: tuple[str, int, int]) -> None:
        """Do it, in the registry and in the oracle."""
        what, peer, question = letter
        self.now += 0.25
        getattr(self, "_" + what.replace(" ", "_"))(peer, question)

    def _begin(self, peer: int, question: int) -> None:
        book, reply_from, accept = self.scenario.kinds[question]
        key = KEYS[question] if book in ("short", "keyed discovery") else None
        number: int | None
        if book == "session":
            number = self.harness.last(PEERS[peer], reply_from, "none", None, self.now, fixes=reply_from == "host")
        elif book.endswith("discovery"):
            number = self.harness.last(
                PEERS[peer], reply_from, "none" if key is None else "short", key, self.now,
                accept=accept, asks=True, limit=2, once=True,
            )  # fmt: skip
            if number is not None:
                self.harness.send(number, 0, self.now)
        else:
            number = self.harness.begin(PEERS[peer], reply_from, book, key, 10.0, self.now, accept=accept)
        self.numbers[peer, question] = -1 if number is None else number

    def _answer(self, peer: int, question: int) -> None:
        self.harness.receive([(KEYS[question], PEERS[peer])], self.now)

    def _answer_with_a_wrong_key(self, peer: int, question: int) -> None:
        self.harness.receive([(b"x", PEERS[peer])], self.now)

    def _answer_from_elsewhere(self, peer: int, question: int) -> None:
        self.harness.receive([(KEYS[0], ELSEWHERE[peer])], self.now)

    def _cancel(self, peer: int, question: int) -> None:
        number = self.numbers[peer, question]
        if number < 0:
            return
        if self.harness.oracle.all[number]["lasting"]:
            self.harness.hang_up(number, self.now)
        else:
            self.harness.cancel(number, self.now)

    def _expire(self, peer: int, question: int) -> None:
        self.now += 10.0
        self.harness.expire(self.now)

    def _forget(self, peer: int, question: int) -> None:
        self.now += 121.0
        self.harness.expire(self.now)


def walk(
    scenario: Scenario, path: list[tuple[str, int, int]], seen: Counter[str], on_end: Callable[[Walk], None]
) -> None:
    """Walk all paths that begin like this one."""
    here = Walk(scenario)
    for letter in path:
        here.do(letter)
    try:
        here.harness.check()
        if len(path) == scenario.depth:
            seen.update({name: 1 for name, count in here.harness.oracle.counts.items() if count})
            on_end(here)
            return
    except AssertionError as error:
        error.add_note(f"after {path}")
        raise
    for letter in list(here.letters()):
        walk(scenario, [*path, letter], seen, on_end)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name.replace(" ", "-"))
def test_every_interleaving_gives_one_verdict_each_and_leaves_nothing(scenario: Scenario) -> None:
    seen: Counter[str] = Counter()
    paths = 0

    def end(here: Walk) -> None:
        nonlocal paths
        paths += 1
        here.harness.close(here.now)
        here.harness.check_nothing_left(here.now)

    walk(scenario, [], seen, end)
    wanted = {"matched", "duplicate", "late", "unknown_peer", "timed_out", "cancelled"}
    wanted |= {"rejected"}
    wanted -= scenario.never
    assert wanted <= set(seen), "the walk is too short to see all that can happen"
    assert paths > 1_000
