"""Who takes part: the table of contestants, and what each needs to be here."""

from __future__ import annotations

import asyncio
import fnmatch
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, cast

import bench_clients
import bench_sweep
from bench_clients import Opener
from bench_sweep import Sweeper

Loop = Literal["asyncio", "uvloop"]


@dataclass(frozen=True)
class Contestant:
    """One way of asking.

    Attributes:
        name: What `--only` and the JSON call it.
        title: What tables and plots call it.
        loop: The event loop it runs on; None: on none.
        opens: Opens its client; None: it is no client that awaits.
        sweeps: Does all of the work by itself; None: it is asked one thing at a time.
        needs: The modules that must be installed.
        environment: Variables it is started with.
        part: The one part of the benchmark that it takes part in; empty: any.
    """

    name: str
    title: str
    loop: Loop | None = "asyncio"
    opens: Opener | None = None
    sweeps: Sweeper | None = None
    needs: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    part: str = ""

    @property
    def missing(self) -> str:
        """What is not here that it needs; empty where nothing is."""
        modules = (*self.needs, *(["uvloop"] if self.loop == "uvloop" else []))
        return ", ".join(module for module in modules if importlib.util.find_spec(module) is None)


STOCK: Final = Contestant("stock", "asyncio, by hand", opens=bench_clients.by_hand)
UVLOOP: Final = Contestant("uvloop", "uvloop, by hand", "uvloop", bench_clients.by_hand)
LIMIT: Final = Contestant("c", "C, sendmmsg/recvmmsg", None)
MASSDNS: Final = Contestant("massdns", "massdns", None, part="names")
MASSDNS_DEFAULT: Final = Contestant("massdns-default", "massdns, default buffers", None, part="names")
BLOCKING: Final = Contestant("blocking", "blocking sockets", None)
REFERENCES: Final = (STOCK, UVLOOP, LIMIT)
"""Those whom the others are compared with."""

_PORTABLE: Final = {"UDPGUARD_BACKEND": "portable"}


def _udpguards() -> list[Contestant]:
    kinds = {"": bench_clients.keyless, "keyed": bench_clients.keyed, "assigned": bench_clients.assigned}
    loops: tuple[Loop, ...] = ("asyncio", "uvloop")
    found = []
    for loop in loops:
        for kind, opens in kinds.items():
            name = "-".join(filter(None, ("udpguard", loop if loop == "uvloop" else "", kind)))
            title = f"udpguard on {loop}, {kind or 'keyless'}"
            found.append(Contestant(name, title, loop, opens))
        for kind, sweeps in bench_sweep.KINDS.items():
            name = "-".join(filter(None, ("sweep", loop if loop == "uvloop" else "", kind)))
            found.append(Contestant(name, f"udpguard's sweep on {loop}, {kind or 'keyless'}", loop, sweeps=sweeps))
    return found


CONTESTANTS: Final = (
    STOCK,
    UVLOOP,
    Contestant("asyncio-dgram", "asyncio-dgram", opens=bench_clients.asyncio_dgram, needs=("asyncio_dgram",)),
    Contestant("anyio", "anyio", opens=bench_clients.anyio, needs=("anyio",)),
    Contestant("asyncudp", "asyncudp", opens=bench_clients.asyncudp, needs=("asyncudp",)),
    BLOCKING,
    LIMIT,
    *_udpguards(),
    Contestant(
        "udpguard-portable",
        "udpguard on asyncio, keyless, portable",
        opens=bench_clients.keyless,
        environment=_PORTABLE,
    ),
    MASSDNS,
    MASSDNS_DEFAULT,
)


def named(name: str) -> Contestant:
    """The contestant of that name."""
    return next(each for each in CONTESTANTS if each.name == name)


def chosen(patterns: Sequence[str]) -> list[Contestant]:
    """Those whose names fit one of the patterns (`udpguard*`); all of them where there is none.

    Raises:
        ValueError: A pattern fits nobody.
    """
    if not patterns:
        return list(CONTESTANTS)
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(each.name, pattern) for each in CONTESTANTS):
            raise ValueError(f"nobody is called {pattern!r}: there are {', '.join(each.name for each in CONTESTANTS)}")
    return [each for each in CONTESTANTS if any(fnmatch.fnmatchcase(each.name, pattern) for pattern in patterns)]


def loop_factory(contestant: Contestant) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the contestant's event loop."""
    if contestant.loop == "uvloop":
        import uvloop

        return cast("Callable[[], asyncio.AbstractEventLoop]", uvloop.new_event_loop)

    return asyncio.SelectorEventLoop
