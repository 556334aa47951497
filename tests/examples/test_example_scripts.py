"""What holds for all examples."""

from __future__ import annotations

import ast
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from example_kit import EXAMPLES, LIMIT, check_refused, free_address, run

EXTRA = {"rich", "distributed", "dns", "puresnmp", "x690"}
SHARED = ["command_line.py"]  # what several import
SCRIPTS = sorted({path.name for path in EXAMPLES.glob("*.py")}.difference(SHARED))


@pytest.mark.parametrize("script", SCRIPTS)
def test_docstring_says_how_to_run_it(script: str) -> None:
    docstring = ast.get_docstring(ast.parse((EXAMPLES / script).read_text()))
    assert docstring is not None
    assert f"\n    python examples/{script}" in docstring


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_imports_udpguard_the_standard_library_and_what_the_extras_have(script: str) -> None:
    tree = ast.parse((EXAMPLES / script).read_text())
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    tops = {name.partition(".")[0] for name in imported}
    siblings = {name.removesuffix(".py") for name in (*SHARED, *SCRIPTS)}
    assert tops - sys.stdlib_module_names - siblings <= {"udpguard", *EXTRA}
    assert "udpguard" not in imported - {"udpguard"}
    assert not [name for name in imported if name.startswith("udpguard.")]


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_has_no_path_of_any_machine_in_it(script: str) -> None:
    text = re.sub("/(quit|who)", "", (EXAMPLES / script).read_text())  # what is typed into chat.py
    assert not re.search(r"""[\s'"(]/\w|\b[A-Z]:\\""", text)


TAKES_ARGUMENTS = [script for script in SCRIPTS if "argparse" in (EXAMPLES / script).read_text()]


@pytest.mark.parametrize("script", TAKES_ARGUMENTS)
def test_help(script: str) -> None:
    done = run(script, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: {script}")
    assert not done.stderr


NEED_RICH = ["ssdp_discover.py", "tftp_get.py", "uptime_monitor.py"]


@pytest.mark.parametrize("script", NEED_RICH)
def test_what_is_not_installed_is_named_with_the_line_that_installs_it(script: str) -> None:
    without = (
        "import runpy, sys; sys.modules['rich'] = None; sys.path.insert(0, sys.argv[1]); runpy.run_path(sys.argv[2])"
    )
    command = [sys.executable, "-c", without, str(EXAMPLES), str(EXAMPLES / script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.endswith(f" comes from rich, which is not installed here: {sys.executable} -m pip install rich")


# What they take, where it isn't two words of any kind.
TAKEN = {
    "ask.py": ["127.0.0.1:53", "00"],
    "dnspython_backend.py": ["--server", "127.0.0.1", "example.org"],
    "radius_login.py": ["127.0.0.1", "nemo", "--secret", "x"],
    "snmp_get.py": ["127.0.0.1", "1.3.6.1"],
}


@pytest.mark.parametrize("script", TAKES_ARGUMENTS)
def test_an_unknown_option_is_refused(script: str) -> None:
    taken = TAKEN.get(script, ["127.0.0.1", "@127.0.0.1:53"])
    check_refused(run(script, "--no-such-option", *taken), "--no-such-option")


# Each of these ends by itself, and prints something on the way.
PRINTING = {
    "chat.py": ["eve", "--listen", "127.0.0.1:{port}", "127.0.0.1:9"],
    "dns_sweep.py": ["-", "@127.0.0.1:{port}", "--timeout", "0.01"],
    "ssdp_discover.py": ["--group", "127.0.0.1:{port}", "--longest", "1"],
    "uptime_monitor.py": ["127.0.0.1:{port}", "--count", "1", "--interval", "0.01"],
}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no shell that could close a stream")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("script", PRINTING)
def test_streams_that_are_closed_are_no_reason_to_break(script: str, closed: str) -> None:
    done = in_a_shell(closed, script)
    assert done.returncode in (0, 1)
    assert "Error" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe whose reader is gone is another error there")
@pytest.mark.parametrize("script", ["chat.py", "dns_sweep.py", "uptime_monitor.py"])
def test_a_reader_that_has_had_enough_ends_it(script: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = in_a_shell("", script, stdout=writer)
    finally:
        os.close(writer)
    assert done.returncode == 141
    assert not done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here is always full")
@pytest.mark.parametrize("script", ["chat.py", "dns_sweep.py", "uptime_monitor.py"])
def test_a_full_disk_is_told_in_a_line(script: str) -> None:
    done = in_a_shell(">/dev/full", script)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "No space left on device"
    assert "Traceback" not in done.stderr


def in_a_shell(redirection: str, script: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Run one of those that print, with a line to read."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1] if script != "chat.py" else 0
        arguments = [argument.format(port=port or free_address().port) for argument in PRINTING[script]]
        command = shlex.join([sys.executable, "-W", "error", str(EXAMPLES / script), *arguments])
        return subprocess.run(
            ["sh", "-c", f"{command} {redirection}"],
            input="a.example\n",
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=LIMIT,
            check=False,
        )
