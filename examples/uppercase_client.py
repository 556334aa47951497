"""Send messages to servers of your choice, and see the answers as they come.

    python examples/uppercase_server.py --port 1060     # in one terminal
    python examples/uppercase_client.py --port 1060     # in another

Asks for a host (a name or an address) and a message, again and again, and doesn't wait for one answer
before it asks for the next message. One socket serves all the hosts. End it with the end of input
(Ctrl-D) or with Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import math
import socket
import sys
import threading

import udpguard


class Console:
    """Asks for lines without blocking the event loop, so that answers can be shown meanwhile."""

    def __init__(self, stdin: io.FileIO) -> None:
        self._stdin = stdin
        self._at_line_start = True

    async def ask(self, prompt: str) -> bytes | None:
        """The line that is typed at the prompt; None at the end of input."""
        print(prompt, end="", flush=True)
        self._at_line_start = False
        line = await self._read_line()
        # A terminal has shown the line and its end; a pipe or a file hasn't.
        if not self._at_line_start and not (line and self._stdin.isatty()):
            print()
        self._at_line_start = True
        return line.rstrip(b"\r\n") if line else None

    def say(self, text: str) -> None:
        """Show the text, on a line of its own even where a prompt stands."""
        # Anybody may write to us, in any script: what can't be shown is escaped.
        text = text.encode(sys.stdout.encoding, "backslashreplace").decode(sys.stdout.encoding)
        print(text if self._at_line_start else f"\n{text}", flush=True)
        self._at_line_start = True

    async def _read_line(self) -> bytes:
        loop = asyncio.get_running_loop()
        line: asyncio.Future[bytes] = loop.create_future()

        def settle(data: bytes) -> None:
            if not line.done():
                line.set_result(data)

        def read() -> None:
            try:
                data = self._stdin.readline()
            except OSError:
                data = b""  # A terminal that was closed is the end of input, too.
            with contextlib.suppress(RuntimeError):  # The loop may be closed by the time somebody types.
                loop.call_soon_threadsafe(settle, data)

        # asyncio.to_thread would keep the program from ending for as long as nobody types anything.
        threading.Thread(target=read, daemon=True).start()
        return await line


async def converse(endpoint: udpguard.Endpoint, console: Console, host: str, port: int, message: bytes) -> None:
    """Send one message and show its answer, or why there is none."""
    try:
        reply = await endpoint.exchange((host, port), message)
    except (udpguard.PeerRefusedError, udpguard.ReplyTimeoutError) as error:
        console.say(f"{error}\nIs the server running there, on port {port}? (--port gives another.)")
    except socket.gaierror as error:
        console.say(str(error.strerror))
    except (OSError, udpguard.UdpGuardError) as error:
        console.say(f"Nothing was sent to {host!r}: {error}")
    else:
        console.say(f"The server {reply.peer} replied with {reply.data.decode(errors='replace')!r}")


async def run(stdin: io.FileIO, port: int, timeout: float) -> None:
    console = Console(stdin)

    def on_unexpected(unexpected: udpguard.Unexpected) -> None:
        text = unexpected.data.decode(errors="replace")
        console.say(f"message {text!r} from unexpected host {unexpected.peer}!")

    async with (
        udpguard.open_endpoint(timeout=timeout, on_unexpected=on_unexpected) as endpoint,
        asyncio.TaskGroup() as conversations,  # It waits for the answers that are still to come.
    ):
        while True:
            host = await console.ask("Input host address: ")
            message = None if host is None else await console.ask("Input message to send to server: ")
            if host is None or message is None:
                return
            name = host.decode(errors="replace").strip()
            conversations.create_task(converse(endpoint, console, name, port, message))
            console.say(f"The OS assigned the address {endpoint.local_addr} to me")


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError(text)
    return value


def main() -> int:
    parser = argparse.ArgumentParser(description="Send messages to uppercase servers, and see their answers.")
    parser.add_argument("--port", type=int, default=1060, help="the servers' port (default: %(default)s)")
    parser.add_argument(
        "--timeout", type=seconds, default=5.0, help="seconds to wait for an answer (default: %(default)s)"
    )
    arguments = parser.parse_args()
    if not 1 <= arguments.port <= 65_535:
        parser.error(f"--port must be 1 to 65535, not {arguments.port}")
    try:
        # Unbuffered: a thread that waits in a buffered file holds a lock that the exit would wait for.
        with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as stdin:
            asyncio.run(run(stdin, arguments.port, arguments.timeout))
    except KeyboardInterrupt:
        print()
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
