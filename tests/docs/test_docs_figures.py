"""Drawings and plots are what their scripts draw, in light and in dark, and small enough for a phone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "docs" / "figures"
PLOTS = ROOT / "docs" / "explanation" / "plots"
MEASURED = ROOT / "docs" / "explanation" / "figures.json"
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)]+)\)")
# What a phone shows of a page's width, and what can be read there, in CSS pixels.
PHONE = 358
LEGIBLE = 11
TEXT = re.compile(r"<text[^>]*>([^<]*)</text>")


def drawn(folder: Path, *command: str) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, *command, str(folder)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.svg")}


def kept(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.svg")}


def test_drawings_are_what_the_script_draws(tmp_path: Path) -> None:
    found = drawn(tmp_path, str(FIGURES / "draw.py"))
    stale = [name for name, text in kept(FIGURES).items() if found.get(name) != text]
    assert not stale, "python docs/figures/draw.py"
    assert found.keys() == kept(FIGURES).keys()


def test_each_layer_of_the_house_is_drawn() -> None:
    text = (FIGURES / "house.svg").read_text(encoding="utf-8")
    contract = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("layers = [")[2].partition("]")[0]
    modules = re.findall(r"udpguard\.(\w+)", contract)
    assert len(modules) > 20
    shown = set(re.findall(r"\w+", " ".join(TEXT.findall(text))))
    assert not set(modules) - shown


def test_plots_are_what_the_script_draws_of_the_documented_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    script = ROOT / "tests" / "benchmarks" / "plots.py"
    first = drawn(tmp_path / "first", str(script), str(MEASURED))
    again = drawn(tmp_path / "again", str(script), str(MEASURED))
    assert first == again, "the same figures give the same bytes"
    assert first.keys() == kept(PLOTS).keys()
    # Another version of matplotlib may round in other ways, but writes the same.
    for name, text in kept(PLOTS).items():
        assert TEXT.findall(text) == TEXT.findall(first[name]), name


def test_the_documented_figures_are_those_of_the_tables() -> None:
    pages = {name: (ROOT / "docs" / "explanation" / f"{name}.md").read_text() for name in ("performance", "simulation")}
    document: dict[str, Any] = json.loads(MEASURED.read_text(encoding="utf-8"))
    for line in document["exchange"]["summary"]:
        assert f"| {line['cpu_us']:.1f} |" in pages["performance"], line
    for line in document["names"]["summary"]:
        assert f"| {line['throughput']:,.0f} |" in pages["performance"], line
    for line in document["junk"]["summary"]:
        assert f"| {100 * line['answered']:.1f} %, {line['goodput']:,.0f} |" in pages["performance"], line
    for line in document["pending"]["summary"]:
        assert f"| {line['cpu_us']:.1f} |" in pages["performance"], line
    for line in document["odds"]["summary"]:
        shown = f"{line['percent']:.2f}%" if line["percent"] else "0 of"
        assert f"| {shown}" in pages["simulation"], line


@pytest.mark.parametrize("folder", [FIGURES, PLOTS], ids=["drawings", "plots"])
def test_each_picture_has_a_dark_twin_with_the_same_words(folder: Path) -> None:
    found = kept(folder)
    assert found
    for name, text in found.items():
        if not name.endswith(".dark.svg"):
            twin = found[name.replace(".svg", ".dark.svg")]
            assert TEXT.findall(text) == TEXT.findall(twin), name
            assert text != twin, name


@pytest.mark.parametrize("folder", [FIGURES, PLOTS], ids=["drawings", "plots"])
def test_text_can_be_read_on_a_phone(folder: Path) -> None:
    for name, text in kept(folder).items():
        head = re.search(r'<svg[^>]* width="([\d.]+)(pt)?"', text)
        assert head, name
        width = float(head[1]) * (4 / 3 if head[2] else 1)
        # matplotlib gives a text's size in the units of the view box, which are points.
        unit = 4 / 3 if head[2] else 1
        sizes = [float(size) * unit for size in re.findall(r'font-size[:=]"?\s*([\d.]+)', text)]
        sizes += [float(size) * unit for size in re.findall(r"font: (?:\w+ )?([\d.]+)px", text)]
        assert sizes, name
        assert min(sizes) * min(1.0, PHONE / width) >= LEGIBLE, (name, min(sizes), width)


def test_each_picture_is_shown_and_described() -> None:
    shown: set[Path] = set()
    for page in (ROOT / "docs").rglob("*.md"):
        if "_build" in page.parts:
            continue
        for words, target in PICTURE.findall(page.read_text(encoding="utf-8")):
            assert len(words.split()) > 2, f"{page}: {target} needs words for those who can't see it"
            shown.add((page.parent / target).resolve())
    ours = {path for folder in (FIGURES, PLOTS) for path in folder.glob("*.svg") if ".dark" not in path.suffixes}
    assert not ours - shown
