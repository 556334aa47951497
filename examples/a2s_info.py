"""Ask a game server what is played on it: Source's A2S_INFO.

    python examples/a2s_info.py 192.0.2.1
    python examples/a2s_info.py games.example.org:27016

The protocol (developer.valvesoftware.com/wiki/Server_queries) has no transaction ids: an answer is known by the address
it comes from, and by nothing else. So requests to one server take turns, and after one that was sent again the next
leaves from another port, where a late answer to the first can't reach it. udpguard does both by itself.

A server that is asked for the first time may want to know first that the question comes from where it says: it sends a
challenge, and the question is asked again with that in it.
"""

from __future__ import annotations

import argparse
import asyncio
import struct
from functools import partial
from typing import NamedTuple

import command_line
import udpguard
from command_line import Server

PORT = 27_015
SINGLE, SPLIT = b"\xff\xff\xff\xff", b"\xfe\xff\xff\xff"  # what a datagram begins with
QUESTION = SINGLE + b"TSource Engine Query\0"
CHALLENGE, INFO, GOLDSOURCE = b"A", b"I", b"m"  # what follows then
CHALLENGE_SIZE = 4
CHALLENGES = 3  # how many a server may send before it is given up: one, unless it has just chosen new ones
THE_SHIP = 2_400  # a game whose answers have three bytes more

KINDS = {"d": "dedicated", "l": "not dedicated", "p": "SourceTV relay"}
SYSTEMS = {"l": "Linux", "w": "Windows", "m": "macOS", "o": "macOS"}


class QueryError(Exception):
    """The server answered, but not the question."""


class Info(NamedTuple):
    """What a server says of itself. What it does not say is None."""

    protocol: int
    name: str
    map: str
    folder: str
    game: str
    app_id: int
    players: int
    most_players: int
    bots: int
    kind: str
    system: str
    is_locked: bool
    is_secured: bool
    version: str
    port: int | None
    steam_id: int | None
    tv: tuple[int, str] | None
    keywords: str | None
    game_id: int | None


# ------------------------------------------------------------------------------------ the protocol


class Reader:
    """Reads little-endian numbers, and texts that end with a zero byte."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, form: str) -> int:
        """A number of `struct`'s form."""
        (value,) = struct.unpack_from(f"<{form}", self._data, self._at)
        self._at += struct.calcsize(f"<{form}")
        return int(value)

    def text(self) -> str:
        """What stands before the next zero byte."""
        end = self._data.index(b"\0", self._at)
        text, self._at = self._data[self._at : end].decode(errors="replace"), end + 1
        return text

    def skip(self, size: int) -> None:
        """Leave some bytes out."""
        self._at += size

    def is_at_end(self) -> bool:
        """Whether all was read."""
        return self._at >= len(self._data)


def parsed(answer: bytes) -> Info:
    """What an answer says; a ValueError if it is cut short."""
    read = Reader(answer[len(SINGLE) + 1 :])
    try:
        head = (read.number("B"), read.text(), read.text(), read.text(), read.text())
        app_id = read.number("H")
        counts = (read.number("B"), read.number("B"), read.number("B"))
        letters = (chr(read.number("B")).lower(), chr(read.number("B")).lower())
        flags = (bool(read.number("B")), bool(read.number("B")))
        if app_id == THE_SHIP:
            read.skip(3)
        version = read.text()
        extra = 0 if read.is_at_end() else read.number("B")  # which of the following there are
        return Info(
            *head,
            app_id,
            *counts,
            *letters,
            *flags,
            version,
            port=read.number("H") if extra & 0x80 else None,
            steam_id=read.number("Q") if extra & 0x10 else None,
            tv=(read.number("H"), read.text()) if extra & 0x40 else None,
            keywords=read.text() if extra & 0x20 else None,
            game_id=read.number("Q") if extra & 0x01 else None,
        )
    except (struct.error, ValueError):
        raise ValueError("it is cut short") from None


def accept(reply: udpguard.Reply) -> bool:
    """Whether it is an answer, or a challenge; what is raised here is quoted when the request times out."""
    head, kind, rest = reply.data[:4], reply.data[4:5], reply.data[5:]
    if head == SPLIT:
        raise ValueError("it is split over several datagrams: see clients/a2s_split.py")
    if head != SINGLE or kind not in {CHALLENGE, INFO, GOLDSOURCE}:
        raise ValueError("it is no answer to A2S_INFO")
    if kind == CHALLENGE and len(rest) < CHALLENGE_SIZE:
        raise ValueError("its challenge is cut short")
    if kind == INFO:
        parsed(reply.data)
    return True


async def ask(client: udpguard.Client, server: udpguard.Address) -> Info:
    """Ask a server, with a challenge if it wants one."""
    answer = await client.request(server, QUESTION, accept=accept)
    for _ in range(CHALLENGES):
        if answer[4:5] != CHALLENGE:
            break
        answer = await client.request(server, QUESTION + answer[5 : 5 + CHALLENGE_SIZE], accept=accept)
    if answer[4:5] == CHALLENGE:
        raise QueryError("the server wants another challenge answered each time")
    if answer[4:5] == GOLDSOURCE:
        raise QueryError("the server answers as GoldSource did of old, which this does not read")
    return parsed(answer)


# ---------------------------------------------------------------------------------------- the tool


def lines(info: Info) -> list[str]:
    """What to print: names and values, one a line."""
    kind, system = KINDS.get(info.kind, info.kind), SYSTEMS.get(info.system, info.system)
    told = {
        "name": info.name,
        "map": info.map,
        "game": f"{info.game} ({info.folder}, {(info.game_id or info.app_id) & 0xFFFFFF})",
        "players": f"{info.players} of {info.most_players}, {info.bots} of them bots",
        "server": f"{kind}, {system}, version {info.version}",
        "password": "needed" if info.is_locked else "none",
        "anti-cheat": "on" if info.is_secured else "off",
        "game port": info.port,
        "SourceTV": None if info.tv is None else f"{info.tv[1]}, port {info.tv[0]}",
        "keywords": info.keywords,
    }
    return [f"{label + ':':<12}{command_line.shown(str(value))}" for label, value in told.items() if value is not None]


async def run(server: Server, timeout: float) -> None:
    retry = udpguard.Retry(attempts=3, initial=timeout / 7, final_wait=timeout, total=timeout)
    async with udpguard.open_endpoint(retry=retry) as endpoint:
        peer = await endpoint.resolve(server.host, server.port)  # The challenge is for one address.
        print("\n".join(lines(await ask(endpoint, peer))))


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask a game server what is played on it.")
    parser.add_argument("server", metavar="HOST[:PORT]", type=partial(command_line.server, default_port=PORT))
    parser.add_argument(
        "--timeout", type=command_line.seconds, default=3.0, help="seconds to wait for an answer (default: %(default)s)"
    )
    arguments = parser.parse_args()
    asyncio.run(run(arguments.server, arguments.timeout))
    return 0


if __name__ == "__main__":
    command_line.run(main, QueryError)
