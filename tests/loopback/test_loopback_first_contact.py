"""What newcomers do wrong in their first hour: each is told what happened, and what to write instead."""

from __future__ import annotations

import asyncio
import copy
import errno
import gc
import inspect
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from loopback_kit import LOOP, SOON, Names, Server, echo, loop_factory, opened

import udpguard
from udpguard._host import Machine

# ------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("addr", "says"),
    [
        ("127.0.0.1:7", "'127.0.0.1:7' is not an address: pass ('127.0.0.1', 7)"),
        (["127.0.0.1", 7], "['127.0.0.1', 7] is a list, which stands for several servers: pass ('127.0.0.1', 7)"),
        (["no name", 7], "is a list, which stands for several servers: pass (host, port)"),
        ([("127.0.0.1", 7), "127.0.0.2"], "'127.0.0.2' is not an address: pass ('127.0.0.2', port)"),
    ],
)
async def test_an_address_in_another_form(addr: Any, says: str) -> None:
    async with opened() as endpoint:
        with pytest.raises(udpguard.InvalidAddressError) as caught:
            await endpoint.request(addr, b"x")
        assert says in str(caught.value)


ONE: list[Callable[[udpguard.Endpoint, Any], Awaitable[object]]] = [
    lambda endpoint, addr: endpoint.send(addr, b"x"),
    lambda endpoint, addr: endpoint.expect(addr),
    lambda endpoint, addr: endpoint.session(addr),
]


@pytest.mark.parametrize("use", ONE)
async def test_a_list_where_one_address_is_wanted(use: Callable[[udpguard.Endpoint, Any], Awaitable[object]]) -> None:
    async with opened() as endpoint:
        with pytest.raises(udpguard.InvalidAddressError, match="one address is wanted here, such as"):
            await use(endpoint, [("127.0.0.1", 7)])


async def test_a_sweep_of_addresses_alone() -> None:
    async with Server(echo) as server, opened() as endpoint:
        questions: Any = [server.addr, (server.addr, b"x")]
        async with endpoint.sweep(questions) as sweep:
            outcomes = [outcome async for outcome in sweep]
        mistaken = next(outcome for outcome in outcomes if outcome.error is not None)
        assert f"an item of a sweep is ((host, port), data), not {server.addr!r}" in str(mistaken.error)
        assert [outcome.reply.data for outcome in outcomes if outcome.reply is not None] == [b"x"]


# ----------------------------------------------------------------------------------------------------- names

NOT_KNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
NOBODY_ASKED = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


@pytest.mark.parametrize(
    ("host", "answer", "says"),
    [
        ("wrong", NOT_KNOWN, "Name or service not known: no address is known of 'wrong': is it spelt right?"),
        ("300.1.1.1", NOT_KNOWN, "'300.1.1.1' is no IPv4 address: that is four numbers of 0 to 255"),
        ("right", NOBODY_ASKED, "nobody could be asked for 'right': is this machine's network up, and does its name"),
    ],
)
async def test_a_name_that_is_not_found(
    host: str, answer: Exception, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Names(asyncio.get_running_loop(), monkeypatch, **{host.partition(".")[0]: answer})
    async with opened() as endpoint:
        with pytest.raises(socket.gaierror) as caught:
            await endpoint.request((host, 7), b"x")
        assert says in str(caught.value)
        assert caught.value.errno == answer.args[0]
    with pytest.raises(socket.gaierror) as caught:
        await udpguard.open_endpoint((host, 0))
    assert says in str(caught.value)


async def test_a_name_of_the_other_family(monkeypatch: pytest.MonkeyPatch) -> None:
    Names(asyncio.get_running_loop(), monkeypatch, six=["::1"])
    async with opened(family=socket.AF_INET) as endpoint:
        with pytest.raises(socket.gaierror, match="no address for IPv4 is known of 'six'"):
            await endpoint.request(("six", 7), b"x")


# ------------------------------------------------------------------------------------------------- arguments


class Asynchronous(udpguard.Correlator):
    """Awaits what nobody awaits."""

    async def request_key(self, data: bytes) -> bytes:  # type: ignore[override]
        return data[:2]

    async def reply_key(self, data: bytes) -> bytes:  # type: ignore[override]
        return data[:2]


ADDR = ("127.0.0.1", 7)
ASKED: list[tuple[Callable[[Any], Any], str]] = [
    (lambda endpoint: endpoint.request(b"x", ADDR), "the address comes first, then the data, as in request((host,"),
    (lambda endpoint: endpoint.send(b"x", ADDR), "data must be bytes, not tuple: the address comes first"),
    (lambda endpoint: endpoint.request(ADDR, [1, 2, 255]), "bytes, not list: bytes(…) makes them of such a list"),
    (lambda endpoint: endpoint.request(ADDR, "x"), "data must be bytes, not str: encode it, as in text.encode()"),
    (lambda endpoint: endpoint.request(ADDR, None), "data must be bytes, not NoneType"),
    (lambda endpoint: endpoint.request(ADDR, b"x", retry=3), "udpguard.Retry(attempts=3) sends up to 3 times"),
    (lambda endpoint: endpoint.request(ADDR, b"x", retry=udpguard.Retry), "udpguard.Retry() sends up to 4 times"),
    (lambda endpoint: endpoint.request(ADDR, b"x", retry=True), "not True: udpguard.Retry() sends up to 4 times"),
]
OPENED: list[tuple[dict[str, Any], str]] = [
    ({"ports": 4}, "such as Ports(pool=4), not 4"),
    ({"limits": 100}, "such as Limits(pending=1000), not 100"),
    ({"correlate": udpguard.TransactionId}, "(a class: make one of it)"),
    ({"correlate": (0, 2)}, "such as TransactionId(0, 2), not (0, 2)"),
    ({"correlate": Asynchronous()}, "Asynchronous.request_key must be a plain function: write it with def"),
]


@pytest.mark.parametrize(("use", "says"), ASKED)
async def test_an_argument_of_another_kind(use: Callable[[Any], Any], says: str) -> None:
    async with opened() as endpoint:
        with pytest.raises(TypeError) as caught:
            await use(endpoint)
        assert says in str(caught.value)


@pytest.mark.parametrize(("arguments", "says"), OPENED)
async def test_an_argument_of_another_kind_in_opening(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(TypeError) as caught:
        udpguard.open_endpoint(**arguments)
    assert says in str(caught.value)


@pytest.mark.parametrize("kind", [udpguard.Endpoint, udpguard.Client])
def test_an_endpoint_made_by_hand(kind: Callable[[], object]) -> None:
    with pytest.raises(TypeError, match="is not made by hand: write `async with udpguard"):
        kind()


# ------------------------------------------------------------------------------------------- a forgotten word

OPEN = "write `async with udpguard.open_endpoint() as endpoint:`"
SESSION = "write `async with endpoint.session(addr) as session:`, and in it `async for data in session:`"
DISCOVER = "write `async with endpoint.discover(addr, data) as replies:`, and in it `async for reply in replies:`"
SWEEP = "write `async with endpoint.sweep(requests) as sweep:`, and in it `async for outcome in sweep:`"
MADE: list[tuple[Callable[[udpguard.Endpoint], Any], str]] = [
    (lambda _: udpguard.open_endpoint(), OPEN),
    (lambda endpoint: endpoint, OPEN),
    (lambda endpoint: endpoint.session(ADDR), SESSION),
    (lambda endpoint: endpoint.discover(ADDR, b"x"), DISCOVER),
    (lambda endpoint: endpoint.sweep([]), SWEEP),
]


@pytest.mark.parametrize(("make", "right"), MADE)
async def test_with_instead_of_async_with(make: Callable[[udpguard.Endpoint], Any], right: str) -> None:
    async with opened() as endpoint:
        with pytest.raises(TypeError) as caught:
            with make(endpoint):
                raise AssertionError("it was entered")
        assert str(caught.value) == f"`with` needs `async` before it: {right}"


@pytest.mark.parametrize(("make", "right"), MADE[2:])
async def test_for_instead_of_async_for(make: Callable[[udpguard.Endpoint], Any], right: str) -> None:
    async with opened() as endpoint:
        with pytest.raises(TypeError) as caught:
            list(make(endpoint))
        assert str(caught.value) == f"`for` needs `async` before it: {right}"


@pytest.mark.parametrize(("make", "right"), MADE[3:])
async def test_await_instead_of_async_with(make: Callable[[udpguard.Endpoint], Any], right: str) -> None:
    async with opened() as endpoint:
        with pytest.raises(TypeError) as caught:
            await make(endpoint)
        assert f" is nothing to await: {right}" in str(caught.value)


@pytest.mark.parametrize(("make", "right"), MADE[2:])
async def test_reading_what_was_not_entered(make: Callable[[udpguard.Endpoint], Any], right: str) -> None:
    async with opened() as endpoint:
        with pytest.raises(RuntimeError, match="async with endpoint"):
            await anext(aiter(make(endpoint)))


async def test_frameworks_do_not_take_an_endpoint_for_something_to_await() -> None:
    async with opened() as endpoint:
        assert not inspect.isawaitable(endpoint)


# -------------------------------------------------------------------------------------------- a forgotten end


async def forgotten() -> int:
    """Open an endpoint and forget it; the line where that was done."""
    line = inspect.currentframe().f_lineno + 1  # type: ignore[union-attr]
    endpoint = await udpguard.open_endpoint()
    assert endpoint.local_addr.port
    del endpoint
    gc.collect()
    return line


async def test_a_forgotten_endpoint_is_shown_where_it_was_opened() -> None:
    with pytest.warns(ResourceWarning) as caught:
        line = await forgotten()
    assert [(warning.filename, warning.lineno) for warning in caught] == [(__file__, line)]
    assert f", opened at {__file__}:{line}, was never closed: use `async with" in str(caught[0].message)


FORGETFUL = """
import asyncio, gc, udpguard

async def main():
    endpoint = await udpguard.open_endpoint()
    endpoint.held = endpoint
    del endpoint
    gc.collect()

asyncio.run(main())
"""


def test_python_shows_the_line_that_opened_it(tmp_path: Path) -> None:
    program = tmp_path / "forgetful.py"
    program.write_text(FORGETFUL, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-X", "dev", str(program)], capture_output=True, text=True, timeout=60, check=True
    )
    assert f"{program}:5: ResourceWarning: the endpoint at " in done.stderr
    _, _, after = done.stderr.partition(f"{program}:5: ResourceWarning: ")
    assert after.splitlines()[1].strip() == "endpoint = await udpguard.open_endpoint()"


# -------------------------------------------------------------------------------- what Python itself has to say

OWN_FILE = "import asyncio, udpguard\n\n\nasync def main():\n    udpguard.open_endpoint()\n\n\nasyncio.run(main())\n"


def last_line(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


def test_a_file_of_the_packages_name_is_imported_in_its_place(tmp_path: Path) -> None:
    program = tmp_path / "udpguard.py"
    program.write_text(OWN_FILE, encoding="utf-8")
    # Before Python 3.13 it is a "partially initialized module"; since then Python itself says what to do.
    assert "module 'udpguard' has no attribute 'open_endpoint'" in last_line(str(program))


def test_an_environment_without_it(tmp_path: Path) -> None:
    program = tmp_path / "ask.py"
    program.write_text(OWN_FILE, encoding="utf-8")
    assert last_line("-I", "-S", str(program)) == "ModuleNotFoundError: No module named 'udpguard'"


# -------------------------------------------------------------------------------------- another loop, or none


async def opening() -> udpguard.Endpoint:
    return await udpguard.open_endpoint()


async def refusal(endpoint: udpguard.Endpoint) -> str:
    with pytest.raises(RuntimeError) as caught:
        await endpoint.request(ADDR, b"x")
    return str(caught.value)


def test_asyncio_run_twice() -> None:
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        endpoint = runner.run(opening())
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        assert "which is closed: each asyncio.run() starts a new one, so open the" in runner.run(refusal(endpoint))
    endpoint.close()


def test_a_second_loop_beside_the_first() -> None:
    with asyncio.Runner(loop_factory=loop_factory()) as one, asyncio.Runner(loop_factory=loop_factory()) as two:
        endpoint = one.run(opening())
        assert "belongs to another event loop: open one in each loop" in two.run(refusal(endpoint))
        one.get_loop().call_soon(endpoint.close)
        one.run(endpoint.wait_closed())


def test_a_request_outside_of_any_loop() -> None:
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        endpoint = runner.run(opening())
        for use in (lambda: endpoint.request(ADDR, b"x").send(None), lambda: endpoint.expect(ADDR)):
            with pytest.raises(RuntimeError, match=r"no event loop runs here: ask in a coroutine that asyncio\.run"):
                use()
        endpoint.close()
        runner.run(endpoint.wait_closed())


async def test_another_thread_asks_and_closes() -> None:
    def elsewhere() -> list[str]:
        said = [asyncio.run(refusal(endpoint))]
        for use in (lambda: endpoint.expect(ADDR), endpoint.close):
            with pytest.raises(RuntimeError) as caught:
                use()
            said.append(str(caught.value))
        answer = asyncio.run_coroutine_threadsafe(endpoint.request(server.addr, b"x", timeout=5.0), loop)
        return [*said, answer.result(SOON).decode()]

    loop = asyncio.get_running_loop()
    async with Server(echo) as server, opened() as endpoint:
        asked, expected, closed, answer = await asyncio.to_thread(elsewhere)
        assert "the event loop of another thread" in asked
        assert "asyncio.run_coroutine_threadsafe(endpoint.request(…), loop)" in asked
        assert expected == asked
        assert "close it there, with loop.call_soon_threadsafe(endpoint.close)" in closed
        assert answer == "x"
        assert not endpoint.is_closing()


FORKED = """
import asyncio, os, socket, sys, udpguard

async def main():
    server, _ = await asyncio.get_running_loop().create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
    address = server.get_extra_info("sockname")
    async with udpguard.open_endpoint() as endpoint:
        child = os.fork()
        if not child:
            try:
                await endpoint.request(address, b"x")
            except RuntimeError as error:
                print(error, flush=True)
            endpoint.close()
            os._exit(0)
        os.waitpid(child, 0)
        print(await endpoint.request(address, b"from the parent", timeout=5.0))
    server.close()

class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(data, addr)

asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_that_was_forked_is_told_and_costs_the_parent_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60, check=True)
    told, answer = done.stdout.splitlines()
    assert "in a process that was forked, open a new endpoint" in told
    assert answer == "b'from the parent'"


@pytest.mark.parametrize("take", [copy.copy, copy.deepcopy, pickle.dumps])
async def test_an_endpoint_can_not_be_copied_or_pickled(take: Callable[[object], object]) -> None:
    async with opened() as endpoint:
        for one, name in ((endpoint, "Endpoint"), (endpoint.client(), "Client")):
            with pytest.raises(TypeError, match=f"a udpguard.{name} can't be copied or pickled: open one in each"):
                take(one)
        gc.collect()
        assert not endpoint.is_closing()


# ----------------------------------------------------------------------------------------------- after the end


async def test_asking_after_the_end() -> None:
    async with udpguard.open_endpoint() as endpoint:
        pass
    with pytest.raises(udpguard.EndpointClosedError, match="ask inside of its `async with udpguard"):
        await endpoint.request(ADDR, b"x")


async def test_closing_while_something_is_pending() -> None:
    async with Server() as server:
        async with udpguard.open_endpoint() as endpoint:
            task = asyncio.ensure_future(endpoint.request(server.addr, b"x"))
            await server.next()
        with pytest.raises(udpguard.EndpointClosedError, match="await it before its `async with` ends"):
            await task


# -------------------------------------------------------------------------------------------- sockets, and ports


async def refused_opening(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(OSError) as caught:
        await udpguard.open_endpoint(*args, **kwargs)
    return str(caught.value)


async def test_a_server_as_local_addr() -> None:
    async with Server() as server:
        said = await refused_opening(server.addr)
        assert f"could not bind to 127.0.0.1:{server.port}: " in said
    assert "another socket has it (ss -ulpn shows whose), and port 0 is any free one" in said
    assert "local_addr is the endpoint's own address; the server's goes to request()" in said
    said = await refused_opening(("198.51.100.77", 53))
    assert "it is none of this machine's addresses; local_addr is the endpoint's own address" in said


BOUND = [
    (errno.EACCES, ("127.0.0.1", 53), "need privileges; a client needs no certain port"),
    (errno.EINVAL, ("fe80::1", 0), "a link-local address needs its link, as in fe80::1%eth0"),
    (errno.ENOBUFS, ("127.0.0.1", 0), "is it an address of this machine?"),
    (errno.EMFILE, ("127.0.0.1", 0), "is one opened for each request, or never closed? (ulimit -n shows the limit)"),
    (errno.EMFILE, None, "is one opened for each request, or never closed? (ulimit -n shows the limit)"),
]


@pytest.mark.parametrize(("number", "addr", "says"), BOUND)
async def test_each_refusal_to_bind(number: int, addr: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Machine, "bind", refuse)
    said = await refused_opening(addr)
    assert os.strerror(number) in said
    assert said.endswith(says)


async def test_a_range_without_a_free_port() -> None:
    async with Server(host="0.0.0.0") as server:
        ports = udpguard.Ports(spares=0, range=(server.port, server.port))
        said = await refused_opening(family=socket.AF_INET, ports=ports)
        assert f"no port tried of Ports(range=({server.port}, {server.port})) is free: " in said


def bound() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


async def test_one_socket_for_two_endpoints() -> None:
    sock = bound()
    async with opened(sock=sock):
        with pytest.raises(ValueError, match="belongs to another endpoint already: each needs a socket of its own"):
            udpguard.open_endpoint(sock=sock)
    with pytest.raises(ValueError, match="is closed"):
        udpguard.open_endpoint(sock=sock)


@pytest.mark.skipif(LOOP == "uvloop", reason="it watches the number of the descriptor, which is another's by then")
async def test_a_socket_that_is_closed_behind_the_endpoints_back() -> None:
    sock = bound()
    async with udpguard.open_endpoint(sock=sock) as endpoint:
        asyncio.get_running_loop().remove_reader(sock.fileno())
        sock.close()
        with pytest.raises(udpguard.PeerUnreachableError, match="somebody closed the endpoint's socket: leave that to"):
            await endpoint.request(ADDR, b"x", timeout=5.0)


# ------------------------------------------------------------------------------------ a time-out, and its cause


async def timed_out(client: udpguard.Client, addr: Any, data: bytes = b"abcdef") -> str:
    with pytest.raises(udpguard.ReplyTimeoutError) as caught:
        await client.request(addr, data, timeout=0.4)
    return str(caught.value)


def with_the_id_behind(server: Server, data: bytes, addr: Any) -> None:
    server.send(b"ok" + data[:2], addr)


class Broken(udpguard.Correlator):
    """Does not find the key of a reply."""

    def request_key(self, data: bytes) -> bytes:
        return data[:2]

    def reply_key(self, data: bytes) -> bytes:
        return {b"ab": data}[data[:2]]


class Mistaken(Broken):
    """Finds another."""

    def reply_key(self, data: bytes) -> bytes:
        return data[:2]


FOUND = [
    (udpguard.TransactionId(0, 2), "id or none (the latest begins with 6f 6b 61 62): is it in bytes 0 to 1 of this"),
    (udpguard.TransactionId(1, 1), "(the latest begins with 6f 6b 61 62): is it in byte 1 of this protocol's replies?"),
    (Broken(), "(the latest begins with 6f 6b 61 62): Broken.reply_key has raised KeyError: b'ok'"),
    (Mistaken(), "does Mistaken.reply_key find it in this protocol's replies?"),
    (None, None),
    (udpguard.TransactionId(0, 2, reply_offset=2), None),
]


@pytest.mark.parametrize(("correlate", "says"), FOUND)
async def test_an_id_that_is_looked_for_in_the_wrong_place(
    correlate: udpguard.Correlator | None, says: str | None
) -> None:
    async with Server(with_the_id_behind) as server, opened(correlate=correlate) as endpoint:
        if says is None:
            assert await endpoint.request(server.addr, b"abcdef", timeout=5.0) == b"okab"
        else:
            assert says in await timed_out(endpoint, server.addr)


async def test_a_request_too_short_for_its_id() -> None:
    async with Server(with_the_id_behind) as server, opened(correlate=udpguard.TransactionId(0, 2)) as endpoint:
        assert "the request itself has none where correlate looks for it" in await timed_out(
            endpoint, server.addr, b"a"
        )


async def test_a_server_that_answers_from_an_address_of_another_host() -> None:
    async with Server(host="127.0.0.2") as other, opened(family=socket.AF_INET) as endpoint:

        def from_there(_: Server, data: bytes, addr: Any) -> None:
            other.send(data, addr)

        async with Server(from_there) as server:
            said = await timed_out(endpoint, server.addr)
        assert "if the server answers from another address, open_endpoint(on_unexpected=print) shows it" in said
        async with Server() as silent:
            assert "another address" not in await timed_out(endpoint, silent.addr), "that was before"


# ----------------------------------------------------------------------------------- what a console shows of it


async def test_what_each_object_shows_of_itself() -> None:
    assert repr(udpguard.open_endpoint()) == (
        "<udpguard.EndpointOpener (not open yet: await it, or use it with `async with`)>"
    )
    opener = udpguard.open_endpoint()
    async with Server() as server, opener as endpoint:
        host, port = server.addr
        assert repr(opener) == "<udpguard.EndpointOpener (opened already)>"
        client = endpoint.client(correlate=udpguard.TransactionId(0, 2), timeout=2)
        assert repr(client) == "<udpguard.Client correlate=TransactionId(0, 2), timeout=2.0, retry=None>"
        expectation = endpoint.expect(server.addr)
        assert repr(expectation) == f"<udpguard.Expectation of {host}:{port} (pending)>"
        expectation.cancel()
        assert repr(expectation) == f"<udpguard.Expectation of {host}:{port} (done)>"
        discovery = endpoint.discover([("localhost", 7), server.addr, ("::1", 7), ("::1", 8)], b"x")
        assert repr(discovery) == f"<udpguard.Discovery of localhost:7, {host}:{port}, [::1]:7, … (not begun)>"
        async with endpoint.discover(server.addr, b"x") as discovery:
            assert repr(discovery) == f"<udpguard.Discovery of {host}:{port} (begun)>"
        assert repr(discovery) == f"<udpguard.Discovery of {host}:{port} (over)>"
        guard = udpguard.GuardProtocol()
        assert repr(guard) == "<udpguard.GuardProtocol (0 pending)>"
        reply = guard.expect(server.addr)
        assert repr(guard) == "<udpguard.GuardProtocol (1 pending)>"
        reply.cancel()
    assert repr(client).endswith(" (closed)>")
