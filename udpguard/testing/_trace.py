"""What happened in a simulated network, event by event: to look at, to compare, to keep, and to replay."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias

from udpguard._typing import override
from udpguard.core.address import Peer

Kind: TypeAlias = Literal["sent", "failed", "lost", "duplicated", "corrupted", "delivered", "dropped", "icmp"]
"""What an event is:

    sent        a datagram left a socket, or was forged
    failed      the sender's operating system refused to send it
    lost        it was lost on its way
    duplicated  it goes on twice
    corrupted   a bit of it was inverted
    delivered   it is in the receive buffer of a socket
    dropped     it arrived, and nobody took it
    icmp        a socket is told of an error
"""

Seed: TypeAlias = int | str

_VERSION: Final = 1


class Icmp(NamedTuple):
    """What an ICMP message says.

    Attributes:
        type: Its type (RFC 792, RFC 4443).
        code: Its code.
        about: Where the datagram was going.
        mtu: The most that fits through, where that was in the way; else 0.
    """

    type: int
    code: int
    about: Peer
    mtu: int = 0


class Event(NamedTuple):
    """Something that happened to a datagram.

    Attributes:
        at: When, in seconds of virtual time.
        kind: What.
        number: Which datagram, counted from 1 as they are sent; a copy has its original's. ICMP has that of what it is
            about; 0 for what was forged.
        source: Where it comes from; of ICMP, who sent that (port 0).
        destination: Where it goes; of ICMP, the socket that is told.
        data: Its payload; of ICMP, what that quotes.
        note: More words, such as why it was dropped.
        icmp: What an ICMP message says.
    """

    at: float
    kind: Kind
    number: int
    source: Peer
    destination: Peer
    data: bytes
    note: str = ""
    icmp: Icmp | None = None

    @override
    def __str__(self) -> str:
        """One line, for people."""
        more = f" ({self.note})" if self.note else ""
        where = f"{self.source} -> {self.destination}"
        return f"{self.at:12.6f} {self.kind:10} #{self.number} {where} {self.data[:32].hex()} {len(self.data)} B{more}"


class Trace:
    """The events of a simulation, in their order; `for event in trace`, `len(trace)`, `trace[0]`.

    Two of them are equal if seeds and events are. Saved ones of equal ones are equal byte for byte.

    Args:
        seed: Of the simulation.
        events: What happened.
    """

    def __init__(self, seed: Seed = 0, events: list[Event] | None = None) -> None:
        self.seed: Seed = seed
        self.events: list[Event] = [] if events is None else events

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)

    def __getitem__(self, index: int) -> Event:
        return self.events[index]

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trace) and (self.seed, self.events) == (other.seed, other.events)

    @override
    def __str__(self) -> str:
        """One line for each event."""
        return "\n".join(map(str, self.events))

    @override
    def __repr__(self) -> str:
        return f"<udpguard.testing.Trace of {len(self.events)} events, seed={self.seed!r}>"

    def count(self, kind: Kind) -> int:
        """How many events are of a kind."""
        return sum(event.kind == kind for event in self.events)

    def dumps(self) -> bytes:
        """It as JSON lines, the same bytes for the same trace on every platform: a heading, then one line an event."""
        heading: dict[str, object] = {"udpguard_trace": _VERSION, "seed": self.seed}
        return b"".join(_line(value) for value in [heading, *map(_as_json, self.events)])

    @classmethod
    def loads(cls, text: bytes) -> Self:
        """The opposite of `dumps`.

        Raises:
            ValueError: It is no trace, or of a version unknown here.
        """
        lines = text.splitlines()
        try:
            heading, events = json.loads(lines[0]), [_from_json(json.loads(line)) for line in lines[1:]]
            version, seed = heading["udpguard_trace"], heading["seed"]
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"this is not a trace that udpguard.testing saved: {error!r}") from error
        if version != _VERSION:
            raise ValueError(f"the trace is of version {version!r}, and only {_VERSION} is known here")
        return cls(seed, events)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `dumps()` to a file."""
        Path(path).write_bytes(self.dumps())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises:
            OSError: It can't be read.
            ValueError: It is no trace.
        """
        return cls.loads(Path(path).read_bytes())


def _line(value: dict[str, object]) -> bytes:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"


def _as_json(event: Event) -> dict[str, object]:
    """An event without the fields that are empty."""
    value: dict[str, object] = event._asdict()
    value["data"] = event.data.hex()
    if not event.note:
        del value["note"]
    if event.icmp is None:
        del value["icmp"]
    else:
        value["icmp"] = event.icmp._asdict()
    return value


def _from_json(value: dict[str, Any]) -> Event:
    icmp = value.get("icmp")
    return Event(
        value["at"],
        value["kind"],
        value["number"],
        Peer(*value["source"]),
        Peer(*value["destination"]),
        bytes.fromhex(value["data"]),
        value.get("note", ""),
        None if icmp is None else Icmp(icmp["type"], icmp["code"], Peer(*icmp["about"]), icmp["mtu"]),
    )
