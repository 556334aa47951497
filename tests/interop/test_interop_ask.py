"""ask.py with the questions that the documentation's first page has for real servers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from interop_servers import Server

pytestmark = pytest.mark.interop

PAGE = Path(__file__).parents[2] / "docs" / "index.md"
COMMAND = re.compile(r"^# (\w+).*\n\.venv/bin/python examples/(ask\.py .+)", re.MULTILINE)
PLACEHOLDER = re.compile(r"192\.0\.2\.1:\d+")


@pytest.fixture
def ask(run_example: Callable[..., str]) -> Callable[[str, Server], bytes]:
    """Ask a server what the page asks servers of its kind; gives the answer."""
    commands = dict(COMMAND.findall(PAGE.read_text(encoding="utf-8")))

    def run(protocol: str, server: Server) -> bytes:
        command = PLACEHOLDER.sub(server.at, commands[protocol])
        assert server.at in command
        told = run_example(*shlex.split(command))
        answer = told.partition("\nFrom ")[2].partition("\n\n")[0]
        return bytes.fromhex("".join(line[8:55] for line in answer.splitlines()[1:]))

    return run


def test_dns(ask: Callable[[str, Server], bytes], unbound: Server) -> None:
    answer = ask("DNS", unbound)
    assert answer[:2] == b"\x12\x34"
    assert answer[2] & 0x80  # it is a response
    assert answer[12:29] == b"\7example\3org\0\0\1\0\1"


def test_tftp(ask: Callable[[str, Server], bytes], tftpd: Server) -> None:
    assert ask("TFTP", tftpd)[:2] == b"\0\5"  # an error: there is no such file


def test_ntp(run_example: Callable[..., str], chronyd: Server) -> None:
    command = re.search(r"examples/(ask\.py) pool\.ntp\.org:123 (.+)", PAGE.read_text(encoding="utf-8"))
    assert command is not None
    told = run_example(command[1], chronyd.at, *shlex.split(command[2]))
    assert f"From {chronyd.at} in " in told
    assert "ms, 48 bytes:\n  0000  24 " in told  # version 4, a server's
