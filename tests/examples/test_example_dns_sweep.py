"""dns_sweep.py: a line for each name, whatever becomes of it; bars for terminals alone; and an end by Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from example_dns import honest, question, response
from example_kit import (
    INTERRUPTED,
    check_refused,
    imported,
    lines_of,
    needs_ctrl_c,
    run,
    serving,
    silent,
    talking,
    talking_on_a_terminal,
)


def parsed(lines: list[str]) -> dict[str, dict[str, object]]:
    """What was printed, by name."""
    return {line["name"]: line for line in map(json.loads, lines)}


def name_file(folder: Path, *names: str) -> str:
    path = folder / "names"
    path.write_text("".join(f"{name}\n" for name in names))
    return str(path)


def forged(query: bytes, _: int) -> list[bytes]:
    """Answers with the right id to other questions come first, then the right one."""
    other = question(query).replace(b"a", b"b", 1)
    return [response(query, asked=other), b"", query, response(query)]


async def test_every_name_has_its_line(tmp_path: Path) -> None:
    names = [f"n{i}.test" for i in range(500)]
    async with serving(honest(1), honest(2)) as servers:
        asked = [f"@{server.at}" for server in servers]
        status, out, err = await lines_of("dns_sweep.py", name_file(tmp_path, "# some names", "", *names), *asked)
    assert status == 0
    found = parsed(out)
    assert len(out) == 500
    assert sorted(found) == sorted(names)
    assert {str(line["server"]) for line in found.values()} == {server.at for server in servers}
    assert found["n0.test"]["status"] == "NOERROR"
    assert found["n0.test"]["records"] == ["n0.test.\t300\tIN\tA\t192.0.2.1"]
    assert err == ["500 answered, 0 failed"]


async def test_what_fails_has_a_line_too(tmp_path: Path) -> None:
    long = "x" * 64 + ".test"
    async with serving(silent, honest()) as (quiet, server):
        arguments = name_file(tmp_path, "a.test", "b.test", long), f"@{quiet.at}", f"@{server.at}"
        status, out, err = await lines_of("dns_sweep.py", "--timeout", "0.05", "--attempts", "2", *arguments)
    found = parsed(out)
    assert status == 1
    assert str(found["a.test"]["error"]).startswith(f"no reply from {quiet.at}")
    assert "records" in found["b.test"]
    assert "no domain name" in str(found[long]["error"])
    assert len(quiet.requests) == 2
    assert err == ["1 answered, 2 failed"]


async def test_names_from_a_pipe(tmp_path: Path) -> None:
    async with serving(honest()) as (server,):
        with talking("dns_sweep.py", "-", f"@{server.at}") as talk:
            talk.type("a.test")
            await server.first_request()  # while more names may come
            talk.type("b.test", "# no name")
            status, out, err = await talk.end()
    assert (status, sorted(parsed(out.splitlines()))) == (0, ["a.test", "b.test"])
    assert err == "2 answered, 0 failed\n"


async def test_an_answer_to_another_question_changes_nothing(tmp_path: Path) -> None:
    async with serving(forged) as (server,):
        status, out, _ = await lines_of("dns_sweep.py", name_file(tmp_path, "A.test"), f"@{server.at}")
    assert status == 0
    assert parsed(out)["A.test"]["status"] == "NOERROR"


async def test_the_case_of_the_answer_does_not_matter(tmp_path: Path) -> None:
    def shouted(query: bytes, _: int) -> list[bytes]:
        return [response(query, asked=question(query).replace(b"test", b"TEST"))]

    async with serving(shouted) as (server,):
        status, _, _ = await lines_of("dns_sweep.py", name_file(tmp_path, "a.test"), f"@{server.at}")
    assert status == 0


@needs_ctrl_c
async def test_ctrl_c_ends_it_with_what_it_has(tmp_path: Path) -> None:
    async with serving(honest(), silent) as (server, quiet):
        arguments = name_file(tmp_path, "a.test", "b.test", "c.test"), f"@{server.at}", f"@{quiet.at}"
        with talking("dns_sweep.py", "--timeout", "30", "--in-flight", "1", *arguments) as talk:
            await quiet.first_request()  # so the first name has its answer
            talk.interrupt()
            status, out, err = await talk.end()
    assert status == INTERRUPTED
    assert sorted(parsed(out.splitlines())) == ["a.test"]
    assert err == "1 answered, 0 failed\n"


@needs_ctrl_c
async def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    pytest.importorskip("rich")
    async with serving(honest(), silent) as (server, quiet):
        names = name_file(tmp_path, "a.test", "b.test")
        with talking_on_a_terminal("dns_sweep.py", "--timeout", "30", names, f"@{server.at}", f"@{quiet.at}") as talk:
            await talk.until("1 names")
            talk.interrupt()
            await talk.until("1 answered, 0 failed")


async def test_without_rich_there_is_no_bar_and_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    with imported("dns_sweep") as dns_sweep:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(dns_sweep, "find_spec", lambda name: None)
        async with dns_sweep.progress_bar(None, None):  # there is nothing that it could draw from
            await asyncio.sleep(0)


def test_misuse_is_told(tmp_path: Path) -> None:
    check_refused(run("dns_sweep.py", str(tmp_path / "none"), "@127.0.0.1"), "can't read", "none")
    for option in ("--rate=0", "--timeout=x", "--in-flight=0", "--attempts=0"):
        check_refused(run("dns_sweep.py", option, "-", "@127.0.0.1"), option.partition("=")[0])


@pytest.mark.parametrize("data", [b"", bytes(12), b"\0\0\x80\0\0\1" + b"\x3f" * 20, b"\0\0\x80\0\0\1\0\0\0\0\0\0\xff"])
def test_its_correlator_never_raises(data: bytes) -> None:
    with imported("dns_sweep") as dns_sweep:
        correlator = dns_sweep.DnsQuestion()
        key = correlator.reply_key(data)
        assert key is None or isinstance(key, bytes)
