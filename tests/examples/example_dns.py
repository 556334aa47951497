"""DNS messages for the tests of the examples that speak it."""

from __future__ import annotations

import struct

from example_kit import Script

NAME = b"\x07example\x04test\x00"
TO_QUESTION = b"\xc0\x0c"  # a pointer to the name in the question
A, MX, TXT = 1, 15, 16


def question(query: bytes) -> bytes:
    """The question section of a query with one question and an OPT record."""
    return query[12:-11]


def response(
    query: bytes, *records: bytes, flags: int = 0x8180, ident: bytes | None = None, asked: bytes | None = None
) -> bytes:
    header = (ident or query[:2]) + struct.pack("!HHHHH", flags, 1, len(records), 0, 0)
    return header + (asked or question(query)) + b"".join(records)


def record(
    data: bytes, rrtype: int = A, name: bytes = TO_QUESTION, ttl: int = 300, rrclass: int = 1, length: int | None = None
) -> bytes:
    return name + struct.pack("!HHIH", rrtype, rrclass, ttl, len(data) if length is None else length) + data


def address(last: int) -> bytes:
    return record(bytes([192, 0, 2, last]))


def honest(last: int = 1) -> Script:
    return lambda query, _: [response(query, address(last))]
