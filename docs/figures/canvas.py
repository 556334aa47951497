"""A small writer of SVG: boxes, arrows and text, light and dark, the same bytes each time.

Drawings are 400 units wide, which is about what a phone shows, so that text is as large there as it is here. Text stays
text, in whatever sans-serif font the reader has; boxes leave room for the wider ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 400
SIZE: Final = 13
NOTE: Final = 12.3
"""The smallest that can be read on a phone, which shows 358 pixels of the 400."""
LINE: Final = 17
# How wide a letter is on average, as a share of the font's size: of DejaVu Sans, the widest in use; most have 0.5.
_LETTER: Final = 0.57


@dataclass(frozen=True)
class Colors:
    """What a drawing is drawn with.

    Attributes:
        ink: Text, and the outlines of boxes.
        faint: Lines that guide the eye, and notes.
        fill: The inside of boxes.
        good: What is delivered, or is udpguard's.
        good_fill: The inside of those.
        bad: What must not be, and what is dropped.
        bad_fill: The inside of those.
        warm: What comes between: late, or waiting.
        warm_fill: The inside of those.
    """

    ink: str
    faint: str
    fill: str
    good: str
    good_fill: str
    bad: str
    bad_fill: str
    warm: str
    warm_fill: str


LIGHT: Final = Colors(
    *("#1f2933", "#616e7c", "#f5f7fa"), *("#0b6e4f", "#e3f4ee"), *("#b3261e", "#fbe9e7"), *("#8a4b00", "#fdf0de")
)
DARK: Final = Colors(
    *("#e4e7eb", "#9aa5b1", "#232a33"), *("#5fd3a8", "#12372b"), *("#ff8a80", "#43201e"), *("#f2b263", "#3e2b12")
)


def width_of(text: str, size: float = SIZE) -> float:
    """How wide a text is at the most, about."""
    return len(text) * size * _LETTER


class Canvas:
    """One drawing.

    Args:
        height: How high it is.
        colors: What it is drawn with.
        title: What it shows, for those who can't see it.
    """

    def __init__(self, height: float, colors: Colors, title: str) -> None:
        self.height = height
        self.colors = colors
        self._title = title
        self._parts: list[str] = []
        self._heads: dict[str, None] = {}

    def box(
        self,
        x: float,
        y: float,
        width: float,
        lines: Sequence[str] | str,
        *,
        kind: str = "",
        height: float = 0,
        bold: bool = False,
        size: float = SIZE,
    ) -> float:
        """A box with lines of text in its middle.

        Args:
            x: Its left side.
            y: Its top.
            width: How wide it is.
            lines: What stands in it.
            kind: "good", "bad" or "warm"; else it is plain.
            height: How high it is; as its text needs unless given.
            bold: Whether the first line is bold.
            size: The font's size.

        Returns:
            Where it ends below.

        Raises:
            ValueError: The text may be wider than the box.
        """
        lines = [lines] if isinstance(lines, str) else lines
        for line in lines:
            if width_of(line, size) > width:
                raise ValueError(f"{line!r} may be wider than its box: {width_of(line, size):.0f} of {width:.0f}")
        height = height or LINE * len(lines) + 12
        stroke = getattr(self.colors, kind) if kind else self.colors.ink
        fill = getattr(self.colors, f"{kind}_fill") if kind else self.colors.fill
        self._add(
            f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" rx="5" '
            f'fill="{fill}" stroke="{stroke}" stroke-width="1.2"/>'
        )
        first = y + height / 2 - LINE * (len(lines) - 1) / 2
        for number, line in enumerate(lines):
            self.text(x + width / 2, first + LINE * number, line, bold=bold and not number, size=size)
        return y + height

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        anchor: str = "middle",
        kind: str = "ink",
        bold: bool = False,
        size: float = SIZE,
    ) -> None:
        """A line of text around a middle line; `anchor` is what of it is at x: "start", "middle" or "end".

        Raises:
            ValueError: It may go beyond the drawing.
        """
        wide = width_of(text, size)
        left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
        if left < 0 or left + wide > WIDTH:
            raise ValueError(f"{text!r} may go beyond the drawing: from {left:.0f} to {left + wide:.0f}")
        weight = ' font-weight="bold"' if bold else ""
        sized = "" if size == SIZE else f' font-size="{_n(size)}"'
        self._add(
            f'<text x="{_n(x)}" y="{_n(y + size * 0.35)}" text-anchor="{anchor}" '
            f'fill="{getattr(self.colors, kind)}"{weight}{sized}>{escape(text)}</text>'
        )

    def line(
        self, points: Sequence[tuple[float, float]], *, kind: str = "ink", dashed: bool = False, head: bool = False
    ) -> None:
        """A line along these points, perhaps dashed, perhaps with an arrow's head at its end."""
        path = " ".join(f"{'L' if number else 'M'}{_n(x)} {_n(y)}" for number, (x, y) in enumerate(points))
        dash = ' stroke-dasharray="4 4"' if dashed else ""
        end = ""
        if head:
            self._heads[kind] = None
            end = f' marker-end="url(#head-{kind})"'
        self._add(f'<path d="{path}" fill="none" stroke="{getattr(self.colors, kind)}" stroke-width="1.4"{dash}{end}/>')

    def arrow(self, *points: tuple[float, float], kind: str = "ink", dashed: bool = False) -> None:
        """A line with a head."""
        self.line(points, kind=kind, dashed=dashed, head=True)

    def cross(self, x: float, y: float, *, kind: str = "bad") -> None:
        """A mark where something ends."""
        color = getattr(self.colors, kind)
        self._add(
            f'<path d="M{_n(x - 5)} {_n(y - 5)} L{_n(x + 5)} {_n(y + 5)} M{_n(x - 5)} {_n(y + 5)} '
            f'L{_n(x + 5)} {_n(y - 5)}" stroke="{color}" stroke-width="2.2" fill="none"/>'
        )

    def svg(self) -> str:
        """The drawing as a file's text."""
        heads = "".join(
            f'<marker id="head-{kind}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
            f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0 L8 4 L0 8 z" '
            f'fill="{getattr(self.colors, kind)}"/></marker>'
            for kind in self._heads
        )
        fonts = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{_n(self.height)}" '
            f'viewBox="0 0 {WIDTH} {_n(self.height)}" role="img" font-family="{fonts}" font-size="{SIZE}">'
        )
        title = f"<title>{escape(self._title)}</title>"
        return "\n".join([head, title, *([f"<defs>{heads}</defs>"] if heads else []), *self._parts, "</svg>", ""])

    def _add(self, part: str) -> None:
        self._parts.append(part)


def _n(number: float) -> str:
    """A number as short as it can be."""
    return f"{round(number, 1):g}"
