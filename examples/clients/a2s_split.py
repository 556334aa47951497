"""Asks a game server for its rules: `python examples/clients/a2s_split.py 192.0.2.1`.

That is Source's A2S_RULES, whose answer is often split over several datagrams.
"""

import asyncio
import struct
import sys

import udpguard

SINGLE, SPLIT = b"\xff\xff\xff\xff", b"\xfe\xff\xff\xff"  # developer.valvesoftware.com/wiki/Server_queries
PART = struct.Struct("<4sIBBH")  # SPLIT; the answer's id; how many parts; which this is; the size of the largest
RULES, ANSWER, CHALLENGE, NO_CHALLENGE = b"V", b"E", b"A", b"\xff\xff\xff\xff"


async def ask(client: udpguard.Client, server: udpguard.Address, challenge: bytes) -> bytes:
    """The answer, of however many datagrams, without what they begin with."""
    answers: dict[tuple[int, int], dict[int, bytes]] = {}
    whole = b""

    def accept(reply: udpguard.Reply) -> bool:
        nonlocal whole
        whole = reply.data
        if whole.startswith(SPLIT):
            _, ident, count, number, _ = PART.unpack_from(whole)
            (parts := answers.setdefault((ident, count), {})).setdefault(number, whole[PART.size :])
            if len(answers) > 4:  # A server must not fill the memory with parts of answers that it never finishes.
                del answers[next(iter(answers))]
            if missing := set(range(count)).difference(parts):
                raise ValueError(f"{count - len(missing)} of {count} parts came")  # quoted, when it times out
            whole = b"".join(parts[each] for each in range(count))
        return whole.startswith(SINGLE) and whole[4:5] in {ANSWER, CHALLENGE}

    await client.request(server, SINGLE + RULES + challenge, accept=accept)
    return whole.removeprefix(SINGLE)


async def rules(client: udpguard.Client, server: udpguard.Address) -> dict[str, str]:
    """What a server is set to; a LookupError if it gives nothing but challenges."""
    answer = CHALLENGE + NO_CHALLENGE
    for _ in range(5):  # One challenge is usual. The server may have just chosen new ones, but not each time.
        answer = await ask(client, server, answer[1:5])
        if answer.startswith(ANSWER):
            words = iter(answer[3:].decode(errors="replace").split("\0"))  # after the number of rules
            return dict(zip(words, words, strict=False))
    raise LookupError(f"{server[0]} gives nothing but challenges")


async def main(server: str) -> None:
    async with udpguard.open_endpoint(retry=udpguard.Retry(initial=0.5)) as endpoint:
        for name, value in (await rules(endpoint, (server, 27015))).items():
            print(repr(f"{name} = {value}")[1:-1])  # Terminals don't obey servers.


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]) if sys.argv[1:] not in ([], ["--help"]) else sys.exit(__doc__))
    except (KeyboardInterrupt, OSError, ValueError, LookupError, udpguard.UdpGuardError) as error:
        sys.exit(str(error) or 130)  # as shells say of Ctrl-C
