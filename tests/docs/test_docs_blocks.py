"""The code in README and docs runs as it is printed."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import udpguard

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^ *```(\w+)(?: (?:file|on)=(\S+))?\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
# What differs from run to run: ports, and times below a second.
VARYING = re.compile(r"(?<=127\.0\.0\.1:)\d+|(?<=\"127\.0\.0\.1\", )\d+")
# An output marked `text on=linux` is another where neither ICMP nor the kernel's filter is to be had.
AS_ON_LINUX = sys.platform == "linux" and os.environ.get("UDPGUARD_BACKEND") != "portable"


def where(page: Path) -> str:
    return page.relative_to(ROOT).with_suffix("").as_posix()


def files_on(page: Path) -> dict[str, str]:
    """What a page has under the names of files."""
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    return {name: code for language, name, code in blocks if language == "python" and name}


def programs() -> list[object]:
    found = []
    for page in PAGES:
        blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
        files = files_on(page)
        for number, (language, name, code) in enumerate(blocks):
            if language == "python" and not name:
                following = blocks[number + 1] if number + 1 < len(blocks) else ("", "", "")
                printed = following[0] == "text" and (AS_ON_LINUX or following[1] != "linux")
                output = following[2] if printed else None
                found.append(pytest.param(files, code, output, id=f"{where(page)}-{number}"))
    return found


@pytest.mark.parametrize(("files", "code", "output"), programs())
def test_a_printed_program_runs_and_prints_what_the_page_says(
    files: dict[str, str], code: str, output: str | None, tmp_path: Path
) -> None:
    done = python(tmp_path, {**files, "program.py": code}, "program.py")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    if output is not None:
        assert VARYING.sub("PORT", done.stdout) == VARYING.sub("PORT", output)


def python(folder: Path, files: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python beside these files, as who typed them in would, but every warning is an error."""
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), *sys.path])
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(name.startswith("test_") for name in files_on(page))], ids=where
)
def test_printed_tests_pass(page: Path, tmp_path: Path) -> None:
    scope = "asyncio_default_fixture_loop_scope=function"  # pytest-asyncio wants it to be set, used or not
    done = python(tmp_path, files_on(page), "-m", "pytest", "-p", "no:cacheprovider", "-o", scope)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "how-to").glob("*.md")), ids=where)
def test_how_to_programs_fit_the_page(page: Path) -> None:
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    lines = [line for language, _, code in blocks if language == "python" for line in code.splitlines()]
    assert not [line for line in lines if len(line) > 88]  # what a desktop browser shows without scrolling


@pytest.mark.parametrize("page", PAGES, ids=where)
def test_each_printed_file_is_used(page: Path) -> None:
    code = "\n".join(
        text for language, _, text in BLOCK.findall(page.read_text(encoding="utf-8")) if language == "python"
    )
    for name in files_on(page):
        module = name.removesuffix(".py")
        used = module == "conftest" or module.startswith("test_")  # by pytest
        assert used or re.search(rf"^(import|from) {module}\b", code, re.MULTILINE), name


def test_public_names_are_sorted_and_show_where_users_find_them() -> None:
    assert list(udpguard.__all__) == sorted(udpguard.__all__)
    for name in udpguard.__all__:
        value = getattr(udpguard, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__module__ == "udpguard", name
            assert value.__doc__, name


@pytest.mark.parametrize("page", PAGES, ids=where)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
