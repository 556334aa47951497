"""Part "profile": where the time of an exchange goes, with 64 in flight.

Nothing is sampled; each piece runs alone and is timed by the CPU it takes:

- "the tasks": 64 tasks that make payloads and await a bare future each, which a callback settles: what asyncio itself
  and the caller's own code cost;
- "udpguard": the same with `request()`, whose datagrams are handed back as replies without a socket: the difference is
  ours, but for the socket;
- "the socket": batches of 64 go to the echo server by `send_many` and come back by `receive`: the kernel's part, and
  what its batches are put together and taken apart with.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from bench_contestants import loop_factory, named
from bench_part import Bench
from bench_tables import Run, aligned, median, shown
from bench_work import FILLER, RECEIVE_BUFFER, Address, peers_at
from bench_workshop import ChildFailedError, python_child

import udpguard
from udpguard._platform.choice import open_backend
from udpguard._transport import Posted
from udpguard.core.address import Wire, wire_of_source

NAMES: Final = ("udpguard", "udpguard-uvloop", "udpguard-keyed", "udpguard-uvloop-keyed")
PIECES: Final = ("tasks", "with_udpguard", "socket")
AT_ONCE: Final = 64
_REPEATS: Final = 7


def measure(bench: Bench) -> list[dict[str, Any]]:
    """Measure each piece for each contestant, in as many rounds as the short parts have."""
    runs: list[dict[str, Any]] = []
    for number, contestants in bench.turns(bench.of(NAMES), bench.extent.few_rounds):
        for each in contestants:
            bench.say(f"profile: {each.title}, round {number}")
            run: dict[str, Any] = {"contestant": each.name, "round": number}
            command = python_child("profile", name=each.name, port=bench.workshop.port, each=bench.extent.warm_up // 2)
            try:
                run |= bench.workshop.run(command, 5.0)
            except ChildFailedError as error:
                run["failed"] = str(error)
            runs.append(run)
    return runs


# ------------------------------------------------------------------------------- in the contestant's process


def child(name: str, port: int, each: int) -> dict[str, Any]:
    """The CPU of each piece, in microseconds an exchange: the least of some repeats of so many by each task."""
    contestant = named(name)
    with asyncio.Runner(loop_factory=loop_factory(contestant)) as runner:
        found = runner.run(_pieces(name.endswith("keyed"), port, max(1, each)))
    return {f"{piece}_us": found[piece] for piece in PIECES}


async def _pieces(keyed: bool, port: int, each: int) -> dict[str, float]:
    correlate = udpguard.TransactionId(0, 8) if keyed else None
    async with udpguard.open_endpoint(("127.0.0.1", 0), correlate=correlate) as endpoint:
        loop = asyncio.get_running_loop()
        waiting: list[asyncio.Future[bytes]] = []

        async def bare(addr: Address, data: bytes) -> bytes:
            future: asyncio.Future[bytes] = loop.create_future()
            if not waiting:
                loop.call_soon(settle)
            waiting.append(future)
            return await future

        def settle() -> None:
            futures = waiting[:]
            waiting.clear()
            for future in futures:
                future.set_result(b"")

        async def request(addr: Address, data: bytes) -> bytes:
            return await endpoint.request(addr, data, timeout=5.0)

        tasks = await _least(lambda: _work(bare, each))
        mirror = Mirror(endpoint)
        with mirror.in_place():
            # `request` itself is one coroutine more, as `bare` is: both have the same around them.
            with_udpguard = await _least(lambda: _work(request, each))
    return {"tasks": tasks, "with_udpguard": with_udpguard, "socket": await _least(lambda: _exchanged(port, each))}


async def _least(work: Callable[[], Awaitable[float]]) -> float:
    return min([await work() for _ in range(_REPEATS)])


async def _work(ask: Callable[[Address, bytes], Awaitable[bytes]], each: int) -> float:
    """The CPU of an exchange in microseconds, where 64 workers ask one thing after the other."""
    peers = peers_at(9, 1_000)

    async def worker(number: int) -> None:
        for asked in range(each):
            data = (number * each + asked).to_bytes(8, "big") + FILLER
            await ask(peers[(number + asked * AT_ONCE) % len(peers)], data)

    began = time.process_time()
    await asyncio.gather(*(worker(number) for number in range(AT_ONCE)))
    return (time.process_time() - began) / (AT_ONCE * each) * 1e6


class Mirror:
    """A channel that hands what is sent back as replies, in the loop's next turn."""

    def __init__(self, endpoint: udpguard.Endpoint) -> None:
        self.posted = Posted()
        self._guard = endpoint._guard
        self._sent: list[tuple[bytes, Wire]] = []

    def transmit(self, data: bytes, wire: Wire) -> bool:
        """Take one datagram."""
        self.transmit_many([data], [wire])
        return True

    def transmit_many(self, datas: list[bytes], wires: list[Wire]) -> int:
        """Take some."""
        if not self._sent:
            asyncio.get_running_loop().call_soon(self._hand_back)
        self._sent.extend(zip(datas, wires, strict=True))
        return len(datas)

    def _hand_back(self) -> None:
        batch, self._sent = self._sent, []
        self._guard.receive(batch)

    @contextlib.contextmanager
    def in_place(self) -> Any:
        """Stand in for the endpoint's socket."""
        real = self._guard.channel4
        self._guard.channel4 = self  # type: ignore[assignment]
        try:
            yield
        finally:
            self._guard.channel4 = real


async def _exchanged(port: int, each: int) -> float:
    """The CPU of a datagram out and one in, in microseconds, by batches of 64."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", 0))
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        backend = open_backend(sock, asyncio.get_running_loop())
        wires = [wire_of_source(*peer) for peer in peers_at(port, AT_ONCE)]
        datas = [number.to_bytes(8, "big") + FILLER for number in range(AT_ONCE)]
        spent = 0.0
        for _ in range(each):
            began = time.process_time()
            sent = backend.send_many(datas, wires)
            spent += time.process_time() - began
            _wait_for(sock, sent)
            began = time.process_time()
            came = 0
            while came < sent:
                came += len(backend.receive(AT_ONCE))
            spent += time.process_time() - began
    return spent / (AT_ONCE * each) * 1e6


def _wait_for(sock: socket.socket, count: int) -> None:
    """Give the server time to answer so many; what is spent here is not counted."""
    stop = time.monotonic() + count * 10e-6
    while time.monotonic() < stop:
        pass


# ----------------------------------------------------------------------------------------------- what it says


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Medians of the pieces."""
    lines = []
    for name in NAMES:
        clean = [run for run in runs if run["contestant"] == name and "failed" not in run]
        if not clean:
            continue
        tasks = median(run["tasks_us"] for run in clean)
        ours = median(run["with_udpguard_us"] - run["tasks_us"] for run in clean)
        through = median(run["socket_us"] for run in clean)
        lines.append({"contestant": name, "tasks_us": tasks, "ours_us": ours, "socket_us": through})
    return lines


def table(lines: Sequence[Run], absent: Mapping[str, str]) -> str:
    """The summary, as text."""
    rows = [["where the time goes, CPU µs an exchange", "the tasks", "udpguard", "the socket", "in all"]]
    rows += [
        [
            named(line["contestant"]).title,
            *(shown(line[column], 1) for column in ("tasks_us", "ours_us", "socket_us")),
            shown(sum(line[column] for column in ("tasks_us", "ours_us", "socket_us")), 1),
        ]
        for line in lines
    ]
    return aligned(rows)
