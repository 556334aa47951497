"""uppercase_server.py and uppercase_client.py, together and each against a test's own other side."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from example_kit import (
    HASTY,
    INTERRUPTED,
    LIMIT,
    PATIENT,
    Talk,
    check_refused,
    needs_ctrl_c,
    needs_ipv6,
    run,
    talking,
    talking_on_a_terminal,
)

HOST_PROMPT = "Input host address: "
MESSAGE_PROMPT = "Input message to send to server: "


class Peer(asyncio.DatagramProtocol):
    """A server, or an impostor, that does what the test says."""

    transport: asyncio.DatagramTransport

    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[bytes, tuple[str, int]]] = asyncio.Queue()

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.received.put_nowait((data, addr))

    @property
    def port(self) -> int:
        port: int = self.transport.get_extra_info("sockname")[1]
        return port

    async def question(self) -> tuple[bytes, tuple[str, int]]:
        async with asyncio.timeout(LIMIT):
            return await self.received.get()


@asynccontextmanager
async def listening() -> AsyncIterator[Peer]:
    loop = asyncio.get_running_loop()
    transport, peer = await loop.create_datagram_endpoint(Peer, local_addr=("127.0.0.1", 0))
    try:
        yield peer
    finally:
        transport.close()


async def say(talk: Talk, host: str, message: str) -> str:
    """Answer both prompts; returns what was printed before the first."""
    before = await talk.until(HOST_PROMPT)
    talk.type(host)
    before += await talk.until(MESSAGE_PROMPT)
    talk.type(message)
    return before


# ------------------------------------------------------------------------------------------------
# The server


def ask(port: int, message: bytes, host: str = "127.0.0.1") -> bytes:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(LIMIT)
        sock.connect((host, port))
        sock.send(message)
        return sock.recv(65_535)


@asynccontextmanager
async def uppercase_server(host: str = "127.0.0.1") -> AsyncIterator[tuple[Talk, int]]:
    with talking("uppercase_server.py", "--host", host, "--port", "0") as talk:
        await talk.until("Listening on ")
        address = await talk.until("\n")
        assert address.startswith(f"[{host}]:" if ":" in host else f"{host}:")
        yield talk, int(address.rpartition(":")[2])


async def test_the_server_answers_in_upper_case() -> None:
    async with uppercase_server() as (_, port):
        for message in (b"hello", b"", b"x" * 60_000, "grüße".encode(), b"HELLO"):
            assert await asyncio.to_thread(ask, port, message) == message.upper()


@needs_ipv6
async def test_the_server_speaks_ipv6() -> None:
    async with uppercase_server("::1") as (_, port):
        assert await asyncio.to_thread(ask, port, b"hello", "::1") == b"HELLO"


@needs_ctrl_c
async def test_ctrl_c_stops_the_server() -> None:
    async with uppercase_server() as (talk, port):
        assert await asyncio.to_thread(ask, port, b"hello") == b"HELLO"
        talk.interrupt()
        assert await talk.end() == (0, "Stopped.\n", "")


async def test_a_port_that_is_taken() -> None:
    async with listening() as peer:
        done = await asyncio.to_thread(run, "uppercase_server.py", "--port", str(peer.port))
    assert done.returncode == 1
    assert f"Cannot listen on '127.0.0.1', port {peer.port}" in done.stderr
    assert "--port 0 picks a free one" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b", "no.such.host.invalid"])
def test_a_host_that_is_not_this_machine(host: str) -> None:
    done = run("uppercase_server.py", "--host", host, "--port", "0")
    assert done.returncode == 1
    assert f"Cannot listen on {host!r}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("script", ["uppercase_server.py", "uppercase_client.py"])
@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_a_wrong_port_is_refused(script: str, port: str) -> None:
    check_refused(run(script, f"--port={port}"), "--port", port)


# ------------------------------------------------------------------------------------------------
# The client


async def test_a_piped_session_with_the_real_server() -> None:
    async with uppercase_server() as (_, port):
        typed = b"127.0.0.1\nhello\nlocalhost\nby name\n127.0.0.1\n\n"
        arguments = ("--port", str(port), "--timeout", PATIENT)
        done = await asyncio.to_thread(run, "uppercase_client.py", *arguments, stdin=typed)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines.count(HOST_PROMPT) == 4
    assert lines.count(MESSAGE_PROMPT) == 3
    (assigned,) = {line for line in lines if line.startswith("The OS assigned")}
    assert re.fullmatch(r"The OS assigned the address \S+:\d+ to me", assigned)
    assert sorted(line for line in lines if line.startswith("The server")) == [
        f"The server 127.0.0.1:{port} replied with {text!r}" for text in ("", "BY NAME", "HELLO")
    ]
    assert len(lines) == 4 + 3 + 3 + 3


async def test_it_does_not_wait_for_an_answer_before_the_next_prompt() -> None:
    async with listening() as server:
        with talking("uppercase_client.py", "--port", str(server.port), "--timeout", PATIENT) as talk:
            await say(talk, "127.0.0.1", "hello")
            data, client = await server.question()
            assert data == b"hello"
            assert f":{client[1]} to me\n" in await talk.until(HOST_PROMPT)
            # The next prompt stands, and now the answer comes.
            server.transport.sendto(b"HELLO", client)
            await talk.until(f"\nThe server 127.0.0.1:{server.port} replied with 'HELLO'\n")
            talk.type("127.0.0.1", "again")
            assert await server.question() == (b"again", client)
            server.transport.sendto(b"AGAIN", client)
            await talk.until(f"\nThe server 127.0.0.1:{server.port} replied with 'AGAIN'\n")
            status, _, err = await talk.end()
    assert (status, err) == (0, "")


async def test_two_servers_answer_in_their_own_order() -> None:
    """One address on two hosts: 127.0.0.2 is loopback as well, on Linux."""
    if sys.platform != "linux":
        pytest.skip("only Linux has all of 127.0.0.0/8 on loopback")
    async with listening() as first:
        loop = asyncio.get_running_loop()
        transport, second = await loop.create_datagram_endpoint(Peer, local_addr=("127.0.0.2", first.port))
        with talking("uppercase_client.py", "--port", str(first.port), "--timeout", PATIENT) as talk:
            await say(talk, "127.0.0.1", "one")
            await say(talk, "127.0.0.2", "two")
            _, client = await first.question()
            assert await second.question() == (b"two", client)
            second.transport.sendto(b"TWO", client)
            await talk.until(f"The server 127.0.0.2:{first.port} replied with 'TWO'\n")
            first.transport.sendto(b"ONE", client)
            await talk.until(f"The server 127.0.0.1:{first.port} replied with 'ONE'\n")
            assert (await talk.end())[0] == 0
        transport.close()


async def test_an_unexpected_host_is_told_of_and_not_believed() -> None:
    async with listening() as server, listening() as impostor:
        with talking("uppercase_client.py", "--port", str(server.port), "--timeout", PATIENT) as talk:
            await say(talk, "127.0.0.1", "hello")
            _, client = await server.question()
            impostor.transport.sendto(b"FORGED \x1b[2J", client)
            await talk.until(f"message 'FORGED \\x1b[2J' from unexpected host 127.0.0.1:{impostor.port}!\n")
            server.transport.sendto(b"HELLO", client)
            await talk.until(f"The server 127.0.0.1:{server.port} replied with 'HELLO'\n")
            server.transport.sendto(b"HELLO", client)
            await talk.until(f"message 'HELLO' from unexpected host 127.0.0.1:{server.port}!\n")
            assert (await talk.end())[0] == 0


async def test_the_end_of_input_waits_for_answers_that_are_due() -> None:
    async with listening() as server:
        with talking("uppercase_client.py", "--port", str(server.port), "--timeout", PATIENT) as talk:
            talk.type("127.0.0.1", "hello")
            ending = asyncio.create_task(talk.end())
            _, client = await server.question()
            server.transport.sendto(b"HELLO", client)
            status, out, err = await ending
    assert (status, err) == (0, "")
    assert out.endswith(f"The server 127.0.0.1:{server.port} replied with 'HELLO'\n")


async def test_a_silent_server_gives_a_message_and_the_loop_goes_on() -> None:
    async with listening() as server:
        with talking("uppercase_client.py", "--port", str(server.port), "--timeout", HASTY) as talk:
            await say(talk, "127.0.0.1", "hello")
            await talk.until(f"no reply from 127.0.0.1:{server.port}")
            await talk.until(f"Is the server running there, on port {server.port}?")
            talk.type("127.0.0.1", "again")
            await talk.until("to me\n")
            status, out, err = await talk.end()
    assert (status, err) == (0, "")
    assert "no reply from" in out


WRONG_HOSTS = {
    "no.such.host.invalid": "'no.such.host.invalid': is ",  # spelt right, or the network up
    "": "Nothing was sent to ''",
    "a..b": "Nothing was sent to 'a..b'",
    "0.0.0.0": "Nothing was sent to '0.0.0.0'",
    "255.255.255.255": "Nothing was sent to '255.255.255.255'",
}


@pytest.mark.parametrize("host", WRONG_HOSTS)
async def test_a_wrong_host_gives_a_message_and_the_loop_goes_on(host: str) -> None:
    async with listening() as server:
        with talking("uppercase_client.py", "--port", str(server.port), "--timeout", PATIENT) as talk:
            await say(talk, host, "hello")
            await talk.until(WRONG_HOSTS[host])
            talk.type("127.0.0.1", "hello")
            assert (await server.question())[0] == b"hello"


@pytest.mark.parametrize("typed", [b"", b"127.0.0.1", b"127.0.0.1\n"])
def test_the_end_of_input_ends_it_at_any_prompt(typed: bytes) -> None:
    done = run("uppercase_client.py", stdin=typed)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"{MESSAGE_PROMPT if typed else HOST_PROMPT}\n")


async def test_bytes_that_are_no_text_and_text_that_is_too_long() -> None:
    async with listening() as server:
        with talking("uppercase_client.py", "--port", str(server.port), "--timeout", PATIENT) as talk:
            talk.press(b"\xff\xfe\nhello\n127.0.0.1\n\xff\xfe\n")
            await talk.until("'\ufffd\ufffd'")
            data, client = await server.question()
            assert data == b"\xff\xfe"
            server.transport.sendto(b"\xff", client)
            await talk.until("replied with '\ufffd'\n")
            talk.type("127.0.0.1", "x" * 66_000)
            await talk.until("Nothing was sent to '127.0.0.1'")
            assert (await talk.end())[0] == 0


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", "soon"])
def test_a_wrong_timeout_is_refused(timeout: str) -> None:
    check_refused(run("uppercase_client.py", f"--timeout={timeout}"), "--timeout")


@needs_ctrl_c
@pytest.mark.parametrize("asked", [False, True])
async def test_ctrl_c_ends_it_though_nobody_types(asked: bool) -> None:
    """At once, be a request pending or not: the thread that waits for a line does not hold it up."""
    async with listening() as server:
        with talking("uppercase_client.py", "--port", str(server.port), "--timeout", PATIENT) as talk:
            if asked:
                await say(talk, "127.0.0.1", "hello")
                await server.question()
            await talk.until(HOST_PROMPT)
            talk.interrupt()
            async with asyncio.timeout(float(PATIENT) / 2):
                status = await asyncio.to_thread(talk.process.wait)
            assert (status, (await talk.end())[2]) == (INTERRUPTED, "")


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are Unix'")
@pytest.mark.parametrize(("key", "status"), [(b"\x03", INTERRUPTED), (b"\x04", 0)], ids=["Ctrl-C", "Ctrl-D"])
async def test_on_a_terminal(key: bytes, status: int) -> None:
    """There the line that was typed is on the screen already: nothing stands between it and the answer."""
    async with listening() as server:
        with talking_on_a_terminal("uppercase_client.py", "--port", str(server.port)) as talk:
            await say(talk, "127.0.0.1", "hello")
            assert (
                await talk.until(" to me\r\n")
                == f"hello\r\nThe OS assigned the address 0.0.0.0:{(await server.question())[1][1]}"
            )
            await talk.until(HOST_PROMPT)
            talk.press(key)
            assert await asyncio.to_thread(talk.process.wait, LIMIT) == status
