"""Asks a game server for its rules: Source's A2S_RULES, whose answer is often split over several datagrams.

    python examples/clients/a2s_split.py 192.0.2.1

The format: developer.valvesoftware.com/wiki/Server_queries. Until all parts of one answer came it is asked again.
"""

import asyncio
import struct
import sys

import udpguard

SINGLE, SPLIT = b"\xff\xff\xff\xff", b"\xfe\xff\xff\xff"  # what a datagram begins with
PART = struct.Struct("<4sIBBH")  # SPLIT; the answer's id; how many parts; which this is; the size of the largest
RULES, ANSWER, CHALLENGE, NO_CHALLENGE = b"V", b"E", b"A", b"\xff\xff\xff\xff"


async def ask(client: udpguard.Client, server: udpguard.Address, challenge: bytes) -> bytes:
    """The answer, of however many datagrams, without what they begin with."""
    answers: dict[int, dict[int, bytes]] = {}
    whole: list[bytes] = []

    def accept(reply: udpguard.Reply) -> bool:
        data = reply.data
        if data.startswith(SPLIT):
            _, ident, count, number, _ = PART.unpack_from(data)
            parts = answers.setdefault(ident, {})
            if number < count:
                parts[number] = data[PART.size :]
            if len(parts) < count:
                raise ValueError(f"{len(parts)} of {count} parts came")  # It listens on; a time-out quotes that.
            data = b"".join(parts[each] for each in sorted(parts))
        whole[:] = [data.removeprefix(SINGLE)]
        return data.startswith(SINGLE) and data[4:5] in {ANSWER, CHALLENGE}

    await client.request(server, SINGLE + RULES + challenge, accept=accept)
    return whole[0]


async def rules(client: udpguard.Client, server: udpguard.Address) -> dict[str, str]:
    """What a server is set to; a LookupError if it gives nothing but challenges."""
    challenge = NO_CHALLENGE
    for _ in range(4):  # One challenge is usual. The server may have just chosen new ones, but not each time.
        answer = await ask(client, server, challenge)
        if answer.startswith(ANSWER):
            words = answer[3:].decode(errors="replace").split("\0")  # after the number of rules
            return dict(zip(words[0::2], words[1::2], strict=False))
        challenge = answer[1:5]
    raise LookupError(f"{server[0]} gives nothing but challenges")


async def main(server: str) -> None:
    async with udpguard.open_endpoint(retry=udpguard.Retry(initial=0.5)) as endpoint:
        for name, value in (await rules(endpoint, (server, 27015))).items():
            print(name, value, sep=" = ")


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])) if sys.argv[1:] not in ([], ["--help"]) else __doc__)
