"""three_clients.py: the table says what happened, and only udpguard gets everything right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import ModuleType

import pytest
from example_kit import INTERRUPTED, imported, needs_ctrl_c, run, talking

SITUATIONS = ["impostor", "second server", "host name", "late answer", "repeated answer"]
OLD = ["was fooled", "was fooled"]
RIGHT = "got it right"


def cells(line: str) -> list[str]:
    return re.split(r" {2,}", line)


def test_the_table() -> None:
    done = run("three_clients.py")
    assert (done.returncode, done.stderr) == (0, "")
    _, table, details = done.stdout.split("\n\n")
    header, *rows = table.splitlines()
    assert cells(header.strip()) == SITUATIONS
    assert {name: outcomes for name, *outcomes in map(cells, rows)} == {
        "naive recvfrom": ["was fooled", "was fooled", RIGHT, *OLD],
        "connect()": [RIGHT, "could not do it", RIGHT, *OLD],
        "address list": [RIGHT, RIGHT, "could not do it", *OLD],
        "udpguard": [RIGHT] * 5,
    }
    assert [line.split(": ")[0].strip() for line in details.splitlines()] == [
        "naive recvfrom, impostor",
        "naive recvfrom, second server",
        "naive recvfrom, late answer",
        "naive recvfrom, repeated answer",
        "connect(), second server",
        "connect(), late answer",
        "connect(), repeated answer",
        "address list, host name",
        "address list, late answer",
        "address list, repeated answer",
    ]
    assert "says the impostor" in details.splitlines()[0]


@pytest.fixture(scope="module")
def three_clients() -> Iterator[ModuleType]:
    with imported("three_clients") as module:
        yield module


def test_each_cell_is_computed(three_clients: ModuleType) -> None:
    """Another client in udpguard's place gets what it deserves."""
    situation = three_clients.Situation("anything", [("192.0.2.1", 7), ("192.0.2.2", 7)], [b"one", b"two"])

    def unable(servers: list[tuple[str, int]], *, twice: bool) -> list[bytes]:
        raise OSError("no way")

    def verdict(client: object) -> str:
        outcome: str = three_clients.put_to_the_test(client, situation).verdict
        return outcome

    assert verdict(lambda servers, twice: [b"one", b"two"]) == "got it right"
    assert verdict(lambda servers, twice: [b"two", b"one"]) == "was fooled"
    assert verdict(lambda servers, twice: [b"one", b"forged"]) == "was fooled"
    assert verdict(unable) == "could not do it"


@needs_ctrl_c
async def test_ctrl_c_ends_it() -> None:
    with talking("three_clients.py") as talk:
        await talk.until("Asking")
        talk.interrupt()
        status, _, err = await talk.end()
    assert (status, err) == (INTERRUPTED, "")
