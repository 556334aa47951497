"""Which conditions hold between two hosts of a simulated network."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from udpguard.core.address import Wire, covers, host_token, without_scope
from udpguard.testing._conditions import Conditions
from udpguard.testing._hosts import literal_wire

if TYPE_CHECKING:
    from udpguard.testing._hosts import Host

_MOST_KNOWN: Final = 65_536


class Links:
    """The conditions between any two hosts.

    Args:
        default: Those that hold where nothing else was said.
    """

    def __init__(self, default: Conditions) -> None:
        self.default: Conditions = default
        self._rules: list[tuple[Callable[[Wire], bool], Callable[[Wire], bool], Conditions]] = []
        self._known: dict[tuple[bytes, bytes], Conditions] = {}

    def set_default(self, conditions: Conditions) -> None:
        """Have others hold where nothing else was said."""
        self.default = conditions
        self._known.clear()

    def add(self, a: str | Host, b: str | Host, conditions: Conditions, *, both_ways: bool) -> None:
        """Have these hold from now on."""
        one, other = _matcher(a), _matcher(b)
        self._rules.insert(0, (one, other, conditions))
        if both_ways:
            self._rules.insert(0, (other, one, conditions))
        self._known.clear()

    def conditions(self, source: Wire, wire: Wire) -> Conditions:
        """Those on the way from one address to another."""
        if not self._rules:
            return self.default
        way = (host_token(source), host_token(wire))
        known = self._known.get(way)
        if known is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            fitting = (rule[2] for rule in self._rules if rule[0](source) and rule[1](wire))
            known = self._known[way] = next(fitting, self.default)
        return known


def _matcher(where: str | Host) -> Callable[[Wire], bool]:
    """Whether a wire is of that host, address or network."""
    if not isinstance(where, str):
        return where.has
    if where == "any":
        return lambda _: True
    if "/" in where:
        network = ipaddress.ip_network(where)
        prefix = (network.prefixlen, network.network_address.packed)
        return lambda wire: covers(prefix, wire)
    token = host_token(literal_wire(where))
    return lambda wire: token in (host_token(wire), without_scope(host_token(wire)))
