"""What a network does to the datagrams on one way."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias, TypedDict

from udpguard.core.address import IPV4_WIRE, Wire

Delay: TypeAlias = float | tuple[float, float] | Callable[[random.Random], float]
"""Seconds: always the same, evenly spread between two, or drawn by a function from the generator it is given."""

# An IP header and that of UDP (RFC 791, RFC 8200, RFC 768).
_IPV4_HEADERS: Final = 28
_IPV6_HEADERS: Final = 48
# Who is held back is overtaken by those who follow within so many times its own delay, or at least so many seconds.
_HELD_BACK: Final = 4.0
_HELD_BACK_SECONDS: Final = 0.01


class Copy(NamedTuple):
    """One datagram as it arrives.

    Attributes:
        delay: After so many seconds.
        data: What is left of its payload.
    """

    delay: float
    data: bytes


class ConditionArguments(TypedDict, total=False):
    """The arguments of `Conditions`, each of which may be left out."""

    loss: float
    duplicate: float
    delay: Delay
    reorder: float
    corrupt: float
    mtu: int | None
    icmp: bool
    unreachable: bool
    send_error: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What becomes of datagrams on their way, each by itself; odds are from 0 to 1.

    Attributes:
        loss: The odds that one is lost.
        duplicate: The odds that it arrives twice, each time after a delay of its own.
        delay: How many seconds it takes.
        reorder: The odds that it is held back, for up to four times its delay and 10 ms, so that others overtake it.
            (Delays that vary reorder, too.)
        corrupt: The odds that one bit of its payload is inverted.
        mtu: The largest packet in bytes, headers included; larger ones are lost, and ICMP tells their sender of it.
        icmp: Whether a sender is told that nobody listens at a port.
        unreachable: Whether a sender is told that nobody has an address.
        send_error: What the sender's operating system refuses to send this way with, such as errno.ENETUNREACH.

    Raises:
        ValueError: A number makes no sense.
    """

    loss: float = 0.0
    duplicate: float = 0.0
    delay: Delay = 0.01
    reorder: float = 0.0
    corrupt: float = 0.0
    mtu: int | None = None
    icmp: bool = True
    unreachable: bool = False
    send_error: int | None = None

    def __post_init__(self) -> None:
        for name in ("loss", "duplicate", "reorder", "corrupt"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be odds from 0 to 1, not {getattr(self, name)!r}")
        if self.mtu is not None and self.mtu <= _IPV6_HEADERS:
            raise ValueError(f"mtu must leave room for a payload, not be {self.mtu!r}")
        if callable(self.delay):
            return
        least, most = (self.delay, self.delay) if isinstance(self.delay, (int, float)) else self.delay
        if not 0 <= least <= most < math.inf:
            raise ValueError(f"delay must be seconds, or (at least, at most), not {self.delay!r}")

    def copies(self, data: bytes, generator: random.Random) -> list[Copy]:
        """How often a datagram arrives, when, and as what; the generator decides."""
        if self.loss and generator.random() < self.loss:
            return []
        copies = [self._copy(data, generator)]
        if self.duplicate and generator.random() < self.duplicate:
            copies.append(self._copy(data, generator))
        return copies

    def _copy(self, data: bytes, generator: random.Random) -> Copy:
        if callable(self.delay):
            delay = max(0.0, self.delay(generator))
        elif isinstance(self.delay, (int, float)):
            delay = self.delay
        else:
            delay = generator.uniform(*self.delay)
        if self.reorder and generator.random() < self.reorder:
            delay += generator.random() * (_HELD_BACK * delay + _HELD_BACK_SECONDS)
        if self.corrupt and data and generator.random() < self.corrupt:
            bit = generator.randrange(8 * len(data))
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            data = bytes(changed)
        return Copy(delay, data)

    def is_too_large(self, data: bytes, wire: Wire) -> bool:
        """Whether a datagram does not fit through."""
        headers = _IPV4_HEADERS if len(wire) == IPV4_WIRE else _IPV6_HEADERS
        return self.mtu is not None and len(data) + headers > self.mtu
