"""What reads and writes the sockets, with calls for many datagrams and for one: the same bytes, wires and errors."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import logging
import select
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback_kit import SOON, closed_port, loop_factory

from udpguard._platform import choice
from udpguard._platform.choice import open_backend
from udpguard._platform.portable import PortableBackend
from udpguard.core.address import Wire, sockaddr_of, wire_of, wire_of_source

LINUX = sys.platform == "linux"
if LINUX:
    from udpguard._platform import linux_abi, linux_mmsg
    from udpguard._platform.linux_mmsg import MmsgBackend

linux_only = pytest.mark.skipif(not LINUX, reason="recvmmsg and sendmmsg are Linux's")
BACKENDS = ["portable", pytest.param("mmsg", marks=linux_only)]
SIZES = [0, 1, 1_472, 9_000, 65_507]
LARGEST = {"127.0.0.1": 65_507, "::1": 65_527}  # RFC 768; IPv4 counts its own header of 20 in as well
RECVERR = {"ipv4": (socket.IPPROTO_IP, 11), "ipv6": (socket.IPPROTO_IPV6, 25)}


class Owner:
    """What stands for an event loop: something to hang buffers on."""


OWNER = Owner()

# Where the backend's socket is, and where that of its peer: "dual" serves both families with one socket.
KINDS = {
    "ipv4": ("127.0.0.1", "127.0.0.1"),
    "ipv6": ("::1", "::1"),
    "dual-stack to ipv4": ("dual", "127.0.0.1"),
    "dual-stack to ipv6": ("dual", "::1"),
}
Made = Callable[..., socket.socket]


@contextlib.contextmanager
def sockets() -> Iterator[Made]:
    """Makes non-blocking sockets on free ports, which are closed in the end."""
    with contextlib.ExitStack() as stack:

        def make(host: str = "127.0.0.1", scope: int = 0) -> socket.socket:
            dual, host = host == "dual", "::" if host == "dual" else host
            sock = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, 2))
            if ":" in host:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            sock.bind((host, 0, 0, scope) if scope else (host, 0))
            sock.setblocking(False)
            return sock

        yield make


@pytest.fixture
def made() -> Iterator[Made]:
    with sockets() as make:
        yield make


def backend_of(name: str, sock: socket.socket, owner: Any = OWNER) -> Any:
    return PortableBackend(sock) if name == "portable" else MmsgBackend(sock, owner)


def address_of(sock: socket.socket, seen_by: socket.socket | None = None) -> tuple[Any, ...]:
    """Where a socket can be reached, by one of that family."""
    host, port, *rest = sock.getsockname()
    if host != "::":
        return (host, port, *rest)
    return ("127.0.0.1", port) if seen_by is not None and seen_by.family == socket.AF_INET else ("::1", port, 0, 0)


def wire_to(sock: socket.socket, seen_by: socket.socket | None = None) -> Wire:
    host, port, *rest = address_of(sock, seen_by)
    return wire_of_source(host, port, rest[1] if rest else 0)


def received(backend: Any, sock: socket.socket, count: int, most: int = 64) -> list[tuple[bytes, Wire]]:
    """So many datagrams, however many calls that takes."""
    got: list[tuple[bytes, Wire]] = []
    while len(got) < count:
        assert select.select([sock], [], [], SOON)[0], f"{len(got)} of {count} came"
        got += backend.receive(most)
    assert backend.receive(most) == [], "no more than were sent"
    return got


def sent(
    backend: Any, datas: list[bytes], wires: list[Wire], after_each: Callable[[int], object] = int, most: int = 999
) -> list[int]:
    """Send all, as the outbox does: many at once, and one by itself where they stop; how many left each time."""
    counts, at = list[int](), 0
    while at < len(datas):
        counts.append(backend.send_many(datas[at : at + most], wires[at : at + most]))
        done = counts[-1] or int(backend.send(datas[at], wires[at]))
        after_each(done)
        at += done
    return counts


def errno_of(call: Callable[..., object], *args: object) -> int | None:
    with pytest.raises(OSError) as caught:
        call(*args)
    return caught.value.errno


def payloads(count: int, size: int = 4) -> list[bytes]:
    return [b"%04d" % i + bytes(size - 4) for i in range(count)]


# ------------------------------------------------------------------------------------------------ there and back


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BACKENDS)
def test_datagrams_of_all_sizes_go_out_whole_and_in_order(name: str, kind: str, made: Made) -> None:
    mine, peer = (made(host) for host in KINDS[kind])
    backend, wire = backend_of(name, mine), wire_to(peer)
    datas = [bytes([i]) * size for i, size in enumerate([*SIZES, LARGEST[KINDS[kind][1]], *SIZES[::-1]])]
    for data in datas:
        assert (backend.send(data, wire), backend.send_many([data], [wire])) == (True, 1)
        assert [peer.recvfrom(65_535) for _ in range(2)] == [(data, address_of(mine, peer))] * 2
    got: list[tuple[bytes, Any]] = []
    sent(backend, datas, [wire] * 11, lambda done: got.extend(peer.recvfrom(65_535) for _ in range(done)), most=5)
    assert got == [(data, address_of(mine, peer)) for data in datas]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BACKENDS)
def test_datagrams_of_all_sizes_come_in_whole_in_order_and_with_their_wire(name: str, kind: str, made: Made) -> None:
    mine, peer, other = (made(host) for host in (*KINDS[kind], KINDS[kind][1]))
    backend, here = backend_of(name, mine), address_of(mine, peer)
    wires = [wire_to(peer), wire_to(other)]
    for most in (1, 2, 3, 64):
        expected = []
        for i, size in enumerate([*SIZES[1:], LARGEST[KINDS[kind][1]], 0]):
            data = bytes([most + i]) * size
            (peer, other)[i % 2].sendto(data, here)
            expected.append((data, wires[i % 2]))
        assert received(backend, mine, 6, most) == expected


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("host", ["ipv6", "dual"])
def test_the_wire_of_a_link_local_peer_tells_its_link(name: str, host: str, made: Made) -> None:
    found = [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines()] if LINUX else []
    # Those of scope 20 are of a link; neither a tentative address nor a duplicate one can be bound to.
    linked = [
        (bytes.fromhex(one[0]), int(one[1], 16)) for one in found if one[3] == "20" and not int(one[4], 16) & 0x48
    ]
    if not linked:
        pytest.skip("no interface has a link-local address")
    local, link = socket.inet_ntop(socket.AF_INET6, linked[0][0]), linked[0][1]
    peer, mine = made(local, link), made("dual" if host == "dual" else "::")
    backend, wire = backend_of(name, mine), wire_of_source(local, peer.getsockname()[1], link)
    for data in (b"1", b"2"):
        peer.sendto(data, (local, mine.getsockname()[1], 0, link))
    assert received(backend, mine, 2) == [(b"1", wire), (b"2", wire)]
    assert backend.send_many([b"3", b"4"], [wire, wire]) == 2
    assert [peer.recv(9) for _ in range(2)] == [b"3", b"4"]


@linux_only
@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_the_wire_is_cut_out_of_the_sockaddr_with_its_scope(count: int, dual: bool, made: Made) -> None:
    backend: Any = backend_of("mmsg", made("dual" if dual else "::1"), owner := Owner())
    hosts = [(f"fe80::{i + 1}", i + 7) for i in range(count)]

    def recvmmsg(fd: int, heads: int, most: int, flags: int, timeout: None) -> int:
        buffers = linux_mmsg._buffers_of(owner)
        for i, (host, scope) in enumerate(hosts):
            name = struct.pack("=H", socket.AF_INET6) + struct.pack(">HI", 5_000 + i, 0)
            name += socket.inet_pton(socket.AF_INET6, host) + struct.pack("=I", scope)
            buffers.names[i * 28 : i * 28 + 28] = name
            backend._lengths[i] = 0
        return count

    backend._recvmmsg = recvmmsg
    wires = [wire_of_source(host, 5_000 + i, scope) for i, (host, scope) in enumerate(hosts)]
    assert backend.receive(64) == [(b"", wire) for wire in wires]
    assert [sockaddr_of(wire)[3:] for wire in wires] == [(scope,) for _, scope in hosts]


@pytest.mark.parametrize("name", BACKENDS)
def test_one_dual_stack_socket_serves_both_families_in_one_batch(name: str, made: Made) -> None:
    mine, four, six = made("dual"), made("127.0.0.1"), made("::1")
    backend = backend_of(name, mine)
    wires = [wire_to(four), wire_to(six)] * 10
    assert backend.send_many(payloads(20), wires) == 20
    assert [four.recv(9) for _ in range(10)] == payloads(20)[::2]
    assert [six.recv(9) for _ in range(10)] == payloads(20)[1::2]
    for sock, data in zip([four, six] * 10, payloads(20), strict=True):
        sock.sendto(data, address_of(mine, sock))
    assert received(backend, mine, 20) == list(zip(payloads(20), wires, strict=True))


# ------------------------------------------------------------------------------------------------ how many


@pytest.mark.parametrize("most", [1, 2, 63, 64])
@pytest.mark.parametrize("name", BACKENDS)
def test_fewer_than_asked_for_means_that_no_more_are_there(name: str, most: int, made: Made) -> None:
    mine, peer = made(), made()
    backend = backend_of(name, mine)
    for count in (0, 1, 2, 5, 63, 64, 65, 150):
        for data in payloads(count):
            peer.sendto(data, address_of(mine))
        got: list[bytes] = []
        while batch := backend.receive(most):
            got += [data for data, _ in batch]
            assert len(batch) == most or len(got) == count
        assert got == payloads(count)


@pytest.mark.parametrize("name", BACKENDS)
def test_more_datagrams_than_one_call_takes_leave_in_order(name: str, made: Made) -> None:
    mine, peer = made(), made()
    backend = backend_of(name, mine)
    datas, got = payloads(200), list[bytes]()
    assert backend.send_many([], []) == 0
    sent(backend, datas, [wire_to(peer)] * 200, lambda done: got.extend(peer.recv(9) for _ in range(done)))
    assert got == datas
    assert PortableBackend(peer).receive(1) == []


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("sizes", [[65_507] * 6, [9_000] * 60, [40_000] * 9, [0, 65_507] * 5, [1_472] * 180])
def test_more_bytes_than_one_call_takes_leave_in_order(name: str, sizes: list[int], made: Made) -> None:
    mine, peer = made(), made()
    backend = backend_of(name, mine)
    datas = [bytes([i]) * size for i, size in enumerate(sizes)]
    got: list[bytes] = []

    def read(done: int) -> None:
        assert done, "a beginning always fits"
        got.extend(peer.recv(65_535) for _ in range(done))
        assert PortableBackend(peer).receive(1) == [], "no more left than it says"

    # One by one, it would overfill the peer's receive buffer.
    counts = sent(backend, datas, [wire_to(peer)] * len(datas), read, most=3 if name == "portable" else 999)
    assert got == datas
    if name == "mmsg":
        assert len(counts) <= -(-sum(sizes) // 131_072) + 2, f"split more finely than needed: {counts}"


def test_datagrams_of_any_number_and_size_pass_from_one_backend_to_the_other() -> None:
    @given(st.lists(st.integers(0, 2_000), min_size=1, max_size=200), st.booleans(), st.sampled_from(sorted(KINDS)))
    def check(sizes: list[int], portable_sends: bool, kind: str) -> None:
        with sockets() as make:
            mine, peer = (make(host) for host in KINDS[kind])
            names = ("portable", "mmsg" if LINUX else "portable")
            first, second = names if portable_sends else reversed(names)
            backend, other = backend_of(first, mine), backend_of(second, peer)
            datas = [bytes([i]) * size for i, size in enumerate(sizes)]
            got: list[tuple[bytes, Wire]] = []
            for at in range(0, len(datas), 64):  # what the default receive buffer holds
                some = datas[at : at + 64]
                sent(backend, some, [wire_to(peer)] * len(some))
                got += received(other, peer, len(some))
            assert got == [(data, wire_to(mine, peer)) for data in datas]

    check()


# ------------------------------------------------------------------------------------------------ what goes wrong


class Script:
    """Does as it is told instead of a call for many: so many datagrams (through the real one), or an error."""

    def __init__(self, real: Callable[..., int], *answers: int | OSError) -> None:
        self.real, self.answers = real, list(answers)

    def __call__(self, fd: int, heads: int, count: int, *rest: Any) -> int:
        answer = self.answers.pop(0) if self.answers else count
        if isinstance(answer, OSError):
            ctypes.set_errno(answer.errno or 0)
            return -1
        return self.real(fd, heads, min(count, answer), *rest)


def one_by_one(real: Callable[..., Any], script: Sequence[OSError | None]) -> Callable[..., Any]:
    """The same for a call for one."""
    answers = iter(script)

    def call(*args: Any) -> Any:
        if (error := next(answers, None)) is not None:
            raise error
        return real(*args)

    return call


@pytest.mark.parametrize("name", BACKENDS)
def test_what_a_full_send_buffer_did_not_take_is_neither_lost_nor_sent_twice(name: str, made: Made) -> None:
    mine, peer = made(), made()
    backend, full = backend_of(name, mine), OSError(errno.EAGAIN, "")
    if name == "mmsg":
        backend._sendmmsg = Script(backend._sendmmsg, 5, full, 1, OSError(errno.ENOBUFS, ""), 20)
    else:
        backend._sendto = one_by_one(mine.sendto, [*[None] * 5, full, *[None] * 2, full, *[None] * 20, full])
    datas = payloads(40)
    assert sent(backend, datas, [wire_to(peer)] * 40) == ([5, 0, 1, 0, 20, 12] if name == "mmsg" else [5, 2, 20, 13])
    assert [data for data, _ in received(PortableBackend(peer), peer, 40)] == datas


@pytest.mark.parametrize("name", BACKENDS)
def test_what_the_kernel_refuses_stops_there_and_send_tells_why(name: str, made: Made) -> None:
    mine, peer = made(), made()
    backend = backend_of(name, mine)
    datas, wires = payloads(10), [wire_to(peer)] * 10
    datas[3] = bytes(65_508)
    wires[7] = wire_of(b"\x7f\xff\xff\xff", 9)  # a broadcast address, which the socket does not allow
    assert backend.send_many(datas, wires) == 3
    assert errno_of(backend.send, datas[3], wires[3]) == errno.EMSGSIZE
    assert backend.send_many(datas[4:], wires[4:]) == 3
    assert errno_of(backend.send, datas[7], wires[7]) == errno.EACCES
    assert backend.send_many(datas[8:], wires[8:]) == 2
    got = [data for data, _ in received(PortableBackend(peer), peer, 8)]
    assert got == [data for i, data in enumerate(datas) if i not in (3, 7)]


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EINTR, errno.ECONNREFUSED, errno.ENOMEM, errno.EPERM])
@pytest.mark.parametrize("most", [1, 64])
@pytest.mark.parametrize("name", BACKENDS)
def test_errors_of_receiving_have_their_number(name: str, most: int, number: int, made: Made) -> None:
    mine, peer = made(), made()
    backend = backend_of(name, mine)
    error = OSError(number, "as told")
    backend._recvfrom = one_by_one(mine.recvfrom, [error])
    if name == "mmsg":
        backend._recvmmsg = Script(backend._recvmmsg, error)
    peer.sendto(b"still there", address_of(mine))
    if number in (errno.EAGAIN, errno.EINTR):
        assert backend.receive(most) == []
    else:
        assert errno_of(backend.receive, most) == number
    assert received(backend, mine, 1, most) == [(b"still there", wire_to(peer))]


@linux_only
@pytest.mark.parametrize("kind", ["ipv4", "ipv6"])
@pytest.mark.parametrize("name", BACKENDS)
def test_an_error_of_the_socket_costs_none_of_the_datagrams_in_it(name: str, kind: str, made: Made) -> None:
    mine, peer = (made(host) for host in KINDS[kind])
    mine.setsockopt(*RECVERR[kind], 1)
    backend = backend_of(name, mine)
    for data in payloads(3):
        peer.sendto(data, address_of(mine))
    host, port = closed_port(KINDS[kind][0])
    backend.send(b"x", wire_of_source(host, port))  # the port-unreachable is there when this returns
    peer.sendto(b"last", address_of(mine))
    assert errno_of(backend.receive, 64) == errno.ECONNREFUSED
    assert [data for data, _ in received(backend, mine, 4)] == [*payloads(3), b"last"]
    backend.send(b"x", wire_of_source(host, port))
    datas, wires = payloads(5), [wire_to(peer)] * 5
    assert backend.send_many(datas, wires) == 0
    assert backend.send_many(datas, wires) == 5, "nor any of those that are to leave"
    assert [peer.recv(9) for _ in range(5)] == datas


@pytest.mark.parametrize(("count", "most"), [(1, 2), (2, 64), (63, 64)])
@pytest.mark.parametrize("name", BACKENDS)
def test_an_error_after_some_datagrams_is_told_after_them(name: str, count: int, most: int, made: Made) -> None:
    mine, peer = made(), made()
    backend, refused = backend_of(name, mine), OSError(errno.ECONNREFUSED, "as told")
    for data in payloads(count + 1):
        peer.sendto(data, address_of(mine))
    if name == "mmsg":
        backend._recvmmsg = Script(backend._recvmmsg, count, refused)
    backend._recvfrom = one_by_one(mine.recvfrom, [*[None] * (count if name == "portable" else 0), refused])
    assert [data for data, _ in backend.receive(most)] == payloads(count)
    assert errno_of(backend.receive, most) == errno.ECONNREFUSED
    backend._recvfrom = mine.recvfrom
    assert [data for data, _ in backend.receive(most)] == payloads(count + 1)[count:]


@pytest.mark.parametrize("name", BACKENDS)
def test_ages_are_those_of_what_was_read_last(name: str, made: Made) -> None:
    mine, peer = made(), made()
    backend = backend_of(name, mine)
    for most, count in ((64, 3), (1, 1), (64, 64), (2, 2)):
        for data in payloads(count):
            peer.sendto(data, address_of(mine))
        later = time.monotonic() + 0.002
        while time.monotonic() < later:  # what is younger than half a millisecond has come just now
            pass
        assert len(backend.receive(most)) == count
        exact, rough = backend.ages(exactly=True), backend.ages(exactly=False)
        if name == "portable":
            assert exact is rough is None
        elif exact is not None:  # it knows
            assert len(exact) == count
            assert sorted(exact, reverse=True) == exact, "the first is the oldest"
            assert min(exact) >= 0.0
            assert len(rough) in (0, count)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_closed_socket_is_a_bad_descriptor(name: str, made: Made) -> None:
    mine, wire = made(), wire_to(made())
    backend = backend_of(name, mine)
    mine.close()
    assert errno_of(backend.receive, 1) == errno_of(backend.receive, 64) == errno.EBADF
    assert (errno_of(backend.send, b"x", wire), backend.send_many([b"x"], [wire])) == (errno.EBADF, 0)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_closed_socket_s_number_is_another_s_and_left_alone(name: str, made: Made) -> None:
    mine, peer = made(), made()
    number, backend = mine.fileno(), backend_of(name, mine)
    mine.close()  # as a user may do with a socket that an endpoint was given
    other = next(sock for sock in iter(made, None) if sock.fileno() == number)
    peer.sendto(b"not yours", address_of(other))
    assert errno_of(backend.receive, 64) == errno.EBADF
    assert backend.send_many([b"from whom?"], [wire_to(peer)]) == 0
    assert other.recv(99) == b"not yours"


# ------------------------------------------------------------------------------------------------ shared memory


@linux_only
def test_buffers_end_with_their_loop(made: Made) -> None:
    loop = loop_factory()()
    backend: Any = backend_of("mmsg", made(), loop)
    alive = weakref.ref(backend._buffers)
    del backend
    gc.collect()
    assert alive() is not None, "the next socket of the loop uses them again"
    loop.close()
    del loop
    gc.collect()
    assert alive() is None


@linux_only
def test_sockets_of_one_loop_share_their_buffers_and_never_mix_up_data(made: Made) -> None:
    pairs = [[made(host) for host in hosts] for hosts in KINDS.values()]
    backends: list[Any] = [backend_of("mmsg", mine) for mine, _ in pairs]
    assert len({id(backend._buffers) for backend in backends}) == 1
    for i in range(30):
        for n, (backend, (mine, peer)) in enumerate(zip(backends, pairs, strict=True)):
            sizes = [(i * 7 + n * 3 + k) % 5 * 100 for k in range(1 + (i + n) % 6)]
            datas = [bytes([i, n, k]) * size for k, size in enumerate(sizes)]
            assert backend.send_many(datas, [wire_to(peer)] * len(datas)) == len(datas)
            assert [peer.recvfrom(9_000) for _ in datas] == [(data, address_of(mine, peer)) for data in datas]
            for data in datas:
                peer.sendto(data, address_of(mine, peer))
            assert backend.receive(64) == [(data, wire_to(peer)) for data in datas]


@linux_only
def test_loops_in_two_threads_never_mix_up_data() -> None:
    ready, wrong, used = threading.Barrier(2, timeout=SOON), list[BaseException](), list[Any]()

    def work(mark: bytes, host: str) -> None:
        try:
            owner = Owner()
            with sockets() as make:
                mine, peer = make(host), make(host)
                backend, other = (backend_of("mmsg", sock, owner) for sock in (mine, peer))
                used.append(backend._buffers)
                ready.wait()
                for i in range(200):
                    datas = [mark + bytes([i, k]) * (i + k) for k in range(40)]
                    assert backend.send_many(datas, [wire_to(peer)] * 40) == 40
                    assert received(other, peer, 40) == [(data, wire_to(mine)) for data in datas]
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=args) for args in ((b"one", "127.0.0.1"), (b"two", "::1"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert used[0] is not used[1]


FORKING = """
    import os, socket
    from udpguard._platform.linux_mmsg import MmsgBackend
    from udpguard.core.address import wire_of_source

    def shown():
        return [bytes(one[:256]) for one in (buffers.out, buffers.out_names, buffers.payloads, buffers.names)]

    def there_and_back(sock, backend, data):
        assert backend.send_many([data] * 8, [wire_of_source(*peer.getsockname())] * 8) == 8
        peer.sendto(data, sock.getsockname())
        assert backend.receive(64)[0][0] == data == bytes(buffers.out[:len(data)])

    with socket.socket(type=2) as mine, socket.socket(type=2) as other, socket.socket(type=2) as peer:
        for sock in (mine, other, peer):
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
        backend, second = MmsgBackend(mine, shown), MmsgBackend(other, shown)
        buffers = backend._buffers
        there_and_back(mine, backend, b"parent")
        before = shown()
        child = os.fork()
        if not child:
            there_and_back(other, second, b"the child's")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert shown() == before
        assert [peer.recv(99) for _ in range(16)] == [b"parent"] * 8 + [b"the child's"] * 8
"""


@linux_only
def test_a_forked_process_has_buffers_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(FORKING)],
        capture_output=True, timeout=SOON, check=False, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


# ------------------------------------------------------------------------------------------------ which one serves


@linux_only
def test_the_structures_have_the_sizes_that_the_kernel_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [ctypes.sizeof(kind) for kind in (linux_abi.Iovec, linux_abi.Msghdr, linux_abi.Mmsghdr)]
    assert sizes == ([16, 56, 64] if ctypes.sizeof(ctypes.c_void_p) == 8 else [8, 28, 32])
    assert linux_abi.Mmsghdr.msg_len.offset == sizes[1]

    monkeypatch.setattr(linux_abi, "Mmsghdr", linux_abi.Msghdr)
    with pytest.raises(OSError, match="sizes") as caught:
        linux_abi.Functions()
    assert caught.value.errno == errno.ENOSYS


@linux_only
@pytest.mark.parametrize("broken", ["recvmmsg", "sendmmsg", "both", "c library"])
def test_where_the_calls_are_not_to_be_had_the_portable_one_serves_with_one_line(
    broken: str, made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    if broken == "c library":
        monkeypatch.setattr(linux_abi.ctypes, "CDLL", lambda *_, **__: SimpleNamespace())
    else:
        functions = linux_abi.Functions()
        for name in ("recvmmsg", "sendmmsg") if broken == "both" else (broken,):
            setattr(functions, name, Script(getattr(functions, name), OSError(errno.ENOSYS, "")))
        monkeypatch.setattr(linux_mmsg, "Functions", lambda: functions)
    with caplog.at_level(logging.DEBUG, "udpguard"):
        assert type(open_backend(made(), Owner())) is PortableBackend
    ((logger, level, line),) = caplog.record_tuples
    assert (logger, level) == ("udpguard", logging.DEBUG)
    assert ("has no attribute" if broken == "c library" else "Function not implemented") in line


@pytest.mark.parametrize("value", ["portable", "auto", ""])
def test_the_environment_chooses_without_a_word(
    value: str, made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("UDPGUARD_BACKEND", value)
    with caplog.at_level(logging.DEBUG):
        chosen = open_backend(made(), Owner())
    assert type(chosen).__name__ == ("MmsgBackend" if LINUX and value != "portable" else "PortableBackend")
    assert not [record for record in caplog.records if record.name == "udpguard"]


@pytest.mark.parametrize("value", ["mmsg", "Portable", "portable ", "0"])
def test_an_unknown_backend_is_refused_by_name(value: str, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UDPGUARD_BACKEND", value)
    with pytest.raises(ValueError, match=f"UDPGUARD_BACKEND.*{value!r}"):
        open_backend(made(), Owner())
