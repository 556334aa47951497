"""Sources wider than one peer: any port of a host, a network, anywhere."""

from __future__ import annotations

from udpguard.core.address import (
    ANYWHERE,
    IPV4_WIRE,
    IPV6_WIRE,
    Token,
    Wire,
    host_token,
    network_tokens,
    without_scope,
)
from udpguard.core.memory import REMEMBERED


def is_wide(token: Token) -> bool:
    """Whether a token stands for more than one host and port."""
    return len(token) not in (IPV4_WIRE, IPV6_WIRE)


class Shapes:
    """Which kinds of sources wider than a peer are expected, or were a short while ago; mostly none is."""

    __slots__ = ("_lengths4", "_lengths6", "_live", "_used", "any")

    def __init__(self) -> None:
        self.any: bool = False
        self._live: dict[tuple[int, int], int] = {}
        self._used: dict[tuple[int, int], float] = {}
        self._lengths4: list[int] = []
        self._lengths6: list[int] = []

    def add(self, token: Token) -> None:
        """Take note that something is expected from such a source."""
        shape = _shape(token)
        known = self._live.get(shape)
        self._live[shape] = 1 if known is None else known + 1
        if known is None:
            self._arrange()

    def remove(self, token: Token, now: float) -> None:
        """Take note that it is not any more."""
        shape = _shape(token)
        self._live[shape] -= 1
        self._used[shape] = now

    def prune(self, now: float) -> None:
        """Forget those whose exchanges are not remembered any more."""
        if not self.any:
            return
        stale = [s for s, live in self._live.items() if not live and now - self._used[s] > REMEMBERED]
        for shape in stale:
            del self._live[shape], self._used[shape]
        if stale:
            self._arrange()

    def tokens(self, wire: Wire, *, scoped: bool) -> list[Token]:
        """The tokens of these kinds that cover a peer, the most specific first."""
        found: list[Token] = []
        ipv4 = len(wire) == IPV4_WIRE
        if (0, 0) in self._live:
            found.append(host_token(wire))
            if scoped:
                found.append(without_scope(host_token(wire)))
        lengths = self._lengths4 if ipv4 else self._lengths6
        if lengths:
            found += network_tokens(wire, lengths)
        if (2, 0) in self._live:
            found.append(ANYWHERE)
        return found

    def _arrange(self) -> None:
        self.any = bool(self._live)
        self._lengths4 = sorted((length for kind, length in self._live if kind == 4), reverse=True)
        self._lengths6 = sorted((length for kind, length in self._live if kind == 6), reverse=True)


def _shape(token: Token) -> tuple[int, int]:
    if isinstance(token, tuple):
        return (4 if len(token[1]) == 4 else 6, token[0])
    return (2, 0) if token == ANYWHERE else (0, 0)
