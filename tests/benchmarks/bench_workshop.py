"""The processes: what is built, who runs where, and that all of them end."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from typing_extensions import Self

HERE: Final = Path(__file__).resolve().parent
# What a process may take beyond what it was asked to, in seconds: starting, warming up, waiting for what is lost.
_GRACE: Final = 60.0


class ChildFailedError(Exception):
    """A process ended as it should not have; the message is its last word."""


@dataclass(frozen=True)
class Processors:
    """Who runs on which CPU; None: where the system puts it."""

    server: int | None = None
    contestant: int | None = None

    @classmethod
    def choose(cls, *, pin: bool = True) -> Processors:
        """The first that is allowed for the server (and junk), the last for the contestant; None where there is one."""
        allowed = sorted(os.sched_getaffinity(0)) if pin and hasattr(os, "sched_setaffinity") else []
        return cls(allowed[0], allowed[-1]) if len(allowed) > 1 else cls()

    def __str__(self) -> str:
        if self.server is None:
            return "not pinned to CPUs"
        return f"pinned: the server to CPU {self.server}, each contestant to CPU {self.contestant}"


class Workshop:
    """Builds the C programs into a directory, runs the server, and starts contestants.

    Use it as a context manager: at the end the server has ended and the directory is gone.
    """

    def __init__(self, processors: Processors, *, compiler: str | None, awake: bool = False) -> None:
        self.processors = processors
        self.compiler = compiler
        self._awake = awake
        self.port = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="udpguard-bench-")))
            command = self.program("echo_server") + (["awake"] if self._awake else [])
            server = self._stack.enter_context(self.started(command, self.processors.server))
            self.port = int(self.first_line(server))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def program(self, name: str) -> list[str]:
        """How to start a program: built from C where there is a compiler, else its stand-in in Python.

        Raises:
            ChildFailedError: It does not compile, or there is neither.
        """
        if self.compiler is None:
            stand_in = HERE / f"{name}.py"
            if not stand_in.exists():
                raise ChildFailedError(f"{name} needs a C compiler")
            return [sys.executable, str(stand_in)]
        built = self._folder / name
        if not built.exists():
            command = [*shlex.split(self.compiler), "-O2", "-o", str(built), str(HERE / f"{name}.c")]
            made = subprocess.run(command, capture_output=True, text=True, timeout=_GRACE, check=False)
            if made.returncode:
                raise ChildFailedError(f"{name}.c does not compile: {made.stderr.strip()}")
        return [str(built)]

    @contextlib.contextmanager
    def started(
        self, command: Sequence[str], cpu: int | None, environment: Mapping[str, str] | None = None
    ) -> Iterator[subprocess.Popen[str]]:
        """A process on a CPU; at the end its standard input is closed, which is to end it, or else it is killed."""
        variables = {name: value for name, value in os.environ.items() if name != "UDPGUARD_BACKEND"}
        with _on(cpu):
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=variables | dict(environment or {}),
            )
        try:
            yield process
        finally:
            _end(process)

    def first_line(self, process: subprocess.Popen[str]) -> str:
        """What a process says first.

        Raises:
            ChildFailedError: It ended without a word.
        """
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            self.result(process, 0.0)
            raise ChildFailedError("ended without a word")
        return line

    def said(self, process: subprocess.Popen[str], seconds: float) -> tuple[str, str]:
        """What a process has printed when it has ended, and what it said on its standard error.

        Raises:
            ChildFailedError: It failed, or did not end in time.
        """
        try:
            out, err = process.communicate(timeout=seconds + _GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise ChildFailedError(f"did not end within {seconds + _GRACE:.0f} s") from None
        if process.returncode:
            raise ChildFailedError((err.strip().splitlines() or [f"exit status {process.returncode}"])[-1])
        return out, err

    def result(self, process: subprocess.Popen[str], seconds: float) -> dict[str, Any]:
        """The JSON that a process prints in the end.

        Raises:
            ChildFailedError: It printed none, or not in time.
        """
        found: dict[str, Any] = json.loads(self.said(process, seconds)[0])
        return found

    def run(
        self, command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Run a contestant on its CPU for about so many seconds, and give what it printed.

        Raises:
            ChildFailedError: It failed, or did not end in time.
        """
        with self.started(command, self.processors.contestant, environment) as process:
            return self.result(process, seconds)


@contextlib.contextmanager
def _on(cpu: int | None) -> Iterator[None]:
    """Run on that CPU: what is started meanwhile stays there, and so does what it starts itself."""
    if cpu is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _end(process: subprocess.Popen[str]) -> None:
    """Close its standard input, wait a moment, and kill what is left."""
    with contextlib.suppress(subprocess.TimeoutExpired, BrokenPipeError):
        process.communicate(timeout=2.0)
    if process.poll() is None:
        process.kill()
        process.communicate()


def python_child(part: str, **arguments: object) -> list[str]:
    """How to start a part's work in a process of its own."""
    return [sys.executable, str(HERE / "bench_child.py"), part, json.dumps(arguments)]


def find_compiler() -> str | None:
    """The C compiler: what `CC` says, cc or gcc; None where there is none (or `CC` is empty)."""
    said = os.environ.get("CC")
    candidates = ["cc", "gcc"] if said is None else [said]
    return next((each for each in candidates if each.split() and shutil.which(each.split()[0])), None)
