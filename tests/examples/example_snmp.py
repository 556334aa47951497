"""SNMPv2c as an agent has it: what the examples' requests say, and answers of every kind."""

from __future__ import annotations

from typing import NamedTuple

INTEGER, STRING, NULL, OID, SEQUENCE = 0x02, 0x04, 0x05, 0x06, 0x30
END_OF_MIB_VIEW, GET, RESPONSE, GET_BULK = 0x82, 0xA0, 0xA2, 0xA5

Oid = tuple[int, ...]


class Asked(NamedTuple):
    """A request: in a GetBulk the last two numbers are how many OIDs don't repeat, and how often the others do."""

    community: bytes
    kind: int
    request_id: int
    first: int
    second: int
    oids: list[Oid]


def ber(tag: int, *contents: bytes) -> bytes:
    """A value with as short a length as there is."""
    content = b"".join(contents)
    size = len(content)
    length = bytes((size,)) if size < 128 else bytes((0x82, size >> 8, size & 0xFF))
    return bytes((tag,)) + length + content


def number(value: int) -> bytes:
    return ber(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def name(oid: Oid) -> bytes:
    content: list[int] = []
    for arc in (40 * oid[0] + oid[1], *oid[2:]):
        digits = [arc >> shift & 0x7F for shift in (28, 21, 14, 7, 0)]
        while len(digits) > 1 and not digits[0]:
            del digits[0]
        content += [*(0x80 | digit for digit in digits[:-1]), digits[-1]]
    return ber(OID, bytes(content))


def bound(oid: Oid, value: bytes) -> bytes:
    return ber(SEQUENCE, name(oid), value)


def message(
    request_id: int,
    *bindings: bytes,
    status: int = 0,
    index: int = 0,
    kind: int = RESPONSE,
    version: int = 1,
    community: bytes = b"public",
) -> bytes:
    """An honest answer, unless some of it is not."""
    pdu = ber(kind, number(request_id), number(status), number(index), ber(SEQUENCE, *bindings))
    return ber(SEQUENCE, number(version), ber(STRING, community), pdu)


def asked(request: bytes) -> Asked:
    """What a request says; it must be one to the letter."""
    ((outer, message),) = _values(request)
    (_, version), (_, community), (kind, pdu) = _values(message)
    fields = _values(pdu)
    assert (outer, version) == (SEQUENCE, b"\1")
    assert [tag for tag, _ in fields] == [INTEGER, INTEGER, INTEGER, SEQUENCE]
    numbers = [int.from_bytes(content, "big", signed=True) for _, content in fields[:3]]
    assert [number(value)[2:] for value in numbers] == [content for _, content in fields[:3]], "a number is too long"
    return Asked(community, kind, *numbers, [_asked_for(*binding) for binding in _values(fields[3][1])])


def _asked_for(tag: int, binding: bytes) -> Oid:
    (_, oid), null = _values(binding)
    assert (tag, null) == (SEQUENCE, (NULL, b""))
    arcs, arc = [], 0
    for byte in oid:
        arc = arc * 128 + byte % 128
        if byte < 128:
            arcs.append(arc)
            arc = 0
    found = (*divmod(arcs[0], 40), *arcs[1:])
    assert name(found)[-len(oid) :] == oid
    return found


def _values(data: bytes) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    while data:
        tag, size, start = data[0], data[1], 2
        if size >= 128:
            start += size - 128
            size = int.from_bytes(data[2:start], "big")
        assert start + size <= len(data)
        found.append((tag, data[start : start + size]))
        data = data[start + size :]
    return found
