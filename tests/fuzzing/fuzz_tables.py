"""What there is to choose from: events, addresses, payloads, options."""

from __future__ import annotations

import errno
import random
from typing import Any, Final

import udpguard
from udpguard import Limits, Ports
from udpguard.core.address import Wire, wire_of_source

WEIGHTS: Final = {
    "reply": 72,
    "junk": 20,
    "request": 26,
    "plain": 14,
    "expect": 10,
    "session": 6,
    "converse": 18,
    "discover": 6,
    "sweep": 6,
    "send": 6,
    "cancel": 16,
    "client": 2,
    "turn": 18,
    "time": 12,
    "icmp": 8,
    "socket": 4,
    "pause": 2,
    "resume": 4,
    "block": 2,
    "look": 2,
    "refuse": 2,
}
"""How often each kind is among 256 events; a thousandth of them close everything."""
KINDS: Final = [kind for kind, weight in WEIGHTS.items() for _ in range(weight)]
assert len(KINDS) == 256
RARE: Final = 1 << 64

ASKED: Final[list[Any]] = [
    ("192.0.2.1", 7), ("192.0.2.1", 7), ("192.0.2.1", 7), ("192.0.2.1", 8), ("192.0.2.2", 7), ("198.51.100.9", 53),
    ("2001:db8::1", 7), ("2001:db8::1", 7), ("fe80::1%2", 7), ("::ffff:192.0.2.1", 7),
    [("192.0.2.1", 7), ("192.0.2.2", 7)], [("2001:db8::1", 7), ("192.0.2.1", 8), ("server.example", 7)],
    ("server.example", 7), ("both.example", 7), ("nowhere.example", 7), [("192.0.2.3", 7), ("both.example", 8)],
]  # fmt: skip
ODD: Final[list[Any]] = [
    ("192.0.2.1", 0), ("192.0.2.1", 70_000), ("255.255.255.255", 7), ("224.0.0.1", 7), ("0.0.0.0", 7), ("", 7), None,
    [], ("192.0.2.1", "7"), ("fe80::1", 7), ("::1%", 7), ("192.0.2.1", True), (["x"], 7), ("192.0.2.1",),
    ("2001:db8::1", 7, 0, 3),
]  # fmt: skip
REPLY_FROM: Final[list[Any]] = [
    "peer", "peer", "peer", "host", "anywhere", "192.0.2.0/24", ["peer", "host"], ("192.0.2.2", 7), "fe80::/10",
    ["host", "192.0.2.0/30", "peer"], "2001:db8::/32", "nonsense",
]  # fmt: skip
TIMEOUTS: Final[list[Any]] = [
    0.01,
    0.05,
    0.05,
    0.2,
    0.2,
    1.0,
    1.0,
    1.5,
    5.0,
    0.3,
    0.7,
    30.0,
    None,
    udpguard.DEFAULT,
    1e-9,
    900.0,
]
WRONG_TIMEOUTS: Final[list[Any]] = [0, -1.0, float("nan"), "1", True]
SOURCES: Final[list[Wire]] = [
    wire_of_source(*one)
    for one in (
        ("192.0.2.1", 7), ("192.0.2.1", 8), ("192.0.2.1", 9), ("192.0.2.2", 7), ("192.0.2.3", 0), ("198.51.100.9", 53),
        ("203.0.113.7", 7), ("2001:db8::1", 7), ("2001:db8::1", 9), ("2001:db8::2", 7), ("fe80::1", 7, 2),
        ("fe80::1", 7, 3), ("fe80::1", 7), ("::1", 7), ("255.255.255.255", 7), ("ff02::1", 7, 2),
    )
]  # fmt: skip
_dice = random.Random(5)
PAYLOADS: Final[list[bytes]] = [
    b"", b"\0", b"\1\2", b"\xff" * 3, b"hello", b"\x12\x34" * 8, bytes(512), bytes(65_507), b"\xff" * 65_527,
    *(_dice.randbytes(_dice.choice((1, 2, 3, 4, 5, 8, 12, 20, 100))) for _ in range(55)),
]  # fmt: skip
CORRELATORS: Final = 8
LIMITS: Final = [
    Limits(),
    Limits(pending=4),
    Limits(in_flight_per_peer=2),
    Limits(near_misses=2),
    Limits(pending=20, near_misses=0),
]
PORTS: Final = [
    Ports(), Ports(), Ports(spares=1), Ports(spares=0, quarantine=0.1), Ports(pool=3), Ports(rotate=True, spares=2),
    Ports(pool=2, rotate=True), Ports(range=(2_000, 2_040), spares=4),
]  # fmt: skip
SEND_ERRORS: Final = [errno.ENETUNREACH, errno.EPERM, errno.EMSGSIZE, errno.ENOBUFS, errno.EHOSTUNREACH, errno.EINVAL]


def mangled(data: bytes, how: int, at: int, number: int) -> list[bytes]:
    """What becomes of a reply on its way: nothing, mostly."""
    if how == 8:
        return [data[: at % (len(data) + 1)]]
    if how == 9 and data:
        at %= len(data)
        return [data[:at] + bytes([data[at] ^ (1 << number % 8)]) + data[at + 1 :]]
    if how == 10:
        return [data + PAYLOADS[at % len(PAYLOADS)]]
    if how == 11:
        return [data, data]
    if how == 12:
        return [PAYLOADS[at % len(PAYLOADS)], data, b"", data]
    return [data[at % 3 :]] if how == 16 else [data]
