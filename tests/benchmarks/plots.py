"""Draws what was measured, as SVG: `python tests/benchmarks/plots.py FIGURES.json FOLDER` draws it again.

The same figures give the same files, byte for byte (with one version of matplotlib): no date is written, and ids are
not random.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench_contestants import CONTESTANTS, named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Line = Mapping[str, Any]

OURS: Final = "#0b6e4f"
OTHERS: Final = "#9aa5b1"
# Told apart by brightness and mark, too.
STYLES: Final = {
    "stock": ("#9aa5b1", "o", "-"),
    "uvloop": ("#52606d", "s", "-"),
    "udpguard": ("#0b6e4f", "D", "-"),
    "udpguard-keyed": ("#d17a22", "^", "-"),
    "udpguard-uvloop": ("#d17a22", "^", "-"),
}
HINT: Final = "plots need matplotlib: pip install 'udpguard[bench]'"


def draw(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw what the document has figures for.

    Returns:
        The files written.

    Raises:
        ImportError: matplotlib is not installed; the message says how to get it.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(HINT) from error
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[Any, Any] = {
        "svg.hashsalt": "udpguard",
        "svg.fonttype": "none",  # text stays text: small, and sharp at any size
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e4e7eb",
        "axes.axisbelow": True,
    }
    written = []
    with mpl.rc_context(settings):
        for name, draws in DRAWINGS.items():
            figure = Figure(layout="constrained")
            if draws(figure, document):
                written.append(folder / f"{name}.svg")
                figure.savefig(written[-1], format="svg", metadata={"Date": None, "Creator": None})
    return written


def exchange(figure: Figure, document: Mapping[str, Any]) -> bool:
    """CPU per exchange, a bar for each contestant, a panel for each number in flight."""
    lines = [line for line in _lines(document, "exchange") if line["cpu_us"] is not None]
    depths = list(dict.fromkeys(line["in_flight"] for line in lines))
    if not depths:
        return False
    names = [each.name for each in CONTESTANTS if any(line["contestant"] == each.name for line in lines)]
    figure.set_size_inches(3.2 + 2.9 * len(depths), 1.2 + 0.3 * len(names))
    panels = figure.subplots(1, len(depths), sharey=True, squeeze=False)[0]
    for panel, depth in zip(panels, depths, strict=True):
        of_it = {line["contestant"]: line["cpu_us"] for line in lines if line["in_flight"] == depth}
        here = [name for name in names if name in of_it]
        values = [of_it[name] for name in here]
        colors = [OURS if name.startswith("udpguard") else OTHERS for name in here]
        bars = panel.barh([names.index(name) for name in here], values, color=colors, height=0.7)
        panel.bar_label(bars, fmt="%.1f", padding=3, fontsize=9)
        panel.margins(x=0.2)
        panel.set_title(f"{depth:,} in flight")
        panel.set_xlabel("CPU µs per exchange")
        panel.grid(visible=False, axis="y")
    panels[0].set_yticks(range(len(names)), [named(name).title for name in names])
    panels[0].invert_yaxis()
    return True


def pending(figure: Figure, document: Mapping[str, Any]) -> bool:
    """CPU per exchange, and memory, against the number of others pending."""
    lines = _lines(document, "pending")
    held = _lines(document, "memory")
    if not lines:
        return False
    cost, memory = _two_panels(figure)
    for name, of_it in _by_contestant(lines):
        _curve(cost, name, of_it, "pending", "cpu_us")
        _curve(
            memory,
            name,
            of_it,
            "pending",
            "resident_bytes_each",
            label=f"{named(name).title}: each expectation, with its future",
        )
    for name, of_it in _by_contestant(held):
        _curve(
            memory,
            name,
            of_it,
            "pending",
            "our_bytes_each",
            label=f"{named(name).title}: each request, without its task and future",
            dashed=True,
        )
    for panel in (cost, memory):
        panel.set_xscale("log")
        panel.set_xlabel("others pending")
    _finish(cost, "64 in flight, others pending", "CPU µs per exchange")
    _finish(memory, "Memory", "bytes each")
    _legend(figure, cost, memory)
    return True


def junk(figure: Figure, document: Mapping[str, Any]) -> bool:
    """What is answered, and how fast, against the junk that comes with it."""
    lines = [line for line in _lines(document, "junk") if line["target"] == "client"]
    if not lines:
        return False
    share, goodput = _two_panels(figure)
    percent = [{**line, "percent": None if line["answered"] is None else 100 * line["answered"]} for line in lines]
    for name, of_it in _by_contestant(percent):
        _curve(share, name, of_it, "rate", "percent")
        _curve(goodput, name, of_it, "rate", "goodput")
    for panel in (share, goodput):
        panel.set_xlabel("junk datagrams a second")
        panel.xaxis.set_major_formatter("{x:,.0f}")
    _finish(share, "Answered within 0.2 s", "%")
    _finish(goodput, "Goodput", "right replies a second")
    goodput.yaxis.set_major_formatter("{x:,.0f}")
    _legend(figure, share, goodput)
    return True


def drain(figure: Figure, document: Mapping[str, Any]) -> bool:
    """How long the loop is held, and how fast replies are delivered, against how many have piled up."""
    lines = _lines(document, "drain")
    if not lines:
        return False
    stall, speed = _two_panels(figure)
    for name, of_it in _by_contestant(lines):
        _curve(stall, name, of_it, "backlog", "stall_ms")
        _curve(speed, name, of_it, "backlog", "drained_per_second")
    for panel in (stall, speed):
        panel.set_xlabel("replies waiting in the socket")
        panel.xaxis.set_major_formatter("{x:,.0f}")
    _finish(stall, "Longest time another task was kept waiting", "ms")
    _finish(speed, "Delivered", "replies a second")
    speed.yaxis.set_major_formatter("{x:,.0f}")
    _legend(figure, stall, speed)
    return True


DRAWINGS: Final[Mapping[str, Callable[[Figure, Mapping[str, Any]], bool]]] = {
    "exchange": exchange,
    "pending": pending,
    "junk": junk,
    "drain": drain,
}


def _lines(document: Mapping[str, Any], part: str) -> Sequence[Line]:
    found: Sequence[Line] = document.get(part, {}).get("summary", [])
    return found


def _by_contestant(lines: Iterable[Line]) -> Iterable[tuple[str, list[Line]]]:
    lines = list(lines)
    for name in STYLES:
        of_it = [line for line in lines if line["contestant"] == name]
        if of_it:
            yield name, of_it


def _two_panels(figure: Figure) -> tuple[Axes, Axes]:
    figure.set_size_inches(10, 4.2)
    left, right = figure.subplots(1, 2)
    return left, right


def _curve(
    panel: Axes, name: str, lines: Sequence[Line], x: str, y: str, *, label: str | None = None, dashed: bool = False
) -> None:
    points = [(line[x], line[y]) for line in lines if line[y] is not None]
    if points:
        color, mark, style = STYLES[name]
        panel.plot(
            *zip(*points, strict=True),
            color=color,
            marker=mark,
            markersize=5,
            linestyle="--" if dashed else style,
            label=label or named(name).title,
        )


def _finish(panel: Axes, title: str, unit: str) -> None:
    panel.set_title(title)
    panel.set_ylabel(unit)
    panel.margins(y=0.1)
    panel.set_ylim(bottom=0)


def _legend(figure: Figure, *panels: Axes) -> None:
    """One legend below, each label once."""
    found: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=2, frameon=False, fontsize=9)


def main() -> int:
    """Draw from a file."""
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    document = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for path in draw(document, Path(sys.argv[2])):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
