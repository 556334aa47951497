"""The oracle finds what is wrong: each fault that is planted here must show."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

import pytest
import simulation_writer
from simulation_program import simulate

from udpguard._inbox import Inbox
from udpguard.core.ids import IdPool
from udpguard.core.judge import Judge
from udpguard.core.ledger import Ledger
from udpguard.core.ports import Soil, Spares
from udpguard.core.registry import Registry
from udpguard.core.source import Lasting


def found(mode: str, seeds: range = range(3)) -> tuple[str, Counter[str]]:
    """What is found in some simulations: the violations, and what was wrongly delivered."""
    violations, wrong = list[str](), Counter[str]()
    for seed in seeds:
        result = simulate(mode, f"planted {seed}", 400)
        violations += result.violations
        wrong.update(result.wrong)
    return "\n".join(violations), wrong


@pytest.mark.parametrize("mode", ["no ids, rotated ports", "no ids, spare ports"])
def test_late_replies_where_a_port_is_used_again_too_soon(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Soil, "clean", lambda self, ports, *_: list(ports))
    violations, wrong = found(mode)
    assert wrong["late"]
    assert wrong["retransmission's"]
    assert "late" in violations


def test_replies_where_an_id_is_used_again_too_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation_writer, "REMEMBERED", 0.0)
    _, wrong = found("own ids", range(6))
    assert wrong


def test_replies_where_few_ids_are_assigned(monkeypatch: pytest.MonkeyPatch) -> None:
    def few(pool: IdPool, number: int) -> bytes:
        return (number % 20).to_bytes(pool.length, "big")

    monkeypatch.setattr(IdPool, "_key", few)
    monkeypatch.setattr(IdPool, "_fill", lambda pool, _: deque(pool._slot(few(pool, number)) for number in range(20)))
    monkeypatch.setattr(Registry, "_random", lambda self, length: bytes(length))
    _, wrong = found("assigned ids, 2 bytes", range(6))
    assert wrong


LEAKS: list[tuple[str, type, str, Callable[..., object], str]] = [
    ("assigned ids, 4 bytes", Ledger, "_release_id", lambda *_: None, "left over in the endpoint, open: ids at"),
    ("no ids, spare ports", Spares, "release", lambda *_: False, "spare port"),
    ("own ids", Judge, "_count", lambda *_: None, "do not add up"),
    ("own ids", Ledger, "stop_waiting", lambda *_: None, "left over"),
]


@pytest.mark.parametrize(("mode", "where", "what", "instead", "told"), LEAKS)
def test_what_is_left_over_or_counted_wrong(
    mode: str, where: type, what: str, instead: Callable[..., object], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, what, instead)
    violations, _ = found(mode, range(5))
    assert told in violations


def test_a_session_that_gives_what_came_more_often_than_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    put = Inbox.put
    monkeypatch.setattr(Inbox, "put", lambda self, item: (put(self, item), put(self, item)))
    violations, _ = found("own ids", range(6))
    assert "not in its order" in violations


def test_a_session_that_does_not_follow_its_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "fix", lambda self, entry, wire: None)
    violations, _ = found("own ids", range(6))
    assert " is with 192.0.2." in violations


def test_a_discovery_that_gives_the_same_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lasting, "has_seen", lambda self, wire, data: False)
    violations, _ = found("own ids", range(6))
    assert "given the same twice" in violations
