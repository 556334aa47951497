"""How the tests run the examples, as a user would: as child processes; and the servers that these talk to."""

from __future__ import annotations

import asyncio
import importlib
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import ModuleType

import pytest

import udpguard

EXAMPLES = Path(__file__).parents[2] / "examples"
LIMIT = 60.0  # seconds after which a script counts as hung
INTERRUPTED = 130  # the exit status of what was ended with Ctrl-C, as shells have it
PATIENT = "30"  # a time-out that is never reached
HASTY = "0.8"  # what the tests' own servers send must have come by then
AGAIN = 10.0  # seconds after which Ctrl-C is pressed once more

Script = Callable[[bytes, int], list[bytes]]  # from a request, and how many came before it, to what is sent back

HEARS_ICMP = sys.platform == "linux" and os.environ.get("UDPGUARD_BACKEND") != "portable"
needs_icmp = pytest.mark.skipif(not HEARS_ICMP, reason="dead servers are silent here")
needs_ctrl_c = pytest.mark.skipif(sys.platform == "win32", reason="no Ctrl-C can be sent to a child there")


# ------------------------------------------------------------------------------------------------
# Examples that run


def run(script: str, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run an example to its end."""
    done = subprocess.run(_command(script, *arguments), input=stdin, capture_output=True, timeout=LIMIT, check=False)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


async def lines_of(script: str, *arguments: str) -> tuple[int, list[str], list[str]]:
    """Run an example beside the test's servers; returns its exit status, and its lines on stdout and on stderr."""
    done = await asyncio.to_thread(run, script, *arguments)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


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
        """Do what Ctrl-C does on a terminal; once more, as anybody would, if nothing comes of it.

        asyncio's own handler wakes no loop: a signal that comes right before the loop goes to sleep is seen when that
        wakes, and where no timer runs, never. Once in some thousand times one did.
        """
        self.process.send_signal(signal.SIGINT)
        asyncio.get_running_loop().call_later(AGAIN, self.process.send_signal, signal.SIGINT)

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


@contextmanager
def imported(name: str) -> Iterator[ModuleType]:
    """An example as a module, for what is tested in it by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module(name)


# ------------------------------------------------------------------------------------------------
# Servers


class ScriptedServer(asyncio.DatagramProtocol):
    """Answers as its script says."""

    transport: asyncio.DatagramTransport

    def __init__(self, script: Script) -> None:
        self.requests: list[bytes] = []
        self.clients: list[tuple[str, int]] = []
        self._changed = asyncio.Event()
        self._script = script

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        replies = self._script(data, len(self.requests))
        self.requests.append(data)
        self.clients.append(addr)
        self._changed.set()
        for reply in replies:
            self.transport.sendto(reply, addr)

    async def first_request(self) -> tuple[bytes, tuple[str, int]]:
        """Wait for it; returns it and who sent it."""
        await self.until(lambda: self.requests)
        return self.requests[0], self.clients[0]

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until something holds, which may change with each request."""
        async with asyncio.timeout(LIMIT):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    @property
    def at(self) -> str:
        """Its address, as it is given on the command line and printed."""
        host, port = self.transport.get_extra_info("sockname")[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@asynccontextmanager
async def serving(*scripts: Script, host: str = "127.0.0.1") -> AsyncIterator[list[ScriptedServer]]:
    loop = asyncio.get_running_loop()
    servers: list[ScriptedServer] = []
    try:
        for script in scripts:
            _, server = await loop.create_datagram_endpoint(lambda s=script: ScriptedServer(s), local_addr=(host, 0))
            servers.append(server)
        yield servers
    finally:
        for server in servers:
            server.transport.close()


def silent(request: bytes, before: int) -> list[bytes]:
    """The script of a server that never answers."""
    return []


def free_address() -> udpguard.Peer:
    """One that nobody is at, nor gets by chance: below the ports that systems give to whoever asks for none."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)  # not `random`, whose seed other workers share
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        return udpguard.Peer("127.0.0.1", port)


def _has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6_loopback(), reason="this machine has no ::1")
