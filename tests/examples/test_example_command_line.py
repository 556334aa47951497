"""command_line.py: how addresses and times are written, and what is said when something fails."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Iterator
from types import ModuleType

import pytest
from example_kit import imported

import udpguard


@pytest.fixture(scope="module")
def command_line() -> Iterator[ModuleType]:
    with imported("command_line") as module:
        yield module


@pytest.mark.parametrize(
    ("text", "host", "port", "shown"),
    [
        ("192.0.2.1", "192.0.2.1", 123, "192.0.2.1:123"),
        ("192.0.2.1:1123", "192.0.2.1", 1123, "192.0.2.1:1123"),
        ("::1", "::1", 123, "[::1]:123"),
        ("2001:db8::1:1123", "2001:db8::1:1123", 123, "[2001:db8::1:1123]:123"),
        ("[::1]", "::1", 123, "[::1]:123"),
        ("[::1]:1123", "::1", 1123, "[::1]:1123"),
        ("fe80::1%eth0", "fe80::1%eth0", 123, "[fe80::1%eth0]:123"),
        ("time.example.test:1123", "time.example.test", 1123, "time.example.test:1123"),
    ],
)
def test_servers(command_line: ModuleType, text: str, host: str, port: int, shown: str) -> None:
    server = command_line.server(text, 123)
    assert server == (host, port)
    assert str(server) == shown


@pytest.mark.parametrize("text", ["192.0.2.1", "::1", "[::1]", "server"])
def test_where_no_port_is_usual_one_must_be_written(command_line: ModuleType, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="write HOST:PORT or"):
        command_line.server(text)


@pytest.mark.parametrize("text", ["192.0.2.1:0", "192.0.2.1:65536", "[::1]:99999"])
def test_a_port_that_is_none_is_told(command_line: ModuleType, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="a port is 1 to 65535"):
        command_line.server(text)


def test_seconds(command_line: ModuleType) -> None:
    assert command_line.seconds("0.5") == 0.5
    for text in ("0", "-1", "nan", "inf", "soon"):
        with pytest.raises(ValueError):
            command_line.seconds(text)


def test_complaints_are_a_line(command_line: ModuleType) -> None:
    said = {
        OSError(13, "Permission denied", "out"): "out: Permission denied",
        OSError(13, "Permission denied"): "Permission denied",
        socket.gaierror(-2, "no address"): "no address",
        ValueError("two\nlines"): "two lines",
        udpguard.PeerRefusedError("192.0.2.1:7 refused", peer=udpguard.Peer("192.0.2.1", 7)): "192.0.2.1:7 refused",
    }
    for error, text in said.items():
        assert command_line.complaint(error) == text


def test_what_others_wrote_is_shown_harmlessly(command_line: ModuleType) -> None:
    assert command_line.shown("grüß \x1b[2J\n\u202e'") == "grüß \\x1b[2J\\n\\u202e'"
