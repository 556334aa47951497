"""Link-local addresses and missing routes, in a network namespace of the test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def _why_not() -> str | None:
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "needs root to make a network namespace"
    for tool in ("unshare", "ip"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    made = subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False)
    return None if made.returncode == 0 else f"no network namespace can be made: {made.stderr.decode().strip()}"


WHY_NOT = _why_not()


@pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")
@pytest.mark.parametrize(
    "case",
    [
        "link_local",
        "link_local_without_scope",
        "link_local_of_another_link",
        "filtered",
        "no_route",
        "not_permitted",
        "path_mtu",
        "no_ipv6",
    ],
)
def test_in_a_network_namespace(case: str) -> None:
    outcome = subprocess.run(
        ["unshare", "-n", sys.executable, str(HERE / "loopback_netns_child.py"), case],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(HERE)])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert not outcome.stderr
