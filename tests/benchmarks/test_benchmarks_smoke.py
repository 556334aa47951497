"""The benchmark command works, and counts right. No time is asserted: machines differ, and are noisy."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import bench_exchange
import bench_massdns
import bench_names
import bench_tables
import million
import pytest
from bench_contestants import CONTESTANTS, Contestant, chosen
from bench_nameserver import find_nsd
from bench_part import Bench, PartMissingError
from bench_questions import is_answer, question, write_names
from bench_work import Address, Figures, Plan, work
from bench_workshop import find_compiler

import udpguard

RUN = Path(__file__).with_name("run.py")
MILLION = Path(__file__).with_name("million.py")
LINUX = sys.platform == "linux"
HAS_COMPILER = find_compiler() is not None
# Where it is required, a test without it is to fail.
HAS_NSD = find_nsd() is not None or os.environ.get("UDPGUARD_REQUIRE_INTEROP", "") not in {"", "0"}
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
    """Run the command as small as it goes."""
    figures = folder / "figures.json"
    small = ["--quick", "--scale", "0.002", "--json", str(figures)]
    ended = script(folder, RUN, *small, *arguments, environment=environment)
    if figures.exists():
        ended.document = json.loads(figures.read_text(encoding="utf-8"))
    return ended


def script(folder: Path, path: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Ended:
    """Run a command; it must leave neither a process nor a temporary file behind."""
    temporary = folder / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(path), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)} | dict(environment or {}),
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=60)
        assert running_in(process.pid) == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert not list(temporary.glob("udpguard*"))
    return Ended(process.returncode, out, err, {})


def running_in(group: int) -> list[str]:
    """The processes of a group that have not ended; who adopts what has ended buries it in his own time."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")
            state, _, its_group = rest.split()[:3]
            if int(its_group) == group and state != "Z":
                found.append(f"{name}) {state}")
    return found


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
        parts = ["pending", "memory", "junk", "flood", "drain", "profile", "import"]
        plots = tmp_path / "plots"
        ended = command(tmp_path, "--parts", *parts, "--only", "udpguard", "--plots", str(plots))
        assert ended.status == 0, ended.err
        assert all(map(is_answered, ended.runs("pending") + ended.runs("drain")))
        assert {run["pending"] for run in ended.runs("pending")} >= {1, 200}
        assert {run["backlog"] for run in ended.runs("drain")} == {2, 20}
        imports = ended.document["import"]["summary"]
        assert {line["contestant"] for line in imports} >= {"import asyncio", "import udpguard", "open an endpoint"}
        assert all(line["wall"] > 0 and line["ratio"] > 0 and not line["trouble"] for line in imports)
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
        names = ("pending", "junk", "drain") if HAS_MATPLOTLIB else ()
        drawn = {f"{name}{kind}" for name in names for kind in (".svg", ".dark.svg")}
        assert {path.name for path in plots.glob("*")} == drawn
        assert ("pip install 'udpguard[bench]'" in ended.err) is not HAS_MATPLOTLIB

    def test_without_a_compiler_python_serves_and_the_c_client_is_not_here(self, tmp_path: Path) -> None:
        only = ["--only", "c", "blocking", "--in-flight", "8"]
        ended = command(tmp_path, "--parts", "exchange", *only, environment={"CC": ""})
        assert ended.status == 0, ended.err
        assert [run["contestant"] for run in ended.runs("exchange")] == ["blocking"]
        assert all(map(is_answered, ended.runs("exchange")))
        assert "not here: no C compiler" in ended.out


@pytest.mark.skipif(not HAS_NSD, reason="nsd is not installed: apt-get install nsd")
@pytest.mark.skipif(not LINUX, reason="all of 127.0.0.0/8 is local on Linux only")
class TestNames:
    def test_every_name_is_answered_to_every_contestant(self, tmp_path: Path) -> None:
        only = ["stock", "massdns", "c", "udpguard-assigned", "sweep-assigned"]
        ended = command(tmp_path, "--parts", "names", "--only", *only, "--in-flight", "1", "8")
        assert ended.status == 0, ended.err
        here = {name for name in only if name != "massdns" and (name != "c" or HAS_COMPILER)}
        runs = ended.runs("names")
        assert {(run["contestant"], run["in_flight"]) for run in runs} == {(name, 8) for name in here}
        assert all(map(is_answered, runs)), runs
        assert {run["asked"] for run in runs if run["contestant"] != "c"} == {100}
        assert all(run["server_cpu"] >= 0 for run in runs)
        lines = ended.document["names"]["summary"]
        assert {line["cpu_vs_stock"] for line in lines if line["contestant"] == "stock"} == {1.0}
        assert "not here: say where it is: --massdns PATH" in ended.out

    def test_a_stand_in_for_massdns_is_started_and_its_status_is_read(self, tmp_path: Path) -> None:
        stand_in = tmp_path / "massdns"
        stand_in.write_text(STAND_IN.format(python=sys.executable), encoding="utf-8")
        stand_in.chmod(0o755)
        only = ["massdns", "massdns-default"]
        ended = command(tmp_path, "--parts", "names", "--only", *only, "--in-flight", "8", "--massdns", str(stand_in))
        assert ended.status == 0, ended.err
        plain, default = sorted(ended.runs("names"), key=lambda run: str(run["contestant"]))
        assert (plain["asked"], plain["right"], plain["lost"]) == (100, 100, 0)
        assert (default["asked"], default["right"], default["lost"]) == (100, 97, 3), "its status was not heeded"
        assert "3 lost of 100" in ended.out

    def test_a_sweep_accounts_for_every_name(self, tmp_path: Path) -> None:
        ended = script(tmp_path, MILLION, "--names", "2000", "--in-flight", "100")
        assert ended.status == 0, ended.out + ended.err
        assert "2,000 names: 2,000 answered right, 0 wrong, 0 failed, 0 without an outcome" in ended.out
        assert "Every name is accounted for, in bounded memory." in ended.out
        assert "not here: say where it is: --massdns PATH" in ended.out


# It answers for every name in its last argument, but where nobody gives it buffers for three less.
STAND_IN = """#!{python}
import json, pathlib, sys
if "--help" in sys.argv:
    sys.exit("  -s  --hashmap-size       Number of concurrent lookups. (Default: 10000)")
assert pathlib.Path(sys.argv[sys.argv.index("-r") + 1]).read_text().startswith("127.")
count = len(pathlib.Path(sys.argv[-1]).read_text().splitlines())
print("a warning", file=sys.stderr)
print(json.dumps({{"response": {{"OK": {{"success_number": 0}}}}}}), file=sys.stderr)
right = count if "--rcvbuf" in sys.argv or count < 3 else count - 3
print(json.dumps({{"response": {{"OK": {{"success_number": right}}}}}}), file=sys.stderr)
"""


class TestNamesWithoutServer:
    def test_without_nsd_the_part_is_not_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bench_names.find_nsd", lambda: None)
        with pytest.raises(PartMissingError, match="nsd is not installed"):
            bench_names.measure(cast("Bench", None))

    def test_who_is_not_massdns_is_not_here(self, tmp_path: Path) -> None:
        assert bench_massdns.missing(None) == "say where it is: --massdns PATH"
        assert bench_massdns.missing(str(tmp_path / "massdns")).startswith("it doesn't run: ")
        assert bench_massdns.missing(sys.executable) == f"{sys.executable} is not massdns"

    def test_names_are_packed_as_the_rfc_has_it(self, tmp_path: Path) -> None:
        names = tmp_path / "names"
        write_names(names, 3, "sweep.test")
        lines = names.read_bytes().splitlines(keepends=True)
        assert lines == [b"n00000000.sweep.test\n", b"n00000001.sweep.test\n", b"n00000002.sweep.test\n"]
        packed = b"\0\0\1\0\0\1\0\0\0\0\0\0\x09n00000001\x05sweep\x04test\0\0\1\0\1"
        assert question(lines[1]) == question(b"n00000001.sweep.test.") == packed

    def test_an_answer_repeats_the_question_and_has_no_error(self) -> None:
        asked = question(b"a.test")
        header, rest = b"\x12\x34\x85\0\0\1\0\1\0\0\0\0", asked[12:]
        assert is_answer(asked, header + rest + b"\xc0\x0c")
        assert not is_answer(asked, header + question(b"b.test")[12:])
        assert not is_answer(asked, b"\x12\x34\5" + header[3:] + rest), "a question"
        assert not is_answer(asked, header[:3] + b"\3" + header[4:] + rest), "NXDOMAIN"
        assert not is_answer(asked, header[:7] + b"\0" + header[8:] + rest), "no answer"
        assert not is_answer(asked, b"")


class TestAccount:
    def test_a_name_without_an_outcome_or_with_two_is_noticed(self) -> None:
        account = million.Account(3, "test")
        right = udpguard.Reply(b"\0\0\x85\0\0\1\0\1" + question(b"n00000001.test")[8:], PEER, None, 1)
        account.enter(1, right, None)
        account.enter(1, right, None)
        account.enter(0, right, None)
        account.close()
        found = account.found()
        assert (found["missing"], found["repeated"]) == (1, 1)
        assert (account.figures.right, account.figures.wrong) == (2, 1), "the answer for 1 is none for 0"

    @pytest.mark.parametrize("changed", [{"right": 9, "lost": 1}, {"missing": 1}, {"repeated": 1}, {"grown": 9 << 20}])
    def test_the_command_says_what_is_amiss(self, changed: dict[str, int], capsys: pytest.CaptureFixture[str]) -> None:
        assert million.judge(an_account(), 10) == 0
        assert million.judge(an_account(**changed), 10) == 1
        assert "NOT" in capsys.readouterr().out


PEER = udpguard.Peer("127.1.0.1", 53)


def an_account(
    *, right: int = 10, lost: int = 0, missing: int = 0, repeated: int = 0, grown: int = 0
) -> dict[str, Any]:
    resident = [1 << 20, *[20 << 20] * 18, (20 << 20) + grown]
    figures = dataclasses.asdict(Figures(asked=right + lost, right=right, lost=lost))
    return {"figures": figures, "missing": missing, "repeated": repeated, "resident": resident, "progress": ""}


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
