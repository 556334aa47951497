"""The error queue: its decoder, the socket it belongs to, and loops that watch such a socket."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback_kit import closed_port, plain_socket, turns, until

from udpguard._reports import Reports, listener_of, open_reports
from udpguard._transport import UdpTransport
from udpguard.core.address import Wire, wire_of_source
from udpguard.core.icmp import ICMP, ICMP6, LOCAL, NetworkError

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the error queue is Linux's"),
    pytest.mark.skipif(os.environ.get("UDPGUARD_BACKEND") == "portable", reason="the portable backend has none"),
]

if sys.platform == "linux":
    from udpguard._platform.linux_errqueue import IP_RECVERR, IPV6_RECVERR, ErrorQueue, decoded
    from udpguard._platform.watch import EpollWatch, Watch, watch

HOST = ("192.0.2.1", 7)
V4 = (0, 11)
V6 = (41, 25)


def extended(
    number: int = errno.ECONNREFUSED, origin: int = ICMP, type_: int = 3, code: int = 3, info: int = 0
) -> bytes:
    return struct.pack("=IBBBxII", number, origin, type_, code, info, 0)


def sockaddr(host: str) -> bytes:
    if ":" in host:
        return struct.pack("=H2x4x16sI", socket.AF_INET6, socket.inet_pton(socket.AF_INET6, host), 0)
    return struct.pack("=H2x4s8x", socket.AF_INET, socket.inet_aton(host))


# ------------------------------------------------------------------------------------------- the decoder


def test_what_a_message_says() -> None:
    control = extended() + sockaddr("192.0.2.254")
    wire = wire_of_source(*HOST)
    error = decoded(b"quote", [(1, 35, b"stamp"), (*V4, control)], HOST)
    assert error == NetworkError(wire, b"quote", errno.ECONNREFUSED, ICMP, 3, 3, wire_of_source("192.0.2.254", 0))
    six = extended(origin=ICMP6, type_=1, code=4) + sockaddr("2001:db8::9")
    error = decoded(b"", [(*V6, six)], ("2001:db8::1", 7, 0, 0))
    wire = wire_of_source("2001:db8::1", 7)
    assert error == NetworkError(wire, b"", errno.ECONNREFUSED, ICMP6, 1, 4, wire_of_source("2001:db8::9", 0))


def test_the_size_of_the_path_is_told_where_it_is_about_that() -> None:
    for number, mtu in ((errno.EMSGSIZE, 1_400), (errno.EHOSTUNREACH, 0)):
        error = decoded(b"", [(*V4, extended(number, code=4, info=1_400))], HOST)
        assert error is not None
        assert error.mtu == mtu


def test_mapped_peers_are_their_ipv4_ones_and_scopes_are_kept() -> None:
    control = extended() + sockaddr("::ffff:192.0.2.254")
    error = decoded(b"", [(*V6, control)], ("::ffff:192.0.2.1", 7, 0, 0))
    assert error is not None
    assert (error.wire, error.offender) == (wire_of_source(*HOST), wire_of_source("192.0.2.254", 0))
    error = decoded(b"", [(*V6, control)], ("fe80::1%eth0", 7, 0, 3))
    assert error is not None
    assert error.wire == wire_of_source("fe80::1", 7, 3)


@pytest.mark.parametrize("rest", [b"", b"\0", bytes(16), sockaddr("192.0.2.9")[:7], sockaddr("::1")[:27], b"\xff" * 40])
def test_an_offender_that_is_not_told_is_none(rest: bytes) -> None:
    error = decoded(b"", [(*V4, extended() + rest)], HOST)
    assert error is not None
    assert error.offender is None


@pytest.mark.parametrize(
    ("ancillary", "name"),
    [
        ([], HOST),
        ([(*V4, b"")], HOST),
        ([(*V4, extended()[:15])], HOST),
        ([(0, 12, extended())], HOST),
        ([(*V4, extended(origin=4))], HOST),  # a time stamp of a send
        ([(*V4, extended())], None),
        ([(*V4, extended())], ()),
        ([(*V4, extended())], ("192.0.2.1",)),
        ([(*V4, extended())], ("nonsense", 7)),
        ([(*V4, extended())], ("192.0.2.1", -1)),
        ([(*V4, extended())], ("192.0.2.1", 70_000)),
        ([(*V4, extended())], ("fe80::1", 7, 0, -1)),
        ([(*V4, extended())], (7, "192.0.2.1")),
        ([(*V4, extended())], 7),
    ],
)
def test_what_makes_no_sense_is_nothing(ancillary: Any, name: Any) -> None:
    assert decoded(b"quote", ancillary, name) is None


texts = st.text(max_size=20) | st.sampled_from(["192.0.2.1", "::1", "fe80::1%9", "::ffff:1.2.3.4", ":", "%"])
names: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.tuples(texts, st.integers()),
    st.tuples(texts, st.integers(0, 65_535), st.integers(), st.integers()),
    st.lists(st.one_of(texts, st.integers(), st.none(), st.binary(max_size=4)), max_size=5).map(tuple),
)
levels = st.sampled_from([V4, V6, (1, 35), (0, 0)])
controls = st.one_of(
    st.binary(max_size=64), st.binary(max_size=44).map(lambda rest: extended() + rest), st.just(extended())
)
ancillaries = st.lists(st.tuples(levels, controls).map(lambda one: (*one[0], one[1])), max_size=3)


@given(st.binary(max_size=64), ancillaries, names)
def test_hostile_and_truncated_bytes_raise_nothing(data: bytes, ancillary: Any, name: Any) -> None:
    error = decoded(data, ancillary, name)
    if error is not None:
        assert error.quote == data
        assert error.origin in (LOCAL, ICMP, ICMP6)
        assert len(error.wire) in (6, 26)
        assert error.offender is None or error.offender[:2] == b"\0\0"


# ------------------------------------------------------------------------------------------- the queue


def queue_of(sock: socket.socket) -> ErrorQueue:
    sock.setblocking(False)
    return ErrorQueue(sock)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_closed_port_is_told_once_with_what_was_sent(host: str) -> None:
    with plain_socket(host) as sock:
        queue = queue_of(sock)
        assert queue.read(9) == (0, [])
        dead = closed_port(host)
        sock.sendto(b"question" * 200, dead)
        taken, [error] = queue.read(9)
        assert (taken, error.wire, error.errno) == (1, wire_of_source(*dead), errno.ECONNREFUSED)
        assert len(error.quote) > 400
        assert (b"question" * 200).startswith(error.quote)
        assert error.offender == wire_of_source(host, 0)
        assert queue.read(9) == (0, [])
        sock.sendto(b"", dead)  # nothing is pending any more
        assert [error.quote for error in queue.read(9)[1]] == [b""]


def test_a_dual_stack_socket_is_told_of_both_families() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", 0))
        queue = queue_of(sock)
        for host in ("127.0.0.1", "::1"):
            dead = closed_port(host)
            sock.sendto(b"x", (f"::ffff:{dead[0]}" if host == "127.0.0.1" else host, dead[1]))
            taken, [error] = queue.read(9)
            assert (taken, error.wire) == (1, wire_of_source(*dead))


def test_no_more_are_read_than_asked_for() -> None:
    with plain_socket() as sock:
        queue = queue_of(sock)
        for _ in range(5):
            for _ in range(2):  # the first of them meets the error of the one before
                try:
                    sock.sendto(b"x", closed_port())
                except ConnectionRefusedError:
                    continue
                break
        assert [queue.read(3)[0] for _ in range(3)] == [3, 2, 0]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_closed_it_tells_nothing(host: str) -> None:
    with plain_socket(host) as sock:
        queue = queue_of(sock)
        queue.close()
        assert not sock.getsockopt(0, IP_RECVERR)
        if host == "::1":
            assert not sock.getsockopt(41, IPV6_RECVERR)
        sock.sendto(b"x", closed_port(host))
        sock.sendto(b"x", closed_port(host))
        assert queue.read(9) == (0, [])
    assert queue.read(9) == (0, []), "nor when the socket is closed"


# ------------------------------------------------------------------------------------------- what is read of it


def error_of(number: int = 0, origin: int = ICMP) -> NetworkError:
    return NetworkError(wire_of_source("192.0.2.1", 1 + number), b"", errno.ECONNREFUSED, origin, 3, 3)


class Scripted:
    """A queue with messages of the test's."""

    def __init__(self, *errors: NetworkError) -> None:
        self.errors = list(errors)

    def read(self, most: int) -> tuple[int, list[NetworkError]]:
        found, self.errors = self.errors[:most], self.errors[most:]
        return len(found), found

    def close(self) -> None:
        raise AssertionError


async def test_what_is_read_in_the_middle_of_a_send_is_told_when_the_loop_turns() -> None:
    told: list[Any] = []
    reports = Reports(asyncio.get_running_loop(), Scripted(*map(error_of, range(100))), told.append)
    assert reports.read_and_tell_soon()
    assert reports.read_and_tell_soon()
    assert not reports.read_and_tell_soon()
    assert told == []
    await turns(2)
    assert [len(errors) for errors in told] == [100]


async def test_what_this_machine_says_of_its_own_sends_is_told_to_nobody() -> None:
    told: list[Any] = []
    reports = Reports(asyncio.get_running_loop(), Scripted(error_of(origin=LOCAL)), told.append)
    assert not reports.read_and_tell_soon()
    assert not reports.read()
    await turns(2)
    assert told == []


async def test_what_is_kept_of_them_is_bounded() -> None:
    told: list[Any] = []
    reports = Reports(asyncio.get_running_loop(), Scripted(*map(error_of, range(20_000))), told.append)
    while reports.read_and_tell_soon() and len(reports._kept) < 8_192:
        pass
    assert reports.read_and_tell_soon(), "there are more"
    await turns(2)
    assert [len(errors) for errors in told] == [8_192]
    reports.listener = None
    assert reports.read(), "nor does it pile up where nobody listens"
    assert reports._kept == []


async def test_which_errors_may_be_somebody_elses() -> None:
    reports = Reports(asyncio.get_running_loop(), Scripted(error_of()), None)
    refused, no_route, own = (OSError(number, "") for number in (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EINVAL))
    assert all(reports.excuses(refused, tries) for tries in range(16)), "a send has no such error of its own"
    assert not reports.excuses(own, 0)
    assert [reports.excuses(no_route, tries) for tries in range(5)] == [True, True, True, False, False]


def test_who_does_not_want_to_know_has_no_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    class Told(asyncio.DatagramProtocol):
        def errors_received(self, errors: Any) -> None: ...

    loop: Any = None
    assert listener_of(asyncio.DatagramProtocol()) is None
    with plain_socket() as sock:
        sock.setblocking(False)
        assert open_reports(loop, sock, asyncio.DatagramProtocol()) is None
        monkeypatch.setenv("UDPGUARD_BACKEND", "portable")
        assert open_reports(loop, sock, Told()) is None
        assert not sock.getsockopt(0, IP_RECVERR)
        monkeypatch.delenv("UDPGUARD_BACKEND")
        assert open_reports(loop, sock, Told()) is not None
        assert sock.getsockopt(0, IP_RECVERR)


def test_where_there_is_none_the_rest_works(caplog: pytest.LogCaptureFixture) -> None:
    class Told(asyncio.DatagramProtocol):
        def errors_received(self, errors: Any) -> None: ...

    class Forbidden(socket.socket):
        def setsockopt(self, *args: Any) -> None:
            raise PermissionError(errno.EPERM, "no")

    loop: Any = None
    caplog.set_level("DEBUG", "udpguard")
    with Forbidden(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert open_reports(loop, sock, Told()) is None
    assert [record.levelname for record in caplog.records if record.name == "udpguard"] == ["DEBUG"]


# ------------------------------------------------------------------------------------------- watching


class Eye:
    """A watched socket, and how often the loop called."""

    def __init__(self, sock: socket.socket, kind: Callable[..., Watch]) -> None:
        self.sock = sock
        self.reads = self.writes = 0
        self.watch = kind(asyncio.get_running_loop(), sock, self.on_readable, self.on_writable)

    def on_readable(self) -> None:
        self.reads += 1
        try:
            self.sock.recv(100)
        except BlockingIOError:
            return

    def on_writable(self) -> None:
        self.writes += 1
        self.watch.ignore_writable()


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with plain_socket() as made:
        made.setblocking(False)
        yield made


async def test_an_epoll_object_serves_where_a_loop_does_not_bear_errors(sock: socket.socket) -> None:
    queue = queue_of(sock)
    eye = Eye(sock, EpollWatch)
    here = sock.getsockname()
    for round_ in range(3):
        sock.sendto(b"x", here)
        await until(lambda count=eye.reads: eye.reads > count)  # type: ignore[misc]
        before = eye.reads
        sock.sendto(b"x", closed_port())
        with pytest.raises(ConnectionRefusedError):  # which takes the error off the socket, not out of the queue
            sock.sendto(b"x", here)
        await until(lambda count=before: eye.reads > count)  # type: ignore[misc]
        assert queue.read(9)[0] == 1
        eye.watch.watch_writable()
        await until(lambda count=round_: eye.writes > count)  # type: ignore[misc]
    quiet = eye.reads
    await turns(20)
    assert eye.reads <= quiet + 1, "a drained queue wakes nobody"
    eye.watch.ignore_readable()
    sock.sendto(b"x", here)
    await asyncio.sleep(0.01)
    assert eye.reads <= quiet + 1
    eye.watch.watch_writable()
    await until(lambda: eye.writes == 4)
    eye.watch.end()
    eye.watch.end()


async def test_it_is_closed_without_its_loop(sock: socket.socket) -> None:
    eye = Eye(sock, EpollWatch)
    asyncio.get_running_loop().remove_reader(eye.watch._epoll.fileno())  # type: ignore[attr-defined]
    eye.watch.end(loop_is_closed=True)
    assert eye.watch._epoll.closed  # type: ignore[attr-defined]


async def test_writable_alone_reads_nothing(sock: socket.socket) -> None:
    eye = Eye(sock, EpollWatch)
    eye.watch.watch_writable()
    await until(lambda: eye.writes)
    assert eye.reads == 0
    eye.watch.end()


async def test_a_socket_that_somebody_closed_is_let_go_of(sock: socket.socket) -> None:
    for kind in (EpollWatch, Watch):
        with plain_socket() as theirs:
            theirs.setblocking(False)
            eye = Eye(theirs, kind)
            if kind is Watch:
                asyncio.get_running_loop().remove_reader(theirs.fileno())
        eye.watch.end()
        assert eye.reads == 0


def test_which_loops_are_told_apart() -> None:
    class Other:
        def __init__(self) -> None:
            self.watched: list[int] = []

        def add_reader(self, fd: int, callback: Any) -> None:
            self.watched.append(fd)

        def remove_reader(self, fd: int) -> None:
            self.watched.remove(fd)

        add_writer, remove_writer = add_reader, remove_reader

    class Blind(Other):
        def add_reader(self, fd: int, callback: Any) -> None:
            raise NotImplementedError

    with plain_socket() as sock:
        loop = Other()
        assert type(watch(loop, sock, print, print, has_error_queue=False)) is Watch
        made = watch(loop, sock, print, print, has_error_queue=True)
        assert type(made) is EpollWatch
        assert loop.watched[0] == sock.fileno() != loop.watched[1]
        made.end()
        with pytest.raises(NotImplementedError):
            watch(Blind(), sock, print, print, has_error_queue=True)


async def test_a_loop_that_cannot_watch_leaves_the_socket_as_it_was(sock: socket.socket) -> None:
    class Told(asyncio.DatagramProtocol):
        def errors_received(self, errors: Any) -> None: ...

    class Blind:
        def __getattr__(self, name: str) -> Any:
            raise NotImplementedError

        def __hash__(self) -> int:
            return 1

    blind: Any = Blind()
    with pytest.raises(NotImplementedError):
        UdpTransport(blind, sock, Told())
    assert not sock.getsockopt(0, IP_RECVERR)


def wire_to(sock: socket.socket) -> Wire:
    return wire_of_source(*sock.getsockname()[:2])


class Failing:
    """A backend whose calls fail as the test says, and then do what they should."""

    def __init__(self, transport: UdpTransport, *numbers: int) -> None:
        self.real = transport._backend
        self.ages = self.real.ages
        self.numbers = list(numbers)
        self.calls = 0
        transport._backend = self

    def _fail(self) -> None:
        self.calls += 1
        if self.numbers:
            raise OSError(self.numbers.pop(0), "as told")

    def receive(self, most: int) -> list[tuple[bytes, Wire]]:
        self._fail()
        return self.real.receive(most)

    def send(self, data: bytes, wire: Wire) -> bool:
        self._fail()
        return self.real.send(data, wire)

    def send_many(self, datas: list[bytes], wires: list[Wire]) -> int:
        return self.real.send_many(datas, wires)


class Told(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.errors: list[NetworkError] = []
        self.own: list[Exception] = []
        self.data: list[bytes] = []
        self.paused = 0

    def errors_received(self, errors: list[NetworkError]) -> None:
        self.errors += errors

    def error_received(self, exc: Exception) -> None:
        self.own.append(exc)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.data.append(data)

    def pause_writing(self) -> None:
        self.paused += 1

    def resume_writing(self) -> None:
        self.paused -= 1


async def transport_of(sock: socket.socket) -> tuple[UdpTransport, Told]:
    protocol = Told()
    transport = UdpTransport(asyncio.get_running_loop(), sock, protocol)
    await turns(2)
    return transport, protocol


async def test_a_send_that_met_a_pending_error_is_made_again(sock: socket.socket) -> None:
    transport, protocol = await transport_of(sock)
    for numbers in ([errno.ECONNREFUSED], [errno.EHOSTUNREACH] * 2, [errno.ECONNREFUSED] * 15):
        backend = Failing(transport, *numbers)
        assert transport.transmit(b"x", wire_to(sock))
        assert backend.calls == len(numbers) + 1
        transport._backend = backend.real
    await until(lambda: len(protocol.data) == 3)
    assert protocol.own == []
    transport.abort()
    await turns(2)


@pytest.mark.parametrize("number", [errno.EMSGSIZE, errno.ENETUNREACH, errno.EACCES, errno.EPERM, errno.EINVAL])
async def test_an_error_of_ones_own_is_raised(sock: socket.socket, number: int) -> None:
    transport, _ = await transport_of(sock)
    Failing(transport, *[number] * 50)
    with pytest.raises(OSError, match="as told") as caught:
        transport.transmit(b"x", wire_to(sock))
    assert caught.value.errno == number
    transport.abort()
    await turns(2)


async def test_a_flood_of_forged_errors_makes_a_send_wait_and_lose_nothing(sock: socket.socket) -> None:
    transport, protocol = await transport_of(sock)
    backend = Failing(transport, *[errno.ECONNREFUSED] * 40)
    assert not transport.transmit(b"x", wire_to(sock))
    assert protocol.paused == 1
    assert backend.calls == 17
    await until(lambda: not protocol.paused)
    transport._backend = backend.real
    transport.sendto(b"y", sock.getsockname())
    await until(lambda: protocol.data)
    transport.abort()
    await turns(2)


@pytest.mark.parametrize(("count", "own"), [(1, 0), (2, 0), (3, 0)])
async def test_pending_errors_cost_none_of_the_datagrams_behind_them(sock: socket.socket, count: int, own: int) -> None:
    transport, protocol = await transport_of(sock)
    with plain_socket() as peer:
        Failing(transport, *[errno.ECONNREFUSED] * count)
        peer.sendto(b"x", sock.getsockname())
        await until(lambda: protocol.data == [b"x"])
    assert len(protocol.own) == own
    transport.abort()
    await turns(2)


async def test_an_error_of_the_sockets_own_is_told_as_ever(sock: socket.socket) -> None:
    transport, protocol = await transport_of(sock)
    with plain_socket() as peer:
        Failing(transport, errno.ENOMEM)
        peer.sendto(b"x", sock.getsockname())
        await until(lambda: protocol.data == [b"x"])
    assert [error.errno for error in protocol.own if isinstance(error, OSError)] == [errno.ENOMEM]
    transport.abort()
    await turns(2)


async def test_another_protocol_is_told_from_then_on(sock: socket.socket) -> None:
    transport, protocol = await transport_of(sock)
    other = Told()
    transport.set_protocol(other)
    transport.sendto(b"x", closed_port())
    await until(lambda: other.errors)
    transport.set_protocol(asyncio.DatagramProtocol())
    transport.sendto(b"x", closed_port())
    transport.set_protocol(protocol)
    await turns(5)
    assert (len(other.errors), protocol.own) == (1, [])
    transport.abort()
    await turns(2)
