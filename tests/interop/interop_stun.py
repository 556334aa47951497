"""A STUN server: Debian's coturn."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import interop_servers
from interop_servers import Server

_COOKIE: Final = bytes.fromhex("2112a442")


def turnserver(directory: Path, host: str = "127.0.0.1") -> AbstractContextManager[Server]:
    """coturn without TLS, TCP and a database of its own making; its log tells whom it was asked by."""

    def command(port: int, token: str) -> list[str]:
        # Who wants a relay is told the realm, and not let in.
        return [
            *(interop_servers.program("turnserver"), "-n", "-m", "1", "-L", host, "-p", str(port)),
            *("--no-tls", "--no-dtls", "--no-tcp", "--no-tcp-relay", "--no-cli", "--no-rfc5780", "--fingerprint"),
            *("--lt-cred-mech", f"--realm={token}", f"--userdb={directory / 'users'}"),
            *("--pidfile", str(directory / "pid"), "--log-file=stdout", "--simple-log", "--log-binding", "--verbose"),
        ]

    def question(token: str) -> bytes:
        return b"\0\3\0\0" + _COOKIE + token[:12].encode()  # Allocate

    def is_answer(data: bytes, token: str) -> bool:
        return data[8:20] == token[:12].encode() and token.encode() in data[20:]

    return interop_servers.serving("turnserver", directory, host, 0, interop_servers.Kind(command, question, is_answer))
