"""A server that answers each datagram with its text in upper case; `uppercase_client.py` asks it.

    python examples/uppercase_server.py --port 1060

Stop it with Ctrl-C. Servers need no udpguard: this is the standard library alone.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys

MAX_BYTES = 65_535


def open_socket(host: str, port: int) -> socket.socket:
    """A UDP socket of the host's family, bound to it."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    sock.settimeout(0)  # asyncio wants sockets that don't block.
    return sock


async def serve(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            data, client = await loop.sock_recvfrom(sock, MAX_BYTES)
            await loop.sock_sendto(sock, data.upper(), client)
        except OSError as error:  # One client that can't be reached must not stop the others' server.
            print(f"A client was not answered: {error}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description="Answer each UDP datagram with its text in upper case.")
    parser.add_argument("--host", default="127.0.0.1", help="the interface to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=1060, help="0 picks a free one (default: %(default)s)")
    arguments = parser.parse_args()
    if not 0 <= arguments.port <= 65_535:
        parser.error(f"--port must be 0 to 65535, not {arguments.port}")
    try:
        sock = open_socket(arguments.host, arguments.port)
    except (OSError, UnicodeError) as error:
        print(
            f"Cannot listen on {arguments.host!r}, port {arguments.port}: {error}.\n"
            "Is the host one of this machine's own, and the port free? (--port 0 picks a free one.)",
            file=sys.stderr,
        )
        return 1
    with sock:
        host, port = sock.getsockname()[:2]
        print(f"Listening on {f'[{host}]' if ':' in host else host}:{port}", flush=True)
        try:
            asyncio.run(serve(sock))
        except KeyboardInterrupt:
            print("Stopped.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
