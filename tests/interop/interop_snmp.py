"""An SNMP agent, Debian's snmpd, and what net-snmp's own tools say of it."""

from __future__ import annotations

import os
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import interop_servers
from interop_servers import Server

COMMUNITY: Final = "open sesame"
CONTACT: Final = 'Someone "quoted", of \\ the agents'

_NAME: Final = bytes.fromhex("300c06082b060102010105000500")  # sysName.0, without a value


def snmpd(directory: Path, host: str = "127.0.0.1") -> AbstractContextManager[Server]:
    """snmpd that gives what it knows of this machine to who knows the community."""

    def command(port: int, token: str) -> list[str]:
        text = f"""
agentAddress udp{"6" if ":" in host else ""}:{f"[{host}]" if ":" in host else host}:{port}
rocommunity{"6" if ":" in host else ""} "{COMMUNITY}"
sysName {token}
sysContact {CONTACT}
sysServices 72
dontLogTCPWrappersConnects yes
"""
        path = interop_servers._write(directory / "snmpd.conf", text)
        # What it keeps is kept here, and it reads no MIBs: there are none, and it says so of each.
        own = ["env", f"SNMP_PERSISTENT_DIR={directory / 'state'}", "MIBS=", interop_servers.program("snmpd")]
        return [*own, "-f", "-r", "-C", "-c", str(path), "-Le", "-p", "", "-I", "-smux"]

    def question(token: str) -> bytes:
        request_id = b"\x02\x04" + int(token[:7], 16).to_bytes(4, "big")
        pdu = _encoded(0xA0, request_id, b"\x02\x01\x00" * 2, _encoded(0x30, _NAME))
        return _encoded(0x30, b"\x02\x01\x01", _encoded(0x04, COMMUNITY.encode()), pdu)

    def is_answer(data: bytes, token: str) -> bool:
        return data.endswith(token.encode())

    return interop_servers.serving("snmpd", directory, host, 0, interop_servers.Kind(command, question, is_answer))


def told(tool: str, server: Server, *arguments: str) -> list[str]:
    """What one of net-snmp's tools prints of the server's values, a line each, without names from any MIB."""
    address = f"udp6:{server.at}" if ":" in server.host else server.at
    done = subprocess.run(
        [interop_servers.program(tool), "-v2c", "-c", COMMUNITY, "-On", "-m", "", address, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "SNMPCONFPATH": os.devnull},
        timeout=60,
        check=True,
    )
    return done.stdout.splitlines()


def _encoded(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    assert len(content) < 0x80
    return bytes((tag, len(content))) + content
