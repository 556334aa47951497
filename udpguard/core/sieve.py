"""Which sources a socket's filter lets in: all that are expected, and those that were lately.

A source that is expected no more stays in for a while: who asks the same peers in rotation needs no new program for
each. What leaves is decided when about as many came in again: two sets that rotate, the fresh and the stale. What is
still expected then is kept, whatever its age.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from udpguard.core.address import ANYWHERE, IPV4_WIRE, Token

# After so many others a source is stale. A filter of constant size lets 4 % of strangers pass at 4,096 sources, and
# 16 % at twice as many.
_FRESH: Final = 4_096
# With more, about every second stranger would pass, and the filter would cost more than it saves.
_MOST: Final = 16_384
# They are compared one by one.
_MOST_NETWORKS: Final = 32


class Sieve:
    """The sources that one socket's filter lets in.

    Args:
        ipv4: Whether the socket hears IPv4.
        ipv6: Whether it hears IPv6.
    """

    __slots__ = ("_count", "_fresh", "_ipv4", "_ipv6", "_networks", "_stale", "is_open")

    def __init__(self, *, ipv4: bool, ipv6: bool) -> None:
        self._ipv4 = ipv4
        self._ipv6 = ipv6
        self._fresh: set[Token] = set()
        self._stale: set[Token] = set()
        self._count = 0
        self._networks = 0
        self.is_open: bool = False
        """Whether nothing can be filtered: something is expected from anywhere, or from too many places."""

    @property
    def is_stale(self) -> bool:
        """Whether it is time to leave out what is expected no more."""
        return len(self._fresh) >= _FRESH

    @property
    def sources(self) -> set[Token]:
        """All that it lets in."""
        return self._stale | self._fresh

    def begin(self, expected: Iterable[Token]) -> None:
        """Let in what is expected now, and nothing else."""
        self._fresh, self._stale = set(), set()
        self._begin(expected)

    def rotate(self, expected: Iterable[Token]) -> None:
        """Let in what is expected now and what is fresh; that is stale from now on."""
        self._fresh, self._stale = set(), self._fresh
        self._begin(expected)

    def _begin(self, expected: Iterable[Token]) -> None:
        self._stale.update(token for token in expected if self._hears(token))
        self._count = len(self._stale)
        self._networks = sum(isinstance(token, tuple) for token in self._stale)
        self.is_open = ANYWHERE in self._stale or self._is_crowded()

    def covers(self, tokens: Iterable[Token]) -> bool:
        """Whether these are let in, and fresh."""
        return self._fresh.issuperset(tokens)

    def admit(self, tokens: Collection[Token]) -> list[Token]:
        """Let these in from now on; those among them that the socket hears and that were not let in until now."""
        heard = {token for token in tokens if token not in self._fresh and self._hears(token)}
        lacking = [token for token in heard if token not in self._stale]
        self._fresh |= heard
        self._count += len(lacking)
        for token in lacking:
            if isinstance(token, tuple):
                self._networks += 1
            elif token == ANYWHERE:
                self.is_open = True
        if self._is_crowded():
            self.is_open = True
        return lacking

    def _is_crowded(self) -> bool:
        return self._count > _MOST or self._networks > _MOST_NETWORKS

    def _hears(self, token: Token) -> bool:
        if isinstance(token, tuple):
            return self._ipv4 if len(token[1]) == 4 else self._ipv6
        return token == ANYWHERE or (self._ipv4 if len(token) <= IPV4_WIRE else self._ipv6)
