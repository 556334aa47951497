"""Lists all values below an OID (SNMPv2c).

python examples/clients/snmp_walk.py 192.0.2.1 161 public 1.3.6.1.2.1.1
"""

import asyncio
import secrets
import sys
from typing import Any, AsyncIterator, Iterator

import udpguard


def ber(tag: int, content: bytes) -> bytes:  # with a longer length than need be, as RFC 3417 section 8 permits
    return bytes((tag, 0x82)) + len(content).to_bytes(2, "big") + content


def oid_of(content: bytes) -> tuple[int, ...]:  # X.690 section 8.19: seven bits a byte; a number's last begins with 0
    first, *others = (int(n, 2) for n in "".join(f"{byte & 0x7F:07b}{' ' * (byte < 0x80)}" for byte in content).split())
    return (top := min(first // 40, 2), first - 40 * top, *others)


def values(data: bytes, at: int = 0) -> Iterator[Any]:  # bytes, numbers, OIDs, None (there is no value), lists of such
    while at != len(data):  # What is cut short gives an IndexError.
        tag, start = data[at], at + 2 + max(data[at + 1] - 0x80, 0)  # X.690 section 8.1.3: a length of several bytes
        content = data[start : (at := start + int.from_bytes(data[at + 2 : start] or data[at + 1 : start], "big"))]
        other = oid_of(content) if tag == 0x06 else int.from_bytes(content, "big", signed=True) if content else None
        yield [*values(content)] if tag & 0x20 else content if tag in (0x04, 0x40, 0x44) else other


async def walk(client: udpguard.Client, addr: udpguard.Address, community: str, root: str) -> AsyncIterator[Any]:
    last = prefix = tuple(map(int, root.split(".")))
    while key := secrets.randbits(30) | 1 << 30:  # RFC 3416 section 4.2.3: GetBulk asks for the next 25 values
        arcs = (40 * last[0] + last[1], *last[2:])
        name = bytes(arc >> n & 0x7F | (n > 0) << 7 for arc in arcs for n in (28, 21, 14, 7, 0) if arc >> n or not n)
        asked = ber(2, key.to_bytes(4, "big")) + b"\2\1\0\2\1\x19" + ber(0x30, ber(0x30, ber(6, name) + ber(5, b"")))
        message = ber(0x30, b"\2\1\1" + ber(4, community.encode()) + ber(0xA5, asked))
        data = await client.request(
            addr, message, accept=lambda it: (pdu := next(values(it.data))[2])[0] == key and len(dict(pdu[3])) <= 25
        )
        _, _, [_, status, _, found] = next(values(data))
        for oid, value in found or [(last, status)]:
            if status or isinstance(oid, int | bytes | None) or (oid <= last and value is not None):
                raise ValueError(f"error {status}, or OIDs that don't increase, at {oid}")
            if oid[: len(prefix)] != prefix or value is None:  # no value: endOfMibView
                return
            yield (last := oid), value


async def main(host: str, port: str, community: str, root: str) -> None:
    async with udpguard.open_endpoint(retry=udpguard.Retry()) as endpoint:
        async for oid, value in walk(endpoint, (host, int(port)), community, root):
            print(".".join(map(str, oid)), "=", value)


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]) if len(sys.argv) == 5 else sys.exit(__doc__))
    except (KeyboardInterrupt, OSError, ValueError, LookupError, udpguard.UdpGuardError) as error:
        sys.exit(str(error) or 130)  # as shells say of Ctrl-C
