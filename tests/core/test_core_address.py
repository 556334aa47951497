"""Addresses: one canonical form for all the ways to write them, and a clear refusal of the rest."""

from __future__ import annotations

import ast
import ipaddress
import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udpguard import InvalidAddressError, Peer
from udpguard.core import address as address_module
from udpguard.core.address import (
    HostName,
    covers,
    has_scope,
    host_token,
    is_limited_broadcast,
    is_multicast,
    is_unscoped_link_local,
    known_wire,
    mapped_sockaddr_of,
    network_tokens,
    parse,
    peer_of,
    plain_tokens,
    refusal_to_ask,
    refusal_to_send,
    sockaddr_of,
    wire_of,
    wire_of_source,
    without_scope,
)
from udpguard.core.meant import suggestion


def interfaces(name: str) -> int:
    """A machine with two interfaces, and the faults of `if_nametoindex`."""
    if "\0" in name:
        raise ValueError("embedded null character")
    try:
        return {"eth0": 2, "lo": 1}[name]
    except KeyError:
        raise OSError(f"no interface with this name: {name}") from None


def peer(address: object) -> Peer:
    wire = parse(address, interfaces)
    assert isinstance(wire, bytes), f"{address!r} was taken for a name"
    return peer_of(wire)


# ------------------------------------------------------------------------------------------------ one form


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        (("127.0.0.1", 7), ("127.0.0.1", 7)),
        (("192.0.2.1", 65535), ("192.0.2.1", 65535)),
        (("::1", 7), ("::1", 7)),
        (("0:0:0:0:0:0:0:1", 7), ("::1", 7)),
        (("0000::0001", 7), ("::1", 7)),
        (("2001:DB8::ABCD", 7), ("2001:db8::abcd", 7)),
        (("2001:db8:0:0:1:0:0:1", 7), ("2001:db8::1:0:0:1", 7)),
        (("::ffff:127.0.0.1", 7), ("127.0.0.1", 7)),
        (("::FFFF:7f00:1", 7), ("127.0.0.1", 7)),
        (("::ffff:127.0.0.1%2", 7), ("127.0.0.1", 7)),
        (("::ffff:127.0.0.1", 7, 0, 3), ("127.0.0.1", 7)),
        (("fe80::1", 7), ("fe80::1", 7)),
        (("fe80::1%2", 7), ("fe80::1%2", 7)),
        (("fe80::1%eth0", 7), ("fe80::1%2", 7)),
        (("FE80::1%eth0", 7), ("fe80::1%2", 7)),
        (("fe80::1", 7, 0, 2), ("fe80::1%2", 7)),
        (("fe80::1%eth0", 7, 0, 2), ("fe80::1%2", 7)),
        (("fe80::1%2", 7, 0, 0), ("fe80::1%2", 7)),
        (("febf::1", 7, 0, 4294967295), ("febf::1%4294967295", 7)),
        (("ff02::1%eth0", 7), ("ff02::1%2", 7)),
        (("ff01::1", 7, 0, 3), ("ff01::1%3", 7)),
        (("ff05::1", 7, 0, 3), ("ff05::1", 7)),
        (("2001:db8::1", 7, 0, 3), ("2001:db8::1", 7)),
        (("2001:db8::1%lo", 7), ("2001:db8::1", 7)),
        (("::1", 7, 12345, 0), ("::1", 7)),
        (("192.0.2.1", 7, 0, 0), ("192.0.2.1", 7)),
        (Peer("fe80::1%2", 7), ("fe80::1%2", 7)),
    ],
)
def test_all_ways_to_write_a_literal_give_one_peer(written: object, canonical: tuple[str, int]) -> None:
    assert peer(written) == canonical
    assert peer(peer(written)) == canonical
    assert peer(peer(written).sockaddr) == canonical


@pytest.mark.parametrize(
    ("host", "kept"),
    [
        ("localhost", "localhost"),
        ("Example.COM", "Example.COM"),
        ("example.com.", "example.com."),
        ("_service._udp.example", "_service._udp.example"),
        ("bücher.example", "bücher.example"),
        ("1.2.3", "1.2.3"),
        ("256.256.256.256", "256.256.256.256"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
        (".".join(["a" * 49] * 5) + ".abc", ".".join(["a" * 49] * 5) + ".abc"),
    ],
)
def test_names_are_left_to_the_resolver(host: str, kept: str) -> None:
    name = parse((host, 53), interfaces)
    assert name == HostName(kept, 53)
    assert isinstance(name, HostName)
    assert str(name) == f"{kept}:53"


def test_a_name_of_full_length_may_end_in_a_dot() -> None:
    # 253 characters are what 255 bytes on the wire hold (RFC 1035 section 3.1); the dot of the root adds none.
    host = ".".join(["a" * 61] * 4) + ".abcde."
    assert len(host) == 254
    assert parse((host, 53), interfaces) == HostName(host, 53)
    assert parse(("a." * 127, 53), interfaces) == HostName("a." * 127, 53)


# --------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("192.0.2.1", "'192.0.2.1' is not an address: pass ('192.0.2.1', port)"),
        ("192.0.2.1:7", "pass ('192.0.2.1', 7)"),
        ("example.com", "pass ('example.com', port)"),
        ("::1", "pass ('::1', port)"),
        ("[::1]:7", "pass ('::1', 7)"),
        ("udp://192.0.2.1:7/", "pass ('192.0.2.1', 7)"),
        ("ask me", "pass (host, port)"),
        (["192.0.2.1", 7], "pass ('192.0.2.1', 7)"),
        (["192.0.2.1", "7"], "pass ('192.0.2.1', 7)"),
        ([], "pass (host, port)"),
        ((), "pass (host, port)"),
        ([("192.0.2.1", 7)], "is a list: one address is wanted here, such as ('192.0.2.1', 7)"),
        ((("192.0.2.1", 7),), "one address is wanted here"),
        ({"host": "192.0.2.1"}, "pass (host, port)"),
        (("192.0.2.1",), "pass ('192.0.2.1', port)"),
        (("::1", 7, 0), "pass (host, port)"),
        (("::1", 7, 0, 0, 0), "pass (host, port)"),
        (None, "pass (host, port)"),
        ((b"192.0.2.1", 7), "must be a str, not bytes: pass ('192.0.2.1', 7)"),
        ((7, "192.0.2.1"), "must be a str, not int: pass ('192.0.2.1', 7)"),
        ((7, 7), "must be a str, not int"),
        ((None, 7), "must be a str, not NoneType"),
        ((ipaddress.ip_address("192.0.2.1"), 7), "must be a str, not IPv4Address"),
        (("192.0.2.1", "53"), "pass 53, not '53'"),
        (("192.0.2.1", "domain"), "must be an int, not str: socket.getservbyname('domain', 'udp') looks a service up"),
        (("192.0.2.1", "5 3"), "must be an int, not str"),
        (("192.0.2.1", 53.0), "must be an int, not float"),
        (("192.0.2.1", True), "must be an int, not bool"),
        (("192.0.2.1", None), "must be an int, not NoneType"),
        (("192.0.2.1", 0), "port 0 in"),
        (("192.0.2.1", -1), "port -1 in"),
        (("192.0.2.1", 65_536), "port 65536 in"),
        (("192.0.2.1", 70_000), "a port is 1 to 65535"),
        (("::1", 7, 0, -1), "not an IPv6 socket address"),
        (("::1", 7, 0, 2**32), "not an IPv6 socket address"),
        (("::1", 7, None, 0), "not an IPv6 socket address"),
        (("::1", 7, 0, "eth0"), "not an IPv6 socket address"),
        (("192.0.2.1", 7, 0, 2), "has a scope, but '192.0.2.1' is no IPv6 literal"),
        (("example.com", 7, 0, 2), "has a scope"),
        (("[::1]", 7), "write it without brackets, pass ('::1', 7)"),
        (("[::1]:9", 7), "write it without brackets, pass ('::1', 7)"),
        (("[fe80::1%eth0]", 7), "write it without brackets, pass ('fe80::1%eth0', 7)"),
        (("192.0.2.1:53", 7), "the port goes beside the host, pass ('192.0.2.1', 7)"),
        (("example.com:53", 7), "the port goes beside the host, pass ('example.com', 7)"),
        (("udp://192.0.2.1:53", 7), "is a URL, not a host: pass ('192.0.2.1', 7)"),
        (("http://me@example.com/x", 7), "is a URL, not a host: pass ('example.com', 7)"),
        (("http:///x", 7), "is a URL, not a host"),
        (("::1::2", 7), "is not an IPv6 address"),
        (("2001:db8::g", 7), "is not an IPv6 address"),
        (("192.0.2.1%eth0", 7), "is not an IPv6 address"),
        (("example%eth0", 7), "is not an IPv6 address"),
        (("fe80::1%", 7), "has an empty scope"),
        (("fe80::1%wlan0", 7), "no interface 'wlan0'"),
        (("fe80::1%e\0th0", 7), "no interface"),
        (("fe80::1%²", 7), "no interface"),
        (("fe80::1%٢", 7), "no interface"),
        (("fe80::1%" + "9" * 5_000, 7), "no interface"),
        (("fe80::1%0", 7), "contradictory or out of range"),
        (("fe80::1%4294967296", 7), "contradictory or out of range"),
        (("fe80::1%eth0", 7, 0, 3), "contradictory or out of range"),
        (("fe80::1%3", 7, 0, 2), "contradictory or out of range"),
        (("", 7), "the host is empty"),
        ((".", 7), "neither an IP address nor a host name"),
        (("a..b", 7), "neither an IP address nor a host name"),
        ((".a", 7), "neither an IP address nor a host name"),
        (("a..", 7), "neither an IP address nor a host name"),
        (("-a.example", 7), "neither an IP address nor a host name"),
        (("a b", 7), "neither an IP address nor a host name"),
        ((" 192.0.2.1", 7), "nor a host name (in (' 192.0.2.1', 7)): pass ('192.0.2.1', 7)"),
        (("192.0.2.1\n", 7), "pass ('192.0.2.1', 7)"),
        (("user@example", 7), "pass ('example', 7)"),
        (("local\0host", 7), "neither an IP address nor a host name"),
        (("127.0.0.1\0.example", 7), "neither an IP address nor a host name"),
        (("http//example", 7), "neither an IP address nor a host name"),
        (("a\\b", 7), "neither an IP address nor a host name"),
        (("a" * 64, 7), "neither an IP address nor a host name"),
        (("a." * 127 + "a", 7), "neither an IP address nor a host name"),
        (("a." * 126 + "a..", 7), "neither an IP address nor a host name"),
        (("ü" * 64, 7), "is not a host name"),
        (("\ud800", 7), "is not a host name"),
        (("bücher..example", 7), "is not a host name"),
    ],
)
def test_what_is_no_address_is_refused_with_a_hint(address: object, says: str) -> None:
    with pytest.raises(InvalidAddressError) as caught:
        parse(address, interfaces)
    assert says in str(caught.value)
    assert caught.value.address == address


@pytest.mark.parametrize("address", [("a..b", 7), ("-a", 7), ("a" * 64, 7), ("x" * 5_000 + ":7", 7), "é:7:8", 7, None])
def test_nothing_is_advised_that_does_not_help(address: object) -> None:
    with pytest.raises(InvalidAddressError) as caught:
        parse(address, interfaces)
    assert ": pass ('" not in str(caught.value)
    assert ", pass ('" not in str(caught.value)


@given(st.one_of(st.text(), st.binary(), st.tuples(st.text(), st.text()), st.lists(st.text() | st.integers())))
def test_what_is_advised_is_an_address(address: object) -> None:
    meant = suggestion(address)
    if meant is not None:
        parse(ast.literal_eval(meant.replace(", port)", ", 7)")), interfaces)


def test_port_zero_is_for_binding_alone() -> None:
    wire = parse(("127.0.0.1", 0), interfaces, port_zero=True)
    assert isinstance(wire, bytes)
    assert peer_of(wire) == ("127.0.0.1", 0)
    with pytest.raises(InvalidAddressError):
        parse(("127.0.0.1", -1), interfaces, port_zero=True)


class Port(int):
    """An int enough to be one."""


def test_an_integer_of_another_kind_is_a_port() -> None:
    found = peer(("192.0.2.1", Port(53)))
    assert found == ("192.0.2.1", 53)
    assert type(found.port) is int


# ------------------------------------------------------------------------------------------------- properties


hosts = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.ip_addresses(v=6).map(lambda address: address.exploded.upper()),
    st.ip_addresses(v=4).map(lambda address: f"::ffff:{address}"),
    st.tuples(st.ip_addresses(network="fe80::/64"), st.integers(1, 2**32 - 1)).map(lambda both: f"{both[0]}%{both[1]}"),
)
ports = st.integers(1, 65_535)


@given(hosts, ports)
def test_the_canonical_form_is_one(host: str, port: int) -> None:
    found = peer((host, port))
    assert found == peer(found) == peer(found.sockaddr)
    assert found == (found.host, found.port)
    assert hash(found) == hash((found.host, found.port))
    wanted = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(wanted, ipaddress.IPv6Address) and wanted.ipv4_mapped is not None:
        wanted = wanted.ipv4_mapped
    assert found.host.partition("%") == (str(wanted), *host.partition("%")[1:])
    assert found.port == port


@given(st.ip_addresses(), ports, st.integers(0, 2**32 - 1))
def test_what_comes_from_a_socket_is_the_same_peer(address: object, port: int, scope: int) -> None:
    text = str(address)
    ours = parse((text, port) if ":" not in text else (text, port, 0, scope), interfaces)
    assert wire_of_source(text, port, scope if ":" in text else 0) == ours


def test_the_kernels_bytes_are_the_wire() -> None:
    # sockaddr_in and sockaddr_in6 behind their family: port, (flow label,) address, (scope).
    ipv4 = (7).to_bytes(2, "big") + socket.inet_aton("192.0.2.1")
    ipv6 = (7).to_bytes(2, "big") + bytes(4) + socket.inet_pton(socket.AF_INET6, "fe80::1")
    assert parse(("192.0.2.1", 7), interfaces) == ipv4
    assert parse(("fe80::1%2", 7), interfaces) == ipv6 + (2).to_bytes(4, sys.byteorder)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (("127.0.0.1", 7), "127.0.0.1:7"),
        (("fe80::1%2", 7), "[fe80::1%2]:7"),
        (("fe80::1%eth0", 7, 2), "[fe80::1%2]:7"),
        (("fe80::1%eth0", 7), "[fe80::1]:7"),
        (("::ffff:192.0.2.1", 7), "192.0.2.1:7"),
        (("2001:db8::1", 7, 5), "[2001:db8::1]:7"),
    ],
)
def test_sources_as_loops_write_them(source: tuple[str, int], found: str) -> None:
    assert str(peer_of(wire_of_source(*source))) == found


def test_socket_addresses() -> None:
    assert sockaddr_of(wire_of_source("192.0.2.1", 7)) == ("192.0.2.1", 7)
    assert sockaddr_of(wire_of_source("fe80::1", 7, 2)) == ("fe80::1", 7, 0, 2)
    assert sockaddr_of(wire_of_source("::1", 7)) == ("::1", 7, 0, 0)
    assert mapped_sockaddr_of(wire_of_source("192.0.2.1", 7)) == ("::ffff:192.0.2.1", 7, 0, 0)
    assert mapped_sockaddr_of(wire_of_source("fe80::1", 7, 2)) == ("fe80::1", 7, 0, 2)


# -------------------------------------------------------------------------------------------- what can be asked


@pytest.mark.parametrize(
    ("host", "may_send", "may_ask"),
    [
        ("192.0.2.1", True, True),
        ("127.0.0.1", True, True),
        ("2001:db8::1", True, True),
        ("fe80::1", True, True),
        ("0.0.0.0", False, False),
        ("::", False, False),
        ("::ffff:0.0.0.0", False, False),
        ("255.255.255.255", True, False),
        ("223.255.255.255", True, True),
        ("224.0.0.1", True, False),
        ("239.255.255.250", True, False),
        ("240.0.0.1", True, True),
        ("192.0.2.255", True, True),
        ("ff02::1", True, False),
        ("ff0e::1", True, False),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", True, False),
    ],
)
def test_who_can_be_sent_to_and_who_can_be_asked(host: str, may_send: bool, may_ask: bool) -> None:
    wire = parse((host, 7), interfaces)
    assert isinstance(wire, bytes)
    assert (refusal_to_send(wire) is None) == may_send
    assert (refusal_to_ask(wire) is None) == may_ask
    assert (known_wire((host, 7)) == wire) == may_ask
    if not may_ask:
        assert known_wire((host, 7)) is None
        assert host.removeprefix("::ffff:") in str(refusal_to_ask(wire))


@pytest.mark.parametrize(
    ("host", "port"), [("fe80::1%2", 7), ("a..b", 7), ("name", 7), (None, 7), ("::1", 0), ("::1", "7"), ("::1", True)]
)
def test_what_needs_a_closer_look_is_not_asked_the_short_way(host: object, port: object) -> None:
    assert known_wire((host, port)) is None


def test_kinds_of_addresses() -> None:
    def wire(host: str) -> bytes:
        found = parse((host, 7), interfaces)
        assert isinstance(found, bytes)
        return found

    assert is_limited_broadcast(wire("255.255.255.255"))
    assert not is_limited_broadcast(wire("192.0.2.255"))
    assert is_multicast(wire("224.0.0.1"))
    assert not is_multicast(wire("192.0.2.1"))
    assert is_unscoped_link_local(wire("fe80::1"))
    assert is_unscoped_link_local(wire("ff02::1"))
    assert not is_unscoped_link_local(wire("fe80::1%2"))
    assert not is_unscoped_link_local(wire("2001:db8::1"))
    assert not is_unscoped_link_local(wire("169.254.0.1"))
    assert has_scope(wire("fe80::1%2"))
    assert not has_scope(wire("fe80::1"))
    assert not has_scope(wire("192.0.2.1"))
    assert without_scope(wire("fe80::1%2")) == wire("fe80::1")
    assert without_scope(host_token(wire("fe80::1%2"))) == host_token(wire("fe80::1"))


@given(st.ip_addresses(), st.integers(0, 128))
def test_networks_hold_who_ipaddress_says(address: object, length: int) -> None:
    assert isinstance(address, (ipaddress.IPv4Address, ipaddress.IPv6Address))
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    length = min(length, address.max_prefixlen)
    network = ipaddress.ip_network((address, length), strict=False)
    assert network_tokens(wire_of(address.packed, 7), [length]) == [(length, network.network_address.packed)]


networks = st.one_of(
    st.tuples(st.ip_addresses(network="192.0.2.0/28"), st.integers(0, 32)),
    st.tuples(st.sampled_from([ipaddress.ip_address("2001:db8::1"), ipaddress.ip_address("::")]), st.integers(0, 128)),
).map(lambda both: ipaddress.ip_network(both, strict=False))
members = st.ip_addresses(network="192.0.2.0/28") | st.ip_addresses(network="2001:db8::/126")


@given(networks, members)
def test_a_network_covers_who_ipaddress_says(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network, address: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> None:
    token = (network.prefixlen, network.network_address.packed)
    assert covers(token, wire_of(address.packed, 7)) == (address in network)


def test_the_plain_tokens_of_a_peer() -> None:
    # On its own link and on any: the same for IPv4, which knows no links.
    wire, host = wire_of_source("192.0.2.1", 7), b"\xc0\0\2\1"
    assert plain_tokens(wire) == (wire, wire, host, host)
    scoped, unscoped = wire_of_source("fe80::1", 7, 2), wire_of_source("fe80::1", 7)
    assert plain_tokens(scoped) == (scoped, unscoped, host_token(scoped), host_token(unscoped))
    assert len(set(plain_tokens(scoped))) == 4


def test_a_peer_reads_well() -> None:
    assert str(Peer("192.0.2.1", 53)) == "192.0.2.1:53"
    assert str(Peer("2001:db8::1", 53)) == "[2001:db8::1]:53"
    assert Peer("192.0.2.1", 53).sockaddr == ("192.0.2.1", 53)
    assert Peer("2001:db8::1", 53).sockaddr == ("2001:db8::1", 53, 0, 0)
    assert Peer("fe80::1%2", 53).sockaddr == ("fe80::1", 53, 0, 2)
    assert Peer("::1", 53) == ("::1", 53)


def test_the_wires_that_are_known_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_module, "_MOST_WIRES", 10)
    monkeypatch.setattr(address_module, "known_wires", {})
    for number in range(1, 100):
        assert known_wire((f"192.0.2.{number}", 7)) == wire_of_source(f"192.0.2.{number}", 7)
        assert len(address_module.known_wires) <= 10
