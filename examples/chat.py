"""A chat among a few people, over one socket each, in which nobody else is heard.

    python examples/chat.py alice --listen 192.0.2.1:7007 192.0.2.2:7007 192.0.2.3:7007
    python examples/chat.py bob --listen 192.0.2.2:7007 192.0.2.1:7007 192.0.2.3:7007

Each says who the others are. With each of them there is a session: what one says goes to all of these, and what comes
from an address that has no session is counted and shown to nobody. (That is no proof of who somebody is: whoever can
send from a friend's address can speak for the friend.)

`/who` shows how it goes with each, and `/quit`, the end of input (Ctrl-D) or Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator, Sequence

import command_line
import udpguard

JOIN, SAY, LEAVE = "join", "say", "leave"  # what a datagram begins with; a name and a text follow, with tabs between
LONGEST_NAME = 32


def said(kind: str, name: str, text: str = "") -> bytes:
    return f"{kind}\t{name}\t{text}".encode()


def line_for(data: bytes, peer: udpguard.Peer) -> str:
    """What a datagram looks like on the screen, whatever is in it."""
    kind, _, rest = data.decode(errors="replace").partition("\t")
    name, _, text = map(command_line.shown, rest.partition("\t"))
    if kind == SAY:
        return f"{name}: {text}"
    if kind in (JOIN, LEAVE):
        return f"* {name} ({peer}) {'is here' if kind == JOIN else 'has left'}"
    return f"* {peer} sent what is no chat"


async def hear(session: udpguard.Session) -> None:
    """Show what one of the others says."""
    is_there = True
    while not session.is_closing():
        try:
            async for data in session:
                is_there = True
                print(line_for(data, session.peer), flush=True)
        except udpguard.PeerRefusedError:  # It may come yet; and each datagram that we send there is refused.
            if is_there:
                print(f"* nobody is at {session.peer} now", flush=True)
            is_there = False


async def tell(sessions: Sequence[udpguard.Session], data: bytes) -> None:
    """Say something to all of them."""
    for session in sessions:
        try:
            await session.send(data)
        except (OSError, ValueError, udpguard.UdpGuardError) as error:
            print(f"* {session.peer} was not told: {command_line.complaint(error)}", file=sys.stderr)


async def typed_lines() -> AsyncIterator[str]:
    """What is typed, line by line, to the end of input; from a terminal, a pipe or a file."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[bytes] = asyncio.Queue()

    def read() -> None:
        # Unbuffered: a thread that waits in a buffered file holds a lock that the exit would wait for.
        with (
            contextlib.suppress(OSError, RuntimeError),  # The terminal, or the loop, may be closed by then.
            open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as stdin,
        ):
            line = b"unread"
            while line:
                line = stdin.readline()
                loop.call_soon_threadsafe(lines.put_nowait, line)

    # asyncio.to_thread would keep the program from ending for as long as nobody types anything.
    threading.Thread(target=read, daemon=True).start()
    while line := await lines.get():
        yield line.decode(errors="replace").rstrip("\r\n")


async def talk(name: str, sessions: Sequence[udpguard.Session]) -> None:
    """Say to all what is typed."""
    async for line in typed_lines():
        if line == "/quit":
            return
        if line == "/who":
            for session in sessions:
                counts = session.statistics()
                print(f"* {session.peer}: sent {counts.sent}, heard {counts.received}", flush=True)
        elif line:
            await tell(sessions, said(SAY, name, line))


async def run(name: str, listen: command_line.Server, peers: Sequence[command_line.Server]) -> None:
    async with udpguard.open_endpoint(listen) as endpoint, contextlib.AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(endpoint.session(peer)) for peer in peers]
        hearing = await stack.enter_async_context(asyncio.TaskGroup())
        for session in sessions:
            hearing.create_task(hear(session))
        print(f"* {name} listens at {endpoint.local_addr}", flush=True)
        await tell(sessions, said(JOIN, name))
        try:
            await talk(name, sessions)
        finally:
            await tell(sessions, said(LEAVE, name))
            for session in sessions:
                session.close()  # Whoever hears then ends.
            print(f"* from others, whom nobody heard: {endpoint.statistics().unknown_peer}", flush=True)


def nickname(text: str) -> str:
    if not text.isprintable() or not 0 < len(text.strip()) <= LONGEST_NAME:
        raise argparse.ArgumentTypeError(f"{text!r} is no name: write 1 to {LONGEST_NAME} letters")
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description="Chat with a few people, of whom each says who the others are.")
    parser.add_argument("name", metavar="NAME", type=nickname, help="how the others see you")
    parser.add_argument("peers", metavar="HOST:PORT", type=command_line.server, nargs="+", help="where the others are")
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        type=command_line.server,
        default="0.0.0.0:7007",
        help="where the others reach you (default: %(default)s)",
    )
    arguments = parser.parse_args()
    asyncio.run(run(arguments.name, arguments.listen, list(dict.fromkeys(arguments.peers))))
    return 0


if __name__ == "__main__":
    command_line.run(main, ValueError)
