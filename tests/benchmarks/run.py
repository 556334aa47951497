"""Measure udpguard against what else there is to ask with: one command, on loopback, in about fifteen minutes.

    python tests/benchmarks/run.py                        # everything; --quick takes two minutes
    python tests/benchmarks/run.py --parts exchange --only stock uvloop c 'udpguard*' --in-flight 64

How it is measured
------------------
An echo server in C (in Python where there is no compiler) plays all peers: it answers each datagram from the address
it was asked on, and all of 127.0.0.0/8 is this machine's, so this needs Linux. Each contestant runs in a process of
its own against it, one at a time, in rounds: round 1 of all, round 2 of all, so that noise is shared. Where there are
two CPUs, server and contestant are pinned to one each.

Part "exchange" (`bench_work.py` has the work): 32-byte payloads to 1,000 peers, with 1, 64 and 1,000 in flight and a
time-out of 5 s each; every reply is compared with what was asked. Contestants are written as their own documentation
has it; all of them ask for a receive buffer of 4 MiB where they have a socket that many replies share. CPU is what the
contestant's process used, user and system, during the measured span, by the exchanges in it. The kernel delivers on
loopback in the sender's name, so a client's share includes carrying its questions to the server's socket. It includes
waking the server, too, where it sleeps: who asks in bursts wakes it seldom, who asks one by one wakes it often, and
that was a third to a half of stock asyncio's CPU where it was tried (`--awake` shows the rest: the server never sleeps
then, and keeps a CPU busy). Ratios are medians of the rounds' own ratios. A run with a loss is shown as such and takes
part in no median.

The other parts take half the rounds, and tell in their files how they are measured: "pending" (cost against the number
of others pending, `bench_pending.py`), "memory" (what a pending request holds, `bench_memory.py`), "junk" (goodput
under a flood, `bench_junk.py`), "flood" (the socket filter against one, `bench_flood.py`), "drain" (a backlog after a
blocked loop, `bench_drain.py`), "profile" (where an exchange's time goes, `bench_profile.py`), "names" (a name server
asked for many names, beside massdns, `bench_names.py`), "import" (the time of `import udpguard`, `bench_import.py`).

The figures are medians for people to compare within one run. Nothing asserts them: machines differ, and are noisy.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import bench_drain
import bench_exchange
import bench_flood
import bench_import
import bench_junk
import bench_machine
import bench_massdns
import bench_memory
import bench_names
import bench_pending
import bench_profile
import plots
from bench_contestants import LIMIT, MASSDNS, MASSDNS_DEFAULT, Contestant, chosen
from bench_part import Bench, Extent, Part, PartMissingError
from bench_workshop import ChildFailedError, Processors, Workshop, find_compiler

PARTS: Final[Mapping[str, Part]] = {
    "exchange": bench_exchange,
    "pending": bench_pending,
    "memory": bench_memory,
    "junk": bench_junk,
    "flood": bench_flood,
    "drain": bench_drain,
    "profile": bench_profile,
    "names": bench_names,
    "import": bench_import,
}
JSON_FORMAT: Final = 1


def main() -> int:
    """The command; 0 if all went well, 1 if a contestant failed or took a wrong reply, 2 if it can't be run."""
    parser = _parser()
    options = parser.parse_args()
    try:
        everybody = chosen(options.only)
    except ValueError as error:
        parser.error(str(error))
    if not os.access(options.json.absolute().parent, os.W_OK):
        parser.error(f"{options.json} can't be written: pass --json FILE")
    if not bench_machine.is_fit():
        print("This needs Linux, where all of 127.0.0.0/8 is the machine's own.", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends, too
    extent = Extent.of(quick=options.quick, rounds=options.rounds, in_flight=options.in_flight, scale=options.scale)
    try:
        processors = Processors.choose(pin=not options.no_pin)
        document = measure(options, everybody, extent, processors)
    except ChildFailedError as error:
        print(f"The benchmark can't be run: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return _keep(document, options.json, options.plots)


def measure(
    options: argparse.Namespace, everybody: Sequence[Contestant], extent: Extent, processors: Processors
) -> dict[str, Any]:
    """Measure the parts that were chosen, print their tables, and give all there is to be kept."""
    compiler = find_compiler()
    awake = options.awake
    absent = _absent(everybody, compiler, options.massdns)
    machine = bench_machine.describe()
    document: dict[str, Any] = {"format": JSON_FORMAT, "machine": machine, "processors": str(processors)}
    server = ("C" if compiler else "Python (no C compiler)") + (", never sleeps" if awake else "")
    document |= {"echo_server": server, "not_here": absent}
    print(bench_machine.headline(machine))
    print(f"{processors}; echo server: {server}")
    say = _progress()
    started = time.monotonic()
    with Workshop(processors, compiler=compiler, awake=awake) as workshop:
        here = [each for each in everybody if each.name not in absent]
        bench = Bench(workshop, here, absent, extent, say, options.massdns)
        for name in options.parts:
            document[name] = _part(name, bench)
            document["seconds"] = round(time.monotonic() - started)
    return document


def _absent(everybody: Sequence[Contestant], compiler: str | None, massdns: str | None) -> dict[str, str]:
    """Who can't take part, and why."""
    absent = {each.name: each.missing for each in everybody if each.missing}
    if compiler is None and LIMIT in everybody:
        absent[LIMIT.name] = "no C compiler"
    why = bench_massdns.missing(massdns)
    return absent | ({each.name: why for each in (MASSDNS, MASSDNS_DEFAULT) if each in everybody} if why else {})


def _part(name: str, bench: Bench) -> dict[str, Any]:
    """Measure a part, and print its table."""
    part = PARTS[name]
    try:
        runs = part.measure(bench)
    except PartMissingError as error:
        print(f"\n{name}: not here: {error}")
        return {"runs": [], "summary": [], "not_here": str(error)}
    bench.say("")
    summary = part.summary(runs)
    if runs:
        print(f"\n{part.table(summary, bench.absent)}", flush=True)
    else:
        print(f"\n{name}: nobody who was chosen, and is here, takes part")
    return {"runs": runs, "summary": summary}


def _keep(document: dict[str, Any], path: Path, folder: Path | None) -> int:
    """Write the JSON and the plots, and say how it went."""
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"\nMeasured in {document['seconds']} s; every figure is in {path}.")
    if folder is not None:
        try:
            drawn = plots.draw(document, folder)
            print("Drawn: " + (", ".join(map(str, drawn)) or "nothing of these parts"))
        except ImportError as error:
            print(f"{error}; then: python {Path(plots.__file__)} {path} {folder}", file=sys.stderr)
    return 1 if any(_is_bad(run) for name in PARTS for run in document.get(name, {}).get("runs", [])) else 0


def _is_bad(run: Mapping[str, Any]) -> bool:
    # Under junk, a late reply that is taken for the next one's is what is measured.
    return "failed" in run or (run.get("wrong", 0) > 0 and "rate" not in run)


def _progress() -> Callable[[str], None]:
    """Shows how far it has got, on one line of a terminal."""

    def say(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    return say


def _parser() -> argparse.ArgumentParser:
    intro, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=intro, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short round, in two minutes")
    parser.add_argument("--rounds", type=_positive(int), metavar="N", help="rounds (5; with --quick 1)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="contestants, such as stock 'udpguard*'")
    parser.add_argument(
        "--in-flight", nargs="+", type=_positive(int), default=[1, 64, 1000], metavar="I", help="1 64 1000"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument(
        "--json", type=Path, default=Path("udpguard-benchmarks.json"), metavar="FILE", help="where every figure goes"
    )
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw plots there (needs matplotlib)")
    parser.add_argument("--scale", type=_positive(float), default=1.0, metavar="F", help="all spans and sizes times F")
    parser.add_argument("--no-pin", action="store_true", help="leave it to the system who runs on which CPU")
    parser.add_argument("--awake", action="store_true", help="the echo server never sleeps: nobody pays for waking it")
    parser.add_argument("--massdns", metavar="PATH", help="where massdns is, for the part names: build it yourself")
    return parser


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def checked(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be more than 0, not {text}")
        return value

    return checked


if __name__ == "__main__":
    sys.exit(main())
