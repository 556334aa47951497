"""The timetable, against a sorted list; and that the dead do not pile up."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from udpguard.core.timetable import Timetable


class Item:
    """What has a deadline and steps."""

    def __init__(self, began: float, timeout: float) -> None:
        self.began = began
        self.timeout = timeout
        self.ended = False
        self.ticket = 0
        self.step_at = math.inf

    @property
    def deadline(self) -> float:
        return self.began + self.timeout


Table = Timetable[Item, Item]


def end(table: Table, item: Item) -> None:
    item.ended = True
    table.drop()


def test_it_is_empty_at_first() -> None:
    table: Table = Timetable()
    assert table.next_due() == math.inf
    assert table.expired(1e9) == []
    assert table.steps(1e9) == []
    assert len(table) == 0


def test_deadlines_are_met_in_order() -> None:
    table: Table = Timetable()
    items = [Item(0.0, 3.0), Item(1.0, 1.0), Item(2.0, 3.0), Item(1.5, 1.0)]
    for item in items:
        table.add(item)
    assert table.next_due() == 2.0
    assert table.expired(1.75) == []
    assert table.expired(2.0) == [items[1]]
    assert table.expired(5.0) == [items[3], items[0], items[2]]
    assert len(table) == 0
    assert table.next_due() == math.inf


def test_one_entered_after_others_that_were_made_later() -> None:
    table: Table = Timetable()
    later, earlier = Item(5.0, 3.0), Item(1.0, 3.0)
    table.add(later)
    table.add(earlier)
    assert table.next_due() == 4.0
    assert table.expired(8.0) == [earlier, later]


def test_more_time_outs_than_lanes() -> None:
    table: Table = Timetable()
    items = [Item(0.0, 1.0 + number) for number in range(40)]
    for item in items:
        table.add(item)
    assert table.next_due() == 1.0
    assert table.expired(40.0) == items
    assert len(table) == 0


def test_a_lane_is_given_up_when_it_is_empty() -> None:
    table: Table = Timetable()
    for number in range(100):
        item = Item(float(number), 0.5 + number / 1000)
        table.add(item)
        assert table.expired(number + 0.75) == [item]
        assert table.next_due() == math.inf
    assert table.lanes == {}


def test_a_deadline_can_be_moved() -> None:
    table: Table = Timetable()
    item, other = Item(0.0, 5.0), Item(0.0, 2.0)
    table.add(item, movable=True)
    table.add(other, movable=True)
    table.move(item, 1.0)
    assert item.deadline == 1.0
    assert table.next_due() == 1.0
    table.move(item, 3.0)
    assert table.next_due() == 2.0
    assert table.expired(2.5) == [other]
    assert table.expired(3.0) == [item]
    assert table.expired(9.0) == []
    assert table.next_due() == math.inf
    assert len(table) == 0


def test_a_deadline_that_is_moved_to_where_it_is_is_met_once() -> None:
    table: Table = Timetable()
    item = Item(0.0, 5.0)
    table.add(item, movable=True)
    table.move(item, 5.0)
    assert table.expired(5.0) == [item]
    assert len(table) == 0
    assert table._dead == 0


def test_a_deadline_that_is_moved_away_and_back_is_met_once() -> None:
    table: Table = Timetable()
    item = Item(0.0, 5.0)
    table.add(item, movable=True)
    table.move(item, 7.0)
    table.move(item, 5.0)
    assert table.expired(9.0) == [item]
    assert len(table) == 0
    assert table._dead == 0


def test_one_that_is_moved_often_to_where_it_is_leaves_no_places() -> None:
    table: Table = Timetable()
    item, other = Item(0.0, 5.0), Item(0.0, 5.0)
    table.add(item, movable=True)
    table.add(other, movable=True)
    for _ in range(1_000):
        table.move(item, 5.0)
        assert len(table) < 300
    assert table.next_due() == 5.0
    end(table, item)
    assert table.expired(5.0) == [other]
    assert table.next_due() == math.inf
    assert (len(table), table._dead) == (0, 0)


def test_a_step_takes_the_place_of_the_one_before() -> None:
    table: Table = Timetable()
    item, other = Item(0.0, 99.0), Item(0.0, 99.0)
    table.add_step(item, 5.0)
    table.add_step(other, 2.0)
    table.add_step(item, 1.0)
    assert table.next_due() == 1.0
    assert table.steps(1.5) == [item]
    assert item.step_at == math.inf
    table.drop_step(item)
    table.add_step(item, 3.0)
    table.add_step(item, 3.0)
    assert table.steps(9.0) == [other, item]
    assert table.next_due() == math.inf
    assert len(table) == 0


def test_a_step_taken_back_is_not_due() -> None:
    table: Table = Timetable()
    item = Item(0.0, 99.0)
    table.add_step(item, 1.0)
    table.drop_step(item)
    assert table.next_due() == math.inf
    table.add_step(item, 2.0)
    table.drop_step(item)
    assert table.steps(9.0) == []
    assert len(table) == 0


def test_clearing_forgets_everything() -> None:
    table: Table = Timetable()
    table.add(Item(0.0, 1.0))
    table.add(Item(0.0, 1.0), movable=True)
    table.add_step(Item(0.0, 1.0), 1.0)
    table.drop()
    table.clear()
    assert len(table) == 0
    assert table.next_due() == math.inf


class Diary:
    """A timetable, and beside it plain lists of what goes on."""

    def __init__(self) -> None:
        self.table: Table = Timetable()
        self.now = 1000.0
        self.live: list[Item] = []
        self.movable: list[Item] = []
        self.stepping: list[Item] = []

    def do(self, what: str, first: int, second: int) -> None:
        if what in ("add", "odd", "movable"):
            began = self.now - first / 8 if what == "odd" else self.now
            self._add(Item(began, (1 + second) / 8), movable=what == "movable")
        elif what == "time":
            self._let_time_pass(second / 8)
        elif self.live:
            self._change(what, self.live[first % len(self.live)], second / 8)

    def _add(self, item: Item, *, movable: bool) -> None:
        if item.deadline <= self.now:
            return
        self.table.add(item, movable=movable)
        self.live.append(item)
        if movable:
            self.movable.append(item)

    def _change(self, what: str, item: Item, seconds: float) -> None:
        if what == "end":
            self.live.remove(item)
            self._end(item)
        elif what == "move" and item in self.movable:
            began = item.deadline - item.timeout
            self.table.move(item, self.now - began + 0.125 + seconds)
            assert item.deadline == self.now + 0.125 + seconds
        elif what == "step":
            self.table.add_step(item, self.now + seconds)
            self.stepping.append(item)
        elif what == "no step":
            self.table.drop_step(item)

    def _end(self, item: Item) -> None:
        end(self.table, item)
        self.table.drop_step(item)

    def _let_time_pass(self, seconds: float) -> None:
        self.now += seconds
        expired = self.table.expired(self.now)
        wanted = sorted((item for item in self.live if item.deadline <= self.now), key=lambda item: item.deadline)
        assert [item.deadline for item in expired] == [item.deadline for item in wanted]
        assert set(map(id, expired)) == set(map(id, wanted))
        for item in expired:
            item.ended = True
            self.live.remove(item)
            self.table.drop_step(item)
        due_at = {id(item): item.step_at for item in self.stepping}
        ready = self.table.steps(self.now)
        assert [due_at[id(item)] for item in ready] == sorted(when for when in due_at.values() if when <= self.now)
        assert all(item.step_at == math.inf for item in ready)

    def check(self) -> None:
        due = [item.deadline for item in self.live] + [item.step_at for item in self.stepping]
        assert self.table.next_due() == min(due, default=math.inf)

    def end_all(self) -> None:
        for item in self.live:
            self._end(item)
        assert self.table.next_due() == math.inf
        assert len(self.table) == 0
        assert (self.table._dead, self.table._dead_steps) == (0, 0)


doings = st.tuples(
    st.sampled_from(["add", "odd", "movable", "end", "move", "step", "no step", "time", "look"]),
    st.integers(0, 40),
    st.integers(0, 40),
)


@given(st.lists(doings, max_size=200))
def test_it_agrees_with_sorted_lists(steps: list[tuple[str, int, int]]) -> None:
    diary = Diary()
    for what, first, second in steps:
        diary.do(what, first, second)
        if what == "look":
            diary.check()
    diary.end_all()


def test_what_ends_early_does_not_pile_up() -> None:
    table: Table = Timetable()
    first = Item(0.0, 60.0)
    table.add(first)
    for number in range(100_000):
        item = Item(number / 1000, 60.0)
        table.add(item)
        table.add_step(item, number / 1000 + 1.0)
        end(table, item)
        table.drop_step(item)
        assert len(table) < 300
    assert table.next_due() == 60.0


def test_a_burst_that_ends_leaves_no_places() -> None:
    table: Table = Timetable()
    items = [Item(0.0, 5.0 + number % 40) for number in range(100_000)]
    for item in items:
        table.add(item, movable=item.timeout > 40)
        table.add_step(item, 1.0)
    for item in items:
        end(table, item)
        table.drop_step(item)
    assert len(table) < 300
    assert table.next_due() == math.inf
    assert len(table) == 0
