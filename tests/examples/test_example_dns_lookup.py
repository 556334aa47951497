"""dns_lookup.py: what it asks, what it makes of answers, and what it does not fall for."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from types import ModuleType

import pytest
from example_dns import MX, NAME, TO_QUESTION, TXT, A, address, honest, question, record, response
from example_kit import (
    HASTY,
    INTERRUPTED,
    PATIENT,
    check_refused,
    imported,
    lines_of,
    needs_ctrl_c,
    needs_ipv6,
    run,
    serving,
    silent,
    talking,
)
from hypothesis import given
from hypothesis import strategies as st


async def look_up(
    *arguments: str, timeout: str = PATIENT, name: str = "example.test"
) -> tuple[int, list[str], list[str]]:
    """Run it; returns the exit status, and the lines on stdout and on stderr."""
    return await lines_of("dns_lookup.py", "--timeout", timeout, name, *arguments)


# ------------------------------------------------------------------------------------------------
# Questions and answers


async def test_an_answer() -> None:
    async with serving(honest(7)) as (server,):
        status, out, err = await look_up(f"@{server.at}")
    header, *records = out
    assert (status, records, err) == (0, ["example.test.\t300\tIN\tA\t192.0.2.7"], [])
    assert header.startswith(f"; {server.at}: NOERROR, records: 1, ")
    assert header.endswith(" ms")


async def test_what_it_asks() -> None:
    async with serving(honest(), honest(), honest()) as servers:
        await look_up(*(f"@{server.at}" for server in servers), "--type", "mx")
    queries = [query for server in servers for query in server.requests]
    assert len(queries) == 3
    for query in queries:
        assert struct.unpack_from("!HHHHH", query, 2) == (0x0100, 1, 0, 0, 1)
        assert question(query) == NAME + struct.pack("!HH", MX, 1)
        assert query[-11:] == b"\0" + struct.pack("!HHIH", 41, 4096, 0, 0)
    assert len({client for server in servers for client in server.clients}) == 1  # one socket for all
    assert len({query[:2] for query in queries}) > 1  # ids of udpguard's own, not the packed 0


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        (".", b"\0"),
        ("test.", b"\x04test\0"),
        ("_dmarc.Example", b"\x06_dmarc\x07Example\0"),
        ("bücher.test", b"\x0dxn--bcher-kva\x04test\0"),
        ("a" * 63, b"\x3f" + b"a" * 63 + b"\0"),
    ],
)
async def test_names(name: str, packed: bytes) -> None:
    async with serving(honest()) as (server,):
        status, _, _ = await look_up(f"@{server.at}", name=name)
    assert status == 0
    assert question(server.requests[0])[:-4] == packed


RECORDS = {
    "A": (1, b"\xc0\x00\x02\x01", "192.0.2.1"),
    "AAAA": (28, b"\x20\x01\x0d\xb8" + bytes(11) + b"\x01", "2001:db8::1"),
    "NS": (2, b"\x02ns" + TO_QUESTION, "ns.example.test."),
    "CNAME": (5, b"\x05other\x04test\0", "other.test."),
    "PTR": (12, b"\x00", "."),
    "DNAME": (39, b"\xc0\x14", "test."),
    "MX": (15, b"\x00\x0a\x04mail" + TO_QUESTION, "10 mail.example.test."),
    "SRV": (33, b"\x00\x01\x00\x02\x14\x95\x03sip" + TO_QUESTION, "1 2 5269 sip.example.test."),
    "TXT": (16, b'\x03a b\x04"\\;\x07\x00\x01\xff', '"a b" "\\"\\\\;\\007" "" "\\255"'),
    "SOA": (
        6,
        b"\x02ns" + TO_QUESTION + b"\x05a.b c" + TO_QUESTION + struct.pack("!5I", 2024010101, 7200, 3600, 1209600, 300),
        "ns.example.test. a\\.b\\032c.example.test. 2024010101 7200 3600 1209600 300",
    ),
}


@pytest.mark.parametrize("rrtype", RECORDS)
async def test_types(rrtype: str) -> None:
    number, data, text = RECORDS[rrtype]
    async with serving(lambda query, _: [response(query, record(data, number, ttl=86_400))]) as (server,):
        status, out, err = await look_up(f"@{server.at}", "--type", rrtype)
    assert (status, err) == (0, [])
    assert out[1:] == [f"example.test.\t86400\tIN\t{rrtype}\t{text}"]
    assert question(server.requests[0])[-4:] == struct.pack("!HH", number, 1)


async def test_types_and_classes_it_knows_nothing_of() -> None:
    strange = [record(b"\xab\xcd", 65_280), record(b"", 99), record(b"\x01", A, rrclass=3)]
    async with serving(lambda query, _: [response(query, *strange)]) as (server,):
        _, out, err = await look_up(f"@{server.at}")
    assert err == []
    assert [line.partition("\t300\t")[2] for line in out[1:]] == [
        "IN\tTYPE65280\t\\# 2 ABCD",
        "IN\tTYPE99\t\\# 0",
        "CLASS3\tA\t\\# 1 01",
    ]


async def test_a_large_answer() -> None:
    """As much as its query allows, which is more than the 512 bytes of old."""
    addresses = [address(last) for last in range(250)]
    async with serving(lambda query, _: [response(query, *addresses)]) as (server,):
        status, out, _ = await look_up(f"@{server.at}")
    assert status == 0
    assert out[1:] == [f"example.test.\t300\tIN\tA\t192.0.2.{last}" for last in range(250)]


@pytest.mark.parametrize(
    ("rcode", "name"), [(1, "FORMERR"), (2, "SERVFAIL"), (3, "NXDOMAIN"), (5, "REFUSED"), (11, "RCODE11")]
)
async def test_an_error_is_an_answer(rcode: int, name: str) -> None:
    async with serving(lambda query, _: [response(query, flags=0x8180 | rcode)]) as (server,):
        status, out, err = await look_up(f"@{server.at}")
    assert (status, err) == (0, [])
    (header,) = out
    assert header.startswith(f"; {server.at}: {name}, records: 0, ")


async def test_a_truncated_answer_comes_with_a_hint() -> None:
    async with serving(lambda query, _: [response(query, address(1), flags=0x8380)]) as (server,):
        status, out, err = await look_up(f"@{server.at}")
    assert (status, err) == (0, [])
    assert "truncated" in out[1]
    assert "dig +tcp" in out[1]
    assert len(out) == 3


async def test_each_answer_is_printed_as_it_comes() -> None:
    async with serving(silent, honest(2)) as (slow, quick):
        with talking("dns_lookup.py", "--timeout", PATIENT, "example.test", f"@{slow.at}", f"@{quick.at}") as talk:
            await talk.until("192.0.2.2\n")
            query, client = await slow.first_request()
            slow.transport.sendto(response(query, address(1)), client)
            await talk.until("192.0.2.1\n")
            assert await talk.end() == (0, "", "")


async def test_a_lost_query_is_sent_again() -> None:
    async with serving(lambda query, before: [response(query, address(1))] if before else []) as (server,):
        status, out, err = await look_up(f"@{server.at}")
    assert (status, err, len(out)) == (0, [], 2)
    assert server.requests[0] == server.requests[1]


@needs_ipv6
async def test_a_server_with_an_ipv6_address() -> None:
    async with serving(honest(6), host="::1") as (server,):
        status, out, err = await look_up(f"@{server.at}")
    assert (status, err) == (0, [])
    assert out[0].startswith(f"; [::1]:{server.at.rpartition(':')[2]}: NOERROR")


# ------------------------------------------------------------------------------------------------
# Servers that lie, and servers that are broken


def forgeries(query: bytes) -> list[bytes]:
    """What comes from the right address, and is not the answer."""
    other_id = bytes([query[0] ^ 0x80, query[1]])
    bad = address(66)
    return [
        b"",
        query[:2],
        query,
        b"\xff" * 4096,
        response(query, bad, ident=other_id),
        response(query, bad, flags=0x0180),
        response(query, bad, flags=0x9180),
        response(query, bad, asked=b"\x05wrong\x04test\0" + question(query)[-4:]),
        response(query, bad, asked=question(query)[:-4] + struct.pack("!HH", MX, 1)),
        response(query, bad, asked=question(query)[:-4] + struct.pack("!HH", A, 3)),
        query[:2] + struct.pack("!HHHHH", 0x8180, 0, 1, 0, 0) + question(query) + bad,
        response(query)[:-1],
    ]


async def test_forgeries_change_nothing() -> None:
    async with serving(lambda query, _: [*forgeries(query), response(query, address(1))]) as (server,):
        status, out, err = await look_up(f"@{server.at}")
    assert (status, out[1:], err) == (0, ["example.test.\t300\tIN\tA\t192.0.2.1"], [])


async def test_an_answer_from_another_address_changes_nothing() -> None:
    async with serving(silent, silent) as (server, impostor):
        with talking("dns_lookup.py", "--timeout", PATIENT, "example.test", f"@{server.at}") as talk:
            query, client = await server.first_request()
            impostor.transport.sendto(response(query, address(66)), client)
            server.transport.sendto(response(query, address(1)), client)
            assert "192.0.2.1\n" in (await talk.end())[1]


async def test_case_of_the_name_does_not_matter() -> None:
    shout = lambda query, _: [response(query, address(1), asked=question(query).upper())]  # noqa: E731
    async with serving(shout) as (server,):
        status, out, _ = await look_up(f"@{server.at}")
    assert status == 0
    assert out[1].startswith("EXAMPLE.TEST.\t")


HOSTILE = {
    "a pointer to itself": record(b"\0\0\0\0", name=b"\xc0\x1e"),
    "pointers in a circle": record(b"\xc0\x2c\xc0\x2a", 65_280) + record(b"", name=b"\xc0\x2a"),
    "a pointer past the end": record(b"\0\0\0\0", name=b"\xff\xff"),
    "half a pointer": b"\xc0",
    "a label past the end": b"\x3fabc",
    "a label of an unknown kind": record(b"\0\0\0\0", name=b"\x41a\0"),
    "a name that goes on and on": record(b"\0\0\0\0", name=b"\x01a" * 300 + b"\0"),
    "data past the end": record(b"\xc0\x00\x02\x01", length=400),
    "an address too long": record(b"\xc0\x00\x02\x01\x00"),
    "an address too short": record(b"\xc0\x00\x02"),
    "a string past its record": record(b"\x05abc", TXT),
    "a name past its record": record(b"\0\0\x05abc", MX),
    "nothing": b"",
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
async def test_hostile_bytes_are_told_in_a_line(hostile: bytes) -> None:
    async with serving(lambda query, _: [response(query, hostile, b"")], honest(2)) as (server, other):
        status, out, err = await look_up(f"@{server.at}", f"@{other.at}")
    assert status == 1
    assert out[1:] == ["example.test.\t300\tIN\tA\t192.0.2.2"]
    (line,) = err
    assert line.startswith(f"; {server.at}: the answer is malformed: ")


@pytest.fixture(scope="module")
def dns_lookup() -> Iterator[ModuleType]:
    with imported("dns_lookup") as module:
        yield module


@given(data=st.binary(max_size=600), counts=st.tuples(*[st.integers(0, 3)] * 2))
def test_no_bytes_make_it_fail(dns_lookup: ModuleType, data: bytes, counts: tuple[int, int]) -> None:
    message = struct.pack("!HHHHHH", 0, 0x8180, *counts, 0, 0) + data
    for candidate in (data, message):
        try:
            read = dns_lookup.read_response(candidate)
        except dns_lookup.MalformedError:
            continue
        assert all(line.isprintable() or "\t" in line for line in read.records)
    query = dns_lookup.pack_query(NAME, A)
    assert not dns_lookup.answers(data, query) or question(query).lower() in data.lower()


@given(cut=st.integers(0, 100), at=st.integers(0, 100), byte=st.integers(0, 255))
def test_no_damage_to_an_answer_makes_it_fail(dns_lookup: ModuleType, cut: int, at: int, byte: int) -> None:
    query = dns_lookup.pack_query(NAME, A)
    whole = response(query, record(RECORDS["SOA"][1], 6), record(RECORDS["TXT"][1], TXT))
    damaged = bytearray(whole)
    damaged[at % len(whole)] = byte
    for message in (bytes(damaged), whole[:cut]):
        dns_lookup.answers(message, query)
        with contextlib.suppress(dns_lookup.MalformedError):
            dns_lookup.read_response(message)


def as_many_as_fit(name: bytes, before: bytes) -> bytes:
    """A message of records whose owners and data are this name, after one of a type that nobody knows."""
    alias, first = record(name, 5, name=name), record(before, 65_280, name=b"\0")
    count = (65_507 - 12 - len(first)) // len(alias)
    return struct.pack("!HHHHHH", 0, 0x8180, 0, 1 + count, 0, 0) + first + alias * count


@pytest.mark.parametrize(
    "name",
    [
        b"".join(struct.pack("!H", 0xC000 | 23 + 2 * (step + 1)) for step in range(250)) + b"\0",
        b"".join(b"\x3f" + b"\xff" * 63 for _ in range(200)) + b"\0",
    ],
    ids=["pointers to pointers", "labels without end"],
)
def test_names_that_many_point_to_are_short(dns_lookup: ModuleType, name: bytes) -> None:
    """Else one datagram took minutes, and was a gigabyte of text."""
    with pytest.raises(dns_lookup.MalformedError, match="a name is too long, or has no end"):
        dns_lookup.read_response(as_many_as_fit(b"\xc0\x17", name))


def test_the_longest_name_is_read(dns_lookup: ModuleType) -> None:
    longest = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\0"
    message = as_many_as_fit(b"\xc0\x17", longest)
    assert len(longest) == 255
    assert dns_lookup.read_response(message).records[-1].count("a" * 61 + ".") == 8


# ------------------------------------------------------------------------------------------------
# Servers that aren't there, and wrong arguments


async def test_a_silent_server_is_told_of_and_does_not_hold_up_the_others() -> None:
    async with serving(silent, honest(2)) as (dead, alive):
        status, out, err = await look_up(f"@{dead.at}", f"@{alive.at}", timeout="2")
    assert status == 1
    assert out[1:] == ["example.test.\t300\tIN\tA\t192.0.2.2"]
    (line,) = err
    assert line.startswith(f"; no reply from {dead.at} in ")
    assert line.count(dead.at) == 1


async def test_a_refused_forgery_is_told_of_when_no_answer_comes() -> None:
    wrong = lambda query, _: [response(query, asked=b"\x05wrong\x04test\0" + question(query)[-4:])]  # noqa: E731
    async with serving(wrong) as (server,):
        status, out, err = await look_up(f"@{server.at}", timeout=HASTY)
    assert (status, out, len(err)) == (1, [], 1)
    assert "accept" in err[0]


@pytest.mark.parametrize("host", ["a..b", "0.0.0.0", "255.255.255.255"])
async def test_a_server_that_can_not_be_asked_is_told_of(host: str) -> None:
    async with serving(honest()) as (server,):
        status, out, err = await look_up(f"@{host}:5301", f"@{server.at}")
    assert (status, len(out), len(err)) == (1, 2, 1)
    assert err[0].startswith(f"; {host}:5301: ")
    assert err[0].count(f"{host}:5301") == 1


async def test_a_server_of_an_unknown_name_is_told_of() -> None:
    async with serving(honest()) as (server,):
        status, out, err = await look_up("@no.such.host.invalid:5301", f"@{server.at}")
    assert (status, len(out)) == (1, 2)
    (line,) = err
    assert "'no.such.host.invalid': is " in line  # spelt right, or the network up
    assert line.count("no.such.host.invalid") == 1


@needs_ctrl_c
async def test_ctrl_c_ends_it() -> None:
    async with serving(silent) as (server,):
        with talking("dns_lookup.py", "--timeout", PATIENT, "example.test", f"@{server.at}") as talk:
            await server.first_request()
            talk.interrupt()
            assert await talk.end() == (INTERRUPTED, "", "")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("@192.0.2.1", "192.0.2.1", 53),
        ("@192.0.2.1:5301", "192.0.2.1", 5301),
        ("@::1", "::1", 53),
        ("@2001:db8::1:5301", "2001:db8::1:5301", 53),
        ("@[::1]", "::1", 53),
        ("@[::1]:5301", "::1", 5301),
        ("@fe80::1%eth0", "fe80::1%eth0", 53),
        ("@ns.example.test:5301", "ns.example.test", 5301),
    ],
)
def test_servers(dns_lookup: ModuleType, text: str, host: str, port: int) -> None:
    assert dns_lookup.server_address(text) == (host, port)


@pytest.mark.parametrize(
    "server",
    ["127.0.0.1", "@", "@:53", "@127.0.0.1:", "@127.0.0.1:0", "@127.0.0.1:65536", "@127.0.0.1:dns", "@[::1]x", "@[::1"],
)
def test_a_wrong_server_is_refused(server: str) -> None:
    check_refused(run("dns_lookup.py", "example.test", server), "@SERVER", repr(server))


@pytest.mark.parametrize("name", ["", "a..b", ".a", "a" * 64, ".".join(["a" * 63] * 4), "b\u00fc" * 40])
def test_a_wrong_name_is_refused(name: str) -> None:
    check_refused(run("dns_lookup.py", name, "@127.0.0.1"), "NAME", "is not a domain name")


@pytest.mark.parametrize("arguments", [[], ["example.test"], ["@127.0.0.1"]])
def test_a_missing_argument_is_refused(arguments: list[str]) -> None:
    check_refused(run("dns_lookup.py", *arguments), "required")


@pytest.mark.parametrize("option", ["--type=NOPE", "--timeout=0", "--timeout=nan", "--timeout=inf", "--timeout=soon"])
def test_a_wrong_option_is_refused(option: str) -> None:
    check_refused(run("dns_lookup.py", "example.test", "@127.0.0.1", option), option.partition("=")[0])
