"""What is built: wheel and sdist hold all that they should and nothing else, and the sdist builds the same wheel."""

from __future__ import annotations

import ast
import email
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from pathlib import Path

import pytest

import udpguard

pytest.importorskip("hatchling", reason="builds need hatchling: pip install 'udpguard[dev]'")

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not (ROOT / "udpguard").is_dir(), reason="an installed package is tested, there is no source"),
]
# Not in the package where they are written, since pytest loads them in every project.
MOVED = {"udpguard/testing/_pytest_fixtures.py": "_udpguard_pytest.py"}
BUILD = "import sys; from hatchling import build; print(getattr(build, 'build_' + sys.argv[1])(sys.argv[2]))"


def built(kind: str, source: Path, folder: Path) -> Path:
    """Build without git, and without anything but hatchling."""
    environment = {**os.environ, "GIT_DIR": str(folder / "no-git"), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", BUILD, kind, str(folder)],
        cwd=source,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(built("wheel", ROOT, tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(built("sdist", ROOT, folder)) as archive:
        archive.extractall(folder, filter="data")
    (only,) = (entry for entry in folder.iterdir() if entry.is_dir())
    return only


def modules() -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / "udpguard").rglob("*.py")}


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    info = f"udpguard-{udpguard.__version__}.dist-info"
    about = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    package = {MOVED.get(name, name) for name in modules()} | {"udpguard/py.typed"}
    assert set(wheel.namelist()) == package | about
    assert wheel.filename is not None
    assert Path(wheel.filename).name == f"udpguard-{udpguard.__version__}-py3-none-any.whl"


def test_the_sdist_holds_what_git_does_but_for_what_runs_the_checks(unpacked: Path) -> None:
    tops = {entry.name for entry in unpacked.iterdir()}
    assert tops == {
        *("CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml", ".gitignore"),
        *("docs", "examples", "tests", "udpguard"),
    }
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *tops - {"PKG-INFO"}],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("this is no clone")
    held = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert held == {name for name in listed.stdout.splitlines() if (ROOT / name).exists()} | {"PKG-INFO"}


def test_the_sdist_builds_the_same_wheel(unpacked: Path, wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    with zipfile.ZipFile(built("wheel", unpacked, tmp_path)) as again:
        assert {name: again.read(name) for name in again.namelist()} == {
            name: wheel.read(name) for name in wheel.namelist()
        }


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    return email.message_from_bytes(wheel.read(f"udpguard-{udpguard.__version__}.dist-info/METADATA"))


def test_the_version_is_the_packages_own_and_stands_nowhere_else(metadata: Message) -> None:
    assert metadata["Version"] == udpguard.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", udpguard.__version__)
    assert f'"{udpguard.__version__}"' not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_nothing_is_needed_at_run_time(metadata: Message) -> None:
    needs = metadata.get_all("Requires-Dist") or []
    assert [need for need in needs if "extra ==" not in need] == []
    assert metadata["Requires-Python"] == ">=3.11"


def test_the_license_is_told_as_an_expression(metadata: Message, wheel: zipfile.ZipFile) -> None:
    assert (metadata["License-Expression"], metadata.get_all("License-File")) == ("MIT", ["LICENSE"])
    text = wheel.read(f"udpguard-{udpguard.__version__}.dist-info/licenses/LICENSE").decode()
    assert text.startswith("MIT License") or "Permission is hereby granted, free of charge" in text


def test_every_module_that_is_imported_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    held = set(wheel.namelist())
    for name in (name for name in held if name.endswith(".py")):
        for node in ast.walk(ast.parse(wheel.read(name))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("udpguard."):
                path = (node.module or "").replace(".", "/")
                assert {f"{path}.py", f"{path}/__init__.py"} & held, (name, node.module)


def test_the_change_log_has_the_form_of_keep_a_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:])
    kinds = set(re.findall(r"^### (.+)$", text, flags=re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
