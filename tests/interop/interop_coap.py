"""libcoap's server and client, real ones, for the tests of CoAP (RFC 7252)."""

from __future__ import annotations

import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

import interop_servers
from interop_servers import Server

RESOURCES = 100  # how many may be made by PUT
_FLAVOURS = ("notls", "openssl", "gnutls")  # Debian has a program for each


def _program(name: str) -> str:
    for each in (*(f"{name}-{flavour}" for flavour in _FLAVOURS), name):
        try:
            return interop_servers.program(each)
        except interop_servers.UnavailableError:
            continue
    raise interop_servers.UnavailableError(f"{name} is not installed (Debian: libcoap3-bin)")


def server(directory: Path, host: str = "127.0.0.1") -> AbstractContextManager[Server]:
    """coap-server, which logs every message in `directory`."""

    def command(port: int, token: str) -> list[str]:
        return [_program("coap-server"), "-A", host, "-p", str(port), "-d", str(RESOURCES), "-v", "7"]

    def question(token: str) -> bytes:
        return b"\x48\x01\x00\x01" + bytes.fromhex(token)  # GET of the root, with this token

    def is_answer(data: bytes, token: str) -> bool:
        return data[:12] == b"\x68\x45\x00\x01" + bytes.fromhex(token)

    return interop_servers.serving(
        "coap-server", directory, host, 0, interop_servers.Kind(command, question, is_answer)
    )


def log(directory: Path) -> str:
    """What the server has said until now: a line for each message that came or went."""
    return (directory / "coap-server.log").read_text(errors="replace")


def client(*arguments: str) -> tuple[str, str]:
    """Run libcoap's own client; returns what it printed, without the end of line that it adds, and its complaints."""
    done = subprocess.run(
        [_program("coap-client"), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=True,
    )
    return done.stdout.decode().removesuffix("\n"), done.stderr.decode()
