"""The datagram transport of our own, under a plain protocol; and an endpoint where the loop can't watch sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from typing import Any

import pytest
from loopback_kit import SOON, Crowd, Server, cancelled, echo, opened, turns, until

import udpguard
from udpguard._transport import UdpTransport
from udpguard.core.address import wire_of_source


class Plain(asyncio.DatagramProtocol):
    """Notes what it is called with."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.calls.append(("made", transport))

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.calls.append(("data", data, addr))

    def error_received(self, exc: Exception) -> None:
        self.calls.append(("error", exc))

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append(("lost", exc))
        self.lost.set()

    def of(self, kind: str) -> list[Any]:
        return [call for call in self.calls if call == kind or call[0] == kind]


class Scripted:
    """A backend that does as it is told: True, False, or an exception for each send."""

    def __init__(self, transport: UdpTransport) -> None:
        self.real = transport._backend
        self.ages = self.real.ages
        self.script: list[bool | OSError] = []
        self.blocked = False
        self.tried: list[bytes] = []
        self.sent: list[bytes] = []
        transport._backend = self

    def receive(self, most: int) -> list[tuple[bytes, bytes]]:
        return self.real.receive(most)

    def send(self, data: bytes, wire: bytes) -> bool:
        self.tried.append(data)
        answer = self.script.pop(0) if self.script else not self.blocked
        if isinstance(answer, OSError):
            raise answer
        if answer:
            self.sent.append(data)
            self.real.send(data, wire)
        return answer


def bound(host: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    sock.setblocking(False)
    return sock


async def made(host: str = "127.0.0.1") -> tuple[UdpTransport, Plain]:
    protocol = Plain()
    transport = UdpTransport(asyncio.get_running_loop(), bound(host), protocol)
    await turns(2)
    assert protocol.calls == [("made", transport)]
    protocol.calls.clear()
    return transport, protocol


async def gone(transport: UdpTransport, protocol: Plain) -> None:
    transport.close()
    async with asyncio.timeout(5):
        await protocol.lost.wait()


async def test_it_is_an_asyncio_datagram_transport_for_any_protocol() -> None:
    transport, protocol = await made()
    assert isinstance(transport, asyncio.DatagramTransport)
    assert transport.get_protocol() is protocol
    async with Server(echo) as server:
        transport.sendto(b"hello", server.addr)
        await until(lambda: protocol.calls)
        assert protocol.calls == [("data", b"hello", server.addr)]
    await gone(transport, protocol)


async def test_ipv6_sources_are_told_as_asyncio_does() -> None:
    transport, protocol = await made("::1")
    async with Server(echo, "::1") as server:
        for addr in (server.addr, ("::1", server.port, 0, 0)):
            transport.sendto(b"x", addr)
        await until(lambda: len(protocol.calls) == 2)
        assert protocol.calls[0] == ("data", b"x", ("::1", server.port, 0, 0))
    await gone(transport, protocol)


@pytest.mark.parametrize("raises", [True, False])
async def test_what_a_protocol_does_with_one_datagram_costs_no_other_of_its_batch(raises: bool) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    class Unruly(Plain):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            if raises and data == b"0":
                raise ValueError("no")
            if not raises and data == b"2":
                transport.abort()

    protocol = Unruly()
    transport = UdpTransport(asyncio.get_running_loop(), bound(), protocol)
    await turns(2)
    wire = wire_of_source("127.0.0.1", 7)
    transport._deliver_each([(b"%d" % number, wire) for number in range(5)], lambda exactly: None)
    assert [call[1] for call in protocol.of("data")] == (
        [b"0", b"1", b"2", b"3", b"4"] if raises else [b"0", b"1", b"2"]
    )
    assert [str(context["exception"]) for context in told] == (["no"] if raises else [])
    transport.abort()
    await turns(2)
    assert len(protocol.of("lost")) == 1


async def test_empty_datagrams_that_wait_pause_the_protocol_too() -> None:
    transport, protocol = await made()
    backend = Scripted(transport)
    backend.blocked = True
    transport.set_write_buffer_limits(high=10)
    for _ in range(11):
        transport.sendto(b"", ("127.0.0.1", 9))
    assert protocol.calls == ["pause"]
    transport.set_write_buffer_limits(high=20)
    transport.abort()
    await turns(2)


async def test_empty_datagrams_both_ways() -> None:
    transport, protocol = await made()
    async with Server(echo) as server:
        transport.sendto(b"", server.addr)
        await until(lambda: protocol.calls)
        assert protocol.calls == [("data", b"", server.addr)]
    await gone(transport, protocol)


async def test_get_extra_info() -> None:
    transport, protocol = await made()
    sock = transport.get_extra_info("socket")
    assert sock.type == socket.SOCK_DGRAM
    assert transport.get_extra_info("sockname") == sock.getsockname()
    assert transport.get_extra_info("peername") is None
    assert transport.get_extra_info("nothing", 7) == 7
    await gone(transport, protocol)


async def test_a_burst_is_read_in_order_and_whole() -> None:
    transport, protocol = await made()
    async with Server() as server:
        for i in range(150):
            server.send(b"%d" % i, transport.get_extra_info("sockname"))
        await until(lambda: len(protocol.calls) == 150)
        assert [call[1] for call in protocol.calls] == [b"%d" % i for i in range(150)]
    await gone(transport, protocol)


async def test_other_tasks_get_their_turn_in_a_flood() -> None:
    class Flooded(Plain):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            sock.sendto(data, here)  # for each that is read another one comes

    protocol = Flooded()
    sock = bound()
    transport = UdpTransport(asyncio.get_running_loop(), bound(), protocol)
    here = transport.get_extra_info("sockname")
    sock.sendto(b"x", here)
    async with asyncio.timeout(5):
        for _ in range(50):
            await asyncio.sleep(0)
        await until(lambda: len(protocol.calls) > 100)
    await gone(transport, protocol)
    sock.close()


# ------------------------------------------------------------------------------------------------ closing


async def test_close_calls_connection_lost_once() -> None:
    transport, protocol = await made()
    assert not transport.is_closing()
    transport.close()
    assert transport.is_closing()
    transport.close()
    transport.abort()
    await turns(3)
    assert protocol.calls == [("lost", None)]
    assert transport.get_extra_info("socket").fileno() == -1


async def test_abort_drops_what_is_queued() -> None:
    transport, protocol = await made()
    backend = Scripted(transport)
    backend.blocked = True
    transport.sendto(b"queued", ("127.0.0.1", 9))
    assert transport.get_write_buffer_size() == 6
    transport.abort()
    assert transport.is_closing()
    assert transport.get_write_buffer_size() == 0
    await turns(3)
    assert protocol.of("lost") == [("lost", None)]
    assert backend.sent == []


async def test_close_sends_what_is_queued_first() -> None:
    transport, protocol = await made()
    backend = Scripted(transport)
    async with Server() as server:
        backend.script = [False, False]
        for data in (b"1", b"2", b"3"):
            transport.sendto(data, server.addr)
        transport.close()
        transport.sendto(b"after close", server.addr)
        assert transport.is_closing()
        await until(lambda: protocol.of("lost"))
        await until(lambda: len(server.got) == 3)
        assert server.data == [b"1", b"2", b"3"]
    assert protocol.of("lost") == [("lost", None)]


async def test_nothing_is_received_after_close() -> None:
    transport, protocol = await made()
    async with Server() as server:
        server.send(b"x", transport.get_extra_info("sockname"))
        transport.close()
        await turns(5)
        assert protocol.calls == [("lost", None)]


async def test_a_protocol_that_closes_in_the_middle_of_a_burst() -> None:
    class Closing(Plain):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            transport.close()

    protocol = Closing()
    transport = UdpTransport(asyncio.get_running_loop(), bound(), protocol)
    await turns(2)
    async with Server() as server:
        for _ in range(5):
            server.send(b"x", transport.get_extra_info("sockname"))
        await until(lambda: protocol.of("lost"))
    assert len(protocol.of("lost")) == 1
    assert protocol.calls[-1] == ("lost", None), "nothing is told after the connection was lost"


async def test_another_protocol_from_now_on() -> None:
    transport, protocol = await made()
    other = Plain()
    transport.set_protocol(other)
    assert transport.get_protocol() is other
    async with Server(echo) as server:
        transport.sendto(b"x", server.addr)
        await until(lambda: other.calls)
    transport.close()
    async with asyncio.timeout(5):
        await other.lost.wait()
    assert protocol.calls == []


# ------------------------------------------------------------------------------------------------ sending


@pytest.mark.parametrize(
    "addr",
    [("127.0.0.1", 0), ("127.0.0.1", 70_000), ("127.0.0.1", "9"), ("::1", 9), ("localhost", 9), None, "127.0.0.1", 5],
)
async def test_a_bad_address_raises_at_the_caller_and_does_not_close_the_transport(addr: Any) -> None:
    transport, protocol = await made()
    with pytest.raises(udpguard.InvalidAddressError):
        transport.sendto(b"x", addr)
    assert not transport.is_closing()
    async with Server(echo) as server:
        transport.sendto(b"x", server.addr)
        await until(lambda: protocol.calls)
    await gone(transport, protocol)


async def test_data_that_is_not_bytes_like_is_a_type_error() -> None:
    transport, protocol = await made()
    for wrong in ("text", 5, None):
        with pytest.raises(TypeError):
            transport.sendto(wrong, ("127.0.0.1", 9))  # type: ignore[arg-type]
    for fine in (bytearray(b"x"), memoryview(b"x")):
        transport.sendto(fine, ("127.0.0.1", 9))
    await gone(transport, protocol)


async def test_what_the_kernel_refuses_goes_to_error_received() -> None:
    transport, protocol = await made()
    transport.sendto(b"x", ("198.51.100.1", 9))
    transport.sendto(bytes(65_508), ("127.0.0.1", 9))
    transport.sendto(b"x", ("127.255.255.255", 9))
    kinds = [call[1].errno for call in protocol.of("error")]
    assert kinds[1:] == [errno.EMSGSIZE, errno.EACCES]
    assert kinds[0] in (errno.EINVAL, errno.ENETUNREACH)
    assert not transport.is_closing()
    await gone(transport, protocol)


# ------------------------------------------------------------------------------------------------ backpressure


async def test_a_blocked_socket_queues_in_order() -> None:
    transport, protocol = await made()
    backend = Scripted(transport)
    async with Server() as server:
        backend.script = [False, False, True, False]
        for i in range(10):
            transport.sendto(b"%d" % i, server.addr)
        assert transport.get_write_buffer_size() == 10
        await until(lambda: len(server.got) == 10)
        assert server.data == [b"%d" % i for i in range(10)]
        assert transport.get_write_buffer_size() == 0
    assert protocol.of("pause") == protocol.of("resume") == []
    await gone(transport, protocol)


async def test_the_protocol_is_paused_above_the_high_water_mark_and_resumed_at_the_low_one() -> None:
    transport, protocol = await made()
    backend = Scripted(transport)
    backend.blocked = True
    transport.set_write_buffer_limits(high=100, low=20)
    assert transport.get_write_buffer_limits() == (20, 100)
    for _ in range(10):
        transport.sendto(bytes(10), ("127.0.0.1", 9))
    assert protocol.of("pause") == []
    transport.sendto(bytes(10), ("127.0.0.1", 9))
    assert protocol.of("pause") == ["pause"]
    transport.sendto(bytes(10), ("127.0.0.1", 9))
    assert protocol.of("pause") == ["pause"], "paused once"
    backend.script = [True] * 9 + [False] * 3
    await until(lambda: not backend.script)
    assert transport.get_write_buffer_size() == 30
    assert protocol.of("resume") == []
    backend.script = [True] + [False] * 3
    await until(lambda: not backend.script)
    assert transport.get_write_buffer_size() == 20
    assert protocol.of("resume") == ["resume"], "at the low water mark"
    backend.blocked = False
    await until(lambda: not transport.get_write_buffer_size())
    assert protocol.of("resume") == ["resume"], "resumed once"
    await gone(transport, protocol)


async def test_water_marks_are_checked_and_defaulted() -> None:
    transport, protocol = await made()
    low, high = transport.get_write_buffer_limits()
    assert 0 <= low <= high
    with pytest.raises(ValueError, match="low"):
        transport.set_write_buffer_limits(high=10, low=20)
    with pytest.raises(ValueError, match="low"):
        transport.set_write_buffer_limits(high=10, low=-1)
    transport.set_write_buffer_limits(high=0)
    assert transport.get_write_buffer_limits() == (0, 0)
    transport.set_write_buffer_limits(low=10)
    assert transport.get_write_buffer_limits() == (10, 40)
    transport.set_write_buffer_limits()
    assert transport.get_write_buffer_limits() == (low, high)
    await gone(transport, protocol)


async def test_no_buffers_is_waited_out() -> None:
    transport, protocol = await made()
    backend = Scripted(transport)
    full = OSError(errno.ENOBUFS, "No buffer space available")
    backend.script = [full, full]
    async with Server() as server:
        transport.sendto(b"1", server.addr)
        transport.sendto(b"2", server.addr)
        await until(lambda: len(server.got) == 2)
        assert server.data == [b"1", b"2"]
    assert protocol.of("error") == []
    await gone(transport, protocol)


async def test_no_buffers_does_not_spin() -> None:
    transport, protocol = await made()
    backend = Scripted(transport)
    backend.script = [OSError(errno.ENOBUFS, "No buffer space available")] * 3
    transport.sendto(b"1", ("127.0.0.1", 9))
    await turns(50)
    assert len(backend.tried) <= 3
    await until(lambda: backend.sent)
    await gone(transport, protocol)


async def test_an_error_in_the_queue_goes_to_error_received_and_the_rest_is_sent() -> None:
    transport, protocol = await made()
    backend = Scripted(transport)
    backend.script = [False, OSError(errno.EPERM, "Operation not permitted")]
    async with Server() as server:
        for data in (b"1", b"2"):
            transport.sendto(data, server.addr)
        await until(lambda: server.got)
        assert server.data == [b"2"]
    assert [call[1].errno for call in protocol.of("error")] == [errno.EPERM]
    assert transport.get_write_buffer_size() == 0
    await gone(transport, protocol)


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_a_protocol_that_ends_the_transport_on_an_error_in_the_queue(end: str) -> None:
    class Ending(Plain):
        def error_received(self, exc: Exception) -> None:
            super().error_received(exc)
            getattr(transport, end)()

    protocol = Ending()
    transport = UdpTransport(asyncio.get_running_loop(), bound(), protocol)
    await turns(2)
    backend = Scripted(transport)
    backend.script = [False, OSError(errno.EPERM, "Operation not permitted")]
    for data in (b"1", b"2"):
        transport.sendto(data, ("127.0.0.1", 9))
    await until(lambda: protocol.of("lost"))
    await turns(3)
    assert protocol.of("lost") == [("lost", None)]
    assert backend.sent == ([b"2"] if end == "close" else [])


async def test_a_protocol_that_sends_again_on_an_error() -> None:
    class Again(Plain):
        def error_received(self, exc: Exception) -> None:
            super().error_received(exc)
            transport.sendto(b"again", server.addr)

    protocol = Again()
    transport = UdpTransport(asyncio.get_running_loop(), bound(), protocol)
    await turns(2)
    backend = Scripted(transport)
    backend.script = [False, OSError(errno.EPERM, "Operation not permitted")]
    async with Server() as server:
        transport.sendto(b"1", server.addr)
        transport.sendto(b"2", server.addr)
        await until(lambda: len(server.got) == 2)
        assert server.data == [b"2", b"again"]
    await gone(transport, protocol)


async def test_a_protocol_that_raises_on_an_error_does_not_stop_what_is_queued() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    class Raising(Plain):
        def error_received(self, exc: Exception) -> None:
            raise exc

    protocol = Raising()
    transport = UdpTransport(asyncio.get_running_loop(), bound(), protocol)
    await turns(2)
    backend = Scripted(transport)
    backend.script = [False, OSError(errno.EPERM, "Operation not permitted")]
    for data in (b"1", b"2"):
        transport.sendto(data, ("127.0.0.1", 9))
    transport.close()
    await until(lambda: protocol.of("lost"))
    assert backend.sent == [b"2"]
    assert [type(context["exception"]) for context in told] == [PermissionError]


async def test_closing_while_blocked_for_lack_of_buffers() -> None:
    transport, protocol = await made()
    backend = Scripted(transport)
    async with Server() as server:
        backend.script = [OSError(errno.ENOBUFS, "No buffer space available")]
        transport.sendto(b"1", server.addr)
        transport.close()
        await until(lambda: protocol.of("lost"))
        await until(lambda: server.got)
    assert len(protocol.of("lost")) == 1


async def test_a_receive_error_goes_to_error_received_and_reading_goes_on() -> None:
    transport, protocol = await made()
    backend = Scripted(transport)
    real = backend.real

    class Failing:
        ages = real.ages

        def __init__(self) -> None:
            self.failed = False

        def receive(self, most: int) -> list[tuple[bytes, bytes]]:
            if not self.failed:
                self.failed = True
                raise OSError(errno.ECONNREFUSED, "Connection refused")
            return real.receive(most)

        def send(self, data: bytes, wire: bytes) -> bool:
            return real.send(data, wire)

    transport._backend = Failing()
    async with Server(echo) as server:
        transport.sendto(b"x", server.addr)
        await until(lambda: protocol.of("data"))
    assert [call[1].errno for call in protocol.of("error")] == [errno.ECONNREFUSED]
    await gone(transport, protocol)


# ------------------------------------------------------------------------------------------------ the fallback


class BlindLoop(asyncio.SelectorEventLoop):
    """A loop that can't watch sockets for its users, as Windows' Proactor."""

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
        raise NotImplementedError

    def add_writer(self, fd: Any, callback: Any, *args: Any) -> None:
        raise NotImplementedError


class BlindServer:
    """An echo server where the loop can't watch sockets."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host

    async def __aenter__(self) -> tuple[str, int]:
        class Echo(asyncio.DatagramProtocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, addr: Any) -> None:
                self.transport.sendto(data, addr)

        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=(self.host, 0))
        host, port = self.transport.get_extra_info("sockname")[:2]
        return (host, port)

    async def __aexit__(self, *exc_info: object) -> None:
        self.transport.close()
        await turns(2)


def in_blind_loop(main: Any) -> None:
    with asyncio.Runner(loop_factory=BlindLoop) as runner:
        runner.run(main())


def test_an_endpoint_works_where_the_loop_cannot_watch_sockets() -> None:
    async def main() -> None:
        async with BlindServer() as four, BlindServer("::1") as six:
            async with opened() as endpoint:
                for addr in (four, six):
                    reply = await endpoint.exchange(addr, b"hello", timeout=2.0)
                    assert (reply.data, reply.peer) == (b"hello", addr)
                    await endpoint.send(addr, b"sent")
                keyed = endpoint.client(correlate=udpguard.TransactionId(0, 2, assign=True))
                asked = [b"\0\0%d" % i for i in range(100)]
                assert await asyncio.gather(*(keyed.request(four, data, timeout=5.0) for data in asked)) == asked
                assert len({peer.port for peer in endpoint.local_addrs}) == 1
                await until(lambda: endpoint.statistics().received == 104)
            with pytest.raises(udpguard.EndpointClosedError):
                await endpoint.request(four, b"x")

    in_blind_loop(main)


def test_the_fallback_times_out_cancels_and_closes() -> None:
    async def main() -> None:
        async with opened() as endpoint:
            with pytest.raises(udpguard.ReplyTimeoutError):
                await endpoint.request(("127.0.0.1", 9), b"x", timeout=0.02)
            task = asyncio.ensure_future(endpoint.request(("127.0.0.1", 9), b"x"))
            await turns(2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            pending = asyncio.ensure_future(endpoint.request(("127.0.0.1", 9), b"x"))
            await turns(2)
            endpoint.close()
            with pytest.raises(udpguard.EndpointClosedError):
                await pending
            await endpoint.wait_closed()

    in_blind_loop(main)


def test_the_fallback_delivers_what_came_while_the_loop_was_blocked() -> None:
    async def main() -> None:
        with contextlib.closing(bound()) as server:
            async with opened(correlate=udpguard.TransactionId(0, 1)) as endpoint:
                addr = server.getsockname()
                asked = [bytes([i]) for i in range(100)]
                tasks = [asyncio.ensure_future(endpoint.request(addr, data, timeout=0.5)) for data in asked]
                await turns(3)
                for _ in asked:
                    server.sendto(*server.recvfrom(100))
                time.sleep(0.6)  # noqa: ASYNC251 (what no coroutine should do)
                assert await asyncio.gather(*tasks) == asked

    in_blind_loop(main)


def test_the_fallback_lets_what_is_due_expire_in_a_flood() -> None:
    async def main() -> None:
        with contextlib.closing(bound()) as stranger:
            async with opened(sock=bound()) as endpoint:

                async def flood() -> None:
                    while True:  # faster than it is read
                        stranger.sendto(b"junk", endpoint.local_addr)
                        stranger.sendto(b"junk", endpoint.local_addr)
                        await asyncio.sleep(0)

                task = asyncio.ensure_future(flood())
                with pytest.raises(udpguard.ReplyTimeoutError):
                    async with asyncio.timeout(SOON):
                        await endpoint.request(("127.0.0.1", 9), b"x", timeout=0.05)
                await cancelled(task)

    in_blind_loop(main)


def test_the_fallback_refuses_bad_calls_with_the_shared_socket_unharmed() -> None:
    async def main() -> None:
        async with BlindServer() as server, opened(("127.0.0.1", 0)) as endpoint:
            for addr in (("127.0.0.1", 70_000), ("::1", 9), ("0.0.0.0", 9), ("127.0.0.1", "9")):
                with pytest.raises(udpguard.InvalidAddressError):
                    await endpoint.request(addr, b"x")
            with pytest.raises(udpguard.DatagramTooLargeError):
                await endpoint.request(server, bytes(65_508))
            for addr in (("198.51.100.1", 9), ("127.255.255.255", 9)):  # the kernel refuses these
                with pytest.raises(udpguard.UdpGuardError):
                    await endpoint.request(addr, b"x", timeout=0.05)
            assert await endpoint.request(server, b"x", timeout=2.0) == b"x"

    in_blind_loop(main)


def test_a_dual_stack_socket_under_the_fallback() -> None:
    async def main() -> None:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", 0))
        async with BlindServer("::1") as six, BlindServer() as four, opened(sock=sock) as endpoint:
            assert await endpoint.request(six, b"x", timeout=2.0) == b"x"
            assert await endpoint.request(four, b"x", timeout=2.0) == b"x"

    in_blind_loop(main)


def test_the_fallback_sends_and_takes_datagrams_of_no_bytes_too() -> None:
    async def main() -> None:
        with Crowd() as crowd:
            async with opened() as endpoint:
                assert await endpoint.request(("127.0.0.1", crowd.port), b"", timeout=2.0) == b""

    in_blind_loop(main)


def test_the_fallback_raises_what_the_kernel_refuses_at_the_caller() -> None:
    async def main() -> None:
        async with BlindServer() as server, opened(("127.0.0.1", 0)) as endpoint:
            for use in (endpoint.request, endpoint.send):
                with pytest.raises(udpguard.PeerUnreachableError):
                    await use(("198.51.100.1", 9), b"x")  # type: ignore[operator]
                with pytest.raises(udpguard.InvalidAddressError, match="broadcast"):
                    await use(("127.255.255.255", 9), b"x")  # type: ignore[operator]
            assert (await endpoint.exchange([("198.51.100.1", 9), server], b"x", timeout=5.0)).attempts == 1

    in_blind_loop(main)
