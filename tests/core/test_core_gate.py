"""Gates: first come, first served, and nobody slips in between."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from udpguard.core.gate import Gate


def test_there_are_only_so_many_places() -> None:
    gate: Gate[str] = Gate(2)
    assert gate.enter()
    assert gate.enter()
    assert not gate.enter()
    assert gate.leave() is None
    assert gate.enter()


def test_a_place_goes_straight_to_the_first_who_waits() -> None:
    gate: Gate[str] = Gate(1)
    assert gate.enter()
    gate.give_up("nobody")
    gate.wait("a")
    gate.wait("b")
    gate.wait("c")
    gate.give_up("b")
    gate.give_up("b")
    assert gate.leave() == "a"
    assert not gate.enter()
    assert gate.leave() == "c"
    assert gate.leave() is None
    assert gate.free == 1


def test_a_gate_without_places_only_queues() -> None:
    gate: Gate[str] = Gate(0)
    assert not gate.enter()
    assert gate.first() is None
    gate.wait("a")
    gate.wait("b")
    assert [gate.first(), gate.first(), gate.first()] == ["a", "b", None]
    assert gate.free == 0


def test_who_was_first_can_go_back_to_the_front() -> None:
    gate: Gate[str] = Gate(0)
    gate.wait("a", first=True)
    gate.wait("b")
    assert gate.has_queue
    gate.wait("b", first=True)
    gate.wait("a")
    assert [gate.first(), gate.first()] == ["b", "a"]
    assert not gate.has_queue


@given(st.integers(0, 3), st.lists(st.tuples(st.sampled_from("ewgl"), st.integers(0, 5))))
def test_places_are_neither_lost_nor_made(places: int, steps: list[tuple[str, int]]) -> None:
    gate: Gate[int] = Gate(places)
    inside = 0
    queue: list[int] = []
    for step, who in steps:
        if step == "e":
            entered = gate.enter()
            assert entered == (inside < places)
            inside += entered
        elif step == "w" and inside == places and who not in queue:
            gate.wait(who)
            queue.append(who)
        elif step == "g":
            gate.give_up(who)
            queue = [other for other in queue if other != who]
        elif step == "l" and inside:
            successor = gate.leave()
            assert successor == (queue.pop(0) if queue else None)
            inside -= successor is None
        assert gate.free == places - inside
        assert gate.has_queue == bool(queue)
