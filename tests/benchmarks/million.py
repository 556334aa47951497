"""Sweep a million names, and account for each of them: one command.

    python tests/benchmarks/million.py --massdns massdns/bin/massdns

nsd runs with a zone in which every name has an address (`bench_nameserver.py`), pinned to one CPU. On the other one
`endpoint.sweep()` asks for n00000000.ZONE to n00999999.ZONE, from a file, each with its number as the tag. Then it is
told, and the command fails unless it is as it should be,

- that every name had one outcome, none had two, and no outcome was for anything else;
- that every outcome was an answer, which repeats the question for the very name its number stands for;
- how much memory the process took as the sweep went on: sampled at every hundredth of the names. The last nine tenths
  may not need much more than the first.

massdns, where it is given, asks for the same names of the same server, before and after; so does uvloop, with --uvloop.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import gc
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import bench_machine
import bench_massdns
import bench_names
from bench_contestants import MASSDNS, loop_factory, named
from bench_nameserver import NameServer, find_nsd, name_server
from bench_questions import is_answer, question, write_names
from bench_tables import aligned, shown
from bench_work import TIMEOUT, Address, Figures, Stopwatch
from bench_workshop import ChildFailedError, Processors, Workshop, find_compiler, python_child

import udpguard

SAMPLES: Final = 100
# Beyond what it is after the first tenth: the interpreter's own arenas come and go by a MiB at a time.
MOST_GROWTH: Final = 8 << 20


def main() -> int:
    """The command; 0 if every name was accounted for in bounded memory, 1 if not, 2 if it can't be run."""
    options = _options()
    program = find_nsd()
    if program is None or not bench_machine.is_fit():
        print("This needs Linux, and nsd: apt-get install nsd", file=sys.stderr)
        return 2
    print(bench_machine.headline(bench_machine.describe()))
    processors = Processors.choose()
    print(f"{processors}; {options.names:,} names, {options.in_flight:,} in flight", flush=True)
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="udpguard-bench-")))
            workshop = stack.enter_context(Workshop(processors, compiler=find_compiler()))
            server = stack.enter_context(name_server(workshop, program, folder))
            return _compare(options, workshop, server, folder)
    except ChildFailedError as error:
        print(f"It can't be run: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _options() -> argparse.Namespace:
    intro, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=intro, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--names", type=int, default=1_000_000, metavar="N", help="how many names (1,000,000)")
    parser.add_argument("--in-flight", type=int, default=1000, metavar="I", help="how many at once (1,000)")
    parser.add_argument("--massdns", metavar="PATH", help="where massdns is: build it yourself")
    parser.add_argument("--uvloop", action="store_true", help="on uvloop instead of asyncio")
    options = parser.parse_args()
    if not 1 <= options.names <= 100_000_000 or not 1 <= options.in_flight <= 65_536:
        parser.error("1 to 100,000,000 names, and 1 to 65,536 in flight")
    return options


def _compare(options: argparse.Namespace, workshop: Workshop, server: NameServer, folder: Path) -> int:
    names = folder / "names"
    write_names(names, options.names, server.zone)
    patience = options.names * 200e-6
    why = bench_massdns.missing(options.massdns)
    rows = [["", "names/s", "CPU µs", "answered", ""]]

    def massdns() -> None:
        if not why:
            contestant = bench_massdns.Massdns(workshop, options.massdns, server, folder, buffers=True)
            rows.append(_row(MASSDNS.title, contestant.run(names, options.names, options.in_flight, patience)))

    massdns()
    contestant = named(bench_names.SWEEPS[options.uvloop])
    arguments = {"addr": (server.host, server.port), "names": str(names), "depth": options.in_flight}
    command = python_child("million", name=contestant.name, count=options.names, zone=server.zone, **arguments)
    found = workshop.run(command, patience)
    rows.append(_row(contestant.title, Figures(**found["figures"])))
    massdns()
    if why:
        rows.append([MASSDNS.title, f"not here: {why}"])
    print(aligned(rows))
    return judge(found, options.names)


def _row(title: str, figures: Figures) -> list[str]:
    pace, cpu = figures.right / figures.wall, figures.cpu / max(1, figures.right) * 1e6
    return [title, shown(pace), shown(cpu, 1), f"{figures.right:,}", figures.error]


def judge(found: dict[str, Any], count: int) -> int:
    """Say what was wrong, or that nothing was."""
    figures = Figures(**found["figures"])
    resident: list[int] = found["resident"]
    settled = resident[len(resident) // 10 :]
    growth = max(settled) - settled[0]
    print(
        f"\n{count:,} names: {figures.right:,} answered right, {figures.wrong:,} wrong, {figures.lost:,} failed, "
        f"{found['missing']:,} without an outcome, {found['repeated']:,} outcomes too many\n"
        f"resident memory: {_mib(resident[0])} at the beginning, {_mib(settled[0])} after a tenth, "
        f"{_mib(settled[-1])} in the end, never more than {_mib(max(resident))}\n"
        f"progress in the end: {found['progress']}"
    )
    if figures.right != count or found["missing"] or found["repeated"]:
        print(f"NOT every name is accounted for. {figures.error}")
        return 1
    if growth > MOST_GROWTH:
        print(f"Memory is NOT bounded: it grew by {_mib(growth)}.")
        return 1
    print("Every name is accounted for, in bounded memory.")
    return 0


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


# ----------------------------------------------------------------------------------------- in a process of its own


def child(name: str, addr: Sequence[Any], names: str, depth: int, count: int, zone: str) -> dict[str, Any]:
    """Sweep all names, and keep account of them."""
    host, port = addr
    account = Account(count, zone)
    with Path(names).open("rb") as lines, asyncio.Runner(loop_factory=loop_factory(named(name))) as runner:
        questions = (((host, port), question(line), number) for number, line in enumerate(lines))
        progress = runner.run(_sweep(questions, depth, account))
    return account.found() | {"progress": progress}


async def _sweep(questions: Iterator[tuple[Address, bytes, int]], depth: int, account: Account) -> str:
    async with bench_names.open_for_names() as endpoint:
        gc.collect()
        with Stopwatch(account.figures):
            async with endpoint.sweep(questions, in_flight=depth, timeout=TIMEOUT, retry=bench_names.RETRY) as sweep:
                async for _, _, number, reply, error in sweep:
                    account.enter(number, reply, error)
                account.close()
                return str(sweep.progress)


class Account:
    """Who has had an outcome, and whether it was the right one."""

    def __init__(self, count: int, zone: str) -> None:
        self.figures = Figures()
        self._seen = bytearray(count)
        self._repeated = 0
        self._right = 0
        self._resident: list[int] = []
        self._every = max(1, count // SAMPLES)
        # All names of the zone are packed alike, but for the digits.
        digits = b"%08d" % 0
        self._before, _, self._after = question(b"n%s.%s" % (digits, zone.encode())).partition(digits)

    def enter(self, number: int, reply: udpguard.Reply | None, error: Exception | None) -> None:
        """Enter the outcome of the name with that number."""
        if not number % self._every:
            self._resident.append(_resident())
        if self._seen[number]:
            self._repeated += 1
        self._seen[number] = 1
        if error is not None or reply is None:
            self.figures.lose(error or ValueError("an outcome without a reply and without an error"))
        elif is_answer(self._before + b"%08d" % number + self._after, reply.data):
            self._right += 1
        else:
            self.figures.wrong += 1

    def close(self) -> None:
        """Put into the figures what was right: what comes next is their sum."""
        self.figures.right = self._right

    def found(self) -> dict[str, Any]:
        """What the account comes to."""
        return {
            "figures": dataclasses.asdict(self.figures),
            "missing": self._seen.count(0),
            "repeated": self._repeated,
            "resident": self._resident,
        }


def _resident() -> int:
    """This process's resident memory, in bytes (`man 5 proc_pid_statm`)."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main())
