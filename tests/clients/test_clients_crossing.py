"""Clients that share an endpoint never take each other's replies (a slice of `run.py`), and the check can fail."""

from __future__ import annotations

import pytest
from clients_crossing import cross

import udpguard
from udpguard.core.judge import Judge


@pytest.mark.parametrize("seed", range(2))
def test_nobody_gets_anothers_reply(seed: int) -> None:
    outcome = cross(seed, 2_000)
    assert outcome.crossed == []
    assert outcome.total == 2_000
    assert set(outcome.answered) == {"ids", "dns", "lines", "plain"}
    assert outcome.timed_out <= 20
    counted = outcome.statistics
    assert isinstance(counted, udpguard.Statistics)
    assert counted.duplicate > 50, "the network repeats replies, and none of them is taken for another's"
    assert counted.matched == 2_000 - outcome.timed_out


def test_it_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody remembers what is over, nor where it came to, those without ids take old replies."""
    monkeypatch.setattr(Judge, "may_use", lambda self, *args: True)
    monkeypatch.setattr(Judge, "clean", lambda self, ports, *args: list(ports))
    crossed = [text for seed in range(3) for text in cross(seed, 1_200).crossed]
    assert crossed
    assert all(text.startswith("plain") for text in crossed)
