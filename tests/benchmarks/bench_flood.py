"""Part "flood": what a flood leaves of a client on a fixed port, with and without a socket filter.

A process of its own sends the fiercest junk of part "junk" to the client's port from a strange address; it shares the
server's CPU. The client asks 100 or 4,000 peers in turn with 64 in flight and a deadline of 0.2 s; before what is
counted comes a span of 0.5 s in which the junk sets in, and in which a filter that comes by itself does. Each is run
once more with the same flood at a socket beside it that nobody reads: goodput is compared with that.

`connect()` is there to compare with: one server, 64 in flight, told apart by the payload's number; the kernel looks the
socket up by its peer and drops everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Literal, NamedTuple, cast

from bench_clients import Client, HandWritten
from bench_contestants import loop_factory, named
from bench_junk import ask_until, in_figures
from bench_part import Bench
from bench_tables import Run, aligned, median, shown
from bench_work import RECEIVE_BUFFER, Address, Plan, peers_at
from bench_workshop import ChildFailedError, python_child
from typing_extensions import override

import udpguard

IN_FLIGHT: Final = 64
DEADLINE: Final = 0.2
LEAD: Final = 0.5
"""Seconds from the client's start to the counted span."""
_SLACK: Final = 5.0
"""What that may take longer in a client that the flood has by the throat."""


class Case(NamedTuple):
    """One way to ask: by whom, how, and how many peers."""

    contestant: str
    way: str
    peers: int

    @property
    def title(self) -> str:
        """What tables call it."""
        return f"{named(self.contestant).title.removesuffix(', keyless')}, {self.way}"


CASES: Final = tuple(
    Case(contestant, way, peers)
    for peers in (100, 4_000)
    for contestant, way in (
        ("stock", "by address"),
        ("stock", "connected"),
        ("udpguard", "off"),
        ("udpguard", "auto"),
        ("udpguard", "on"),
        ("udpguard-uvloop", "auto"),
    )
    if way != "connected" or peers == 100
)


def measure(bench: Bench) -> list[dict[str, Any]]:
    """Run each case with the flood at the client, and aside."""
    runs: list[dict[str, Any]] = []
    extent = bench.extent
    here = {each.name for each in bench.contestants}
    cases = [case for case in CASES if case.contestant in here]
    rate = max(extent.junk)
    for number in range(1, extent.few_rounds + 1):
        for case, target in itertools.product(cases, ("client", "bystander")):
            bench.say(f"flood: round {number} of {extent.few_rounds}, {rate:,}/s to the {target}, {case.title}")
            run: dict[str, Any] = {**case._asdict(), "rate": rate, "target": target, "round": number}
            try:
                run |= _flooded(bench, case, rate, target)
            except ChildFailedError as error:
                run["failed"] = str(error)
            runs.append(run)
    return runs


def _flooded(bench: Bench, case: Case, rate: int, target: str) -> dict[str, Any]:
    workshop, seconds = bench.workshop, bench.extent.seconds
    plan = Plan(workshop.port, 1 if case.way == "connected" else case.peers, IN_FLIGHT, 0, seconds)
    command = python_child("flood", case=case, plan=dataclasses.asdict(plan))
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(workshop.started(command, workshop.processors.contestant))
        ports = json.loads(workshop.first_line(client))
        length = LEAD + seconds + _SLACK  # whose end it need not wait for: it is told
        sender = [*workshop.program("junk_sender"), *map(str, (ports[target], rate, length))]
        junk = stack.enter_context(workshop.started(sender, workshop.processors.server))
        workshop.first_line(junk)
        figures = workshop.result(client, length)
        sent = workshop.result(junk, 0.0)
    if sent["started"] > figures["started"] or sent["ended"] < figures["ended"]:
        raise ChildFailedError("the junk did not last as long as the measured span")
    return figures | {"junk_per_second": sent["sent"] / (sent["ended"] - sent["started"])}


# ------------------------------------------------------------------------------- in the contestant's process


def child(case: Sequence[Any], plan: Mapping[str, Any]) -> dict[str, Any]:
    """Ask while it pours."""
    one = Case(*case)
    with asyncio.Runner(loop_factory=loop_factory(named(one.contestant))) as runner:
        return runner.run(_ask_in_the_flood(one, Plan(**plan)))


async def _ask_in_the_flood(case: Case, plan: Plan) -> dict[str, Any]:
    peers = peers_at(plan.port, plan.peers) * (IN_FLIGHT if plan.peers < IN_FLIGHT else 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bystander:
        bystander.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        bystander.bind(("0.0.0.0", 0))
        async with _opened(case, peers[0]) as client:
            print(json.dumps({"client": client.port, "bystander": bystander.getsockname()[1]}), flush=True)
            numbers = itertools.count()
            await ask_until(time.monotonic() + LEAD, client.ask, peers, plan.in_flight, numbers)
            started = time.monotonic()
            tally = await ask_until(started + plan.seconds, client.ask, peers, plan.in_flight, numbers)
            ended = time.monotonic()
    return in_figures(tally) | {"started": started, "ended": ended}


def _opened(case: Case, server: Address) -> AbstractAsyncContextManager[Client]:
    if case.way == "connected":
        return _connected(server)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("0.0.0.0", 0))
        port = probe.getsockname()[1]
    if case.way == "by address":
        return _by_address(port)
    return _guarded(port, cast('Literal["auto", "on", "off"]', case.way))


@contextlib.asynccontextmanager
async def _by_address(port: int) -> AsyncIterator[Client]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: HandWritten(DEADLINE), local_addr=("0.0.0.0", port), family=socket.AF_INET
    )
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    try:
        yield Client(protocol.ask, port)
    finally:
        transport.close()


class _Numbered(asyncio.DatagramProtocol):
    """Asks one server over a connected socket: a dictionary of futures by the payload's number."""

    transport: asyncio.DatagramTransport

    def __init__(self) -> None:
        self.pending: dict[bytes, asyncio.Future[bytes]] = {}

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    @override
    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        future = self.pending.get(data[:8])
        if future is not None and not future.done():
            future.set_result(data)

    async def ask(self, addr: Address, data: bytes) -> bytes:
        """Send a question, and wait for the datagram with its number."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.pending[data[:8]] = future
        try:
            self.transport.sendto(data)
            async with asyncio.timeout(DEADLINE):
                return await future
        finally:
            del self.pending[data[:8]]


@contextlib.asynccontextmanager
async def _connected(server: Address) -> AsyncIterator[Client]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(_Numbered, remote_addr=server)
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    try:
        yield Client(protocol.ask, sock.getsockname()[1])
    finally:
        transport.close()


@contextlib.asynccontextmanager
async def _guarded(port: int, kernel_filter: Literal["auto", "on", "off"]) -> AsyncIterator[Client]:
    async with udpguard.open_endpoint(("0.0.0.0", port), kernel_filter=kernel_filter, timeout=DEADLINE) as endpoint:
        yield Client(endpoint.request, port)


# ----------------------------------------------------------------------------------------------- what it says


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The medians for each case; goodput against the same round's run with the flood aside."""
    found = []
    for case in [case for case in CASES if any(_is_of(run, case, run["target"]) for run in runs)]:
        good = [run for run in runs if _is_of(run, case, "client") and "failed" not in run and run["asked"]]
        aside = {run["round"]: run for run in runs if _is_of(run, case, "bystander") and "failed" not in run}
        failed = [run["failed"] for run in runs if _is_of(run, case, run["target"]) and "failed" in run]
        ratios = [_goodput(run) / _goodput(aside[run["round"]]) for run in good if _has_any(aside.get(run["round"]))]
        found.append(
            {
                **case._asdict(),
                "junk_per_second": median(run["junk_per_second"] for run in good),
                "answered": median(run["right"] / run["asked"] for run in good),
                "wrong": sum(run["wrong"] for run in good),
                "goodput": median(_goodput(run) for run in good),
                "goodput_vs_aside": median(ratios),
                "p50_ms": median(run["p50_ms"] for run in good if run["p50_ms"] is not None),
                "p99_ms": median(run["p99_ms"] for run in good if run["p99_ms"] is not None),
                "cpu_us": median(run["cpu"] / run["right"] * 1e6 for run in good if run["right"]),
                "trouble": f"failed: {failed[0]}" if failed else "",
            }
        )
    return found


def _is_of(run: Run, case: Case, target: str) -> bool:
    return (run["contestant"], run["way"], run["peers"], run["target"]) == (*case, target)


def _goodput(run: Run) -> float:
    return float(run["right"] / run["wall"])


def _has_any(run: Run | None) -> bool:
    return run is not None and bool(run["right"])


def table(lines: Sequence[Run], absent: Mapping[str, str]) -> str:
    """The summary, as text."""
    head = ["64 in flight, 0.2 s deadline", "peers", "junk/s", "answered", "right/s", "of aside", "p50 ms", "p99 ms"]
    rows = [[*head, "CPU µs", "wrong", ""]]
    rows += [
        [
            Case(line["contestant"], line["way"], line["peers"]).title,
            "1" if line["way"] == "connected" else f"{line['peers']:,}",
            shown(line["junk_per_second"]),
            "-" if line["answered"] is None else f"{line['answered']:.3%}",
            shown(line["goodput"]),
            shown(line["goodput_vs_aside"], 2),
            shown(line["p50_ms"], 2),
            shown(line["p99_ms"], 2),
            shown(line["cpu_us"], 1),
            f"{line['wrong']:,}",
            line["trouble"],
        ]
        for line in lines
    ]
    names = {case.contestant for case in CASES}
    rows += [[named(name).title, "not here", why] for name, why in absent.items() if name in names]
    return aligned(rows)
