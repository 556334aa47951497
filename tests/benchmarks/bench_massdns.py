"""massdns, what bulk users pick: built by whoever runs the benchmark, from its own source, and told where it is.

    git clone https://github.com/blechschmidt/massdns && make -C massdns
    python tests/benchmarks/run.py --parts names --massdns massdns/bin/massdns

It is measured from outside, as a process; what it takes for a single name, which is nearly all for starting, is not
counted. It writes its simple text output to /dev/null. It asks again after half a second, as its default is.
"""

from __future__ import annotations

import json
import resource
import subprocess
import time
from pathlib import Path
from typing import Any, Final

from bench_nameserver import NameServer
from bench_work import RECEIVE_BUFFER, Figures
from bench_workshop import ChildFailedError, Workshop

_PATIENCE: Final = 5.0
_BUFFERS: Final = ("--rcvbuf", str(RECEIVE_BUFFER), "--sndbuf", str(RECEIVE_BUFFER))
"""What all contestants have. Its own default loses what a thousand questions at once bring, and asks again."""


def missing(path: str | None) -> str:
    """Why massdns can't take part; empty where it can."""
    if path is None:
        return "say where it is: --massdns PATH"
    try:
        said = subprocess.run([path, "--help"], capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it doesn't run: {error}"
    return "" if "--hashmap-size" in said.stdout + said.stderr else f"{path} is not massdns"


class Massdns:
    """massdns against one name server.

    Attributes:
        buffers: Whether it has the receive buffer that the others have, or its default.
    """

    def __init__(self, workshop: Workshop, path: str, server: NameServer, folder: Path, *, buffers: bool) -> None:
        self._workshop = workshop
        self._resolvers = folder / "resolvers"
        self._resolvers.write_text(f"{server.host}:{server.port}\n", encoding="ascii")
        one = folder / "one-name"
        one.write_text(f"one.{server.zone}\n", encoding="ascii")
        self._program = [path, *(_BUFFERS if buffers else ())]
        self._start = Figures()
        self._start = self.run(one, 1, 1, _PATIENCE)

    def run(self, names: Path, count: int, in_flight: int, seconds: float) -> Figures:
        """Ask for all names in a file.

        Raises:
            ChildFailedError: It failed, or took much longer than so many seconds.
        """
        command = [*self._program, "--processes", "1", "--socket-count", "1", "--hashmap-size", str(in_flight)]
        command += ["--status-format", "json", "-r", str(self._resolvers), "-t", "A"]
        command += ["-o", "S", "-w", "/dev/null", str(names)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        with self._workshop.started(command, self._workshop.processors.contestant) as process:
            said = self._workshop.said(process, seconds)[1]
        wall = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)  # nobody else's process ended in between
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        right = _status(said)["response"]["OK"]["success_number"]
        return Figures(
            asked=count,
            right=right,
            lost=count - right,
            wall=wall - self._start.wall,
            cpu=cpu - self._start.cpu,
            error="" if right == count else "massdns: not every name was answered",
        )


def _status(said: str) -> dict[str, Any]:
    """The last status that massdns printed."""
    lines = [line for line in said.splitlines() if line.startswith("{")]
    if not lines:
        raise ChildFailedError(f"massdns gave no status: {said.strip()[-200:]}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found
