"""ask.py with the questions that the documentation's first page has for real servers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeAlias

import interop_snmp
import interop_stun
import pytest
from interop_servers import Server

pytestmark = pytest.mark.interop

PAGE = Path(__file__).parents[2] / "docs" / "index.md"
COMMAND = re.compile(r"^# (\w+).*\n\.venv/bin/python examples/(ask\.py .+)", re.MULTILINE)
PLACEHOLDER = re.compile(r"192\.0\.2\.1:\d+")

Ask: TypeAlias = Callable[..., bytes]
Start: TypeAlias = Callable[[AbstractContextManager[Server]], Server]


@pytest.fixture
def ask(run_example: Callable[..., str]) -> Ask:
    """Ask a server what the page asks servers of its kind, with parts replaced; gives the answer."""
    commands = dict(COMMAND.findall(PAGE.read_text(encoding="utf-8")))

    def run(protocol: str, server: Server, replaced: dict[str, str] | None = None) -> bytes:
        command = PLACEHOLDER.sub(server.at, commands[protocol])
        for old, new in {server.at: server.at, **(replaced or {})}.items():
            assert command.count(old) == 1
            command = command.replace(old, new)
        told = run_example(*shlex.split(command))
        answer = told.partition("\nFrom ")[2].partition("\n\n")[0]
        return bytes.fromhex("".join(line[8:55] for line in answer.splitlines()[1:]))

    return run


def test_dns(ask: Ask, unbound: Server) -> None:
    answer = ask("DNS", unbound)
    assert answer[:2] == b"\x12\x34"
    assert answer[2] & 0x80  # it is a response
    assert answer[12:29] == b"\7example\3org\0\0\1\0\1"


def test_tftp(ask: Ask, tftpd: Server) -> None:
    assert ask("TFTP", tftpd)[:2] == b"\0\5"  # an error: there is no such file


def test_ntp(run_example: Callable[..., str], chronyd: Server) -> None:
    command = re.search(r"examples/(ask\.py) pool\.ntp\.org:123 (.+)", PAGE.read_text(encoding="utf-8"))
    assert command is not None
    told = run_example(command[1], chronyd.at, *shlex.split(command[2]))
    assert f"From {chronyd.at} in " in told
    assert "ms, 48 bytes:\n  0000  24 " in told  # version 4, a server's


def test_snmp(ask: Ask, start: Start, tmp_path: Path) -> None:
    assert interop_snmp.COMMUNITY == "open sesame"  # five letters more than "public"
    replaced = {"3026 ": "302b ", "0406 text:public": "040b 'text:open sesame'"}
    answer = ask("SNMP", start(interop_snmp.snmpd(tmp_path)), replaced)
    response, _, value = answer.partition(bytes.fromhex("06082b06010201010100"))
    assert b"open sesame\xa2" in response
    assert value[0] == 0x04  # a text


def test_stun(ask: Ask, start: Start, tmp_path: Path) -> None:
    answer = ask("STUN", start(interop_stun.turnserver(tmp_path)))
    assert answer[:2] == b"\1\1"  # success
    assert answer[4:20] == bytes.fromhex("2112a442") + b"\1" * 12


def test_coap(ask: Ask, coap: Server) -> None:
    answer = ask("CoAP", coap)
    assert answer[:4] == b"\x60\x45\0\1"  # 2.05 Content, in the acknowledgement
    assert b"</>" in answer


def test_memcached(ask: Ask, memcached: Server) -> None:
    answer = ask("memcached", memcached)
    assert answer[8:].startswith(b"VERSION ")
