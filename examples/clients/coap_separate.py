"""Gets a CoAP resource (RFC 7252), however late its answer: `python examples/clients/coap_separate.py HOST PATH...`.

What comes after its acknowledgement is acknowledged each time it comes, as that may be lost, too (section 4.2).
"""

import asyncio
import secrets
import sys
from itertools import count, islice

import udpguard

CON, NON, ACK = 0x48, 0x58, 0x68  # a message's first byte by its type, where the token has eight bytes (section 3)
EMPTY_ACK, RESET, QUESTION, CONTENT, URI_PATH, MARKER = b"\x60\0", b"\x70\0", b"\x48\x01", 0x45, 0xB0, 0xFF
MESSAGE_IDS = count(secrets.randbits(16))


async def get(session: udpguard.Session, *path: str) -> bytes:
    """What the server has at a path, of words of up to 12 letters; a LookupError if it won't say."""
    message_id, token = (next(MESSAGE_IDS) % 0x10000).to_bytes(2, "big"), secrets.token_bytes(8)
    options = b"".join(bytes([(i == 0) * URI_PATH + len(word)]) + word.encode("ascii") for i, word in enumerate(path))

    def accept(reply: udpguard.Reply) -> bool | udpguard.Decision:
        if reply.data == EMPTY_ACK + message_id:
            return udpguard.Decision.PROVISIONAL  # Nothing is sent again, and the answer comes later (5.2.2).
        fits = reply.data[0] in {CON, NON} or (reply.data[0] == ACK and reply.data[2:4] == message_id)
        return reply.data == RESET + message_id or (fits and reply.data[4:12] == token)

    answer = await session.request(QUESTION + message_id + token + options, retry=udpguard.Retry.coap(), accept=accept)
    if answer[0] == CON:
        await session.send(EMPTY_ACK + answer[2:4])
    if answer[1] != CONTENT:
        raise LookupError(f"the server says {answer[1] >> 5}.{answer[1] & 31:02}")
    rest, number = iter(answer[12:]), 0
    while (first := next(rest, MARKER)) != MARKER:  # an option (3.1)
        delta, size = (n + 255 * (n == 14) + int.from_bytes(islice(rest, max(n - 12, 0))) for n in divmod(first, 16))
        number, value = number + delta, bytes(islice(rest, size))
        if number % 2 or len(value) < size or 15 in divmod(first, 16):  # critical (5.4.1), cut short, or reserved (3.1)
            raise LookupError(f"the answer has option {number}, which is unknown here")
    return bytes(rest)


async def acknowledge_again(session: udpguard.Session) -> None:  # until it is closed: a task beside `get`
    async for message in session:
        if message[:1] == bytes([CON]):
            await session.send(EMPTY_ACK + message[2:4])


async def main(host: str, *path: str) -> None:
    async with udpguard.open_endpoint() as endpoint, endpoint.session((host, 5683)) as session:
        again = asyncio.create_task(acknowledge_again(session))
        print(repr((await get(session, *path)).decode(errors="replace"))[1:-1])  # Terminals don't obey servers.
    await again  # It ends with the session.


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]) if sys.argv[1:] not in ([], ["--help"]) else sys.exit(__doc__))
    except (KeyboardInterrupt, OSError, ValueError, LookupError, udpguard.UdpGuardError) as error:
        sys.exit(str(error) or 130)  # as shells say of Ctrl-C
