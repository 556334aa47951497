"""Asks how far this machine's clock is behind: `python examples/clients/ntp_clock.py 192.0.2.1 192.0.2.2`.

Requests say nothing of this machine's clock, and answers can't be guessed: the transmit timestamp is random.
"""

import asyncio
import secrets
import statistics
import struct
import sys
import time

import udpguard

ORIGIN = udpguard.TransactionId(40, 8, reply_offset=24)  # The server gives the transmit timestamp back.
# Leap indicator, version and mode; stratum; reference id; origin, receive and transmit timestamp (section 7.3).
PACKET = struct.Struct("!BB10x4s8x8sQQ")
CLIENT, SERVER, UNSYNCHRONISED = 0x23, 4, 3  # version 4 and mode; mode; leap indicator
SECOND, SINCE_1900 = 1 << 32, 2_208_988_800  # in a timestamp's units; seconds to 1970


async def ask(client: udpguard.Client, server: udpguard.Address) -> tuple[float, float]:
    """The offset of a server's clock, and the delay on the way, in seconds; a LookupError if it won't tell the time."""
    sent: dict[bytes, int] = {}

    def question(_: int) -> bytes:
        sent[nonce := secrets.token_bytes(8)] = SINCE_1900 * SECOND + time.time_ns() * SECOND // 10**9
        return bytes([CLIENT]) + bytes(39) + nonce

    def accept(reply: udpguard.Reply) -> bool:
        return len(reply.data) >= PACKET.size and reply.data[0] & 7 == SERVER

    reply = await client.exchange(server, question, accept=accept)
    first, stratum, code, origin, received, transmitted = PACKET.unpack_from(reply.data)
    if first >> 6 == UNSYNCHRONISED or not 1 <= stratum <= 15 or not (received and transmitted):
        raise LookupError(f"{server[0]} won't tell the time: {code!r}")  # as in a kiss-o'-death (section 7.4)
    assert reply.rtt is not None  # Each attempt has a timestamp of its own.
    delay = reply.rtt - (transmitted - received) / SECOND
    ahead = (received - sent[origin] + 2**63) % 2**64 - 2**63  # be it an era later (2036)
    return ahead / SECOND - delay / 2, delay  # section 8


async def offset(client: udpguard.Client, servers: list[udpguard.Address]) -> float:
    """The median of what the servers say; a LookupError that says why where none does."""
    told = await asyncio.gather(*(ask(client, server) for server in servers), return_exceptions=True)
    if offsets := [it[0] for it in told if isinstance(it, tuple)]:
        return statistics.median(offsets)
    raise LookupError("; ".join(map(str, told)))


async def main(*servers: str) -> None:
    async with udpguard.open_endpoint(correlate=ORIGIN, retry=udpguard.Retry(attempts=3)) as endpoint:
        print(f"{await offset(endpoint, [(server, 123) for server in servers]):+.6f} s")


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]) if sys.argv[1:] not in ([], ["--help"]) else sys.exit(__doc__))
    except (KeyboardInterrupt, OSError, ValueError, LookupError, udpguard.UdpGuardError) as error:
        sys.exit(str(error) or 130)  # as shells say of Ctrl-C
