"""Draws what was measured, as SVG, in light and in dark:

    python tests/benchmarks/plots.py docs/explanation/figures.json docs/explanation/plots   # the documented figures
    python tests/benchmarks/plots.py udpguard-benchmarks.json FOLDER                        # those of a run of yours

Each is as wide as a phone's page, with its panels one below the other and no background: `name.svg` for light pages,
`name.dark.svg` for dark ones. The same figures give the same files, byte for byte (with one version of matplotlib): no
date is written, and ids are not random.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench_contestants import CONTESTANTS, named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Line = Mapping[str, Any]

HINT: Final = "plots need matplotlib: pip install 'udpguard[bench]'"
# In inches of 72 points: 422 pixels on a screen, of which a phone shows 358.
_WIDTH: Final = 4.4
_SIZE: Final = 10.0


@dataclass(frozen=True)
class Theme:
    """What pages of one kind are drawn with.

    Attributes:
        suffix: What its files end with.
        text: Words, ticks and axes.
        grid: Lines in the background.
        ours: udpguard's bars.
        others: Other people's.
        styles: Color, mark and line of each contestant: told apart by brightness and mark, too.
        ports: The same of each way to choose ports.
    """

    suffix: str
    text: str
    grid: str
    ours: str
    others: str
    styles: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)
    ports: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def _theme(suffix: str, text: str, grid: str, *, green: str, orange: str, dim: str, strong: str, red: str) -> Theme:
    return Theme(
        suffix,
        text,
        grid,
        ours=green,
        others=dim,
        styles={
            "stock": (dim, "o", "-"),
            "uvloop": (strong, "s", "-"),
            "udpguard": (green, "D", "-"),
            "udpguard-keyed": (orange, "^", "-"),
            "udpguard-uvloop": (orange, "^", "-"),
        },
        ports={
            "one port": (red, "o"),
            "quarantine": (dim, "s"),
            "spares": (orange, "^"),
            "rotated": (green, "D"),
            "assigned": (strong, "x"),
        },
    )


THEMES: Final = (
    _theme(
        ".svg", "#1f2933", "#d8dee5", green="#0b6e4f", orange="#c05f00", dim="#8592a1", strong="#3e4c59", red="#b3261e"
    ),
    _theme(
        ".dark.svg",
        "#e4e7eb",
        "#3a434f",
        green="#4cc38a",
        orange="#f2a65a",
        dim="#8b98a8",
        strong="#cbd2d9",
        red="#ff8a80",
    ),
)


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
    written = []
    for theme in THEMES:
        with mpl.rc_context(_settings(theme)):
            for name, draws in DRAWINGS.items():
                figure = Figure(layout="constrained")
                if draws(figure, document, theme):
                    written.append(folder / f"{name}{theme.suffix}")
                    figure.savefig(written[-1], format="svg", metadata={"Date": None, "Creator": None})
    return written


def _settings(theme: Theme) -> dict[Any, Any]:
    return {
        "svg.hashsalt": "udpguard",
        "svg.fonttype": "none",  # text stays text: small, and sharp at any size
        "font.family": "sans-serif",
        "font.size": _SIZE,
        "axes.titlesize": _SIZE,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "xtick.labelsize": _SIZE,
        "ytick.labelsize": _SIZE,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "savefig.transparent": True,
        "grid.color": theme.grid,
        "text.color": theme.text,
        "axes.labelcolor": theme.text,
        "axes.edgecolor": theme.text,
        "xtick.color": theme.text,
        "ytick.color": theme.text,
    }


def exchange(figure: Figure, document: Mapping[str, Any], theme: Theme) -> bool:
    """CPU per exchange, a bar for each contestant, a panel for each number in flight."""
    lines = [line for line in _lines(document, "exchange") if line["cpu_us"] is not None]
    depths = list(dict.fromkeys(line["in_flight"] for line in lines))
    if not depths:
        return False
    names = [each.name for each in CONTESTANTS if any(line["contestant"] == each.name for line in lines)]
    figure.set_size_inches(_WIDTH, len(depths) * (0.9 + 0.21 * len(names)))
    panels = figure.subplots(len(depths), 1, squeeze=False)[:, 0]
    for panel, depth in zip(panels, depths, strict=True):
        of_it = {line["contestant"]: line["cpu_us"] for line in lines if line["in_flight"] == depth}
        here = [name for name in names if name in of_it]
        _bars(panel, theme, here, [of_it[name] for name in here], "%.1f")
        panel.set_title(f"{depth:,} in flight")
        panel.set_xlabel("CPU µs per exchange")
    return True


def names(figure: Figure, document: Mapping[str, Any], theme: Theme) -> bool:
    """How many names a second a name server is asked for, and what each costs."""
    lines = [line for line in _lines(document, "names") if line["cpu_us"] is not None]
    depths = list(dict.fromkeys(line["in_flight"] for line in lines))
    if not depths:
        return False
    of_it = {line["contestant"]: line for line in lines if line["in_flight"] == depths[-1]}
    here = [each.name for each in CONTESTANTS if each.name in of_it]
    here.sort(key=lambda name: -of_it[name]["throughput"])
    figure.set_size_inches(_WIDTH, 2 * (0.9 + 0.21 * len(here)))
    pace, cost = figure.subplots(2, 1)
    _bars(pace, theme, here, [of_it[name]["throughput"] for name in here], "{:,.0f}")
    _bars(cost, theme, here, [of_it[name]["cpu_us"] for name in here], "%.1f")
    for panel, unit in ((pace, "names a second"), (cost, "CPU µs per name")):
        panel.set_yticks(range(len(here)), [_short(name).replace("udpguard,", "request(),") for name in here])
        panel.set_title(f"{depths[-1]:,} in flight")
        panel.set_xlabel(unit)
    pace.xaxis.set_major_formatter(_thousands)
    return True


def pending(figure: Figure, document: Mapping[str, Any], theme: Theme) -> bool:
    """CPU per exchange, and memory, against the number of others pending."""
    lines = _lines(document, "pending")
    held = _lines(document, "memory")
    if not lines:
        return False
    cost, memory = _two_panels(figure, legend_lines=6)
    for name, of_it in _by_contestant(lines, theme):
        _curve(cost, theme, name, of_it, "pending", "cpu_us")
        label = f"{_short(name)}: an expectation and its future"
        _curve(memory, theme, name, of_it, "pending", "resident_bytes_each", label=label)
    for name, of_it in _by_contestant(held, theme):
        label = f"{_short(name)}: a request, without its future"
        _curve(memory, theme, name, of_it, "pending", "our_bytes_each", label=label, dashed=True)
    for panel in (cost, memory):
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(_thousands)
        panel.set_xlabel("others pending")
    _finish(cost, "64 in flight: CPU µs per exchange")
    _finish(memory, "Memory: bytes each")
    memory.yaxis.set_major_formatter("{x:,.0f}")
    _legend(figure, cost, memory)
    return True


def junk(figure: Figure, document: Mapping[str, Any], theme: Theme) -> bool:
    """What is answered, and how fast, against the junk that comes with it."""
    lines = [line for line in _lines(document, "junk") if line["target"] == "client"]
    if not lines:
        return False
    share, goodput = _two_panels(figure, legend_lines=4)
    percent = [{**line, "percent": None if line["answered"] is None else 100 * line["answered"]} for line in lines]
    for name, of_it in _by_contestant(percent, theme):
        _curve(share, theme, name, of_it, "rate", "percent")
        _curve(goodput, theme, name, of_it, "rate", "goodput")
    for panel in (share, goodput):
        panel.set_xlabel("junk datagrams a second")
        panel.xaxis.set_major_formatter(_thousands)
    _finish(share, "Answered within 0.2 s: %")
    _finish(goodput, "Goodput: right replies a second")
    goodput.yaxis.set_major_formatter(_thousands)
    _legend(figure, share, goodput)
    return True


def drain(figure: Figure, document: Mapping[str, Any], theme: Theme) -> bool:
    """How long the loop is held, and how fast replies are delivered, against how many have piled up."""
    lines = _lines(document, "drain")
    if not lines:
        return False
    stall, speed = _two_panels(figure, legend_lines=4)
    for name, of_it in _by_contestant(lines, theme):
        _curve(stall, theme, name, of_it, "backlog", "stall_ms")
        _curve(speed, theme, name, of_it, "backlog", "drained_per_second")
    for panel in (stall, speed):
        panel.set_xlabel("replies waiting in the socket")
        panel.xaxis.set_major_formatter("{x:,.0f}")
    _finish(stall, "Longest wait of another task: ms")
    _finish(speed, "Delivered: replies a second")
    speed.yaxis.set_major_formatter(_thousands)
    _legend(figure, stall, speed)
    return True


def odds(figure: Figure, document: Mapping[str, Any], theme: Theme) -> bool:
    """How many replies belong to another question, without ids, by the way to choose ports."""
    lines = _lines(document, "odds")
    if not lines:
        return False
    pauses = list(dict.fromkeys(line["pause"] for line in lines))
    networks = list(dict.fromkeys((line["loss"], line["duplication"], line["delays"]) for line in lines))
    figure.set_size_inches(_WIDTH, 1.6 + len(pauses) * (0.6 + 0.44 * len(networks)))
    panels = figure.subplots(len(pauses), 1, squeeze=False)[:, 0]
    for panel, pause in zip(panels, pauses, strict=True):
        for name, (color, mark) in theme.ports.items():
            of_it = [line for line in lines if line["pause"] == pause and line["ports"] == name]
            places = [networks.index((line["loss"], line["duplication"], line["delays"])) for line in of_it]
            panel.plot(
                [line["percent"] for line in of_it],
                places,
                linestyle="none",
                color=color,
                marker=mark,
                markersize=7,
                markeredgewidth=1.6,
                fillstyle="none",
                label=_PORTS[name],
                clip_on=False,
            )
        panel.set_yticks(range(len(networks)), [f"loss {a}, doubled {b}\ndelays {c}" for a, b, c in networks])
        panel.invert_yaxis()
        panel.set_xlim(left=0)
        panel.set_ylim(len(networks) - 0.5, -0.5)
        panel.set_title("the next at once" if pause == "none" else f"the next after {pause}")
        panel.set_xlabel("% of the replies are another's")
    _legend(figure, *panels)
    return True


_PORTS: Final[Mapping[str, str]] = {
    "one port": "one port, no quarantine",
    "quarantine": "one port, quarantine 10 s",
    "spares": "spare ports (the default)",
    "rotated": "Ports(rotate=True)",
    "assigned": "assigned ids of 2 bytes",
}
DRAWINGS: Final[Mapping[str, Callable[[Figure, Mapping[str, Any], Theme], bool]]] = {
    "exchange": exchange,
    "names": names,
    "pending": pending,
    "junk": junk,
    "drain": drain,
    "odds": odds,
}


def _lines(document: Mapping[str, Any], part: str) -> Sequence[Line]:
    found: Sequence[Line] = document.get(part, {}).get("summary", [])
    return found


def _by_contestant(lines: Iterable[Line], theme: Theme) -> Iterable[tuple[str, list[Line]]]:
    lines = list(lines)
    for name in theme.styles:
        of_it = [line for line in lines if line["contestant"] == name]
        if of_it:
            yield name, of_it


def _short(name: str) -> str:
    """A contestant's title, so that it fits beside a bar: udpguard is on asyncio where nothing else is said."""
    title = named(name).title.replace("udpguard's sweep on", "sweep(),").replace("udpguard on", "udpguard,")
    for long, short in ((" asyncio,", ""), ("uvloop, ", "uvloop "), ("sendmmsg/recvmmsg", "mmsg"), ("keyless, ", "")):
        title = title.replace(long, short) if title.startswith(("udpguard", "sweep", "C,")) else title
    return title


def _bars(panel: Axes, theme: Theme, here: Sequence[str], values: Sequence[float], form: str) -> None:
    colors = [theme.ours if name.startswith(("udpguard", "sweep")) else theme.others for name in here]
    bars = panel.barh(range(len(here)), values, color=colors, height=0.72)
    panel.bar_label(bars, fmt=form, padding=3)
    panel.margins(x=0.3, y=0.01)
    panel.grid(visible=False, axis="y")
    panel.set_yticks(range(len(here)), [_short(name) for name in here])
    panel.invert_yaxis()


def _two_panels(figure: Figure, *, legend_lines: int) -> tuple[Axes, Axes]:
    figure.set_size_inches(_WIDTH, 5.4 + 0.21 * legend_lines)
    above, below = figure.subplots(2, 1)
    return above, below


def _curve(
    panel: Axes,
    theme: Theme,
    name: str,
    lines: Sequence[Line],
    x: str,
    y: str,
    *,
    label: str | None = None,
    dashed: bool = False,
) -> None:
    points = [(line[x], line[y]) for line in lines if line[y] is not None]
    if points:
        color, mark, style = theme.styles[name]
        panel.plot(
            *zip(*points, strict=True),
            color=color,
            marker=mark,
            markersize=5,
            linestyle="--" if dashed else style,
            label=label or _short(name),
        )


def _finish(panel: Axes, title: str) -> None:
    panel.set_title(title)
    panel.margins(y=0.1)
    panel.set_ylim(bottom=0)


def _thousands(value: float, _: object = None) -> str:
    """A number as short as an axis needs it."""
    if value >= 1_000_000:
        return f"{value / 1_000_000:g} M"
    return f"{value / 1_000:g} k" if value >= 1_000 else f"{value:g}"


def _legend(figure: Figure, *panels: Axes) -> None:
    """One legend below, each label once."""
    found: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        figure.legend(list(found.values()), list(found), loc="outside lower left", ncols=1, frameon=False)


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
