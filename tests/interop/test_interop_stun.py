"""STUN (RFC 8489) with a real coturn: it sees the example where its socket is, over IPv4 and IPv6."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import interop_servers
import interop_stun
import pytest
from interop_servers import Server

pytestmark = pytest.mark.interop

Start = Callable[[AbstractContextManager[Server]], Server]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("turnserver") / "turnserver.log"


@pytest.fixture(scope="module")
def turnserver(start: Start, log: Path) -> Server:
    return start(interop_stun.turnserver(log.parent))


@pytest.fixture(scope="module")
def turnserver_ipv6(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Server:
    return start(interop_stun.turnserver(tmp_path_factory.mktemp("turnserver-ipv6"), "::1"))


def test_the_address_is_what_the_server_saw(turnserver: Server, log: Path, run_example: Callable[..., str]) -> None:
    before = log.read_text()
    printed = run_example("stun_binding.py", turnserver.at)
    line = re.fullmatch(rf"{turnserver.at}: this machine is seen at (127\.0\.0\.1:\d+)\n", printed)
    assert line, printed
    assert f", remote addr {line[1]}\n" in log.read_text().removeprefix(before)


def test_it_is_seen_at_the_same_host_as_coturns_own_client(turnserver: Server, run_example: Callable[..., str]) -> None:
    theirs = subprocess.run(
        [interop_servers.program("turnutils_stunclient"), "-p", str(turnserver.port), turnserver.host],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    ours = run_example("stun_binding.py", turnserver.at)
    hosts = [re.findall(r"(?:addr:|seen at) (\S+):\d+\n", told)[0] for told in (theirs, ours)]
    assert hosts == ["127.0.0.1", "127.0.0.1"]


def test_ipv6(turnserver_ipv6: Server, run_example: Callable[..., str]) -> None:
    printed = run_example("stun_binding.py", turnserver_ipv6.at)
    assert re.fullmatch(rf"{re.escape(turnserver_ipv6.at)}: this machine is seen at \[::1\]:\d+\n", printed), printed


def test_servers_that_are_asked_from_one_socket_agree(
    turnserver: Server, turnserver_ipv6: Server, run_example: Callable[..., str]
) -> None:
    printed = run_example("stun_binding.py", turnserver.at, turnserver_ipv6.at, f"localhost:{turnserver.port}")
    *lines, verdict = printed.splitlines()
    assert verdict == "they agree: this socket is seen at the same address whoever is asked"
    assert len({line.rpartition(":")[2] for line in lines}) == 1, "one port for both families"
    assert sorted(line.partition(": ")[0] for line in lines) == sorted(
        [turnserver.at, turnserver_ipv6.at, f"localhost:{turnserver.port}"]
    )
