"""coap_get.py with libcoap's server (RFC 7252), beside what libcoap's own client makes of it."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import interop_coap
import pytest
from interop_servers import Server

pytestmark = pytest.mark.interop

COAP_GET = Path(__file__).parents[2] / "examples" / "coap_get.py"


def coap_get(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-W", "error", str(COAP_GET), *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize("path", ["", "/", "/.well-known/core", "/example_data", "/async?1"])
def test_it_fetches_what_libcoaps_client_does(path: str, coap: Server, run_example: Callable[..., str]) -> None:
    uri = f"coap://{coap.at}{path}"
    expected, _ = interop_coap.client(uri)
    assert len(expected) >= len("done")
    assert run_example("coap_get.py", uri) == expected


def test_a_server_that_is_asked_by_name(coap: Server, run_example: Callable[..., str]) -> None:
    assert re.fullmatch(r"\w{3} \d\d \d\d:\d\d:\d\d", run_example("coap_get.py", f"coap://localhost:{coap.port}/time"))


def test_over_ipv6(
    start: Callable[[AbstractContextManager[Server]], Server], tmp_path: Path, run_example: Callable[..., str]
) -> None:
    coap = start(interop_coap.server(tmp_path, "::1"))
    assert "</time>" in run_example("coap_get.py", f"coap://{coap.at}/.well-known/core")


@pytest.mark.parametrize(("size", "block"), [(1, 1024), (1024, 1024), (2049, 1024), (70_000, 64)])
def test_resources_of_any_size_in_blocks_of_any_size(size: int, block: int, coap: Server, tmp_path: Path) -> None:
    """libcoap's client puts it there."""
    content, name = secrets.token_bytes(size), secrets.token_hex(4)
    (tmp_path / "content").write_bytes(content)
    uri = f"coap://{coap.at}/deep/er/{name}"
    interop_coap.client("-m", "put", "-b", str(block), "-f", str(tmp_path / "content"), uri)
    done = coap_get("-v", uri)
    assert (done.returncode, done.stdout) == (0, content)
    assert done.stderr.decode().startswith(f"bytes: {size:,}, blocks: {-(-size // 1024)}, ")


def test_an_error_is_told_as_libcoaps_client_tells_it(coap: Server) -> None:
    uri = f"coap://{coap.at}/no/such/thing"
    _, complaint = interop_coap.client(uri)
    assert complaint.strip() == "4.04 Not Found"
    done = coap_get(uri)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"the server says 4.04 Not Found\n")


def test_an_answer_that_comes_later_is_acknowledged(coap: Server, coap_directory: Path) -> None:
    before = len(interop_coap.log(coap_directory))
    assert coap_get(f"coap://{coap.at}/async?1").stdout == b"done"
    said = interop_coap.log(coap_directory)[before:]
    answer = re.search(r"t:CON c:2\.05 i:(\w+) \{(\w+)\}", said)
    assert answer, said
    assert f"t:CON c:GET i:{answer[2][:4]} {{{answer[2]}}}" in said  # its token is the question's
    assert f"t:ACK c:0.00 i:{answer[1]} " in said[answer.end() :]
