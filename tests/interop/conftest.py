"""The real servers, as fixtures; and what becomes of a test whose server is missing.

On a user's machine such a test is skipped with a reason. With UDPGUARD_REQUIRE_INTEROP=1 it fails.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import interop_coap
import interop_memcached
import interop_servers
import pytest
from interop_checks import EXAMPLES
from interop_servers import Server

REQUIRED = os.environ.get("UDPGUARD_REQUIRE_INTEROP", "") not in {"", "0"}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if REQUIRED and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"UDPGUARD_REQUIRE_INTEROP is set, and this can't be run: {reason}"
    return report


@pytest.fixture(scope="session")
def unbound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from _running(interop_servers.unbound(tmp_path_factory.mktemp("unbound")))


@pytest.fixture(scope="session")
def unbound_ipv6(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An unbound that listens on ::1 only."""
    if not _has_ipv6_loopback():
        pytest.skip("this machine has no ::1")
    yield from _running(interop_servers.unbound(tmp_path_factory.mktemp("unbound-ipv6"), "::1", 3))


@pytest.fixture(scope="session")
def dnsmasq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from _running(interop_servers.dnsmasq(tmp_path_factory.mktemp("dnsmasq")))


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Server]:
    """A dnsmasq of the test's own, which it may kill."""
    yield from _running(interop_servers.dnsmasq(tmp_path, network=4))


@pytest.fixture(scope="session")
def chronyd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from _running(interop_servers.chronyd(tmp_path_factory.mktemp("chronyd")))


@pytest.fixture(scope="session")
def coap_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the CoAP server runs, and keeps its log."""
    return tmp_path_factory.mktemp("coap")


@pytest.fixture(scope="session")
def coap(coap_directory: Path) -> Iterator[Server]:
    yield from _running(interop_coap.server(coap_directory))


@pytest.fixture(scope="session")
def memcached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from _running(interop_memcached.server(tmp_path_factory.mktemp("memcached")))


@pytest.fixture(scope="session")
def tftp_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that the TFTP server gives files from."""
    return tmp_path_factory.mktemp("tftpd")


@pytest.fixture(scope="session")
def tftpd(tftp_files: Path) -> Iterator[Server]:
    yield from _running(interop_servers.tftpd(tftp_files))


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    """The address of a server that hears everything and says nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        yield listening.getsockname()


@pytest.fixture
def run_example() -> Callable[..., str]:
    """Run one of the examples as a user would, and give what it printed."""

    def run(name: str, *arguments: str, typed: str = "") -> str:
        done = _run_example(name, *arguments, typed=typed)
        assert done.returncode == 0, f"{name} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        assert not done.stderr
        return done.stdout

    return run


@pytest.fixture
def run_failing() -> Callable[..., str]:
    """Run one of the examples where it can't succeed, and give all that it printed."""

    def run(name: str, *arguments: str, typed: str = "") -> str:
        done = _run_example(name, *arguments, typed=typed)
        assert done.returncode == 1, f"{name} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="session")
def start() -> Iterator[Callable[[AbstractContextManager[Server]], Server]]:
    """Start a server, which then runs until the last test has ended."""
    with ExitStack() as stack:
        yield lambda server: _started(stack, server)


def _run_example(name: str, *arguments: str, typed: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _running(server: AbstractContextManager[Server]) -> Iterator[Server]:
    with ExitStack() as stack:
        yield _started(stack, server)


def _started(stack: ExitStack, server: AbstractContextManager[Server]) -> Server:
    try:
        return stack.enter_context(server)
    except interop_servers.UnavailableError as error:
        pytest.skip(str(error))


def _has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as trying:
            trying.bind(("::1", 0))
    except OSError:
        return False
    return True
