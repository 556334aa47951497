"""Send bytes of your choice to a server of your choice, and see its answer.

    python examples/ask.py 192.0.2.1:7 text:hello
    python examples/ask.py pool.ntp.org:123 23 00x47
    python examples/ask.py 192.0.2.1:53 1234 0100 0001 00x6 07 text:example 03 text:org 00 0001 0001

The bytes are given in parts: hex digits in pairs, such as 1234; hex digits and how often, such as 00x47 for
47 zeros; or text:hello. Prints the question and the answer in hex and as text, the time it took, and the
line that does the same in a program of yours. It is sent again after a second, and after three, while
no answer comes. The exit status is 0 if one came, and 1 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys

import command_line
import udpguard
from command_line import Server

RETRY = udpguard.Retry(attempts=3, initial=1.0, jitter=0.0)
ROW = 16  # bytes in a line of a dump
LARGEST = 65_507  # bytes in a datagram over IPv4
HEX = re.compile(r"((?:[0-9a-fA-F]{2})+)(?:x(\d{1,5}))?")


def part(text: str) -> bytes:
    """Some of the bytes, as they are written on the command line."""
    if text.startswith("text:"):
        return text.removeprefix("text:").encode()
    match = HEX.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no bytes: write pairs of hex digits (1b), those and how often (00x47), or text:hello"
        )
    return bytes.fromhex(match[1]) * int(match[2] or 1)


def size(data: bytes) -> str:
    return f"{len(data)} byte{'' if len(data) == 1 else 's'}"


def dump(data: bytes) -> str:
    """Bytes as people read them: where, in hex, and as text."""
    rows = ((at, data[at : at + ROW]) for at in range(0, len(data), ROW))
    return "".join(f"\n  {at:04x}  {row.hex(' '):47}  {as_text(row)}" for at, row in rows)


def as_text(data: bytes) -> str:
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data)


def program(server: Server, question: bytes, *, any_port: bool) -> str:
    """The line that asks the same."""
    reply_from = ', reply_from="host"' if any_port else ""
    return f'data = await endpoint.request({tuple(server)}, bytes.fromhex("{question.hex()}"){reply_from})'


def advice(error: udpguard.ReplyTimeoutError) -> str:
    """What else to try."""
    asked = error.peer.host if error.peer else None
    if any(miss.peer.host == asked for miss in error.near_misses):
        return "\nWith --any-port, answers from any port of that host are believed."
    return ""


async def ask(server: Server, question: bytes, timeout: float, *, any_port: bool) -> int:
    source: udpguard.ReplyFrom = "host" if any_port else "peer"
    print(f"To {server}, {size(question)}:{dump(question)}", flush=True)
    async with udpguard.open_endpoint(timeout=timeout, retry=RETRY) as endpoint:
        try:
            reply = await endpoint.exchange(server, question, reply_from=source)
        except udpguard.ReplyTimeoutError as error:
            print(f"{error}{advice(error)}", file=sys.stderr)
            return 1
        except (OSError, udpguard.UdpGuardError) as error:
            print(command_line.complaint(error), file=sys.stderr)
            return 1
    time = f"in {reply.rtt * 1000:.1f} ms" if reply.rtt is not None else f"after {reply.attempts} sends"
    print(f"From {reply.peer} {time}, {size(reply.data)}:{dump(reply.data)}")
    print(f"\nIn a program of yours:\n  {program(server, question, any_port=any_port)}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Send bytes to a server, and see its answer.",
        epilog="Bytes are pairs of hex digits (1234), those and how often (00x47), or text:hello.",
    )
    parser.add_argument("server", metavar="HOST:PORT", type=command_line.server, help="whom to ask")
    parser.add_argument("question", metavar="BYTES", nargs="+", type=part, help="what to send, in parts")
    parser.add_argument("--any-port", action="store_true", help="believe answers from any port of that host (TFTP)")
    parser.add_argument(
        "--timeout", type=command_line.seconds, default=7.0, help="seconds to wait for an answer (default: %(default)s)"
    )
    arguments = parser.parse_args()
    question = b"".join(arguments.question)
    if len(question) > LARGEST:
        parser.error(f"{len(question)} bytes are too many for a datagram, which has {LARGEST} at the most")
    return asyncio.run(ask(arguments.server, question, arguments.timeout, any_port=arguments.any_port))


if __name__ == "__main__":
    command_line.run(main)
