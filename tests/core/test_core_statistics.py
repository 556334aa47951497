"""Counters, and the values users see."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from udpguard import NearMiss, Peer, Reason, Reply, Statistics, Unexpected
from udpguard.core.statistics import Counters


def test_a_snapshot_shows_every_counter() -> None:
    counters = Counters()
    names = [field.name for field in dataclasses.fields(Statistics)]
    assert set(Counters.__slots__) == set(names) - {"pending", "waiting", "kernel_dropped"}
    for number, name in enumerate(Counters.__slots__):
        setattr(counters, name, number + 1)
    shown = counters.snapshot(pending=100, waiting=200, kernel_dropped=300)
    assert (shown.pending, shown.waiting, shown.kernel_dropped) == (100, 200, 300)
    for number, name in enumerate(Counters.__slots__):
        assert getattr(shown, name) == number + 1
    counters.received += 1
    assert shown.received != counters.received, "a snapshot stays as it is"


def test_all_begins_at_zero() -> None:
    assert Counters().snapshot(pending=0, waiting=0) == Statistics()


def test_values_are_frozen_and_can_be_sent_to_another_process() -> None:
    peer = Peer("192.0.2.1", 7)
    for value, field in (
        (Statistics(received=1), "received"),
        (NearMiss(peer, Reason.REJECTED, 1, b"x"), "count"),
        (Unexpected(b"x", peer, Reason.LATE), "data"),
        (Reply(b"x", peer, None, 1), "data"),
        (peer, "host"),
    ):
        assert pickle.loads(pickle.dumps(value)) == value
        with pytest.raises(AttributeError):
            setattr(value, field, None)
    assert pickle.loads(pickle.dumps(Reason.LATE)) is Reason.LATE
