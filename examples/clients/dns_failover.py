"""Looks a name up: `python examples/clients/dns_failover.py www.example.org 192.0.2.1 192.0.2.2`.

A dead server is passed over at once (on Linux), as is one that fails or truncates; a silent one after a second.
"""

import asyncio
import struct
import sys

import udpguard

ID = udpguard.TransactionId(0, 2, assign=True)  # RFC 5452 section 9.2: an id that nobody can guess
HEADER = struct.Struct("!6H")  # RFC 1035 section 4.1.1: id, flags, how many questions, answers, authorities, additions
RESPONSE, TRUNCATED, RECURSION, RCODE, NXDOMAIN, A_IN = 0x8000, 0x0200, 0x0100, 0x000F, 3, b"\0\1\0\1"


async def look_up(client: udpguard.Client, name: str, servers: list[udpguard.Address]) -> list[str]:
    """The IPv4 addresses of a name, none if it has none; an OSError where no server could tell."""
    labels = (bytes([len(label)]) + label for label in name.encode("idna").split(b".") if label)
    question = b"".join(labels) + b"\0" + A_IN

    def accept(reply: udpguard.Reply) -> bool:  # RFC 5452 section 9.1: it must repeat the question
        flags, questions = HEADER.unpack_from(reply.data)[1:3]
        return flags & RESPONSE > 0 and questions == 1 and reply.data[12:].lower().startswith(question.lower())

    why: list[str] = []
    for server in servers * 2:
        try:
            answer = await client.request(server, HEADER.pack(0, RECURSION, 1, 0, 0, 0) + question, accept=accept)
            flags, _, count = HEADER.unpack_from(answer)[1:4]
            if not flags & TRUNCATED and flags & RCODE in {0, NXDOMAIN}:
                return addresses(answer, HEADER.size + len(question), count)
            why.append(f"{server[0]}: " + ("truncated" if flags & TRUNCATED else f"error {flags & RCODE}"))
        except (OSError, IndexError, struct.error) as error:  # The last two: it breaks the format.
            why.append(f"{server[0]}: {error}")
    raise OSError("\n".join(dict.fromkeys(why)) or "no server was given")


def addresses(answer: bytes, at: int, count: int) -> list[str]:  # of the answer section, which begins there
    found: list[str] = []
    for _ in range(count):
        while 0 < answer[at] < 0xC0:  # labels of a name, which ends with a zero or a pointer (section 4.1.4)
            at += 1 + answer[at]
        kind, size = struct.unpack_from("!4s4xH", answer, at := at + (2 if answer[at] else 1))
        (data,) = struct.unpack_from(f"{size}s", answer, at := at + 10)
        at += size
        found += [".".join(map(str, struct.unpack("4B", data)))] if kind == A_IN else []
    return found


async def main(name: str, *servers: str) -> None:
    async with udpguard.open_endpoint(correlate=ID, timeout=1.0) as endpoint:
        print(*await look_up(endpoint, name, [(server, 53) for server in servers]), sep="\n")


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]) if sys.argv[2:] else sys.exit(__doc__))
    except (KeyboardInterrupt, OSError, ValueError, LookupError, udpguard.UdpGuardError) as error:
        sys.exit(str(error) or 130)  # as shells say of Ctrl-C
