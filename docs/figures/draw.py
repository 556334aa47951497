"""Draws the drawings of the documentation, light and dark: `python docs/figures/draw.py [FOLDER]`.

The same bytes come of it each time, and a test holds the files beside this one to that. The layers of the house are
read from the contract in pyproject.toml that import-linter checks, so that the drawing says what is true.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from canvas import DARK, LIGHT, LINE, NOTE, WIDTH, Canvas, Colors

HERE: Final = Path(__file__).parent
PYPROJECT: Final = HERE.parents[1] / "pyproject.toml"
# What the parts of each layer do, where its name alone does not say it.
TOLD: Final = {
    "testing": "the kit",
    "_endpoint": "opening and closing",
    "_client": "the verbs",
    "_session": "what lasts",
    "_inbox": "what these share",
    "_context": "what the caller may pass",
    "_asking": "one question, to its end",
    "_ports": "which local port is used",
    "_protocol": "GuardProtocol",
    "_guard": "the registry meets asyncio",
    "_reasons": "why there is no answer",
    "_outbox": "what leaves in one turn",
    "_screens": "when there is a socket filter",
    "_host": "sockets, names, sending",
    "_binding": "why a bind failed",
    "_transport": "drains and sends in bulk",
    "_reports": "error queue, water marks",
    "_mistaken": "a forgotten async, told",
    "_platform": "what one system can do",
    "core": "pure: no socket, no clock",
    "_errors": "what can go wrong",
    "_typing": "names of newer Pythons",
}


def datagram(colors: Colors) -> Canvas:
    """The way of a datagram in."""
    c = Canvas(624, colors, "The way of a datagram from the network to the caller")
    left, wide = 20, 240
    middle = left + wide / 2
    c.text(middle, 14, "a datagram arrives", bold=True)
    c.arrow((middle, 24), (middle, 46))

    c.box(left, 48, wide, ["socket filter (Linux)", "under a flood: expected sources"], bold=True, size=NOTE)
    c.arrow((middle, 94), (middle, 118))
    _aside(c, left + wide, 71, ["dropped,", "counted by", "the kernel"], "bad")

    c.box(left, 120, wide, ["receive buffer", "waits until the loop looks"], bold=True)
    c.arrow((middle, 166), (middle, 190))
    _aside(c, left + wide, 143, ["full: lost"], "bad")

    c.box(left, 192, wide, ["transport: one drain", "recvmmsg, up to 64 at once"], bold=True)
    c.arrow((middle, 238), (middle, 262))
    c.text(middle + 8, 250, "batch of (payload, wire)", anchor="start", kind="faint", size=NOTE)

    c.box(left, 264, wide, ["registry: where from?", "source: one look-up by wire bytes"], bold=True, size=NOTE)
    c.arrow((middle, 310), (middle, 334))
    _aside(c, left + wide, 287, ["nobody asked", "unknown_peer"], "bad")

    c.box(left, 336, wide, ["registry: which question?", "(source, correlator, key)"], bold=True)
    c.arrow((middle, 382), (middle, 406))
    _aside(c, left + wide, 352, ["is over", "late, duplicate"], "warm", size=NOTE)

    c.box(left, 408, wide, ["accept(reply), if there is one", "yes, no, or a sign of life"], bold=True)
    c.arrow((middle, 454), (middle, 478), kind="good")
    _aside(c, left + wide, 431, ["no, or wrong", "key: rejected"], "warm")

    c.box(left, 480, wide, ["matched", "round trip taken, entry gone"], kind="good", bold=True)
    c.arrow((middle, 526), (middle, 550), kind="good")

    c.box(
        left, 552, wide, ["the caller's future", "await endpoint.request(…) returns"], kind="good", bold=True, size=NOTE
    )
    return c


def _aside(c: Canvas, x: float, y: float, lines: Sequence[str], kind: str, *, size: float = 13) -> None:
    """What leaves the way at this height, to the right."""
    height = LINE * len(lines) + 10
    c.arrow((x, y), (x + 18, y), kind=kind)
    c.box(x + 20, y - height / 2, WIDTH - x - 28, lines, kind=kind, height=height, size=size)


def verdicts(colors: Colors) -> Canvas:
    """The five verdicts in the order in which they are tried."""
    steps = [
        (["Does its key fit", "something pending?"], "matched", "good", "offered to accept; its no: rejected"),
        (["Does its key fit something", "that ended in the last 120 s?"], "late, duplicate", "warm", ""),
        (["Does something pending from", "there expect no key?"], "matched", "good", "narrowest source, then oldest"),
        (["Does anything pending", "cover its source?"], "rejected", "warm", "wrong key, or another port of ours"),
        (["Did something without a key,", "from there, end lately?"], "late, duplicate", "warm", ""),
    ]
    c = Canvas(486, colors, "The five verdicts, in the order in which they are tried")
    left, wide = 10, 226
    middle = left + wide / 2
    y = 8.0
    for lines, verdict, kind, note in steps:
        end = c.box(left, y, wide, lines)
        c.arrow((left + wide, y + 23), (left + wide + 38, y + 23), kind=kind)
        c.text(left + wide + 18, y + 13, "yes", kind=kind, size=NOTE)
        c.box(left + wide + 40, y + 8, 114, verdict, kind=kind, height=30, bold=True, size=NOTE)
        if note:
            c.text(WIDTH - 8, end + 12, note, anchor="end", kind="faint", size=NOTE)
        c.arrow((middle - 60, end), (middle - 60, end + 34))
        c.text(middle - 68, end + 15, "no", anchor="end", size=NOTE)
        y = end + 36
    c.box(left, y, wide, "unknown_peer", kind="bad", height=30, bold=True)
    c.text(left + wide + 14, y + 15, "a stranger: counted", anchor="start", kind="faint", size=NOTE)
    return c


def key(colors: Colors) -> Canvas:
    """What a pending question is looked up by."""
    c = Canvas(396, colors, "A pending question is found by its source, its correlator and its key")
    c.text(200, 14, "a DNS reply from 192.0.2.53, port 53", bold=True)

    c.text(12, 42, "who sent it, as the kernel says:", anchor="start", kind="faint")
    c.box(12, 54, 120, ["00 35", "port 53"])
    c.box(132, 54, 160, ["c0 00 02 35", "192.0.2.53"])
    c.text(12, 118, "what it says:", anchor="start", kind="faint")
    c.box(12, 130, 100, ["7b 1f", "bytes 0, 1"], kind="good")
    c.box(112, 130, 276, ["81 80 00 01 00 01 …", "the rest of the answer"])

    c.arrow((12, 77), (5, 77), (5, 206), (77, 206), (77, 232))
    c.arrow((62, 176), (62, 190), (338, 190), (338, 232), kind="good")

    c.text(200, 216, "the slot", bold=True)
    c.box(12, 234, 130, ["source", "6 wire bytes"], bold=True)
    c.box(148, 234, 120, ["correlator", "its number"], bold=True)
    c.box(274, 234, 114, ["key", "7b 1f"], kind="good", bold=True)

    c.arrow((200, 280), (200, 306))
    c.box(60, 308, 280, ["one dictionary look-up", "one pending question, or none"], kind="good", bold=True)
    c.text(200, 378, "no correlator, no key: the source alone", kind="faint")
    return c


def late(colors: Colors) -> Canvas:
    """A late reply, with one port and with a spare one."""
    c = Canvas(640, colors, "The late reply to A: with one port it answers B, with a spare port nobody")
    _timeline(c, 0, spare=False)
    _timeline(c, 322, spare=True)
    return c


def _timeline(c: Canvas, top: float, *, spare: bool) -> None:
    client, server = 112, 340
    title = "spare ports (the default)" if spare else "one port, as with connect()"
    c.text(200, top + 14, title, bold=True)
    c.text(client, top + 38, "client", kind="faint")
    c.text(server, top + 38, "server", kind="faint")
    c.line([(client, top + 48), (client, top + 306)], kind="faint")
    c.line([(server, top + 48), (server, top + 306)], kind="faint")

    c.text(client - 8, top + 64, "asks A", anchor="end")
    c.arrow((client, top + 64), (server - 2, top + 84))
    c.text(226, top + 60, "A, from port 50001", size=NOTE)
    c.text(client - 8, top + 130, "A times out", anchor="end", kind="warm")
    c.cross(client, top + 130, kind="warm")
    c.text(client - 8, top + 158, "asks B", anchor="end")
    c.arrow((client, top + 158), (server - 2, top + 178))
    c.text(226, top + 150, f"B, from port {'50002' if spare else '50001'}", size=NOTE)

    c.arrow((server, top + 150), (client + 2, top + 212), kind="bad", dashed=True)
    c.text(248, top + 206, "answer to A,", kind="bad", size=NOTE)
    c.text(248, top + 221, "to port 50001", kind="bad", size=NOTE)
    if spare:
        c.text(client - 8, top + 204, "other port:", anchor="end", kind="good", bold=True, size=NOTE)
        c.text(client - 8, top + 220, "rejected", anchor="end", kind="good", bold=True, size=NOTE)
    else:
        c.text(client - 8, top + 204, "B is given", anchor="end", kind="bad", bold=True, size=NOTE)
        c.text(client - 8, top + 220, "A's answer", anchor="end", kind="bad", bold=True, size=NOTE)
    c.arrow((server, top + 244), (client + 2, top + 270), kind="good" if spare else "ink")
    c.text(
        248, top + 274, f"answer to B, to {'50002' if spare else '50001'}", size=NOTE, kind="good" if spare else "ink"
    )
    last = ("B is given", "B's answer") if spare else ("too late:", "for C, then?")
    for number, words in enumerate(last):
        c.text(
            client - 8,
            top + 262 + 16 * number,
            words,
            anchor="end",
            kind="good" if spare else "bad",
            bold=True,
            size=NOTE,
        )


def house(colors: Colors) -> Canvas:
    """The layers, as import-linter has them."""
    layers = [[part.strip().removeprefix("udpguard.") for part in layer.split("|")] for layer in _layers()]
    drawn: list[tuple[list[str], float]] = []
    y = 34.0
    for parts in layers:
        lines = _wrapped(parts)
        drawn.append((lines, y))
        y += LINE * len(lines) + 14
    c = Canvas(y + 4, colors, "The layers of the package; imports go down only")
    c.text(6, 14, "imports go down only", anchor="start", bold=True)
    for parts, (lines, top) in zip(layers, drawn, strict=True):
        kind = "good" if parts[0] in ("core", "_errors") else "warm" if parts[0] == "_platform" else ""
        height = LINE * len(lines) + 8
        c.box(4, top, 166, lines, kind=kind, height=height, size=NOTE)
        c.text(178, top + height / 2, TOLD[parts[0]], anchor="start", kind="faint", size=NOTE)
    return c


def _wrapped(parts: Sequence[str]) -> list[str]:
    """The names of a layer, two to a line where they fit."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(part) + 2 <= 20:
            lines[-1] += f", {part}"
        else:
            lines.append(part)
    return lines


def _layers() -> list[str]:
    """The contract that import-linter checks."""
    contracts = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    found: list[str] = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return found


def errors(colors: Colors) -> Canvas:
    """The tree of errors."""
    leaves = [
        ("ReplyTimeoutError", "TimeoutError"),
        ("PeerRefusedError", "ConnectionRefusedError"),
        ("PeerUnreachableError", "OSError"),
        ("ForgerySuspectedError", ""),
        ("EndpointClosedError", ""),
        ("TooManyPendingError", ""),
        ("InvalidAddressError", "ValueError"),
        ("DatagramTooLargeError", "ValueError"),
        ("DuplicateTransactionError", "ValueError"),
    ]
    c = Canvas(66 + 34 * len(leaves), colors, "The tree of errors, and what each is besides")
    c.box(6, 6, 130, "UdpGuardError", kind="good", height=28, bold=True)
    c.text(WIDTH - 6, 48, "is also", anchor="end", kind="faint", size=NOTE)
    trunk, last = 22, 0.0
    for number, (name, also) in enumerate(leaves):
        y = 72 + 34 * number
        last = y
        c.line([(trunk, y), (40, y)])
        c.box(40, y - 13, 198, name, height=26, size=NOTE)
        if also:
            c.text(WIDTH - 6, y, also, anchor="end", kind="faint", size=NOTE)
    c.line([(trunk, 34), (trunk, last)])
    return c


DRAWINGS: Final[Mapping[str, Callable[[Colors], Canvas]]] = {
    "datagram": datagram,
    "verdicts": verdicts,
    "key": key,
    "late": late,
    "house": house,
    "errors": errors,
}


def files() -> dict[str, str]:
    """Each drawing's file, light and dark, and what is in it."""
    found: dict[str, str] = {}
    for name, draws in DRAWINGS.items():
        found[f"{name}.svg"] = draws(LIGHT).svg()
        found[f"{name}.dark.svg"] = draws(DARK).svg()
    return found


def main() -> int:
    """Draw all of them."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
