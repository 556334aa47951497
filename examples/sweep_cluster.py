"""Look very many names up with several machines, or all cores of one: a sweep on a Dask cluster.

    python examples/sweep_cluster.py names.txt @192.0.2.1 @192.0.2.2 --rate 20000 > answers.jsonl
    python examples/sweep_cluster.py names.txt @192.0.2.1 --scheduler tcp://192.0.2.10:8786

It prints what `dns_sweep.py` prints. Without `--scheduler` it starts a cluster of its own on this machine.
The names are cut into shards, each with questions for one server. Dask hands them to its workers, and hands the
shard of a worker that is lost to another one. A worker opens an endpoint, runs an ordinary sweep, and puts what
comes on a queue while it runs; what a lost worker had answered already is printed once. The total rate is shared
out evenly: each of N workers asks at 1/N of it.

Needs Dask (`pip install distributed`), and on the workers udpguard, too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import secrets
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import udpguard
from command_line import missing, seconds
from dns_lookup import TYPES, server_address
from dns_sweep import DnsQuestion, Found, Question, Say, Tally, found, positive, questions

if TYPE_CHECKING:
    from distributed import Client, Future, Queue

NEEDED = ("command_line.py", "dns_lookup.py", "dns_sweep.py")  # what the workers need, besides udpguard
SHARD = 10_000  # questions at the most: what is asked again of a lost worker
BATCH = 500  # outcomes that travel together
AHEAD = 2  # shards a worker is given at once, so that none waits for the next


class Shard(NamedTuple):
    """Questions for one server."""

    number: int
    questions: list[Question]


class Settings(NamedTuple):
    """How a worker asks."""

    rate: float | None  # datagrams a second
    in_flight: int
    timeout: float
    attempts: int


def shards(asked: Iterable[Question], size: int) -> Iterator[Shard]:
    """Cut questions into shards, by whom they ask."""
    waiting: dict[udpguard.Address, list[Question]] = defaultdict(list)
    number = 0
    for question in asked:
        mine = waiting[question[0]]
        mine.append(question)
        if len(mine) >= size:
            yield Shard(number, waiting.pop(question[0]))
            number += 1
    for rest in waiting.values():
        yield Shard(number, rest)
        number += 1


# ------------------------------------------------------------------------------------- on a worker


def ask_shard(shard: Shard, settings: Settings, queue_name: str) -> None:
    """Ask the questions of a shard, and put what comes on a queue."""
    from distributed import Queue, get_client

    asyncio.run(asking(shard, settings, Queue(queue_name, client=get_client())))


async def asking(shard: Shard, settings: Settings, queue: Queue) -> None:
    retry = udpguard.Retry(attempts=settings.attempts, initial=settings.timeout, multiplier=1.0)
    asked = ((addr, data, (place, name)) for place, (addr, data, name) in enumerate(shard.questions))
    batch: list[tuple[int, Found]] = []
    async with (
        udpguard.open_endpoint(correlate=DnsQuestion(), retry=retry) as endpoint,
        endpoint.sweep(asked, in_flight=settings.in_flight, rate=settings.rate) as sweep,
    ):
        async for outcome in sweep:
            place, name = cast("tuple[int, str]", outcome.tag)
            batch.append((place, found(outcome._replace(tag=name))))
            if len(batch) >= BATCH:
                await asyncio.to_thread(queue.put, (shard.number, batch))  # waits while the queue is full
                batch = []
    if batch:
        await asyncio.to_thread(queue.put, (shard.number, batch))


# --------------------------------------------------------------------------- where it was started


class Pending:
    """A shard that is asked, and which of its questions have their outcome."""

    def __init__(self, shard: Shard, future: Future[None]) -> None:
        self.shard = shard
        self.future = future
        self.missing = set(range(len(shard.questions)))

    def news(self, outcomes: list[tuple[int, Found]]) -> Iterator[Found]:
        """Those that were not known yet: a shard that is asked again repeats some."""
        for place, line in outcomes:
            if place in self.missing:
                self.missing.remove(place)
                yield line


def sweep_on(client: Client, asked: Iterable[Question], settings: Settings, say: Say, size: int = SHARD) -> None:
    """Ask on a cluster; what comes is said here."""
    from distributed import Queue
    from distributed.diagnostics.plugin import UploadFile

    for name in NEEDED:
        client.register_plugin(UploadFile(str(Path(__file__).with_name(name))))
    slots = sum(client.nthreads().values())
    share = settings._replace(rate=None if settings.rate is None else settings.rate / slots)
    queue = Queue(f"udpguard-{secrets.token_hex(8)}", client=client, maxsize=4 * slots)
    todo = shards(asked, size)
    pending: dict[int, Pending] = {}
    try:
        while fill(client, pending, todo, AHEAD * slots, share, queue.name):
            for number, outcomes in received(queue):
                for line in pending[number].news(outcomes) if number in pending else ():
                    say(line)
            for one in [one for one in pending.values() if not one.missing or one.future.status == "error"]:
                del pending[one.shard.number]
                for place in one.missing:
                    say(
                        {
                            "name": one.shard.questions[place][2],
                            "error": f"its shard failed: {one.future.exception()!r}",
                        }
                    )
    finally:
        client.cancel([one.future for one in pending.values()])
        queue.close()


def fill(
    client: Client, pending: dict[int, Pending], todo: Iterator[Shard], most: int, settings: Settings, queue_name: str
) -> bool:
    """Hand out as many shards as the workers should have; whether there are any."""
    while len(pending) < most and (shard := next(todo, None)) is not None:
        # Dask asks again itself what a lost worker had; it never takes two of these for the same.
        future = client.submit(ask_shard, shard, settings, queue_name, pure=False)
        pending[shard.number] = Pending(shard, future)
    return bool(pending)


def received(queue: Queue) -> list[tuple[int, list[tuple[int, Found]]]]:
    """What has come; nothing for a while is no harm."""
    with contextlib.suppress(asyncio.TimeoutError):
        return [queue.get(timeout=0.5), *queue.get(batch=True)]
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description="Look very many names up with a Dask cluster.")
    parser.add_argument("names", metavar="NAMES", help="a file with a name a line")
    parser.add_argument("servers", metavar="@SERVER", type=server_address, nargs="+", help="@HOST[:PORT]")
    parser.add_argument("--type", default="A", type=str.upper, choices=TYPES, help="of the records wanted")
    parser.add_argument("--scheduler", help="the address of a cluster's (default: a cluster of this machine)")
    parser.add_argument(
        "--workers", default=2, type=positive, help="of a cluster of this machine (default: %(default)s)"
    )
    parser.add_argument("--rate", type=seconds, help="datagrams a second, of all workers together")
    parser.add_argument("--in-flight", default=1000, type=positive, help="of each worker (default: %(default)s)")
    parser.add_argument("--timeout", default=1.0, type=seconds, help="for each attempt, in seconds")
    parser.add_argument("--attempts", default=3, type=positive, help="for each name (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        from distributed import Client, LocalCluster
    except ModuleNotFoundError:
        parser.error(missing("Dask comes", "distributed"))
    settings = Settings(arguments.rate, arguments.in_flight, arguments.timeout, arguments.attempts)
    tally, status = Tally(), 130
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        try:
            names = stack.enter_context(Path(arguments.names).open(encoding="utf-8", errors="replace"))
        except OSError as error:
            parser.error(f"can't read {arguments.names}: {error.strerror}")
        where = arguments.scheduler or stack.enter_context(
            LocalCluster(
                n_workers=arguments.workers, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
            )
        )
        client = stack.enter_context(Client(where))
        asked = questions(names, TYPES[arguments.type], cycle(arguments.servers), tally.say)
        sweep_on(client, asked, settings, tally.say)
        status = 1 if tally.failed else 0
    sys.stdout.flush()
    print(f"{tally.answered} answered, {tally.failed} failed", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
