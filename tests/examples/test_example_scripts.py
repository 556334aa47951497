"""How the tests run the examples, as a user would: as child processes; and what holds for all of them."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))
LIMIT = 60.0  # seconds after which a script counts as hung
INTERRUPTED = 130  # the exit status of what was ended with Ctrl-C, as shells have it


def run(script: str, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run an example to its end."""
    done = subprocess.run(_command(script, *arguments), input=stdin, capture_output=True, timeout=LIMIT, check=False)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def check_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """The arguments were wrong: the usage is shown, and what is wrong is told in a line that has these words."""
    assert done.returncode == 2
    assert not done.stdout
    assert done.stderr.startswith("usage: ")
    complaint = done.stderr.splitlines()[-1]
    assert all(word in complaint for word in words), complaint


class Talk:
    """An example that runs, and is talked to meanwhile."""

    def __init__(self, process: subprocess.Popen[bytes], keyboard: int, screen: int) -> None:
        self.process = process
        self._keyboard = keyboard
        self._screen = screen
        self._unread = ""

    async def until(self, text: str) -> str:
        """Read what it prints until the text comes; returns what came before it."""
        async with asyncio.timeout(LIMIT):
            while text not in self._unread:
                chunk = await asyncio.to_thread(os.read, self._screen, 65_536)
                assert chunk, f"it ended without {text!r}: {self._unread!r}"
                self._unread += chunk.decode()
        before, _, self._unread = self._unread.partition(text)
        return before

    def press(self, keys: bytes) -> None:
        assert os.write(self._keyboard, keys) == len(keys)

    def type(self, *lines: str) -> None:
        self.press("".join(f"{line}\n" for line in lines).encode())

    def interrupt(self) -> None:
        """Do what Ctrl-C does on a terminal."""
        self.process.send_signal(signal.SIGINT)

    async def end(self) -> tuple[int, str, str]:
        """End its input; returns its exit status, what it printed and wasn't read yet, and its stderr."""
        out, err = await asyncio.to_thread(self.process.communicate, timeout=LIMIT)
        return self.process.returncode, self._unread + out.decode(), err.decode()


@contextmanager
def talking(script: str, *arguments: str) -> Iterator[Talk]:
    """Start an example, with pipes to talk through. Whatever happens, it does not outlive this."""
    pipe = subprocess.PIPE
    with _started(_command(script, *arguments), stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Talk(process, process.stdin.fileno(), process.stdout.fileno())


@contextmanager
def talking_on_a_terminal(script: str, *arguments: str) -> Iterator[Talk]:
    """The same, on a pseudo-terminal: it echoes, and turns keys into signals. Not on Windows."""
    terminal, inside = os.openpty()
    try:
        # The first session leader to ask for a terminal gets it; the script takes the place of who asked.
        command = [sys.executable, "-c", _TAKE_TERMINAL, *_command(script, *arguments)]
        with _started(command, stdin=inside, stdout=inside, stderr=inside, session=True) as process:
            yield Talk(process, terminal, terminal)
    finally:
        os.close(terminal)
        os.close(inside)


_TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def _command(script: str, *arguments: str) -> list[str]:
    # With warnings as errors a socket that is left open is told of on stderr.
    return [sys.executable, "-W", "error", str(EXAMPLES / script), *arguments]


@contextmanager
def _started(
    command: list[str], *, stdin: int, stdout: int, stderr: int, session: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    # Where the tests run in a shell's background, SIGINT is ignored, and a child would inherit that.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            command, stdin=stdin, stdout=stdout, stderr=stderr, bufsize=0, start_new_session=session
        )
    finally:
        signal.signal(signal.SIGINT, previous)
    with process:
        try:
            yield process
        finally:
            process.kill()


# ------------------------------------------------------------------------------------------------
# What holds for all


@pytest.mark.parametrize("script", SCRIPTS)
def test_docstring_says_how_to_run_it(script: str) -> None:
    docstring = ast.get_docstring(ast.parse((EXAMPLES / script).read_text()))
    assert docstring is not None
    assert f"\n    python examples/{script}" in docstring


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_imports_udpguard_and_the_standard_library_only(script: str) -> None:
    tree = ast.parse((EXAMPLES / script).read_text())
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    tops = {name.partition(".")[0] for name in imported}
    assert tops - sys.stdlib_module_names <= {"udpguard"}
    assert "udpguard" not in imported - {"udpguard"}
    assert not [name for name in imported if name.startswith("udpguard.")]


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_has_no_path_of_any_machine_in_it(script: str) -> None:
    text = (EXAMPLES / script).read_text()
    assert not re.search(r"""[\s'"(]/\w|\b[A-Z]:\\""", text)


TAKES_ARGUMENTS = ["dns_lookup.py", "ntp_offset.py", "uppercase_client.py", "uppercase_server.py"]


@pytest.mark.parametrize("script", TAKES_ARGUMENTS)
def test_help(script: str) -> None:
    done = run(script, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: {script}")
    assert not done.stderr


@pytest.mark.parametrize("script", TAKES_ARGUMENTS)
def test_an_unknown_option_is_refused(script: str) -> None:
    check_refused(run(script, "--no-such-option", "127.0.0.1", "@127.0.0.1"), "--no-such-option")
