"""sweep_cluster.py: every name once, at the rate asked for in all, whatever becomes of a worker."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from example_dns import address, response
from example_kit import check_refused, imported, run

pytest.importorskip("distributed")

pytestmark = [
    pytest.mark.once,  # it runs on its own loops
    pytest.mark.filterwarnings("default"),  # Dask's own
]


TIMESTAMPS = 35  # SO_TIMESTAMPNS of Linux


class NameServer:
    """Answers in a thread of its own: the test itself waits for Dask."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        if sys.platform == "linux":
            self.sock.setsockopt(socket.SOL_SOCKET, TIMESTAMPS, 1)
        self.sock.bind(("127.0.0.1", 0))
        self.clients: Counter[tuple[str, int]] = Counter()
        self.times: list[float] = []
        self.stopped = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def at(self) -> str:
        host, port = self.sock.getsockname()
        return f"{host}:{port}"

    def _serve(self) -> None:
        while True:
            query, client, came = self._next()
            if not query:
                return
            self.clients[client] += 1
            self.times.append(came)
            self.sock.sendto(response(query, address(1)), client)

    def _next(self) -> tuple[bytes, tuple[str, int], float]:
        """What came next, from whom, and when: by the kernel's clock, since this thread may be late."""
        if sys.platform != "linux":
            return (*self.sock.recvfrom(4_096), time.monotonic())
        query, control, _, client = self.sock.recvmsg(4_096, 64)
        [stamp] = [data for level, kind, data in control if (level, kind) == (socket.SOL_SOCKET, TIMESTAMPS)]
        seconds, nanoseconds = struct.unpack("@ll", stamp)
        return query, client, seconds + nanoseconds / 1e9

    def close(self) -> None:
        self.sock.sendto(b"", self.sock.getsockname())
        self._thread.join()
        self.sock.close()


@pytest.fixture
def server() -> Iterator[NameServer]:
    with contextlib.closing(NameServer()) as server:
        yield server


def test_every_name_once_and_a_shard_for_each_server(server: NameServer, tmp_path: Path) -> None:
    names = [f"n{i}.test" for i in range(1_000)]
    (tmp_path / "names").write_text("\n".join(names))
    with contextlib.closing(NameServer()) as other:
        done = run("sweep_cluster.py", str(tmp_path / "names"), f"@{server.at}", f"@{other.at}")
        assert done.stderr.splitlines()[-1] == "1000 answered, 0 failed"
        assert done.returncode == 0
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert Counter(line["name"] for line in lines) == Counter(names)
        assert len(server.clients) == len(other.clients) == 1, "each server is one worker's affair"


def test_a_lost_workers_shard_is_asked_again_and_the_rate_is_shared(server: NameServer) -> None:
    from distributed import Client, LocalCluster

    names = [f"n{i}.test" for i in range(1_500)]
    found: list[str] = []
    with (
        imported("sweep_cluster") as sweep_cluster,
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
        ) as cluster,
        Client(cluster) as client,
    ):
        pids = set(client.run(os.getpid).values())
        assert len(pids) == 2
        killed: list[int] = []

        def say(line: dict[str, object]) -> None:
            assert "error" not in line, line
            found.append(str(line["name"]))
            if not killed:
                killed.append(pids.pop())
                os.kill(killed[0], signal.SIGKILL)

        host, port = server.sock.getsockname()
        whom = sweep_cluster.server_address(f"@{host}:{port}")
        asked = sweep_cluster.questions(names, 1, iter(lambda: whom, None), say)
        sweep_cluster.BATCH = 20
        settings = sweep_cluster.Settings(rate=1_000.0, in_flight=100, timeout=1.0, attempts=3)
        sweep_cluster.sweep_on(client, asked, settings, say, size=250)
    assert Counter(found) == Counter(names)
    assert killed
    busiest = max(sum(begin <= when < begin + 0.5 for when in server.times) for begin in server.times[::50])
    assert busiest <= 0.5 * 1_000 * 1.05 + 2, "half the rate for each of two"


def test_misuse_is_told(tmp_path: Path) -> None:
    check_refused(run("sweep_cluster.py", str(tmp_path / "none"), "@127.0.0.1"), "can't read", "none")
