"""The BPF programs: what they let in, by the rules of a machine written down here. No socket takes part."""

from __future__ import annotations

import ipaddress
import random
import struct
from typing import Any

import pytest
from bpf_machine import packet, verdict
from hypothesis import given
from hypothesis import strategies as st

from udpguard._platform.bpf import INSTRUCTION, MOST_INSTRUCTIONS, PASS, BloomProgram, Hears, Secret, list_program

IPV4 = Hears(ipv4=True, ipv6=False)
IPV6 = Hears(ipv4=False, ipv6=True)
BOTH = Hears(ipv4=True, ipv6=True)
MAPPED = bytes(10) + b"\xff\xff"

ports = st.integers(0, 65_535)
# Close to each other, and all over the place: neighbours are where a search tree errs.
hosts4 = st.one_of(st.binary(min_size=4, max_size=4), st.integers(0, 40).map(lambda i: bytes((10, 0, 0, i))))
hosts6 = st.one_of(
    st.binary(min_size=16, max_size=16), st.integers(0, 40).map(lambda i: b"\x20\x01\x0d\xb8" + bytes(11) + bytes((i,)))
).filter(lambda host: host[:12] != MAPPED)
peers = st.tuples(st.one_of(hosts4, hosts6), ports)
secrets = st.integers(0, 2**32).map(lambda seed: Secret(random.Random(seed).getrandbits))


def print_of(secret: Secret, peer: tuple[bytes, int]) -> int:
    return secret.peer(secret.host(peer[0]), peer[1])


def lets_in(program: bytes | bytearray, peer: tuple[bytes, int]) -> bool:
    found = verdict(program, *packet(*peer))
    assert found in (0, PASS)
    return found == PASS


@given(secrets, st.sets(peers, max_size=120), st.lists(peers, max_size=40))
def test_a_list_lets_in_its_members_and_nobody_else(
    secret: Secret, members: set[tuple[bytes, int]], others: list[tuple[bytes, int]]
) -> None:
    program = list_program(secret, BOTH, [], [], [print_of(secret, peer) for peer in members])
    neighbours = [(host, port ^ 1) for host, port in members]
    for peer in [*members, *others, *neighbours]:
        assert lets_in(program, peer) is (peer in members)


@given(secrets, st.sets(st.one_of(hosts4, hosts6), max_size=60), st.sets(peers, max_size=30), st.lists(peers))
def test_of_a_listed_host_any_port_is_let_in(
    secret: Secret, hosts: set[bytes], members: set[tuple[bytes, int]], others: list[tuple[bytes, int]]
) -> None:
    program = list_program(
        secret, BOTH, [], [secret.host(host) for host in hosts], [print_of(secret, peer) for peer in members]
    )
    for peer in [*members, *others, *[(host, 12_345) for host in hosts]]:
        assert lets_in(program, peer) is (peer in members or peer[0] in hosts)


@st.composite
def networks(draw: Any) -> Any:
    host = draw(st.one_of(hosts4, hosts6))
    length = draw(st.integers(0, len(host) * 8 - 1))
    return ipaddress.ip_network((host, length), strict=False)


@given(secrets, st.lists(networks(), max_size=20), st.lists(peers, max_size=30), st.data())
def test_what_is_in_a_network_is_let_in(secret: Secret, nets: list[Any], others: Any, data: Any) -> None:
    tokens = [(net.prefixlen, net.network_address.packed) for net in nets]
    program = list_program(secret, BOTH, tokens, [], [])
    inside = [
        ((int(net.network_address) | data.draw(st.integers(0, int(net.hostmask)))).to_bytes(net.max_prefixlen // 8), 9)
        for net in nets
    ]
    for host, port in [*others, *inside]:
        address = ipaddress.ip_address(host)
        wanted = any(address in net for net in nets if net.version == address.version)
        assert lets_in(program, (host, port)) is wanted


@given(secrets, st.sets(peers, min_size=1, max_size=300), st.sampled_from([64, 128, 256]), st.booleans())
def test_a_bloom_filter_never_stops_a_member(
    secret: Secret, members: set[tuple[bytes, int]], words: int, by_host: bool
) -> None:
    bloom = BloomProgram(secret, BOTH, [], [], words, by_host=by_host)
    for peer in members:  # one by one, as they come
        bloom.add([secret.host(peer[0]) if by_host else print_of(secret, peer)])
    program = bytes(bloom.program)
    for host, port in members:
        assert lets_in(program, (host, port))
        assert lets_in(program, (host, port ^ 0xFFFF)) or not by_host


@pytest.mark.parametrize(("hears", "sizes"), [(IPV4, (4,)), (IPV6, (16,)), (BOTH, (4, 16))])
@pytest.mark.parametrize("words", [64, 1_024])
def test_few_strangers_pass_a_bloom_filter(hears: Hears, sizes: tuple[int, ...], words: int) -> None:
    rng = random.Random(6)
    secret = Secret(rng.getrandbits)
    bloom = BloomProgram(secret, hears, [], [secret.host(bytes((10, 9, 8, 7)))], words, by_host=False)
    # As addresses are: one after the other, on one port.
    members = [
        ((0x7F010001 + i).to_bytes(4) if size == 4 else (0x2001_0DB8 << 96 | i).to_bytes(16), 53)
        for i in range(words * 2)
        for size in (sizes[i % len(sizes)],)
    ]
    bloom.add(print_of(secret, peer) for peer in members)
    program = bytes(bloom.program)
    assert len(program) // INSTRUCTION <= MOST_INSTRUCTIONS
    assert all(lets_in(program, peer) for peer in members[::7])
    strangers = [
        ((0x7FC80001 + i).to_bytes(4) if size == 4 else (0x2001_0DB9 << 96 | i).to_bytes(16), 53)
        for i in range(3_000)
        for size in (sizes[i % len(sizes)],)
    ]
    passed = sum(lets_in(program, peer) for peer in strangers)
    assert passed / len(strangers) < 0.04
    if 4 in sizes:
        assert lets_in(program, (bytes((10, 9, 8, 7)), 1))


def test_a_mapped_address_has_the_print_of_its_ipv4_peer() -> None:
    secret = Secret(random.Random(1).getrandbits)
    assert secret.host(MAPPED + bytes((192, 0, 2, 1))) == secret.host(bytes((192, 0, 2, 1)))


def test_what_is_too_short_to_have_a_source_is_stopped() -> None:
    secret = Secret(random.Random(1).getrandbits)
    host = bytes((192, 0, 2, 1))
    program = list_program(secret, BOTH, [], [], [print_of(secret, (host, 53))])
    transport, network = packet(host, 53)
    assert verdict(program, transport, network) == PASS
    assert verdict(program, transport, network[:15]) == 0
    assert verdict(program, transport[:1], network) == 0
    assert verdict(program, transport, b"") == 0


def test_prints_spread_over_all_bits() -> None:
    """What picks a word, and what picks the bits in it, is even for addresses one after the other."""
    secret = Secret(random.Random(3).getrandbits)
    prints = [print_of(secret, ((0x0A000000 + i).to_bytes(4), 161)) for i in range(65_536)]
    assert len(set(prints)) > 65_536 - 40  # by chance half a pair is the same
    for begin, width in ((22, 10), (0, 5), (5, 5), (10, 5)):
        counts = [0] * (1 << width)
        for one in prints:
            counts[one >> begin & (1 << width) - 1] += 1
        mean = 65_536 / len(counts)
        chi = sum((count - mean) ** 2 / mean for count in counts) / (len(counts) - 1)
        assert 0.2 < chi < 2.0, (begin, chi)


def test_the_machine_refuses_what_the_kernel_refuses() -> None:
    loads_what_was_never_stored = struct.pack("=HBBIHBBI", 0x60, 0, 0, 3, 0x06, 0, 0, 0)
    with pytest.raises(AssertionError, match="never stored"):
        verdict(loads_what_was_never_stored, b"", b"")
    with pytest.raises(AssertionError, match="past its end"):
        verdict(struct.pack("=HBBIHBBI", 0x05, 0, 0, 3, 0x06, 0, 0, 0), b"", b"")
