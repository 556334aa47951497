"""A real memcached, and how values come into it: by TCP."""

from __future__ import annotations

import socket
from contextlib import AbstractContextManager
from pathlib import Path

import interop_servers
from interop_servers import Server


def server(directory: Path, host: str = "127.0.0.1") -> AbstractContextManager[Server]:
    """memcached, by UDP and TCP on one port."""

    def seconds(token: str) -> int:
        return int(token[:7], 16) + 1_000_000  # as it has none for UDP, it may be known by this

    def command(port: int, token: str) -> list[str]:
        own = ["-p", str(port), "-U", str(port), "-l", host, "-u", "nobody", "-t", "1"]
        return [interop_servers.program("memcached"), *own, "-o", f"idle_timeout={seconds(token)}"]

    def question(token: str) -> bytes:
        return b"\0\1\0\0\0\1\0\0stats settings\r\n"

    def is_answer(data: bytes, token: str) -> bool:
        return f"STAT idle_timeout {seconds(token)}\r\n".encode() in data

    return interop_servers.serving("memcached", directory, host, 0, interop_servers.Kind(command, question, is_answer))


def store(server: Server, key: str, value: bytes) -> None:
    """Put a value there."""
    assert _told(server, b"set %b 7 0 %d\r\n%b\r\n" % (key.encode(), len(value), value)) == b"STORED"


def commands(server: Server) -> int:
    """How many keys it was asked for until now."""
    with socket.create_connection(server.address, timeout=10) as talking:
        talking.sendall(b"stats\r\nquit\r\n")
        with talking.makefile("rb") as lines:
            return next(int(line.split()[2]) for line in lines if line.startswith(b"STAT cmd_get "))


def _told(server: Server, command: bytes) -> bytes:
    with socket.create_connection(server.address, timeout=10) as talking:
        talking.sendall(command)
        with talking.makefile("rb") as lines:
            return lines.readline().rstrip()
