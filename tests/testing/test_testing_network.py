"""The simulated network: who hears what, when, how often, and what goes wrong as on a real one."""

from __future__ import annotations

import asyncio
import errno
import math
import random
import socket
from typing import Any

import pytest
from testing_kit import Collector, Echo, bound, probe, simulated

import udpguard
from udpguard.core.icmp import ICMP, ICMP6, NetworkError
from udpguard.testing import Conditions, Datagram, Network, Simulation


def many(count: int, seed: Any = 1, **conditions: Any) -> tuple[list[tuple[float, bytes]], Any]:
    """What arrives of so many numbered datagrams, sent at once."""

    async def main() -> list[tuple[float, bytes]]:
        receiver = await bound("192.0.2.1", 7, Collector)
        sender = await probe()
        for number in range(count):
            sender.transport.sendto(number.to_bytes(4, "big"), ("192.0.2.1", 7))
            if number % 100 == 99:  # the plain buffer of 212,992 bytes holds 412
                await asyncio.sleep(1)
        await asyncio.sleep(60)
        return [(at, data) for at, data, _ in receiver.got]

    return simulated(main, seed, **conditions)


def assert_within_three_sigma(count: int, of: int, odds: float) -> None:
    assert abs(count - of * odds) <= 3 * math.sqrt(of * odds * (1 - odds))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("what", "kind"), [("loss", "lost"), ("duplicate", "duplicated"), ("corrupt", "corrupted")])
def test_odds_are_kept_within_three_sigma(what: str, kind: Any, seed: int) -> None:
    got, trace = many(3_000, f"{seed} a", **{what: 0.3})
    assert_within_three_sigma(trace.count(kind), 3_000, 0.3)
    arrived = {"lost": 3_000 - trace.count(kind), "duplicated": 3_000 + trace.count(kind)}.get(kind, 3_000)
    assert len(got) == arrived


def test_corruption_inverts_one_bit() -> None:
    got, _ = many(50, corrupt=1.0)
    for number, (_, data) in enumerate(got):
        assert (int.from_bytes(data, "big") ^ number).bit_count() == 1


def test_without_faults_all_arrives_in_its_order_after_the_delay() -> None:
    got, _ = many(100, delay=0.125)
    assert [int.from_bytes(data, "big") for _, data in got] == list(range(100))
    assert {at for at, _ in got} == {0.125}


def test_delays_are_spread_and_overtake() -> None:
    got, _ = many(100, delay=(0.1, 0.2))
    assert all(0.1 <= at <= 0.2 for at, _ in got)
    assert len({at for at, _ in got}) > 90
    assert [data for _, data in got] != sorted(data for _, data in got)


def test_a_delay_can_be_any_distribution() -> None:
    got, _ = many(100, delay=lambda generator: generator.choice([0.25, 0.75, -1.0]))
    assert {at for at, _ in got} == {0.25, 0.75, 0.0}


def test_reordering_holds_some_back() -> None:
    got, _ = many(100, delay=0.1, reorder=0.2)
    late = [at for at, _ in got if at > 0.1]
    assert 5 <= len(late) <= 40
    assert max(late) <= 0.1 + 4 * 0.1 + 0.01
    assert [data for _, data in got] != sorted(data for _, data in got)


def test_conditions_that_make_no_sense_are_refused() -> None:
    for wrong in ({"loss": 1.5}, {"duplicate": -0.1}, {"delay": (2.0, 1.0)}, {"delay": math.inf}, {"mtu": 20}):
        with pytest.raises(ValueError, match="must"):
            Network(**wrong)  # type: ignore[arg-type]
    for seed in (1.5, True, None):
        with pytest.raises(TypeError, match="seed"):
            Network(seed)  # type: ignore[arg-type]


def test_the_global_generator_is_left_alone() -> None:
    random.seed(1)
    expected = random.random()
    random.seed(1)
    many(20, loss=0.5)
    assert random.random() == expected


# ------------------------------------------------------------------------------------------------------ links


def arrivals(sim: Simulation, *addresses: str) -> dict[str, float]:
    """When a datagram to each of these hosts arrives, if it does."""

    async def main() -> dict[str, float]:
        sender = await probe()
        receivers = {address: await bound(address, 7, Collector) for address in addresses}
        for address in addresses:
            sender.transport.sendto(b"x", (address, 7))
        await asyncio.sleep(10)
        return {address: receiver.got[0][0] for address, receiver in receivers.items() if receiver.got}

    return sim.run(main)


def test_links_have_conditions_of_their_own() -> None:
    with Simulation(delay=0.1) as sim:
        sim.network.link(sim.client, "192.0.2.0/24", delay=0.5)
        sim.network.link("any", "192.0.2.2", loss=1.0)
        assert arrivals(sim, "192.0.2.1", "192.0.2.2", "203.0.113.1") == {"192.0.2.1": 0.5, "203.0.113.1": 0.1}


def test_a_link_can_be_one_way() -> None:
    async def main() -> int:
        await bound("192.0.2.1", 7)
        sender = await probe()
        for _ in range(5):
            sender.transport.sendto(b"x", ("192.0.2.1", 7))
        await asyncio.sleep(5)
        return len(sender.got)

    with Simulation() as sim:
        sim.network.link("192.0.2.1", "any", both_ways=False, loss=1.0)
        assert sim.run(main) == 0
        assert sim.trace.count("delivered") == 5
        sim.network.conditions = Conditions(loss=1.0)
        sim.network.link("192.0.2.1", sim.client, loss=0.0, delay=0.3)


def test_conditions_change_while_it_runs() -> None:
    async def main() -> list[bytes]:
        network = asyncio.get_running_loop().network  # type: ignore[attr-defined]
        receiver = await bound("192.0.2.1", 7, Collector)
        sender = await probe()
        sender.transport.sendto(b"1", ("192.0.2.1", 7))
        network.conditions = Conditions(loss=1.0)
        sender.transport.sendto(b"2", ("192.0.2.1", 7))
        network.conditions = Conditions()
        sender.transport.sendto(b"3", ("192.0.2.1", 7))
        await asyncio.sleep(1)
        return receiver.data  # type: ignore[no-any-return]

    assert simulated(main)[0] == [b"1", b"3"]


def test_a_route_translates_multiplies_and_drops() -> None:
    def route(datagram: Datagram) -> Any:
        if datagram.data == b"none":
            return None
        if datagram.data == b"twice":
            return [datagram, datagram]
        return datagram._replace(destination=udpguard.Peer("192.0.2.1", 7), source=udpguard.Peer("203.0.113.9", 99))

    async def main() -> list[Any]:
        receiver = await bound("192.0.2.1", 7, Collector)
        sender = await probe()
        for data in (b"none", b"twice", b"moved"):
            sender.transport.sendto(data, ("192.0.2.1" if data == b"twice" else "192.0.2.77", 7))
        await asyncio.sleep(1)
        return [(data, addr[0]) for _, data, addr in receiver.got]

    with Simulation(network=Network(route=route)) as sim:
        twice = (b"twice", "198.51.100.1")
        assert sim.run(main) == [twice, twice, (b"moved", "203.0.113.9")]


# ------------------------------------------------------------------------------------------------------ sockets


def test_an_endpoint_that_is_given_up_while_it_opens_leaves_no_socket() -> None:
    async def main() -> None:
        task = asyncio.ensure_future(bound("192.0.2.1", 53))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await bound("192.0.2.1", 53)

    simulated(main)


def test_ports_are_in_use_free_again_and_drawn_from_the_seed() -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        first = await bound("192.0.2.1", 53)
        with pytest.raises(OSError, match=r"192.0.2.1:53") as caught:
            await bound("192.0.2.1", 53)
        assert caught.value.errno == errno.EADDRINUSE
        first.transport.close()
        await asyncio.sleep(0)
        await bound("192.0.2.1", 53)
        with pytest.raises(OSError, match="makes one") as caught:
            await loop.create_datagram_endpoint(Echo, local_addr=("192.0.2.200", 53))
        assert caught.value.errno == errno.EADDRNOTAVAIL
        with pytest.raises(ValueError, match="family"):
            await loop.create_datagram_endpoint(Echo)
        with pytest.raises(TypeError, match="DatagramProtocol"):
            await loop.create_datagram_endpoint(asyncio.Protocol, local_addr=("198.51.100.1", 5))
        with pytest.raises(udpguard.InvalidAddressError):
            await loop.create_datagram_endpoint(Echo, local_addr=("198.51.100.1", 70_000))
        transport, _ = await loop.create_datagram_endpoint(Echo, family=socket.AF_INET)
        with pytest.raises(OSError, match="in use"):
            await loop.create_datagram_endpoint(
                Echo, local_addr=("198.51.100.1", transport.get_extra_info("sockname")[1])
            )
        ports = []
        for _ in range(3):
            async with udpguard.open_endpoint() as endpoint:
                assert endpoint.local_addrs[0].port == endpoint.local_addrs[1].port
                ports.append(endpoint.local_addr.port)
        return ports

    assert simulated(main, "a")[0] == simulated(main, "a")[0] != simulated(main, "b")[0]
    assert all(32_768 <= port <= 60_999 for port in simulated(main, "a")[0])


def test_all_ports_can_run_out() -> None:
    with Simulation() as sim:
        for port in range(32_768, 60_999):
            sim.client.bind(("0.0.0.0", port), socket.AF_INET)
        assert sim.client.bind(("127.0.0.1", 0), socket.AF_INET).getsockname() == ("127.0.0.1", 60_999)
        with pytest.raises(OSError, match="no port is free"):
            sim.client.bind(("0.0.0.0", 0), socket.AF_INET)
        assert sim.client.bind(("::", 0), socket.AF_INET6).getsockname()[1] >= 32_768


def test_every_interface_hears_all_addresses_of_its_host_and_answers_from_the_first() -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        with loop.network.host("192.0.2.1", "192.0.2.2", "2001:db8::1"):  # type: ignore[attr-defined]
            await loop.create_datagram_endpoint(Echo, local_addr=("0.0.0.0", 7))
            await loop.create_datagram_endpoint(Echo, local_addr=("::", 7))
        sender, sender6 = await probe(), await probe("2001:db8:ffff::1")
        sender.transport.sendto(b"x", ("192.0.2.1", 7))
        sender.transport.sendto(b"y", ("192.0.2.2", 7))
        sender6.transport.sendto(b"z", ("2001:db8::1", 7))
        await asyncio.sleep(1)
        return [(data, addr[0]) for _, data, addr in sender.got + sender6.got]

    assert simulated(main)[0] == [(b"x", "192.0.2.1"), (b"y", "192.0.2.1"), (b"z", "2001:db8::1")]


def test_programs_run_on_the_host_they_enter() -> None:
    async def main() -> Any:
        network = asyncio.get_running_loop().network  # type: ignore[attr-defined]
        await bound("192.0.2.1", 7, server := Collector)
        server_protocol = await bound("192.0.2.1", 8, server)
        with network.host("203.0.113.5"):
            async with udpguard.open_endpoint() as endpoint:
                await endpoint.send(("192.0.2.1", 8), b"x")
        async with udpguard.open_endpoint(("198.51.100.1", 0)) as endpoint:
            await endpoint.send(("192.0.2.1", 8), b"y")
        with pytest.raises(OSError, match="could not bind"):
            await udpguard.open_endpoint(("203.0.113.5", 0))
        await asyncio.sleep(1)
        return [addr[0] for _, _, addr in server_protocol.got]

    assert simulated(main)[0] == ["203.0.113.5", "198.51.100.1"]


def test_each_host_has_a_loopback_interface_of_its_own() -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        with loop.network.host("192.0.2.1"):  # type: ignore[attr-defined]
            there, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 7))
        here = await probe("127.0.0.1")
        here.transport.sendto(b"x", ("127.0.0.1", 7))
        await asyncio.sleep(1)
        missed = list(here.got)
        there.close()
        await bound("127.0.0.1", 7)
        here.transport.sendto(b"y", ("127.0.0.1", 7))
        here.transport.sendto(b"z", ("0.0.0.0", 7))  # Linux takes it for this host
        await asyncio.sleep(1)
        here.transport.sendto(b"w", ("192.0.2.1", 7))
        assert [error.errno for error in here.errors] == [errno.EINVAL]  # a martian
        return missed, here.data

    assert simulated(main)[0] == ([], [b"y", b"z"])


def test_link_local_addresses_are_of_their_link() -> None:
    async def main() -> Any:
        network = asyncio.get_running_loop().network  # type: ignore[attr-defined]
        for scope in (2, 3):
            network.host(f"fe80::1%{scope}")
            await bound(f"fe80::1%{scope}", 7, lambda scope=scope: Named(b"%d" % scope))
        async with udpguard.open_endpoint() as endpoint:
            two, three = [await endpoint.exchange((f"fe80::1%{scope}", 7), b"x") for scope in (2, 3)]
            with pytest.raises(udpguard.PeerUnreachableError):
                await endpoint.request(("fe80::1", 7), b"x")  # of no link
        return (two.data, three.data, two.peer.host, three.peer.host)

    class Named(Echo):
        def __init__(self, name: bytes) -> None:
            self.name = name

        def datagram_received(self, data: bytes, addr: Any) -> None:
            assert addr[3] == int(self.name)
            self.transport.sendto(self.name, addr)

    result, trace = simulated(main)
    assert result == (b"2", b"3", "fe80::1%2", "fe80::1%3")
    assert trace[0].source.host.endswith("%2")


def test_broadcast_and_multicast_reach_those_who_listen() -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        network = loop.network  # type: ignore[attr-defined]
        receivers = []
        for number in (1, 2, 3):
            with network.host(f"192.0.2.{number}") as host:
                if number < 3:
                    host.join("239.255.255.250")
                _, receiver = await loop.create_datagram_endpoint(Collector, local_addr=("0.0.0.0", 1900))
                receivers.append(receiver)
        sender = await probe(allow_broadcast=True)
        plain = await probe()
        sender.transport.sendto(b"b", ("255.255.255.255", 1900))
        sender.transport.sendto(b"m", ("239.255.255.250", 1900))
        plain.transport.sendto(b"p", ("255.255.255.255", 1900))
        assert [error.errno for error in plain.errors] == [errno.EACCES]
        await asyncio.sleep(1)
        with pytest.raises(ValueError, match="multicast"):
            host.join("192.0.2.1")
        return [receiver.data for receiver in receivers]

    assert simulated(main)[0] == [[b"b", b"m"], [b"b", b"m"], [b"b"]]


def test_a_full_receive_buffer_drops_and_counts() -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        loop.network.client.receive_buffer = 10 * 512  # type: ignore[attr-defined]
        sender = await bound("192.0.2.1", 7, Collector)
        async with udpguard.open_endpoint(("198.51.100.1", 0)) as endpoint:
            assert endpoint.get_extra_info("receive_buffer") == 5_120
            for _ in range(15):
                sender.transport.sendto(b"", endpoint.local_addr)
            await asyncio.sleep(1)
            return endpoint.statistics()

    stats, trace = simulated(main)
    assert (stats.received, stats.kernel_dropped, stats.unknown_peer) == (10, 5, 10)
    assert [event.note for event in trace if event.kind == "dropped"] == ["receive buffer full"] * 5


def test_a_bare_guard_protocol_counts_what_the_buffer_dropped_on_linux() -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        loop.network.client.receive_buffer = 512  # type: ignore[attr-defined]
        sender = await bound("192.0.2.1", 7, Collector)
        transport, guard = await loop.create_datagram_endpoint(udpguard.GuardProtocol, local_addr=("198.51.100.1", 0))
        reply = guard.expect(("192.0.2.1", 7))
        for _ in range(3):
            sender.transport.sendto(b"", transport.get_extra_info("sockname"))
        assert (await reply).data == b""
        return guard.statistics()

    stats, _ = simulated(main)
    assert stats.matched == 1
    assert stats.kernel_dropped in (0, 2)  # 0 where the operating system does not tell


def test_a_full_send_buffer_pauses_and_resumes() -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        receiver = await bound("192.0.2.1", 7, Collector)
        loop.network.client.limit_sending(4, 10.0)  # type: ignore[attr-defined]
        async with udpguard.open_endpoint(("198.51.100.1", 0), timeout=60) as endpoint:
            await asyncio.gather(*(endpoint.send(("192.0.2.1", 7), b"%d" % n) for n in range(12)))
        await asyncio.sleep(2)
        return [(round(at, 6), data) for at, data, _ in receiver.got]

    got, _ = simulated(main)
    assert got == [(round(0.1 * (n + 1) + 0.01, 6), b"%d" % n) for n in range(12)]


def test_a_plain_transport_queues_what_the_send_buffer_does_not_take() -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        receiver = await bound("192.0.2.1", 7, Collector)
        loop.network.client.limit_sending(2, 10.0)  # type: ignore[attr-defined]
        sender = await probe()
        transport = sender.transport
        transport.set_write_buffer_limits(high=3, low=1)
        assert transport.get_write_buffer_limits() == (1, 3)
        for n in range(8):
            transport.sendto(b"%d" % n, ("192.0.2.1", 7))
        assert transport.get_write_buffer_size() == 6
        assert sender.calls == ["made", "pause"]
        transport.close()  # what is queued leaves still
        assert transport.is_closing()
        await asyncio.sleep(5)
        assert sender.calls == ["made", "pause", "lost"]
        return receiver.data

    assert simulated(main)[0] == [b"%d" % n for n in range(8)]


def test_aborting_loses_what_is_queued() -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        receiver = await bound("192.0.2.1", 7, Collector)
        loop.network.client.limit_sending(1, 10.0)  # type: ignore[attr-defined]
        sender = await probe()
        for n in range(3):
            sender.transport.sendto(b"%d" % n, ("192.0.2.1", 7))
        sender.transport.abort()
        sender.transport.sendto(b"after", ("192.0.2.1", 7))
        await asyncio.sleep(5)
        return receiver.data, sender.calls

    assert simulated(main)[0] == ([b"0"], ["made", "lost"])
    with Simulation() as sim, pytest.raises(ValueError, match="positive"):
        sim.client.limit_sending(0, 1.0)


def test_connected_transports_hear_one_peer_and_its_errors() -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        await bound("192.0.2.1", 7)
        stranger = await bound("192.0.2.2", 7, Collector)
        transport, client = await loop.create_datagram_endpoint(Collector, remote_addr=("192.0.2.1", 7))
        assert transport.get_extra_info("peername") == ("192.0.2.1", 7)
        assert transport.get_extra_info("sockname")[0] == "198.51.100.1"
        sock = transport.get_extra_info("socket")
        assert sock.getpeername() == ("192.0.2.1", 7)
        transport.sendto(b"x")
        transport.sendto(b"y", ("192.0.2.1", 7))
        stranger.transport.sendto(b"forged", sock.getsockname())
        with pytest.raises(ValueError, match="must be None or"):
            transport.sendto(b"z", ("192.0.2.2", 7))
        await asyncio.sleep(1)
        dead, other = await loop.create_datagram_endpoint(Collector, remote_addr=("192.0.2.1", 8))
        dead.sendto(b"x")
        await asyncio.sleep(1)
        return client.data, client.errors, [type(error) for error in other.errors]

    assert simulated(main)[0] == ([b"x", b"y"], [], [ConnectionRefusedError])


def test_sockets_tell_what_real_ones_do() -> None:
    with Simulation() as sim:
        sock = sim.client.bind(("0.0.0.0", 0), socket.AF_INET)
        assert (sock.fileno(), sock.family, sock.getsockname()[0]) == (-1, socket.AF_INET, "0.0.0.0")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 4 << 20
        for wrong in (lambda: sock.getpeername(), lambda: sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)):
            with pytest.raises(OSError):
                wrong()
        with pytest.raises(OSError, match="family"):
            sim.client.bind(("::", 0), socket.AF_INET)
        sock.close()
        sock.close()
        assert "closed" in repr(sock)
        assert "198.51.100.1" in repr(sim.client)


# --------------------------------------------------------------------------------------------------- what goes wrong


def test_sending_fails_as_the_operating_system_would() -> None:
    async def main() -> Any:
        network = asyncio.get_running_loop().network  # type: ignore[attr-defined]
        network.link("any", "192.0.2.3", send_error=errno.ENETUNREACH)
        await bound("192.0.2.1", 7)
        async with udpguard.open_endpoint() as endpoint:
            with pytest.raises(udpguard.PeerUnreachableError) as caught:
                await endpoint.request(("192.0.2.3", 7), b"x")
            assert caught.value.errno == errno.ENETUNREACH
            assert await endpoint.request(("192.0.2.1", 7), b"x") == b"x"
            with pytest.raises(udpguard.DatagramTooLargeError):
                await endpoint.request(("192.0.2.1", 7), bytes(65_508))
        sender = await probe()
        sender.transport.sendto(bytes(65_508), ("192.0.2.1", 7))
        with pytest.raises(udpguard.InvalidAddressError):
            sender.transport.sendto(b"x", ("server.example", 7))
        with pytest.raises(udpguard.InvalidAddressError):
            sender.transport.sendto(b"x", ("::1", 7))
        return [error.errno for error in sender.errors]

    codes, trace = simulated(main)
    assert codes == [errno.EMSGSIZE]
    assert trace.count("failed") > 0


class Told(Collector):
    """Hears of ICMP as udpguard's own protocol does."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[NetworkError] = []

    def errors_received(self, errors: Any) -> None:
        self.told += errors


def icmp_of(main: Any, **conditions: Any) -> list[NetworkError]:
    async def told() -> list[NetworkError]:
        receiver = await bound("198.51.100.1", 5_000, Told)
        receiver6 = await bound("2001:db8:ffff::1", 5_000, Told)
        await main(receiver.transport, receiver6.transport)
        await asyncio.sleep(60)
        assert isinstance(receiver, Told)
        assert isinstance(receiver6, Told)
        return receiver.told + receiver6.told

    found: list[NetworkError] = simulated(told, **conditions)[0]
    return found


async def ask_the_dead(four: Any, six: Any) -> None:
    network = asyncio.get_running_loop().network  # type: ignore[attr-defined]
    network.host("192.0.2.1", "2001:db8::1")
    four.sendto(b"question" * 100, ("192.0.2.1", 7))
    six.sendto(b"question", ("2001:db8::1", 7))
    four.sendto(b"nobody", ("192.0.2.9", 7))
    six.sendto(b"nobody", ("2001:db8::9", 7))


def test_who_asks_where_nobody_listens_is_told() -> None:
    told = icmp_of(ask_the_dead)
    assert [(e.errno, e.origin, e.type, e.code) for e in told] == [
        (errno.ECONNREFUSED, ICMP, 3, 3),
        (errno.ECONNREFUSED, ICMP6, 1, 4),
    ]
    assert told[0].quote == (b"question" * 100)[:520]
    assert told[0].wire == bytes((0, 7, 192, 0, 2, 1))
    assert told[0].offender == bytes((0, 0, 192, 0, 2, 1))


def test_unreachable_hosts_are_told_of_on_demand() -> None:
    told = icmp_of(ask_the_dead, unreachable=True)
    assert [(e.errno, e.type, e.code) for e in told if e.quote == b"nobody"] == [
        (errno.EHOSTUNREACH, 3, 1),
        (errno.EHOSTUNREACH, 1, 3),
    ]


def test_icmp_can_be_turned_off_and_be_lost() -> None:
    assert icmp_of(ask_the_dead, icmp=False) == []

    async def ask_often(four: Any, six: Any) -> None:
        asyncio.get_running_loop().network.host("192.0.2.1")  # type: ignore[attr-defined]
        for _ in range(1_000):
            four.sendto(b"x", ("192.0.2.1", 7))

    assert_within_three_sigma(len(icmp_of(ask_often, loss=0.3)), 1_000, 0.49)


def test_what_is_larger_than_the_mtu_is_lost_and_told_of() -> None:
    async def ask(four: Any, six: Any) -> None:
        await bound("192.0.2.1", 7)
        four.sendto(bytes(1_252), ("192.0.2.1", 7))
        four.sendto(bytes(1_253), ("192.0.2.1", 7))
        six.sendto(bytes(1_233), ("2001:db8::1", 7))

    told = icmp_of(ask, mtu=1_280)
    assert [(e.errno, e.type, e.code, e.mtu) for e in told] == [
        (errno.EMSGSIZE, 3, 4, 1_280),
        (errno.EMSGSIZE, 2, 0, 1_280),
    ]


def test_forged_icmp_says_what_the_forger_likes() -> None:
    async def forge(four: Any, six: Any) -> None:
        network = asyncio.get_running_loop().network  # type: ignore[attr-defined]
        network.inject_icmp(("198.51.100.1", 5_000), ("192.0.2.1", 7), b"guess")
        network.inject_icmp(("198.51.100.1", 5_000), ("192.0.2.1", 7), type=11, code=0, delay=3.0)
        network.inject_icmp(("198.51.100.1", 5_001), ("192.0.2.1", 7))  # nobody's

    assert [(e.errno, e.type, e.quote) for e in icmp_of(forge)] == [
        (errno.ECONNREFUSED, 3, b"guess"),
        (errno.EHOSTUNREACH, 11, b""),
    ]


def test_a_guess_at_the_source_is_as_good_as_the_source() -> None:
    async def main() -> Any:
        network = asyncio.get_running_loop().network  # type: ignore[attr-defined]
        receiver = await probe()
        network.inject(b"forged", ("192.0.2.1", 53), receiver.transport.get_extra_info("sockname"), delay=0.5)
        with pytest.raises(udpguard.InvalidAddressError):
            network.inject(b"forged", ("server.example", 53), ("198.51.100.1", 1))
        await asyncio.sleep(1)
        return receiver.got

    assert simulated(main, loss=1.0)[0] == [(0.5, b"forged", ("192.0.2.1", 53))]


def test_hosts_are_made_once_and_own_their_addresses() -> None:
    network = Network()
    host = network.host("192.0.2.1")
    assert network.host("192.0.2.1", "192.0.2.2") is host is network.host("192.0.2.2")
    assert host.addresses == ("192.0.2.1", "192.0.2.2")
    network.host("192.0.2.3")
    for wrong in (("192.0.2.1", "192.0.2.3"), (), ("server.example",), ("0.0.0.0",), ("127.0.0.1",), ("224.0.0.1",)):
        with pytest.raises(ValueError):
            network.host(*wrong)


def test_an_exception_in_one_datagram_costs_no_other() -> None:
    class Fails(Collector):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            if data == b"bad":
                raise LookupError

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        contexts: list[Any] = []
        loop.set_exception_handler(lambda _, context: contexts.append(context))
        receiver = await bound("192.0.2.1", 7, Fails)
        sender = await probe()
        for data in (b"bad", b"good"):
            sender.transport.sendto(data, ("192.0.2.1", 7))
        await asyncio.sleep(1)
        return receiver.data, [type(context["exception"]) for context in contexts]

    assert simulated(main)[0] == ([b"bad", b"good"], [LookupError])


def test_what_comes_before_a_transport_is_there_waits_for_it() -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        host = loop.network.host("192.0.2.1")  # type: ignore[attr-defined]
        sock = host.bind(("192.0.2.1", 7), socket.AF_INET)
        (await probe()).transport.sendto(b"early", ("192.0.2.1", 7))
        await asyncio.sleep(1)
        receiver = Collector()
        host.channel(loop, sock, receiver)
        await asyncio.sleep(0.1)
        return receiver.data

    assert simulated(main)[0] == [b"early"]


def test_names_serve_for_binding_and_for_connecting() -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        loop.network.name("server.example", "192.0.2.1")  # type: ignore[attr-defined]
        loop.network.host("192.0.2.1")  # type: ignore[attr-defined]
        await loop.create_datagram_endpoint(Echo, local_addr=("server.example", 7))
        transport, client = await loop.create_datagram_endpoint(Collector, remote_addr=("server.example", 7))
        transport.sendto(b"x")
        await asyncio.sleep(1)
        with pytest.raises(socket.gaierror):
            await loop.create_datagram_endpoint(Echo, local_addr=("nobody.example", 7))
        return client.data

    assert simulated(main)[0] == [b"x"]


@pytest.mark.parametrize("burst", [63, 64, 65, 256, 1_000])
def test_a_burst_is_read_to_its_end(burst: int) -> None:
    async def main() -> Any:
        network = asyncio.get_running_loop().network  # type: ignore[attr-defined]
        async with udpguard.open_endpoint(("198.51.100.1", 4_000)) as endpoint:
            for _ in range(burst):
                network.inject(b"junk", ("203.0.113.1", 9), ("198.51.100.1", 4_000), delay=0.5)
            await asyncio.sleep(0.6)
            return endpoint.statistics().unknown_peer

    assert simulated(main)[0] == burst


@pytest.mark.parametrize("junk", [0, 100, 2_000])
def test_a_reply_behind_junk_is_in_time_however_late_the_loop_reads_it(junk: int) -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        network = loop.network  # type: ignore[attr-defined]
        network.host("192.0.2.1").bind(("192.0.2.1", 7), socket.AF_INET)
        async with udpguard.open_endpoint(("198.51.100.1", 4_000)) as endpoint:
            asked = asyncio.ensure_future(endpoint.exchange(("192.0.2.1", 7), b"x", timeout=1.0))
            late = asyncio.ensure_future(endpoint.exchange(("192.0.2.1", 8), b"x", timeout=1.0))
            await asyncio.sleep(0)
            for _ in range(junk):
                network.inject(b"junk", ("203.0.113.1", 9), ("198.51.100.1", 4_000), delay=0.9)
            network.inject(b"in time", ("192.0.2.1", 7), ("198.51.100.1", 4_000), delay=0.95)
            network.inject(b"too late", ("192.0.2.1", 8), ("198.51.100.1", 4_000), delay=1.05)
            await asyncio.sleep(0.5)
            loop.block(1.0)  # type: ignore[attr-defined]
            reply = await asked
            with pytest.raises(udpguard.UdpGuardError):
                await late
            return reply.data, reply.rtt

    data, rtt = simulated(main, icmp=False)[0]
    assert data == b"in time"
    assert rtt == pytest.approx(0.95)


def test_retransmission_succeeds_as_often_as_the_odds_say() -> None:
    async def main() -> int:
        await bound("192.0.2.1", 7)
        ids = udpguard.TransactionId(0, 2, assign=True)
        async with udpguard.open_endpoint(correlate=ids, retry=udpguard.Retry(attempts=3)) as endpoint:
            asked = (endpoint.request(("192.0.2.1", 7), b"\0\0") for _ in range(300))
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
            return sum(isinstance(outcome, bytes) for outcome in outcomes)

    answered = sum(simulated(main, seed, loss=0.3)[0] for seed in range(10))
    assert_within_three_sigma(answered, 3_000, 1 - (1 - 0.7**2) ** 3)
