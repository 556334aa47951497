"""The socket filter against the real kernel: who gets in, and what happens where the kernel won't have it."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from loopback_kit import plain_socket

from udpguard._platform.choice import open_filter
from udpguard._platform.sockets import Drops
from udpguard.core.address import Token, host_token, wire_of_source

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the socket filter is Linux's"),
    pytest.mark.skipif(os.environ.get("UDPGUARD_BACKEND") == "portable", reason="the portable backend has no filter"),
]

if sys.platform == "linux":
    from udpguard._platform import linux_filter
    from udpguard._platform.linux_filter import LinuxFilter, has_filter

SO_ATTACH_FILTER = 26
SO_LOCK_FILTER = 44


@pytest.fixture
def sock4() -> Iterator[socket.socket]:
    with plain_socket("0.0.0.0") as sock:
        yield sock


@pytest.fixture
def dual() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", 0))
        yield sock


def wire(host: str, port: int) -> bytes:
    return wire_of_source(host, port)


def gets_in(sock: socket.socket, sender: socket.socket, payload: bytes = b"x") -> bool:
    """Whether a datagram arrives; what the kernel drops it counts at once, on loopback."""
    drops = Drops(sock)
    host = "::1" if sender.family == socket.AF_INET6 else "127.0.0.1"
    sender.sendto(payload, (host, sock.getsockname()[1]))
    if drops.count():
        assert not select.select([sock], [], [], 0)[0]
        return False
    assert select.select([sock], [], [], 5)[0], "it was neither dropped nor queued"
    assert sock.recv(65_535) == payload
    return True


@contextlib.contextmanager
def senders(*addresses: tuple[str, int]) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(plain_socket(*address)) for address in addresses]


def address_of(sender: socket.socket) -> tuple[str, int]:
    host, port = sender.getsockname()[:2]
    return (host, port)


def others(count: int) -> list[bytes]:
    """As many other peers."""
    return [wire(f"127.{60 + i // 65_536}.{i // 256 % 256}.{i % 256}", 53) for i in range(count)]


@pytest.mark.parametrize("beside", [0, 1, 100, 127, 128, 300, 3_000, 16_000])
def test_an_expected_peer_gets_in_and_strangers_mostly_do_not(sock4: socket.socket, beside: int) -> None:
    one = LinuxFilter(sock4)
    with senders(("127.0.0.1", 0), ("127.0.0.1", 0), ("127.9.0.1", 0)) as (right, same_host, stranger):
        assert all(gets_in(sock4, sender) for sender in (right, same_host, stranger))
        one.attach([wire(*address_of(right)), *others(beside)])
        assert one.attached
        assert has_filter(sock4)
        assert gets_in(sock4, right)
        if beside <= 100:  # exact
            assert not gets_in(sock4, same_host)
            assert not gets_in(sock4, stranger)
        one.extend([wire(*address_of(same_host))])
        assert gets_in(sock4, right)
        assert gets_in(sock4, same_host)
        one.attach([wire(*address_of(same_host))])
        assert not gets_in(sock4, right)
        assert gets_in(sock4, same_host)
        one.detach()
        assert not one.attached
        assert not has_filter(sock4)
        assert all(gets_in(sock4, sender) for sender in (right, same_host, stranger))


def test_it_grows_peer_by_peer_and_lets_each_in(sock4: socket.socket) -> None:
    one = LinuxFilter(sock4)
    one.attach([])
    with senders(*[(f"127.5.0.{i % 250 + 1}", 0) for i in range(300)]) as many:
        assert not gets_in(sock4, many[-1])
        for sender in many:
            one.extend([wire(*address_of(sender))])
            assert gets_in(sock4, sender)
        assert all(gets_in(sock4, sender) for sender in many)
    for i in range(0, 6_000, 500):
        one.extend(others(i + 500)[i:])
    with senders(("127.6.0.1", 0)) as (late,):
        one.extend([wire(*address_of(late))])
        assert gets_in(sock4, late)


@pytest.mark.parametrize("beside", [0, 1_000])
def test_few_strangers_pass_beside_a_thousand_peers(sock4: socket.socket, beside: int) -> None:
    one = LinuxFilter(sock4)
    one.attach(others(beside))
    with senders(*[(f"127.7.{i // 250}.{i % 250 + 1}", 0) for i in range(500)]) as strangers:
        passed = sum(gets_in(sock4, stranger) for stranger in strangers)
        assert passed <= (25 if beside else 0)


def tokens_for(kind: str, sender: socket.socket) -> list[Token]:
    own = wire(*address_of(sender))
    if kind == "peer":
        return [own]
    if kind == "host":
        return [host_token(own)]
    packed = own[2:] if len(own) == 6 else own[6:22]
    return [(31, packed[:3] + bytes(1)) if len(packed) == 4 else (127, packed[:15] + bytes(1))]


@pytest.mark.parametrize("kind", ["peer", "host", "network"])
@pytest.mark.parametrize("beside", [0, 1_000], ids=["alone", "crowd"])
def test_a_socket_that_hears_both_families(dual: socket.socket, kind: str, beside: int) -> None:
    one = LinuxFilter(dual)
    with senders(("127.0.0.1", 0), ("::1", 0)) as (four, six):
        for right, wrong in ((four, six), (six, four)):
            one.attach([*tokens_for(kind, right), *others(beside)])
            assert gets_in(dual, right)
            if not beside:
                assert not gets_in(dual, wrong)
            one.extend(tokens_for(kind, wrong))
            assert gets_in(dual, right)
            assert gets_in(dual, wrong)


def test_a_socket_that_hears_ipv6_alone() -> None:
    with plain_socket("::1") as sock, senders(("::1", 0), ("::1", 0)) as (right, wrong):
        one = LinuxFilter(sock)
        one.attach([wire(*address_of(right))])
        assert gets_in(sock, right)
        assert not gets_in(sock, wrong)


def test_more_hosts_than_are_listed_go_by_host_with_everybody(sock4: socket.socket) -> None:
    one = LinuxFilter(sock4)
    with senders(("127.0.0.1", 0), ("127.0.0.1", 0), ("127.9.0.1", 0)) as (right, same_host, host):
        one.attach([wire(*address_of(right)), *[token[2:] for token in others(200)]])
        assert gets_in(sock4, right)
        assert gets_in(sock4, same_host), "ports don't matter any more"
        one.extend([host_token(wire(*address_of(host)))])
        assert gets_in(sock4, host)
        one.extend([token[2:] for token in others(2_000)])
        assert gets_in(sock4, right)
        assert gets_in(sock4, host)


@pytest.mark.parametrize("size", [0, 1, 60_000])
def test_datagrams_come_in_whole_and_are_checked_as_before(sock4: socket.socket, size: int) -> None:
    one = LinuxFilter(sock4)
    with senders(("127.0.0.1", 0)) as (right,):
        one.attach([wire(*address_of(right))])
        assert gets_in(sock4, right, b"z" * size)


def test_icmp_errors_still_reach_the_error_queue(sock4: socket.socket) -> None:
    one = LinuxFilter(sock4)
    one.attach([])
    sock4.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
    with plain_socket() as gone:
        nobody = gone.getsockname()
    sock4.sendto(b"hello?", nobody)
    data, _, _, addr = sock4.recvmsg(100, 512, 0x2000)  # MSG_ERRQUEUE
    assert (data, addr) == (b"hello?", nobody)


# ------------------------------------------------------------------------------------- where the kernel won't


class Reluctant:
    """A socket that refuses some of what is asked of it."""

    def __init__(self, sock: socket.socket, *errors: int | None, most: int = 1 << 16) -> None:
        self._sock = sock
        self._errors = list(errors)
        self._most = most
        self.asked: list[str] = []
        self.lengths: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        self.asked.append("attach" if option == SO_ATTACH_FILTER else "detach")
        if option == SO_ATTACH_FILTER:
            length = struct.unpack_from("=H", value)[0]
            self.lengths.append(length)
            error = self._errors.pop(0) if self._errors else None
            if length > self._most:
                error = errno.ENOMEM
            if error is not None:
                raise OSError(error, os.strerror(error))
        self._sock.setsockopt(level, option, value)


def test_one_that_does_not_fit_beside_the_old_one_takes_its_place(sock4: socket.socket) -> None:
    reluctant = Reluctant(sock4, None, errno.ENOMEM)
    one = LinuxFilter(reluctant)  # type: ignore[arg-type]
    with senders(("127.0.0.1", 0), ("127.0.0.1", 0)) as (right, wrong):
        one.attach([])
        one.attach([wire(*address_of(right))])
        assert reluctant.asked == ["attach", "attach", "detach", "attach"]
        assert one.attached
        assert gets_in(sock4, right)
        assert not gets_in(sock4, wrong)


def test_where_there_is_less_room_the_filter_is_smaller(sock4: socket.socket) -> None:
    """As on a machine where net.core.optmem_max is 20,480."""
    reluctant = Reluctant(sock4, most=1_000)
    one = LinuxFilter(reluctant)  # type: ignore[arg-type]
    with senders(("127.0.0.1", 0), ("127.0.0.1", 0)) as (right, late):
        one.attach([wire(*address_of(right)), *others(4_000)])
        assert one.attached
        assert 500 < reluctant.lengths[-1] <= 1_000
        assert gets_in(sock4, right)
        tried = len(reluctant.lengths)
        one.extend([wire(*address_of(late))])
        assert len(reluctant.lengths) == tried + 1, "it knows by now how much room there is"
        assert gets_in(sock4, late)


@pytest.mark.parametrize("error", [errno.ENOMEM, errno.EPERM, errno.EINVAL])
def test_where_it_can_not_be_replaced_there_is_none(sock4: socket.socket, error: int) -> None:
    one = LinuxFilter(Reluctant(sock4, None, error, error, error, error, error, error))  # type: ignore[arg-type]
    one.attach([])
    with pytest.raises(OSError, match=os.strerror(error)), senders(("127.0.0.1", 0)) as (late,):
        one.extend([wire(*address_of(late))])
    assert not one.attached
    assert not has_filter(sock4), "it would stop who is expected now"


def test_the_kernel_itself_runs_out_of_room_and_the_filter_stays_right(sock4: socket.socket) -> None:
    """Replaced in a tight loop, the old ones are freed only after a while (RCU)."""
    one = LinuxFilter(sock4)
    with senders(("127.0.0.1", 0)) as (right,):
        everybody = [wire(*address_of(right)), *others(3_000)]
        one.attach(everybody)
        for _ in range(200):
            with contextlib.suppress(OSError):
                one.extend(everybody[:2])
            assert one.attached == has_filter(sock4)
        assert gets_in(sock4, right)


def test_a_filter_of_somebody_else_is_left_alone(sock4: socket.socket) -> None:
    assert not has_filter(sock4)
    theirs = linux_filter.list_program(
        linux_filter.Secret(lambda bits: 1), linux_filter.Hears(ipv4=True, ipv6=False), [], [], []
    )
    LinuxFilter(sock4)._set(theirs)
    assert has_filter(sock4)
    assert open_filter(sock4) is None


def test_one_that_somebody_locked_stays(sock4: socket.socket) -> None:
    one = LinuxFilter(sock4)
    one.attach([])
    sock4.setsockopt(socket.SOL_SOCKET, SO_LOCK_FILTER, 1)
    with pytest.raises(PermissionError):
        one.attach(others(3))
    assert not one.attached


def test_what_is_no_socket_of_ours_has_none() -> None:
    assert open_filter(None) is None
    assert open_filter(object()) is None
    with plain_socket() as sock:
        pass
    assert open_filter(sock) is None


def test_the_portable_backend_has_none(sock4: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_filter(sock4) is not None
    monkeypatch.setenv("UDPGUARD_BACKEND", "portable")
    assert open_filter(sock4) is None


def test_drops_are_counted_past_32_bits(sock4: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([(1 << 32) - 10, (1 << 32) - 4, 20, None, 21])
    monkeypatch.setattr("udpguard._platform.sockets.kernel_dropped", lambda sock: next(told))
    drops = Drops(sock4)
    assert [drops.count() for _ in range(4)] == [6, 30, 30, 31]


def test_a_stranger_that_passes_is_stopped_when_it_is_made_anew(sock4: socket.socket) -> None:
    """Else a flood from one address that happens to pass would pass for ever."""
    one = LinuxFilter(sock4)
    with senders(*[(f"127.7.0.{i + 1}", 0) for i in range(250)]) as strangers:
        one.attach(others(8_000))
        passing = [stranger for stranger in strangers if gets_in(sock4, stranger)]
        assert passing
        one.attach(others(8_000), anew=False)
        assert [stranger for stranger in strangers if gets_in(sock4, stranger)] == passing
        one.attach(others(8_000))
        assert sum(gets_in(sock4, stranger) for stranger in passing) < len(passing)
