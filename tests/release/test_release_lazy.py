"""What needs asyncio is loaded when it is named first, and nobody sees that. Each case has its own interpreter."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import udpguard

PACKAGE = Path(udpguard.__file__).parent
ASKS = """
import asyncio, udpguard
from udpguard.testing import Server

async def main():
    async with Server() as server, udpguard.open_endpoint() as endpoint:
        assert await endpoint.request(server.address, b"x") == b"x"
        async with endpoint.session(server.address) as session:
            assert await session.request(b"y") == b"y"
        async with endpoint.sweep([(server.address, b"z")]) as sweep:
            assert [outcome.reply.data async for outcome in sweep] == [b"z"]

asyncio.run(main())
"""


def told_by(program: str, *options: str) -> str:
    """What a program prints, that has nothing loaded before it begins; warnings end it."""
    command = [sys.executable, "-W", "error", *options, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("name", udpguard.__all__)
def test_the_types_of_every_signature_can_be_had(name: str) -> None:
    """Of constructors, too, where users call them; and with nothing else loaded before."""
    if isinstance(getattr(udpguard, name), type) or callable(getattr(udpguard, name)):
        told_by(f"""
import inspect, typing, udpguard
value = udpguard.{name}
made_by_users = {name in MADE_BY_USERS}
typing.get_type_hints(value)
for method, function in inspect.getmembers(value, inspect.isfunction):
    shown = not method.startswith("_") or (method == "__init__" and made_by_users)
    if shown and function.__module__.startswith("udpguard") and method not in {INNER}:
        typing.get_type_hints(function)
""")


MADE_BY_USERS = {"AdaptiveRetry", "GuardProtocol", "Limits", "Ports", "Retry", "TransactionId"}
MADE_BY_USERS |= {name for name in udpguard.__all__ if name.endswith("Error")}
INNER = {"batch_received"}
"""Methods that the library's own transport calls."""


def test_the_types_of_a_signature_are_the_public_ones() -> None:
    told_by("""
import typing, udpguard
for name in ("Session", "Discovery", "Sweep"):
    verb = getattr(udpguard.Client, name.lower().replace("discovery", "discover"))
    assert typing.get_type_hints(verb)["return"] is getattr(udpguard, name)
assert typing.get_type_hints(udpguard.Client.request)["reply_from"] == udpguard.ReplyFrom
assert typing.get_type_hints(udpguard.Client.sweep)["requests"] == udpguard.Questions
assert typing.get_type_hints(udpguard.ReplyTimeoutError.__init__)["peer"] == udpguard.Peer | None
""")


@pytest.mark.parametrize("first", ["pass", "import asyncio"])
def test_threads_may_name_it_all_at_once(first: str) -> None:
    told_by(f"""
import sys, threading
barrier, failed = threading.Barrier(8), []

def name(offset):
    try:
        barrier.wait()
        if offset % 2:
            {first}
        import udpguard
        names = udpguard.__all__
        for step in range(len(names)):
            getattr(udpguard, names[(step * 7 + offset * 5) % len(names)])
    except BaseException as error:
        failed.append(error)

threads = [threading.Thread(target=name, args=(offset,)) for offset in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failed, failed
""")


def test_classes_are_unpickled_before_anything_is_loaded() -> None:
    pickled = told_by("""
import pickle, udpguard
values = [getattr(udpguard, name) for name in udpguard.__all__ if isinstance(getattr(udpguard, name), type)]
assert udpguard.Sweep in values
for value in [*values, udpguard.open_endpoint, udpguard.DEFAULT, udpguard.Retry(initial=2.0)]:
    print(value.__name__ if value in values else "", pickle.dumps(value).hex())
""").splitlines()
    for line in pickled:
        name, _, data = line.partition(" ")
        loads = f"import pickle; value = pickle.loads(bytes.fromhex({data!r}))"
        told_by(f"{loads}; assert {name!r} in ('', getattr(value, '__name__', None)), value")


def test_a_name_can_be_replaced_for_a_while() -> None:
    told_by("""
from unittest import mock
import udpguard
for name in udpguard.__all__:
    with mock.patch(f"udpguard.{name}") as fake:
        assert getattr(udpguard, name) is fake
        names = {}
        exec(f"from udpguard import {name}", names)
        assert names[name] is fake
    assert getattr(udpguard, name) is not fake
    assert name in dir(udpguard)
assert udpguard.Session is __import__("udpguard._session")._session.Session
""")


@pytest.mark.parametrize("options", [(), ("-OO",)])
def test_it_runs_out_of_an_archive(tmp_path: Path, options: tuple[str, ...]) -> None:
    archive = tmp_path / "packed.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in PACKAGE.rglob("*.py"):
            packed.write(file, Path("udpguard") / file.relative_to(PACKAGE))
    told = told_by(f"import sys; sys.path.insert(0, {str(archive)!r}){ASKS}\nprint(udpguard.__file__)", *options)
    assert Path(told.strip()) == archive / "udpguard" / "__init__.py"


def test_it_runs_in_a_second_interpreter() -> None:
    pytest.importorskip("_testcapi")
    told_by(f"""
import udpguard, _testcapi
assert _testcapi.run_in_subinterp({ASKS!r}) == 0
""")


def test_what_packs_programs_finds_all_its_modules(tmp_path: Path) -> None:
    """PyInstaller and its like read the code for what is imported: a module that is named in a string is not found."""
    script = tmp_path / "script.py"
    script.write_text("import udpguard\n")
    found = told_by(f"""
from modulefinder import ModuleFinder
finder = ModuleFinder()
finder.run_script({str(script)!r})
print(*finder.modules)
""").split()
    modules = {".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in PACKAGE.rglob("[!_]*.py")}
    modules |= {f"udpguard.{file.stem}" for file in PACKAGE.glob("_[!_]*.py")}
    needed = {module for module in modules if not module.startswith("udpguard.testing")}
    assert len(needed) > 40
    assert needed <= set(found)


def test_help_shows_every_public_name() -> None:
    told = told_by("import udpguard; help(udpguard)")
    assert all(name in told for name in udpguard.__all__)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of descriptors there")
@pytest.mark.parametrize("verb", ["session(at)", "discover(at, b'x')", "sweep([(at, b'x')])"])
def test_who_has_no_descriptor_left_can_try_again(verb: str) -> None:
    told_by(f"""
import asyncio, errno, os, resource, udpguard
at = ("127.0.0.1", 9)

async def main():
    async with udpguard.open_endpoint() as endpoint:
        held, (_, most) = [], resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))
        try:
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        try:
            endpoint.{verb}
        except OSError as error:
            assert error.errno == errno.EMFILE
        else:
            raise AssertionError("it was loaded already")
        for descriptor in held:
            os.close(descriptor)
        async with endpoint.{verb}:
            pass
        assert endpoint.statistics().pending == 0

asyncio.run(main())
""")
