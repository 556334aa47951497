"""nsd, started for a benchmark: on a free port, with a zone in which every name has an address."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench_questions import is_answer, question
from bench_work import RECEIVE_BUFFER, peers_at
from bench_workshop import ChildFailedError, Workshop

_ADMIN_DIRECTORIES: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # not in an ordinary user's PATH
_STARTS: Final = 5  # ports tried: another process may take one between our look and the server's bind
_START_SECONDS: Final = 10.0

_CONFIGURATION: Final = """\
server:
    ip-address: {host}@{port}
    do-ip6: no
    server-count: 1
    username: ""
    zonesdir: "{folder}"
    database: ""
    zonelistfile: "{folder}/zone.list"
    xfrdfile: ""
    xfrdir: "{folder}"
    pidfile: ""
    logfile: "{folder}/nsd.log"
    rrl-ratelimit: 0
    minimal-responses: yes
    receive-buffer-size: {buffer}
    send-buffer-size: {buffer}
remote-control:
    control-enable: no
zone:
    name: {zone}
    zonefile: names.zone
"""
_ZONE: Final = """\
$ORIGIN {zone}.
$TTL 300
@ SOA ns hostmaster 1 3600 600 86400 300
@ NS ns
ns A 192.0.2.53
* A 192.0.2.1
"""


@dataclass(frozen=True)
class NameServer:
    """A running name server.

    Attributes:
        host: Where it listens: what the benchmarks' first peer is.
        port: And its port.
        zone: The domain below which every name has an address; no other instance knows it.
        pid: Its first process.
    """

    host: str
    port: int
    zone: str
    pid: int

    def cpu(self) -> float:
        """The CPU seconds that all its processes have used, in steps of a clock tick."""
        parents: dict[int, int] = {}
        ticks: dict[int, int] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has just ended
                # The name, in parentheses, may have anything in it (`man 5 proc_pid_stat`).
                fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                pid = int(stat.parent.name)
                parents[pid] = int(fields[1])
                ticks[pid] = int(fields[11]) + int(fields[12])
        ours = {self.pid}
        while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
            ours |= more
        return sum(ticks.get(pid, 0) for pid in ours) / os.sysconf("SC_CLK_TCK")


def find_nsd() -> str | None:
    """The path of nsd; None where it isn't installed."""
    return shutil.which("nsd", path=os.pathsep.join((os.environ.get("PATH", ""), *_ADMIN_DIRECTORIES)))


@contextlib.contextmanager
def name_server(workshop: Workshop, program: str, folder: Path) -> Iterator[NameServer]:
    """Run nsd on the server's CPU, with what it needs in a folder.

    Raises:
        ChildFailedError: It does not start.
    """
    zone = f"sweep-{secrets.token_hex(3)}.test"
    folder.joinpath("names.zone").write_text(_ZONE.format(zone=zone), encoding="ascii")
    for _ in range(_STARTS):
        # What the C client takes for its first peer.
        [(host, port)] = peers_at(_free_port(), 1)
        text = _CONFIGURATION.format(host=host, port=port, folder=folder, zone=zone, buffer=RECEIVE_BUFFER)
        folder.joinpath("nsd.conf").write_text(text, encoding="ascii")
        command = [*_dies_with_us(), program, "-d", "-c", str(folder / "nsd.conf")]
        with workshop.started(command, workshop.processors.server) as process:
            try:
                if _answers(process, host, port, zone):
                    yield NameServer(host, port, zone, process.pid)
                    return
            finally:
                process.terminate()  # it does not heed its standard input
    log = folder / "nsd.log"
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    raise ChildFailedError(f"nsd did not start: {said[-1] if said else 'it said nothing'}")


def _answers(process: subprocess.Popen[str], host: str, port: int, zone: str) -> bool:
    """Ask until the server answers. False: it ended, or didn't in time."""
    asked = question(f"started.{zone}".encode())
    deadline = time.monotonic() + _START_SECONDS
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.05)
        sock.connect((host, port))
        while process.poll() is None and time.monotonic() < deadline:
            try:
                sock.send(asked)
                if is_answer(asked, sock.recv(512)):
                    return True
            except ConnectionRefusedError:
                time.sleep(0.01)
            except TimeoutError:
                pass
    return False


def _dies_with_us() -> list[str]:
    """What to start it with, so that it ends even where the benchmark is killed; perhaps nothing."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM"] if setpriv else []


def _free_port() -> int:
    """A port that is free, below those that systems give to sockets which ask for none."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("", port))
            return port
