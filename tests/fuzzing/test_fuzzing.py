"""A slice of the fuzzer, the corpus of what went wrong once, and whether it would find anything at all."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from fuzz_cases import CORPUS, events_of, load, play, save, shrunk
from fuzz_tables import KINDS
from fuzz_world import Event, Failure
from hypothesis import given
from hypothesis import strategies as st

from udpguard.core.gate import Gate
from udpguard.core.ledger import Ledger

SEEDS = range(1_000_000, 1_000_060)
CASES = sorted(CORPUS.glob("*.json"))


@pytest.mark.parametrize("seed", SEEDS)
def test_worlds(seed: int) -> None:
    assert play("world", seed, events_of("world", seed, 600)) >= 600


@pytest.mark.parametrize("seed", range(4))
def test_parts(seed: int) -> None:
    assert play("parts", seed, events_of("parts", seed, 3_000)) == 3_000


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_corpus(path: Path) -> None:
    play(*load(path))


def test_there_is_a_corpus() -> None:
    assert CASES


numbers = st.one_of(st.integers(0, 5_000), st.integers(0, (1 << 64) - 1))
events = st.lists(st.tuples(st.sampled_from(sorted({*KINDS, "close"})), numbers), max_size=40)


@given(setting=st.integers(0, 40_000), events=events)
def test_any_events(setting: int, events: list[Event]) -> None:
    play("world", setting, events)


def test_the_same_seed_does_the_same() -> None:
    assert events_of("world", 7, 50) == events_of("world", 7, 50)
    assert play("world", 7, events_of("world", 7, 400)) == play("world", 7, events_of("world", 7, 400))


# ---------------------------------------------------------------------------- it finds what is broken on purpose


def broken_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has the place now that was given back is not told."""
    leave = Gate.leave
    monkeypatch.setattr(Gate, "leave", lambda self: leave(self) and None)


def broken_withdrawal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a caller gives up stays."""
    monkeypatch.setattr(Ledger, "withdraw", lambda self, entry, now: False)


@pytest.mark.filterwarnings("ignore")  # a world that ends early leaves endpoints open
@pytest.mark.parametrize("breaks", [broken_turns, broken_withdrawal])
def test_it_would_find(breaks: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    breaks(monkeypatch)  # type: ignore[operator]
    for seed in range(100):
        events = events_of("world", seed, 500)
        try:
            play("world", seed, events)
        except Failure:
            break
    else:
        pytest.fail("it found nothing")
    fewer = shrunk("world", seed, events, seconds=3.0)
    assert 0 < len(fewer) < len(events)
    path = save("world", seed, fewer, "broken on purpose", tmp_path)
    assert load(path) == ("world", seed, fewer)
    with pytest.raises(Failure):
        play(*load(path))
    gc.collect()
