"""A game server, as far as it answers queries; Debian has none.

Written from the published format (developer.valvesoftware.com/wiki/Server_queries), and checked by a client that others
have written, python-a2s.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from dataclasses import dataclass, field

from udpguard.testing import Request

SINGLE, SPLIT = b"\xff\xff\xff\xff", b"\xfe\xff\xff\xff"
INFO, PLAYERS, RULES = b"TSource Engine Query\0", b"U", b"V"
LARGEST = 1_400  # bytes that go into one datagram
PART_SIZE = 1_248  # else


@dataclass
class Game:
    """What is played; `answer` is the handler of a `udpguard.testing.Server`."""

    name: str = "Grüße from the test"
    map: str = "de_dust2"
    folder: str = "cstrike"
    game: str = "Counter-Strike: Source"
    app_id: int = 240
    players: int = 12
    most_players: int = 24
    bots: int = 2
    kind: bytes = b"d"
    system: bytes = b"l"
    is_locked: bool = True
    is_secured: bool = True
    version: str = "1.0.0.71"
    port: int = 27_016
    steam_id: int = 90_071_996_842_377_216
    tv: tuple[int, str] = (27_020, "the relay")
    keywords: str = "alltalk,increased_maxplayers"
    game_id: int = 240
    has_extras: bool = True
    rules: dict[str, str] = field(default_factory=dict)
    challenged: int = 0
    _secret: bytes = field(default_factory=lambda: secrets.token_bytes(8))

    def answer(self, request: Request) -> list[bytes]:
        """What it sends back, datagram by datagram."""
        for question, answer in ((INFO, self._info), (RULES, self._rules)):
            begin = SINGLE + question
            if request.data.startswith(begin) and len(request.data) in {len(begin), len(begin) + 4}:
                challenge = hashlib.sha256(self._secret + repr(tuple(request.peer)).encode()).digest()[:4]
                if request.data[len(begin) :] != challenge:
                    self.challenged += 1
                    return [SINGLE + b"A" + challenge]
                return self._split(SINGLE + answer(), request.number)
        return []

    def _info(self) -> bytes:
        texts = b"".join(text.encode() + b"\0" for text in (self.name, self.map, self.folder, self.game))
        counts = struct.pack("<HBBB", self.app_id, self.players, self.most_players, self.bots)
        flags = self.kind + self.system + bytes([self.is_locked, self.is_secured])
        info = b"I\x11" + texts + counts + flags + self.version.encode() + b"\0"
        if not self.has_extras:
            return info
        port, name = self.tv
        extras = struct.pack("<HQH", self.port, self.steam_id, port) + name.encode() + b"\0"
        extras += self.keywords.encode() + b"\0" + struct.pack("<Q", self.game_id)
        return info + bytes([0x80 | 0x10 | 0x40 | 0x20 | 0x01]) + extras

    def _rules(self) -> bytes:
        texts = (f"{name}\0{value}\0".encode() for name, value in self.rules.items())
        return b"E" + struct.pack("<H", len(self.rules)) + b"".join(texts)

    def _split(self, answer: bytes, number: int) -> list[bytes]:
        if len(answer) <= LARGEST:
            return [answer]
        chunks = [answer[at : at + PART_SIZE] for at in range(0, len(answer), PART_SIZE)]
        head = SPLIT + struct.pack("<IB", 1 + number, len(chunks))
        return [head + struct.pack("<BH", each, PART_SIZE) + chunk for each, chunk in enumerate(chunks)]
