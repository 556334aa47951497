"""Cases of the fuzzer as files: written when one fails, played again for ever after."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import fuzz_parts
import fuzz_world
from fuzz_world import Event, Failure

CORPUS: Final = Path(__file__).parent / "corpus"
WORLDS: Final[dict[str, tuple[Callable[[int], Any], Callable[[int, int], Iterator[Event]]]]] = {
    "world": (fuzz_world.World, fuzz_world.generate),
    "parts": (fuzz_parts.Parts, fuzz_parts.generate),
}


def play(kind: str, setting: int, events: Sequence[Event] | Iterator[Event]) -> int:
    """Let events happen in a world of their own; how many did.

    Raises:
        Failure: Something went wrong.
    """
    return int(WORLDS[kind][0](setting).run(events))


def events_of(kind: str, seed: int, count: int) -> list[Event]:
    """The events of a seed."""
    return list(WORLDS[kind][1](seed, count))


def shrunk(kind: str, setting: int, events: list[Event], seconds: float = 60.0) -> list[Event]:
    """As few of these events as still go wrong, as far as the time allows."""
    stop = time.monotonic() + seconds
    size = max(len(events) // 2, 1)
    while size:
        at = 0
        while at < len(events) and time.monotonic() < stop:
            fewer = events[:at] + events[at + size :]
            if _fails(kind, setting, fewer):
                events = fewer
            else:
                at += size
        size //= 2
    return events


def _fails(kind: str, setting: int, events: list[Event]) -> bool:
    try:
        play(kind, setting, events)
    except Failure:
        return True
    return False


def save(kind: str, setting: int, events: Sequence[Event], note: str, folder: Path = CORPUS) -> Path:
    """Write a case down."""
    path = folder / f"{kind}-{setting}-{len(events)}.json"
    lines = ",\n  ".join(json.dumps(event) for event in events)
    head = f'"kind": {json.dumps(kind)}, "setting": {setting}, "note": {json.dumps(note)}'
    path.write_text(f'{{{head}, "events": [\n  {lines}\n]}}\n', encoding="utf-8")
    return path


def load(path: Path) -> tuple[str, int, list[Event]]:
    """A case that was written down."""
    case = json.loads(path.read_text(encoding="utf-8"))
    return case["kind"], case["setting"], [(kind, number) for kind, number in case["events"]]
