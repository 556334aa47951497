"""A slice of what `run.py` simulates; its docstring says what that is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import simulation_experiments as experiments
from simulation_program import MODES, Result, simulate

RUN = Path(__file__).with_name("run.py")


@pytest.mark.parametrize("seed", range(1_000, 1_003))
@pytest.mark.parametrize("mode", MODES)
def test_each_exchange_has_one_outcome_and_it_is_the_right_one(mode: str, seed: int) -> None:
    result = simulate(mode, str(seed))
    assert not result.violations
    assert result.outcomes["answered"] > 100
    assert result.statistics["late"] > 0
    assert result.statistics["duplicate"] > 0
    assert result.outcomes["refused"] > 0
    assert result.forged.total() > 50
    assert result.checks > result.exchanges
    assert result.listened["sessions"] > 5
    assert result.listened["datagrams of sessions"] > 5
    assert result.listened["replies found"] > 3
    if not MODES[mode].allows_duplicates:
        assert not result.wrong


@pytest.mark.parametrize("has_ids", [True, False])
@pytest.mark.parametrize(("loss", "attempts"), [(0.1, 1), (0.3, 2), (0.3, 4), (0.5, 7)])
def test_retransmission_succeeds_as_often_as_it_must(loss: float, attempts: int, has_ids: bool) -> None:
    answered = experiments.successes(loss, attempts, "slice", 1_000, has_ids=has_ids)
    assert abs(experiments.deviation(answered, 1_000, loss, attempts)) < 3


def test_without_ids_only_rotated_ports_are_safe_from_the_networks_duplicates() -> None:
    """What the documentation says of each policy, in the worst weather and at the worst pace."""
    weather = next(one for one in experiments.WEATHERS if one.tail and one.loss == 0.3 and not one.pause)
    found = [experiments.odds(policy, weather, "slice", 500) for policy in experiments.POLICIES]
    assert [text for one in found for text in one.violations] == []
    no_quarantine, quarantine, spares, rotated, assigned = (sum(one.wrong.values()) / one.answered for one in found)
    assert no_quarantine > spares > 0
    assert quarantine > 0
    assert set(found[2].wrong) == {"network's duplicate"}
    assert rotated == assigned == 0


SAME = """
import sys
sys.path.insert(0, sys.argv[1])
from simulation_program import simulate
print(simulate("three programs", "same", 300))
"""


def test_the_same_seed_gives_the_same_simulation_in_another_process() -> None:
    def told(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", SAME, str(RUN.parent)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    here = simulate("three programs", "same", 300)
    assert isinstance(here, Result)
    assert told("1") == told("2") == f"{here}\n"


def test_the_command_prints_tables_and_writes_json(tmp_path: Path) -> None:
    where = tmp_path / "simulation.json"
    command = [sys.executable, str(RUN), "--parts", "exchanges", "law", "--modes", "own ids", "--json", str(where)]
    done = subprocess.run(
        [*command, "--scale", "0.001", "--processes", "1", "--first-seed", "7", "--exchanges", "100"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing found that must not be" in done.stdout
    document = json.loads(where.read_text(encoding="utf-8"))
    assert document["violations"] == []
    assert document["exchanges"]["own ids"]["simulations"] == 1
    assert document["in_all"] == document["exchanges"]["own ids"]["exchanges"] + 2_400
    assert len(document["law"]) == 24
