"""stun_binding.py: the RFC's own messages, whom it does not believe, and what it makes of several answers."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from types import ModuleType

import pytest
from example_kit import PATIENT, check_refused, free_address, imported, lines_of, needs_icmp, needs_ipv6, run
from hypothesis import given
from hypothesis import strategies as st

import udpguard
from udpguard.testing import Answer, Handler, Request, Server, silent

BRIEF = "0.45"  # it asks again after half a second
COOKIE = bytes.fromhex("2112a442")
ELSEWHERE = ("192.0.2.7", 7)

# RFC 5769 sections 2.2 and 2.3.
SAMPLE_IPV4 = """
    0101003c 2112a442 b7e7a701bc34d686fa87dfae 8022000b 7465737420766563746f7220 00200008 0001a147e112a643
    00080014 2b91f599fd9e90c38c7489f92af9ba53f06be7d7 80280004 c07d4c96
"""
SAMPLE_IPV6 = """
    01010048 2112a442 b7e7a701bc34d686fa87dfae 8022000b 7465737420766563746f7220
    00200014 0002a1470113a9faa5d3f179bc25f4b5bed2b9d9
    00080014 a382954e4be67bf11784c97c8292c275bfe3ed41 80280004 c8fb0b4c
"""


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("!HH", kind, len(value)) + value + bytes(-len(value) % 4)


def xor_mapped(request: bytes, host: str, port: int) -> bytes:
    packed = struct.pack("!H", port) + ip_address(host).packed
    mask = COOKIE[:2] + request[4:20]
    return attribute(
        0x20, bytes((0, 2 if ":" in host else 1)) + bytes(a ^ b for a, b in zip(packed, mask, strict=False))
    )


def response(request: bytes, *attributes: bytes, kind: int = 0x0101, signed: bool = True) -> bytes:
    """A response, with a fingerprint at its end."""
    body = b"".join(attributes)
    head = struct.pack("!HH", kind, len(body) + 8 * signed) + request[4:20]
    crc = zlib.crc32(head + body) ^ 0x5354554E
    return head + body + (attribute(0x8028, crc.to_bytes(4, "big")) if signed else b"")


def honest(request: Request) -> bytes:
    return response(request.data, xor_mapped(request.data, *request.peer))


def elsewhere(request: Request) -> bytes:
    return response(request.data, xor_mapped(request.data, *ELSEWHERE))


async def told(handler: Handler, timeout: str = PATIENT) -> tuple[int, list[str], str]:
    """What it says of such a server; where the server's address would stand there are three dots."""
    async with Server(handler) as server:
        at = str(server.address)
        status, out, err = await lines_of("stun_binding.py", at, "--timeout", timeout)
    return status, [line.replace(at, "…") for line in out], "\n".join(err).replace(at, "…")


# ------------------------------------------------------------------------------------------------
# Answers


async def test_the_address_is_the_one_it_asked_from() -> None:
    async with Server(honest) as server:
        status, (line,), err = await lines_of("stun_binding.py", str(server.address))
        data, peer, _ = server.requests[0]
    assert (status, line, err) == (0, f"{server.address}: this machine is seen at {peer}", [])
    assert data[:8] == b"\0\1\0\0" + COOKIE
    assert len(data) == 20


async def test_no_two_requests_have_the_same_id() -> None:
    async with Server(honest) as server:
        await lines_of("stun_binding.py", *[str(server.address)] * 5)
        ids = {request.data[8:] for request in server.requests}
    assert len(ids) == 5


@needs_ipv6
async def test_an_ipv6_address_is_hidden_under_the_id() -> None:
    async with Server(honest, "::1") as server:
        status, (line,), err = await lines_of("stun_binding.py", str(server.address))
        (request,) = server.requests
    assert (status, line, err) == (0, f"{server.address}: this machine is seen at {request.peer}", [])


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ([honest], "they agree: this socket is seen at the same address whoever is asked"),
        ([honest, elsewhere], "they differ: a NAT gives this socket another address for each server"),
    ],
)
async def test_several_servers_tell_how_the_nat_works(others: list[Handler], words: str) -> None:
    async with Server(honest) as first, Server(others[0]) as second, Server(others[-1]) as third:
        servers = [str(server.address) for server in (first, second, third)]
        status, out, err = await lines_of("stun_binding.py", *servers)
    assert (status, out[-1], err, len(out)) == (0, words, [], 4)


@needs_ipv6
async def test_one_of_each_family_tells_nothing_of_the_nat() -> None:
    async with Server(honest) as first, Server(honest, "::1") as second:
        status, out, err = await lines_of("stun_binding.py", str(first.address), str(second.address))
    assert (status, len(out), err) == (0, 2, [])


async def test_a_request_that_was_lost_is_sent_again_with_the_same_id() -> None:
    async with Server(lambda request: honest(request) if request.number else None) as server:
        status, _, err = await lines_of("stun_binding.py", str(server.address))
        first, second = (request.data for request in server.requests)
    assert (status, err, first) == (0, [], second)


async def test_what_strangers_and_forgers_say_is_passed_over() -> None:
    def beset(request: Request) -> list[bytes | Answer]:
        data = request.data
        lie = xor_mapped(data, *ELSEWHERE)
        wrong = response(data, lie)
        other_id = data[:-1] + bytes((data[-1] ^ 1,))
        return [
            b"",
            data,
            wrong[:-1],
            wrong + b"\0\0\0\0",
            wrong[:-4] + b"\0\0\0\0",  # another fingerprint
            response(other_id, xor_mapped(other_id, *ELSEWHERE)),
            response(data[:4] + b"\0\0\0\0" + data[8:], lie),  # no cookie
            response(data, lie, kind=0x0102),
            response(data, lie, kind=0x0001),
            response(data),
            response(data, attribute(0x7777, b"understand!"), lie),
            response(data, attribute(0x20, b"\0\1\0\7")),
            response(data, attribute(0x20, b"\0\2\0\7\1\2\3\4")),
            response(data, lie[:2] + b"\0\xff" + lie[4:]),
            Answer(wrong, sent_from="port"),
            honest(request),
        ]

    async with Server(beset) as server:
        status, (line,), err = await lines_of("stun_binding.py", str(server.address))
        (request,) = server.requests
    assert (status, line, err) == (0, f"{server.address}: this machine is seen at {request.peer}", [])


async def test_an_error_of_the_servers_is_told() -> None:
    refusal = attribute(0x0009, b"\0\0\4\0" + b"Bad \x1b[2JRequest")
    status, out, err = await told(lambda request: response(request.data, refusal, kind=0x0111))
    assert (status, out, err) == (1, [], r"…: the server refuses: 400 Bad \x1b[2JRequest")


# ------------------------------------------------------------------------------------------------
# No answers


async def test_a_silent_server_is_told_of_and_does_not_hold_up_the_others() -> None:
    async with Server(silent) as dead, Server(honest) as alive:
        status, out, err = await lines_of("stun_binding.py", str(dead.address), str(alive.address), "--timeout", BRIEF)
    assert (status, len(out), len(err)) == (1, 1, 1)
    assert out[0].startswith(f"{alive.address}: this machine is seen at ")
    assert err[0].startswith(f"no reply from {dead.address} in {BRIEF} s (1 sent)")


@needs_icmp
async def test_a_server_that_is_not_there() -> None:
    at = str(free_address())
    status, out, err = await lines_of("stun_binding.py", at)
    assert (status, out, len(err)) == (1, [], 1)
    assert err[0].startswith(f"{at} refused: ")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda data: response(data, xor_mapped(data, *ELSEWHERE))[:-4] + b"oops", "its fingerprint is wrong"),
        (lambda data: response(data), "it tells no address"),
        (lambda data: response(data, attribute(0x7777, b"")), "an attribute that must be understood: 0x7777"),
        (lambda data: data, "it is no response of STUN"),
    ],
)
async def test_what_was_wrong_with_an_answer_is_told(answer: Callable[[bytes], bytes], words: str) -> None:
    status, out, err = await told(lambda request: answer(request.data), timeout=BRIEF)
    assert (status, out) == (1, [])
    assert err.startswith(
        f"no reply from … in {BRIEF} s (1 sent); 1 datagram came from … and accept raised ValueError: it"
    )
    assert words in err


@pytest.mark.parametrize("arguments", [[], ["127.0.0.1:0"], ["127.0.0.1", "--timeout", "0"]])
def test_wrong_arguments_are_refused(arguments: list[str]) -> None:
    check_refused(run("stun_binding.py", *arguments), "SERVER" if arguments != ["127.0.0.1", "--timeout", "0"] else "0")


# ------------------------------------------------------------------------------------------------
# Messages


@pytest.fixture(scope="module")
def stun_binding() -> Iterator[ModuleType]:
    with imported("stun_binding") as module:
        yield module


@pytest.mark.parametrize(
    ("sample", "host"), [(SAMPLE_IPV4, "192.0.2.1"), (SAMPLE_IPV6, "2001:db8:1234:5678:11:2233:4455:6677")]
)
def test_the_samples_of_rfc_5769(stun_binding: ModuleType, sample: str, host: str) -> None:
    message = bytes.fromhex(sample)
    assert stun_binding.mapped(message) == udpguard.Peer(host, 32853)
    for at in range(20, len(message)):
        # The fingerprint tells, wherever it was damaged, if it can be found.
        damaged = message[:at] + bytes((message[at] ^ 0x10,)) + message[at + 1 :]
        with pytest.raises(ValueError, match=re.compile("^it")) if at < len(message) - 8 else suppress(ValueError):
            stun_binding.mapped(damaged)


@given(data=st.binary(max_size=80), start=st.integers(0, 60), sane=st.booleans())
def test_no_bytes_off_the_wire_do_harm(stun_binding: ModuleType, data: bytes, start: int, sane: bool) -> None:
    """At random, and a response that goes wrong somewhere."""
    if sane:
        question = b"\0\1\0\0" + COOKIE + bytes(12)
        body = response(question, xor_mapped(question, *ELSEWHERE))[20 : 20 + start] + data
        data = struct.pack("!HH", 0x0101, len(body)) + question[4:] + body
    with suppress(ValueError, stun_binding.RefusedError):
        assert isinstance(stun_binding.mapped(data), udpguard.Peer)
