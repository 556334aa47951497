"""Where replies may come from: `reply_from` in all its forms."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udpguard import InvalidAddressError, Peer
from udpguard.core.address import ANYWHERE, Sources, Token, host_token, wire_of_source
from udpguard.core.shapes import Shapes, is_wide

ASKED = wire_of_source("192.0.2.1", 7)
LINK = wire_of_source("fe80::1", 7, 2)


def interfaces(name: str) -> int:
    if name != "eth0":
        raise OSError(name)
    return 2


def tokens(reply_from: Any, asked: bytes = ASKED) -> tuple[Token, ...]:
    return Sources(reply_from, interfaces).tokens(asked)


@pytest.mark.parametrize(
    ("reply_from", "wanted"),
    [
        ("peer", (ASKED,)),
        ("host", (b"\xc0\0\2\1",)),
        ("anywhere", (ANYWHERE,)),
        (("192.0.2.9", 161), (wire_of_source("192.0.2.9", 161),)),
        (Peer("192.0.2.9", 161), (wire_of_source("192.0.2.9", 161),)),
        (("fe80::1", 7, 0, 2), (LINK,)),
        (("fe80::1%eth0", 7), (LINK,)),
        ("192.0.2.0/24", ((24, b"\xc0\0\2\0"),)),
        ("0.0.0.0/0", ((0, bytes(4)),)),
        ("::/0", ((0, bytes(16)),)),
        (ipaddress.ip_network("192.0.2.0/24"), ((24, b"\xc0\0\2\0"),)),
        (ipaddress.ip_network("2001:db8::/32"), ((32, b"\x20\x01\x0d\xb8" + bytes(12)),)),
        ("192.0.2.9", (b"\xc0\0\2\x09",)),
        ("192.0.2.9/32", (b"\xc0\0\2\x09",)),
        (ipaddress.ip_address("192.0.2.9"), (b"\xc0\0\2\x09",)),
        ("2001:db8::1", (host_token(wire_of_source("2001:db8::1", 1)),)),
        ("fe80::1", (host_token(wire_of_source("fe80::1", 1)),)),
        ("fe80::1%eth0", (host_token(LINK),)),
        ("fe80::1%2", (host_token(LINK),)),
        ("::ffff:192.0.2.0/120", ((24, b"\xc0\0\2\0"),)),
        ("::ffff:192.0.2.9", (b"\xc0\0\2\x09",)),
        ("::ffff:0:0/96", ((0, bytes(4)),)),
        (["peer"], (ASKED,)),
        (("peer", "host"), (ASKED, b"\xc0\0\2\1")),
        (["host", "peer"], (ASKED, b"\xc0\0\2\1")),
        (["peer", ("192.0.2.1", 7)], (ASKED,)),
        (["host", "192.0.2.1/32"], (b"\xc0\0\2\1",)),
        (["peer", "peer", "peer"], (ASKED,)),
        ([("192.0.2.9", 161), ("192.0.2.9", 161)], (wire_of_source("192.0.2.9", 161),)),
        ((("192.0.2.9", 161), ("192.0.2.9", 162)), tuple(wire_of_source("192.0.2.9", port) for port in (161, 162))),
        (["peer", "192.0.2.0/24", "anywhere"], (ASKED, (24, b"\xc0\0\2\0"), ANYWHERE)),
        ({"anywhere"}, (ANYWHERE,)),
        (("192.0.2.1", "192.0.2.9"), (b"\xc0\0\2\1", b"\xc0\0\2\x09")),
    ],
)
def test_each_form_gives_its_tokens(reply_from: object, wanted: tuple[Token, ...]) -> None:
    assert tokens(reply_from) == wanted


def test_what_it_says_of_itself() -> None:
    assert Sources("anywhere", interfaces).anywhere
    assert Sources(["peer", "anywhere"], interfaces).anywhere
    assert not Sources(["peer", "192.0.2.0/24"], interfaces).anywhere
    assert Sources("peer", interfaces).peer
    assert Sources(["host"], interfaces).host


@pytest.mark.parametrize(
    ("reply_from", "error", "says"),
    [
        ([], ValueError, "no reply could ever come"),
        ((), ValueError, "no reply could ever come"),
        ("everywhere", ValueError, "none of 'peer', 'host', 'anywhere'"),
        ("192.0.2.1/24", ValueError, "it has host bits set, pass '192.0.2.0/24'"),
        ("192.0.2.1:53", ValueError, r"pass \('192.0.2.1', 53\)"),
        ("ns.example", ValueError, r"pass the Peer that `await endpoint.resolve\('ns.example', port\)` gives"),
        ("any where", ValueError, "does not appear to be an IPv4 or IPv6 network"),
        ("192.0.2.0/33", ValueError, "none of"),
        (None, ValueError, "none of"),
        (["peer", None], ValueError, "none of"),
        (1.5, ValueError, "none of"),
        (("192.0.2.1", "7"), ValueError, "none of"),
        (("ns.example", 53), InvalidAddressError, "endpoint.resolve"),
        (("192.0.2.1", 0), InvalidAddressError, "port 0"),
        (["peer", ("a..b", 53)], InvalidAddressError, "neither an IP address nor a host name"),
        ("fe80::1%wlan0", InvalidAddressError, "no interface 'wlan0'"),
        ("fe80::/10%eth0", InvalidAddressError, "no interface|not an IPv6 address"),
    ],
)
def test_what_makes_no_sense_is_refused(reply_from: object, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        tokens(reply_from)


@pytest.mark.parametrize("reply_from", [5, True, [7], b"\xc0\0\2\1"])
def test_a_number_is_no_source(reply_from: object) -> None:
    # ipaddress takes a number for an address: 5 would be 0.0.0.5.
    with pytest.raises((ValueError, TypeError)):
        tokens(reply_from)


peers = st.tuples(st.ip_addresses(network="192.0.2.0/28").map(str), st.integers(1, 3)) | st.tuples(
    st.sampled_from(["2001:db8::1", "2001:db8::2", "fe80::1"]), st.integers(1, 3)
)
networks = st.tuples(st.ip_addresses(network="192.0.2.0/28"), st.integers(0, 32)).map(
    lambda both: ipaddress.ip_network(both, strict=False)
) | st.integers(0, 128).map(lambda length: ipaddress.ip_network(("2001:db8::1", length), strict=False))


@given(st.lists(networks | st.just("anywhere"), min_size=1, max_size=6), peers)
def test_what_covers_a_peer_is_found_the_most_specific_first(reply_from: list[Any], peer: tuple[str, int]) -> None:
    shapes = Shapes()
    given = tokens(reply_from)
    for token in given:
        assert is_wide(token)
        shapes.add(token)
    wire = wire_of_source(*peer)
    found = [token for token in shapes.tokens(wire, scoped=False) if token in given]
    address = ipaddress.ip_address(peer[0])
    wanted = {ipaddress.ip_network(n) for n in reply_from if n != "anywhere" and address in ipaddress.ip_network(n)}
    ordered = sorted(wanted, key=lambda network: -network.prefixlen)
    assert found == [
        *(token for network in ordered for token in tokens(network)),
        *([ANYWHERE] if "anywhere" in reply_from else []),
    ]


def test_shapes_are_kept_while_they_are_used_and_a_while_longer() -> None:
    shapes = Shapes()
    assert not shapes.any
    shapes.prune(0)
    wide = tokens("host", LINK)[0]
    shapes.add(wide)
    shapes.add(wide)
    assert shapes.any
    assert shapes.tokens(LINK, scoped=True) == [host_token(LINK), tokens("fe80::1")[0]]
    assert shapes.tokens(ASKED, scoped=False) == [host_token(ASKED)]
    shapes.remove(wide, 10.0)
    shapes.prune(500.0)
    assert shapes.any
    shapes.remove(wide, 20.0)
    shapes.prune(140.0)
    assert shapes.any
    shapes.add(wide)
    shapes.remove(wide, 30.0)
    shapes.prune(140.5)
    assert shapes.any
    shapes.prune(150.5)
    assert not shapes.any
    assert shapes.tokens(LINK, scoped=True) == []


def test_networks_of_both_families_do_not_mix() -> None:
    shapes = Shapes()
    for network in ("10.0.0.0/8", "0.0.0.0/0", "2001:db8::/32"):
        shapes.add(tokens(network)[0])
    assert shapes.tokens(wire_of_source("10.1.2.3", 7), scoped=False) == [(8, b"\x0a\0\0\0"), (0, bytes(4))]
    assert shapes.tokens(wire_of_source("2001:db8::5", 7), scoped=False) == list(tokens("2001:db8::/32"))
    assert shapes.tokens(wire_of_source("2001:db9::5", 7), scoped=False) == [(32, b"\x20\x01\x0d\xb9" + bytes(12))]


@pytest.mark.parametrize(
    ("reply_from", "wide"), [("peer", False), ("host", True), ("anywhere", True), ("192.0.2.0/24", True)]
)
def test_what_is_wider_than_a_peer(reply_from: str, wide: bool) -> None:
    assert is_wide(tokens(reply_from)[0]) == wide
    assert is_wide(tokens(reply_from, LINK)[0]) == wide
