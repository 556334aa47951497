"""A machine for classic BPF (networking/filter.rst in the kernel's documentation), as far as socket filters use it.

Its rules are the kernel's: 32 bits, jumps ahead only, and a load from outside of the datagram ends the program with 0.
"""

from __future__ import annotations

import struct

_ALL = 0xFFFF_FFFF
_NETWORK = 0xFFF0_0000
_MOST = 4_096


def verdict(program: bytes | bytearray, transport: bytes, network: bytes) -> int:  # noqa: C901 (a case for each)
    """What a program says of a datagram: its UDP header and payload, and its IP header."""
    code = list(struct.iter_unpack("=HBBI", program))
    assert 0 < len(code) <= _MOST, "the kernel takes no such program"
    assert code[-1][0] == 0x06, "it must end with a return"
    a = x = 0
    memory: list[int | None] = [None] * 16
    at = 0
    while True:
        op, jt, jf, k = code[at]
        at += 1
        match op:
            case 0x06:  # ret #k
                return k
            case 0x00:
                a = k
            case 0x01:
                x = k
            case 0x20 | 0x28 | 0x30:  # ld, ldh, ldb [k]
                size = {0x20: 4, 0x28: 2, 0x30: 1}[op]
                data, place = (network, k - _NETWORK) if k >= _NETWORK else (transport, k)
                if place + size > len(data):
                    return 0
                a = int.from_bytes(data[place : place + size], "big")
            case 0x60 | 0x61:
                value = memory[k]
                assert value is not None, "what it loads was never stored"
                a, x = (value, x) if op == 0x60 else (a, value)
            case 0x02:
                memory[k] = a
            case 0x0C:
                a = a + x & _ALL
            case 0x24:
                a = a * k & _ALL
            case 0x54:
                a &= k
            case 0x74:
                assert k < 32
                a >>= k
            case 0x7C:
                assert x < 32
                a >>= x
            case 0xAC:
                a ^= x
            case 0x07:
                x = a
            case 0x87:
                a = x
            case 0x05:
                at += k
            case 0x15:
                at += jt if a == k else jf
            case 0x35:
                at += jt if a >= k else jf
            case 0x45:
                at += jt if a & k else jf
            case _:
                raise AssertionError(f"instruction {op:#x} is none of those known here")
        assert at < len(code), "it jumps past its end"


def packet(host: bytes, port: int, payload: bytes = b"junk") -> tuple[bytes, bytes]:
    """A datagram's UDP header with payload, and its IP header."""
    transport = struct.pack("!4H", port, 7, 8 + len(payload), 0) + payload
    if len(host) == 4:
        return transport, struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 17, 0, host, bytes(4))
    return transport, struct.pack("!IHBB16s16s", 6 << 28, 8, 17, 64, host, bytes(16))
