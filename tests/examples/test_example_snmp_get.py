"""snmp_get.py: what it makes of an agent's answers, and which of them it does not believe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from types import ModuleType

import pytest
from example_kit import HASTY, PATIENT, check_refused, free_address, imported, lines_of, needs_icmp, needs_ipv6, run
from example_snmp import GET, INTEGER, NULL, OID, RESPONSE, SEQUENCE, STRING, asked, ber, bound, message, name
from hypothesis import given
from hypothesis import strategies as st

from udpguard.testing import Answer, Handler, Request, Server, silent

NAME, UPTIME = "1.3.6.1.2.1.1.5.0", "1.3.6.1.2.1.1.3.0"
OF_NAME = tuple(map(int, NAME.split(".")))
THE_NAME = bound(OF_NAME, ber(STRING, b"lamp1"))


def honest(request: Request) -> bytes:
    return message(asked(request.data).request_id, THE_NAME)


async def told(handler: Handler, *arguments: str, timeout: str = PATIENT) -> tuple[int, list[str], str]:
    """What it says of the name of such an agent; where the agent's address would stand there are three dots."""
    async with Server(handler) as server:
        at = str(server.address)
        status, out, err = await lines_of("snmp_get.py", at, "--timeout", timeout, *(arguments or (NAME,)))
    return status, out, "\n".join(err).replace(at, "…")


# ------------------------------------------------------------------------------------------------
# Answers


async def test_a_value() -> None:
    async with Server(honest) as server:
        done = await lines_of("snmp_get.py", str(server.address), NAME)
        question = asked(server.requests[0].data)
    assert done == (0, [f'.{NAME} = STRING: "lamp1"'], [])
    assert question._replace(request_id=0) == (b"public", GET, 0, 0, 0, [OF_NAME])


@needs_ipv6
async def test_an_agent_with_an_ipv6_address() -> None:
    async with Server(honest, "::1") as server:
        status, out, err = await lines_of("snmp_get.py", str(server.address), NAME)
    assert (status, out, err) == (0, [f'.{NAME} = STRING: "lamp1"'], [])


async def test_a_request_that_was_lost_is_sent_again() -> None:
    assert (await told(lambda request: honest(request) if request.number else None))[:2] == (
        0,
        [f'.{NAME} = STRING: "lamp1"'],
    )


async def test_what_strangers_and_forgers_say_is_passed_over() -> None:
    lie = bound(OF_NAME, ber(STRING, b"liar"))

    def beset(request: Request) -> list[bytes | Answer]:
        key = asked(request.data).request_id
        return [
            b"",
            request.data,
            b"\x30",
            b"\x30\x80" + message(key, lie)[2:] + b"\0\0",  # without a length
            message(key, lie)[:-1],
            message(key, lie) + b"\0",
            message(key + 1, lie),
            message(key, lie, kind=GET),
            message(key, lie, version=0),
            message(key, lie, community=b"other"),
            message(key, ber(SEQUENCE, name(OF_NAME), ber(STRING, b"liar"), ber(STRING, b"liar"))),
            message(key, bound((1, 3, 6, 1), ber(STRING, b"liar"))),
            message(key, lie, lie),
            message(key),
            message(key, ber(SEQUENCE, name(OF_NAME))),
            message(key, bound(OF_NAME, ber(0x40, b"12345"))),  # no such IP address
            Answer(message(key, lie), sent_from="port"),
            honest(request),
        ]

    assert await told(beset) == (0, [f'.{NAME} = STRING: "lamp1"'], "")


@pytest.mark.parametrize(
    ("status", "index", "words"),
    [
        (1, 0, "…: the agent's answer is tooBig: ask for fewer values at once"),
        (5, 2, f"…: the agent's answer for .{UPTIME} is genErr: it can't get at the value"),
        (16, 1, f"…: the agent's answer for .{NAME} is authorizationError: it doesn't let you in"),
        (99, 7, "…: the agent's answer is error 99"),
    ],
)
async def test_an_error_of_the_agents_is_told(status: int, index: int, words: str) -> None:
    def unwilling(request: Request) -> bytes:
        return message(asked(request.data).request_id, status=status, index=index)

    assert await told(unwilling, NAME, UPTIME) == (1, [], words)


# ------------------------------------------------------------------------------------------------
# No answers


async def test_a_silent_agent() -> None:
    status, out, err = await told(silent, timeout=HASTY)
    assert (status, out) == (1, [])
    assert err.startswith(f"no reply from … in {HASTY} s (1 sent); ")
    assert err.endswith("; an agent that doesn't know the community is silent, too")


@needs_icmp
async def test_an_agent_that_is_not_there() -> None:
    at = str(free_address())
    status, out, err = await lines_of("snmp_get.py", at, NAME)
    assert (status, out, len(err)) == (1, [], 1)
    assert err[0].startswith(f"{at} refused: ")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda key: message(key, THE_NAME, community=b"x"), "another version or community"),
        (lambda key: message(key), "it has other OIDs than were asked for"),
        (lambda key: message(key, ber(SEQUENCE)), "it binds no value to an OID"),
        (lambda key: message(key + 1, THE_NAME), "with another transaction id or none"),
    ],
)
async def test_what_was_wrong_with_an_answer_is_told(answer: Callable[[int], bytes], words: str) -> None:
    status, out, err = await told(lambda request: answer(asked(request.data).request_id), timeout=HASTY)
    assert (status, out) == (1, [])
    assert err.startswith(f"no reply from … in {HASTY} s (1 sent); ")
    assert words in err


@pytest.mark.parametrize("oid", ["", ".", "1", "1.", "1..3", "1.3.x", "3.1", "1.40", "1.3.-1", "1.3.4294967296"])
def test_what_is_no_oid_is_refused(oid: str) -> None:
    check_refused(run("snmp_get.py", "127.0.0.1", oid), "OID", repr(oid))


# ------------------------------------------------------------------------------------------------
# BER


@pytest.fixture(scope="module")
def snmp_get() -> Iterator[ModuleType]:
    with imported("snmp_get") as module:
        yield module


@pytest.mark.parametrize(
    ("tag", "content", "text"),
    [
        (INTEGER, b"\xff", "INTEGER: -1"),
        (STRING, b'a "b" \\', r'STRING: "a \"b\" \\"'),
        (STRING, b"line\nline", r'STRING: "line\nline"'),
        (STRING, b"\x1b[2J", "Hex-STRING: 1B 5B 32 4A"),
        (STRING, b"", '""'),
        (NULL, b"", "NULL"),
        (OID, b"\x88\x37\x03", "OID: .2.999.3"),
        (0x40, b"\xc0\0\2\1", "IpAddress: 192.0.2.1"),
        (0x41, b"\0\xff\xff\xff\xff", "Counter32: 4294967295"),
        (0x42, b"\xff", "Gauge32: 255"),
        (0x43, b"\0", "Timeticks: (0) 0:00:00.00"),
        (0x43, b"\x01\x00\x00\x00", "Timeticks: (16777216) 1 day, 22:36:12.16"),
        (0x43, b"\x7f\xff\xff\xff", "Timeticks: (2147483647) 248 days, 13:13:56.47"),
        (0x44, b"\x9f\x78", "OPAQUE: 9F 78"),
        (0x46, b"\0" + b"\xff" * 8, "Counter64: 18446744073709551615"),
        (0x80, b"", "No Such Object available on this agent at this OID"),
        (0x47, b"\1\2", "type 0x47: 01 02"),
    ],
)
def test_values_are_shown_as_net_snmp_shows_them(snmp_get: ModuleType, tag: int, content: bytes, text: str) -> None:
    assert snmp_get.shown(snmp_get.Value(tag, content)) == text


@given(
    oid=st.tuples(st.just(2), st.integers(0, 2**31)) | st.tuples(st.integers(0, 1), st.integers(0, 39)), data=st.data()
)
def test_oids_come_back(snmp_get: ModuleType, oid: tuple[int, ...], data: st.DataObject) -> None:
    oid += tuple(data.draw(st.lists(st.integers(0, 2**32 - 1), max_size=20)))
    ((tag, content),) = snmp_get.decoded(snmp_get.encoded_oid(oid))
    assert (tag, snmp_get.decoded_oid(content)) == (OID, oid)


@given(value=st.integers(-(2**63), 2**64 - 1))
def test_numbers_come_back_from_as_few_bytes_as_may_be(snmp_get: ModuleType, value: int) -> None:
    ((_, content),) = snmp_get.decoded(snmp_get.encoded_number(value))
    assert snmp_get.number(content) == value
    assert len(content) == 1 or content[:2] not in (b"\0\0", b"\xff\xff")
    assert (content[0] > 0x7F) == (value < 0)


@pytest.mark.parametrize("size", [0, 127, 128, 255, 256, 65_535, 65_536])
def test_lengths_come_back(snmp_get: ModuleType, size: int) -> None:
    whole = snmp_get.encoded(STRING, bytes(size))
    assert snmp_get.decoded(whole) == [(STRING, bytes(size))]
    with pytest.raises(ValueError, match="cut off"):
        snmp_get.decoded(whole[:-1])


@given(data=st.binary(max_size=64), start=st.integers(0, 60), sane=st.booleans())
def test_no_bytes_off_the_wire_do_harm(snmp_get: ModuleType, data: bytes, start: int, sane: bool) -> None:
    """At random, and an answer that goes wrong somewhere."""
    if sane:
        data = message(5, THE_NAME)[:start] + data
    assert isinstance(snmp_get.RequestId().reply_key(data), int | None)
    with suppress(ValueError):
        snmp_get.bound(snmp_get.opened(data, RESPONSE).bindings)
