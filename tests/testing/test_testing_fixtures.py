"""The pytest plug-in: what its fixtures give, how they are seeded, and that it costs nobody anything."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from testing_kit import really

import udpguard
from udpguard.testing import Impostor, Relay, Server, Simulation, echo

TESTS = """
import asyncio
import udpguard
from udpguard.testing import Server, echo

def test_simulated(udp_simulation):
    async def main():
        async with Server(echo, "192.0.2.1", 7) as server, udpguard.open_endpoint() as endpoint:
            await asyncio.sleep(3600)
            return await endpoint.request(server.address, b"hello")

    assert udp_simulation.run(main) == b"hello"
    print("seed:", udp_simulation.seed)

def test_real(udp_server, udp_relay, udp_impostor):
    async def main():
        async with udp_server(echo) as server, udp_relay(server.address, loss=0.0) as relay:
            async with udp_impostor(server) as impostor, udpguard.open_endpoint() as endpoint:
                assert await endpoint.request(relay.address, b"hello") == b"hello"

    asyncio.run(main())

def test_left_open(udp_server):
    asyncio.run(udp_server().__aenter__())
"""


def pytest_run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:asyncio", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_pytest_finds_the_fixtures_by_itself(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(TESTS, encoding="utf-8")
    done = pytest_run(tmp_path, "-s", "-v")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    assert "seed: test_one.py::test_simulated" in done.stdout
    done = pytest_run(tmp_path, "-s", "--udpguard-seed", "other")
    assert "seed: other" in done.stdout


def test_the_tests_that_the_documentation_prints_pass(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "test-with-the-kit.md").read_text(encoding="utf-8")
    name, code = re.findall(r"^```python file=(test_\w+\.py)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0]
    (tmp_path / name).write_text(code, encoding="utf-8")
    done = pytest_run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_a_project_that_does_not_use_them_imports_nothing(tmp_path: Path) -> None:
    code = "import sys\n\ndef test_it():\n    assert 'udpguard' not in sys.modules\n"
    (tmp_path / "test_two.py").write_text(code, encoding="utf-8")
    done = pytest_run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_udpguard_does_not_import_the_kit() -> None:
    code = "import sys, udpguard; sys.exit(any('udpguard.testing' in name or 'pytest' in name for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
    code = "import sys, udpguard.testing; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_a_simulation_is_seeded_by_its_tests_name(udp_simulation: Simulation, request: pytest.FixtureRequest) -> None:
    expected = request.config.getoption("--udpguard-seed") or request.node.nodeid
    assert udp_simulation.seed == expected
    assert udp_simulation.run(lambda: asyncio.sleep(3_600, "an hour later")) == "an hour later"


def test_fixtures_serve_real_loops(udp_server: Any, udp_relay: Any, udp_impostor: Any) -> None:
    async def main() -> bytes:
        server, silent_server = udp_server(echo), udp_server()
        assert isinstance(server, Server)
        async with server, silent_server, udp_relay(server.address, delay=0.01) as relay:
            assert isinstance(relay, Relay)
            async with udp_impostor(server) as impostor, udpguard.open_endpoint(("127.0.0.1", 0)) as endpoint:
                assert isinstance(impostor, Impostor)
                await impostor.flood(endpoint.local_addr, count=10, rate=10_000.0)
                return await endpoint.request(relay.address, b"hello")

    assert really(main) == b"hello"
