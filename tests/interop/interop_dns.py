"""DNS messages (RFC 1035), packed and read by hand: as much as the interop tests need.

It shares nothing with the examples' own packing, so that one can't hide the other's mistake.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

TYPES: Final = {"A": 1, "MX": 15, "TXT": 16, "AAAA": 28}
NAMES: Final = {number: name for name, number in TYPES.items()}
IN: Final = 1

_HEADER: Final = struct.Struct("!HHHHHH")
_RECORD: Final = struct.Struct("!HHIH")


@dataclass(frozen=True, slots=True)
class Record:
    """One record, its data as `dig` writes it."""

    name: str
    type: str
    data: str


@dataclass(frozen=True, slots=True)
class Message:
    """What a response says: its id, its return code, the question it repeats, its answers."""

    ident: int
    rcode: int
    name: str
    type: str
    answers: tuple[Record, ...]


def query(name: str, rrtype: str = "A", *, ident: int = 0) -> bytes:
    """A query for `name`, with recursion desired (some servers refuse others)."""
    return _HEADER.pack(ident, 0x0100, 1, 0, 0, 0) + pack_name(name) + struct.pack("!HH", TYPES[rrtype], IN)


def answer(request: bytes, address: str, *, ident: int | None = None) -> bytes:
    """A response to the query `request` that gives `address`, as an impostor would write it."""
    own = struct.unpack_from("!H", request)[0] if ident is None else ident
    header = _HEADER.pack(own, 0x8580, 1, 1, 0, 0)
    record = b"\xc0\x0c" + _RECORD.pack(TYPES["A"], IN, 300, 4) + ipaddress.IPv4Address(address).packed
    return header + request[_HEADER.size :] + record


def parse(message: bytes) -> Message:
    """Read a response. Raises where it isn't one, or has more than one question."""
    ident, flags, questions, answers, _, _ = _HEADER.unpack_from(message)
    assert flags & 0x8000, "a query, not a response"
    assert questions == 1
    name, at = _read_name(message, _HEADER.size)
    rrtype, _ = struct.unpack_from("!HH", message, at)
    at += 4
    records = []
    for _ in range(answers):
        owner, at = _read_name(message, at)
        number, _, _, length = _RECORD.unpack_from(message, at)
        at += _RECORD.size
        records.append(Record(owner, NAMES[number], _read_data(message, at, length, number)))
        at += length
    return Message(ident, flags & 0xF, name, NAMES[rrtype], tuple(records))


def pack_name(name: str) -> bytes:
    labels = [label.encode("ascii") for label in name.rstrip(".").split(".")]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def _read_name(message: bytes, at: int) -> tuple[str, int]:
    labels: list[str] = []
    end: int | None = None
    while length := message[at]:
        if length >= 0xC0:  # A pointer to where the rest stands: RFC 1035, 4.1.4.
            end = at + 2 if end is None else end
            at = struct.unpack_from("!H", message, at)[0] & 0x3FFF
            continue
        labels.append(message[at + 1 : at + 1 + length].decode("ascii"))
        at += 1 + length
    return ".".join(labels) + ".", at + 1 if end is None else end


def _read_data(message: bytes, at: int, length: int, number: int) -> str:
    data = message[at : at + length]
    if NAMES[number] in {"A", "AAAA"}:
        return str(ipaddress.ip_address(data))
    if NAMES[number] == "MX":
        return f"{struct.unpack_from('!H', data)[0]} {_read_name(message, at + 2)[0]}"
    return " ".join(_read_strings(data))


def _read_strings(data: bytes) -> list[str]:
    strings = []
    while data:
        size = data[0]
        strings.append('"' + data[1 : 1 + size].decode("ascii") + '"')
        data = data[1 + size :]
    return strings
