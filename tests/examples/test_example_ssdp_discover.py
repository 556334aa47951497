"""ssdp_discover.py: what it asks, which devices it shows, and whom it does not believe."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from example_kit import (
    INTERRUPTED,
    Script,
    ScriptedServer,
    check_refused,
    lines_of,
    needs_ctrl_c,
    run,
    silent,
    talking,
    talking_on_a_terminal,
)

GROUP = "239.255.77.2"
LOOPBACK = "127.0.0.1"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has multicast on the loopback interface")


def answer(usn: str, **headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", "ST: upnp:rootdevice", f"usn:  {usn}"]
    lines += [f"{name.upper()}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def device(number: int, copies: int = 1) -> Script:
    reply = answer(f"uuid:{number}::upnp:rootdevice", server=f"Router/{number}", location=f"http://192.0.2.{number}/")
    return lambda data, before: [reply] * copies


def shown(number: int, host: str = LOOPBACK) -> str:
    return f"uuid:{number}::upnp:rootdevice\t{host}\tRouter/{number}\thttp://192.0.2.{number}/"


class Member(ScriptedServer):
    """A device that has joined the group on the loopback interface."""

    @property
    def port(self) -> int:
        port: int = self.transport.get_extra_info("sockname")[1]
        return port


@asynccontextmanager
async def members(*scripts: Script) -> AsyncIterator[list[Member]]:
    """Devices of one host that hear the group, all at the same port."""
    loop = asyncio.get_running_loop()
    port = 0
    found: list[Member] = []
    try:
        for script in scripts:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            if port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", port))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # now others may be there, too
            membership = socket.inet_aton(GROUP) + socket.inet_aton(LOOPBACK)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            port = sock.getsockname()[1]
            _, member = await loop.create_datagram_endpoint(lambda s=script: Member(s), sock=sock)  # type: ignore[misc]
            found.append(member)
        yield found
    finally:
        for member in found:
            member.transport.close()


def asked_at(port: int) -> list[str]:
    return ["--group", f"{GROUP}:{port}", "--interface", LOOPBACK, "--longest", "1"]


async def test_each_device_is_shown_once() -> None:
    """Though it answers twice, to each of two questions, and one is reached at two addresses."""
    async with members(device(1), device(2, copies=2), device(2)) as (first, second, third):
        status, out, err = await lines_of("ssdp_discover.py", *asked_at(first.port))
    assert (status, err) == (0, [])
    assert sorted(out) == [shown(1), shown(2)]
    for member in (first, second, third):
        assert len(member.requests) == 2
        assert set(member.requests) == {
            b"M-SEARCH * HTTP/1.1\r\nHOST: %s:%d\r\n" % (GROUP.encode(), first.port)
            + b'MAN: "ssdp:discover"\r\nMX: 1\r\nST: upnp:rootdevice\r\n\r\n'
        }


async def test_the_second_question_reaches_who_missed_the_first() -> None:
    async with members(lambda data, before: device(3)(data, before) if before else []) as (member,):
        status, out, _ = await lines_of("ssdp_discover.py", *asked_at(member.port), "--target", "ssdp:all")
    assert (status, out) == (0, [shown(3)])
    assert b"\r\nST: ssdp:all\r\n" in member.requests[0]


NO_ANSWERS = [
    b"\r\n",
    b"\xff\xfe",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 404 Not Found\r\nUSN: uuid:9\r\n\r\n",
    b"NOTIFY * HTTP/1.1\r\nUSN: uuid:9\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nUSN:\r\n\r\n",
]


async def test_what_is_no_answer_is_counted() -> None:
    async with members(lambda data, before: [] if before else NO_ANSWERS, device(1)) as (member, _):
        status, out, err = await lines_of("ssdp_discover.py", *asked_at(member.port))
    assert (status, out) == (0, [shown(1)])
    assert err == [f"datagrams that are no answer: {len(NO_ANSWERS)}"]


async def test_what_devices_say_does_nothing_to_the_terminal() -> None:
    async with members(lambda data, before: [answer("uuid:[bold]\x1b[2J", server="\t:smile:")]) as (member,):
        with talking_on_a_terminal("ssdp_discover.py", *asked_at(member.port)) as talk:
            await talk.until("uuid:[bold]\\x1b[2J")
            await talk.until(":smile:")


@pytest.mark.parametrize(("network", "is_believed"), [("127.0.0.0/8", True), ("192.0.2.0/24", False)])
async def test_only_a_network_that_was_given_is_believed(network: str, *, is_believed: bool) -> None:
    async with members(device(1)) as (member,):
        status, out, err = await lines_of("ssdp_discover.py", *asked_at(member.port), "--reply-from", network)
    if is_believed:
        assert (status, out, err) == (0, [shown(1)], [])
    else:
        assert (status, out) == (1, [])
        assert err[0] == "datagrams from elsewhere: 2"
        assert "no device answered" in err[1]


async def test_a_device_can_be_asked_alone() -> None:
    async with members(device(1)) as (member,):
        group = f"{LOOPBACK}:{member.port}"
        status, out, _ = await lines_of("ssdp_discover.py", "--group", group, "--longest", "1", "--reply-from", "peer")
    assert (status, out) == (0, [shown(1)])


@needs_ctrl_c
async def test_ctrl_c_ends_it() -> None:
    async with members(silent) as (member,):
        with talking("ssdp_discover.py", *asked_at(member.port)) as talk:
            await member.first_request()
            talk.interrupt()
            assert await talk.end() == (INTERRUPTED, "", "")


def test_an_interface_that_is_not_there() -> None:
    done = run("ssdp_discover.py", "--interface", "nowhere0")
    assert (done.returncode, done.stdout) == (1, "")
    assert "this machine has no interface 'nowhere0'; it has lo" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--longest", "6"], "--longest"),
        (["--group", "239.255.255.250"], "239.255.255.250"),
        (["--target", "ü"], "target"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], word: str) -> None:
    check_refused(run("ssdp_discover.py", *arguments), word)
