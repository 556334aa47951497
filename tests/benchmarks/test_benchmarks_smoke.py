"""The benchmark command works, and counts right. No time is asserted: machines differ, and are noisy."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_exchange
import bench_tables
import pytest
from bench_contestants import CONTESTANTS, Contestant, chosen
from bench_work import Address, Plan, work
from bench_workshop import find_compiler

RUN = Path(__file__).with_name("run.py")
LINUX = sys.platform == "linux"
HAS_COMPILER = find_compiler() is not None
HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None


@dataclass
class Ended:
    status: int
    out: str
    err: str
    document: dict[str, Any]

    def runs(self, part: str) -> list[dict[str, Any]]:
        runs: list[dict[str, Any]] = self.document[part]["runs"]
        return runs


def command(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Ended:
    """Run the command as small as it goes; it must leave neither a process nor a temporary file behind."""
    temporary = folder / "temporary"
    temporary.mkdir()
    figures = folder / "figures.json"
    process = subprocess.Popen(
        [sys.executable, str(RUN), "--quick", "--scale", "0.002", "--json", str(figures), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)} | dict(environment or {}),
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=60)
        if os.name == "posix":
            with pytest.raises(ProcessLookupError):
                os.killpg(process.pid, 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert not list(temporary.glob("udpguard*"))
    document = json.loads(figures.read_text(encoding="utf-8")) if figures.exists() else {}
    return Ended(process.returncode, out, err, document)


def is_answered(run: Mapping[str, Any]) -> bool:
    return bool(run["asked"] == run["right"] > 0 and run["wrong"] == run["lost"] == 0)


def test_elsewhere_than_on_linux_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench_machine.is_fit", lambda: False)
    monkeypatch.setattr(sys, "argv", ["run.py", "--json", str(tmp_path / "figures.json")])
    spec = importlib.util.spec_from_file_location("benchmarks_run", RUN)  # other folders have a run.py, too
    assert spec is not None
    assert spec.loader is not None
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    assert run.main() == 2
    assert "Linux" in capsys.readouterr().err


@pytest.mark.skipif(not LINUX, reason="all of 127.0.0.0/8 is local on Linux only")
class TestCommand:
    def test_every_exchange_of_every_contestant_is_answered(self, tmp_path: Path) -> None:
        only = ["stock", "c", "udpguard-keyed"]
        ended = command(tmp_path, "--parts", "exchange", "--only", *only, "--in-flight", "1", "8")
        assert ended.status == 0, ended.err
        here = {name for name in only if name != "c" or HAS_COMPILER}
        runs = ended.runs("exchange")
        assert {(run["contestant"], run["in_flight"]) for run in runs} == {(name, d) for name in here for d in (1, 8)}
        assert all(map(is_answered, runs)), runs
        assert all(run.keys() >= {"round", "wall", "cpu", "max_rss"} for run in runs)
        assert set(ended.document["not_here"]) == set(only) - here
        keys = {"cpu", "cores", "system", "python", "rmem_max", "user", "libraries"}
        assert ended.document["machine"].keys() >= keys
        assert ended.document["machine"]["libraries"]["udpguard"]
        lines = ended.document["exchange"]["summary"]
        assert {line["cpu_vs_stock"] for line in lines if line["contestant"] == "stock"} == {1.0}
        assert "8 in flight" in ended.out

    def test_every_other_part_runs(self, tmp_path: Path) -> None:
        parts = ["pending", "memory", "junk", "flood", "drain", "profile"]
        plots = tmp_path / "plots"
        ended = command(tmp_path, "--parts", *parts, "--only", "udpguard", "--plots", str(plots))
        assert ended.status == 0, ended.err
        assert all(map(is_answered, ended.runs("pending") + ended.runs("drain")))
        assert {run["pending"] for run in ended.runs("pending")} >= {1, 200}
        assert {run["backlog"] for run in ended.runs("drain")} == {2, 20}
        junk = ended.runs("junk")
        assert {(run["rate"], run["target"]) for run in junk} == {(0, "client"), (200, "client"), (200, "bystander")}
        assert all(run["asked"] == run["right"] + run["wrong"] + run["lost"] > 0 for run in junk)
        floods = ended.runs("flood")
        assert {(run["way"], run["peers"], run["target"]) for run in floods} == {
            (way, peers, target)
            for way in ("off", "auto", "on")
            for peers in (100, 4_000)
            for target in ("client", "bystander")
        }
        assert all(run["asked"] == run["right"] + run["wrong"] + run["lost"] > 0 for run in floods)
        assert {run["contestant"] for run in ended.runs("memory")} == {"bare", "udpguard"}
        assert all(run["traced"] > 0 for run in ended.runs("memory"))
        assert [
            sorted(run.keys() & {"tasks_us", "with_udpguard_us", "socket_us"}) for run in ended.runs("profile")
        ] == [["socket_us", "tasks_us", "with_udpguard_us"]]
        drawn = {"pending.svg", "junk.svg", "drain.svg"} if HAS_MATPLOTLIB else set()
        assert {path.name for path in plots.glob("*")} == drawn
        assert ("pip install 'udpguard[bench]'" in ended.err) is not HAS_MATPLOTLIB

    def test_without_a_compiler_python_serves_and_the_c_client_is_not_here(self, tmp_path: Path) -> None:
        only = ["--only", "c", "blocking", "--in-flight", "8"]
        ended = command(tmp_path, "--parts", "exchange", *only, environment={"CC": ""})
        assert ended.status == 0, ended.err
        assert [run["contestant"] for run in ended.runs("exchange")] == ["blocking"]
        assert all(map(is_answered, ended.runs("exchange")))
        assert "not here: no C compiler" in ended.out


def a_run(contestant: str, number: int, *, lost: int = 0, cpu: float = 1.0) -> dict[str, Any]:
    counts = {"asked": 10, "right": 10 - lost, "wrong": 0, "lost": lost}
    return counts | {"contestant": contestant, "in_flight": 64, "round": number, "wall": 2.0, "cpu": cpu}


class TestLosses:
    def test_a_run_with_losses_is_shown_as_such_and_takes_no_part(self) -> None:
        runs = [a_run("stock", 1), a_run("stock", 2, lost=3, cpu=0.001), a_run("udpguard", 1), a_run("udpguard", 2)]
        stock, ours = bench_exchange.summary(runs)
        assert stock["trouble"] == "3 lost of 10 (in 1 of 2 runs)"
        assert stock["cpu_us"] == pytest.approx(1e5)
        assert ours["trouble"] == ""
        assert ours["cpu_vs_stock"] == pytest.approx(1.0)  # of the first round alone
        assert "3 lost of 10" in bench_exchange.table([stock, ours], {})

    def test_without_a_clean_run_there_is_no_figure(self) -> None:
        stock, ours = bench_exchange.summary([a_run("stock", 1, lost=1), a_run("udpguard", 1)])
        assert (stock["cpu_us"], stock["throughput"]) == (None, None)
        assert ours["cpu_vs_stock"] is None

    def test_one_that_failed_says_why(self) -> None:
        failed = {"contestant": "stock", "in_flight": 1, "round": 1, "failed": "OSError: no"}
        assert bench_tables.trouble([a_run("stock", 2), failed]) == "failed: OSError: no"

    async def test_a_run_that_loses_in_its_warm_up_ends_there(self) -> None:
        asked: list[bytes] = []

        async def ask(_: Address, data: bytes) -> bytes:
            asked.append(data)
            if len(asked) == 5:
                raise TimeoutError("no reply")
            return data

        figures = await work(ask, Plan(port=9, peers=4, in_flight=4, warm_up=8, seconds=9.0))
        assert (figures.asked, figures.right, figures.lost) == (7, 6, 1)
        assert figures.error == "TimeoutError: no reply"
        assert len(asked) == 7, "neither the other half of the warm-up nor the measured span"


class TestContestants:
    def test_one_whose_library_is_not_installed_is_not_here(self) -> None:
        assert Contestant("x", "x", needs=("no_such_module", "json")).missing == "no_such_module"

    def test_they_are_chosen_by_pattern(self) -> None:
        assert [each.name for each in chosen(["c", "udpguard-uvloop*"])] == [
            "c",
            "udpguard-uvloop",
            "udpguard-uvloop-keyed",
            "udpguard-uvloop-assigned",
        ]
        assert chosen([]) == list(CONTESTANTS)
        with pytest.raises(ValueError, match="nobody is called 'stick'"):
            chosen(["stick"])
