"""coap_get.py: what it asks, what it makes of answers, and whom it does not believe."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from types import ModuleType

import pytest
from example_kit import (
    HASTY,
    PATIENT,
    check_refused,
    imported,
    lines_of,
    needs_ctrl_c,
    run,
    serving,
    talking_on_a_terminal,
)
from hypothesis import given
from hypothesis import strategies as st

import udpguard
from udpguard.testing import Request, Server, Simulation

CON, NON, ACK, RST = range(4)
CONTENT, NOT_FOUND = 0x45, 0x84


def message(
    kind: int, code: int, message_id: bytes, token: bytes = b"", options: bytes = b"", payload: bytes = b""
) -> bytes:
    head = bytes([0x40 | kind << 4 | len(token), code]) + message_id + token + options
    return head + (b"\xff" + payload if payload else b"")


def piggybacked(request: bytes, payload: bytes = b"hello", code: int = CONTENT, options: bytes = b"") -> bytes:
    return message(ACK, code, request[2:4], request[4:12], options, payload)


def block(number: int, code: int, *, more: bool, etag: bytes = b"\x07") -> bytes:
    """The options ETag and Block2."""
    value = struct.pack("!I", number << 4 | more << 3 | code).lstrip(b"\0")
    return bytes([0x40 | len(etag)]) + etag + bytes([0xD0 | len(value), 23 - 4 - 13]) + value


def honest(request: bytes, before: int) -> list[bytes]:
    return [piggybacked(request)]


async def get(at: str, path: str = "/", timeout: str = PATIENT) -> tuple[int, list[str], list[str]]:
    """Run it; returns the exit status, and the lines on stdout and on stderr."""
    return await lines_of("coap_get.py", "--timeout", timeout, f"coap://{at}{path}")


# ------------------------------------------------------------------------------------------------
# Questions and answers


async def test_what_it_asks() -> None:
    async with serving(honest) as (server,):
        assert await get(server.at, "/a%20b/c//?x=1&y") == (0, ["hello"], [])
    (request,) = server.requests
    assert request[:2] == b"\x48\x01"  # confirmable, a token of eight bytes; GET
    assert request[4:6] == request[2:4]
    options = b"\xb3a b" + b"\x01c" + b"\x00" * 2 + b"\x43x=1" + b"\x01y"
    assert request[12:] == options


async def test_no_two_questions_are_alike() -> None:
    async with serving(honest) as (server,):
        await get(server.at)
        await get(server.at)
    first, second = server.requests
    assert first[12:] == second[12:]
    assert first[4:12] != second[4:12]


async def test_an_answer_that_comes_later_is_acknowledged() -> None:
    """An empty acknowledgement first; then the answer, a message with an id of its own."""

    def separate(request: bytes, before: int) -> list[bytes]:
        if before:
            return []
        return [message(ACK, 0, request[2:4]), message(CON, CONTENT, b"\xab\xcd", request[4:12], payload=b"later")]

    async with serving(separate) as (server,):
        assert await get(server.at) == (0, ["later"], [])
        await server.until(lambda: len(server.requests) == 2)
    assert server.requests[1] == b"\x60\x00\xab\xcd"


async def test_an_answer_that_need_not_be_acknowledged_is_not() -> None:
    later = lambda request, _: [message(NON, CONTENT, b"\xab\xcd", request[4:12], payload=b"later")]  # noqa: E731
    async with serving(later) as (server,):
        assert await get(server.at) == (0, ["later"], [])
    assert len(server.requests) == 1


async def test_blocks_are_asked_for_one_after_the_other() -> None:
    content = bytes(range(97, 123)) * 2

    def in_blocks(request: bytes, before: int) -> list[bytes]:
        part = content[before * 16 : (before + 1) * 16]
        return [piggybacked(request, part, options=block(before, 0, more=before < 3))]

    async with serving(in_blocks) as (server,):
        assert await get(server.at, "/x") == (0, [content.decode()], [])
    assert [request[12:] for request in server.requests] == [
        b"\xb1x",
        *(b"\xb1x\xc1" + bytes([number << 4]) for number in (1, 2, 3)),
    ]


@pytest.mark.parametrize(
    ("second", "told"),
    [
        (block(1, 0, more=False, etag=b"\x08"), "it has changed while it was fetched; try again"),
        (block(2, 0, more=False), "the server sends another block than it was asked for"),
        (block(1, 1, more=False), "the server sends another block than it was asked for"),
        (block(1, 0, more=True), "the server sends a block that makes no sense"),
        (block(1, 7, more=False), "the server sends a block that makes no sense"),
    ],
)
async def test_blocks_that_do_not_fit(second: bytes, told: str) -> None:
    def in_blocks(request: bytes, before: int) -> list[bytes]:
        if before:
            return [piggybacked(request, b"short", options=second)]
        return [piggybacked(request, bytes(16), options=block(0, 0, more=True))]

    async with serving(in_blocks) as (server,):
        assert await get(server.at) == (1, [], [told])


@pytest.mark.parametrize(
    ("code", "payload", "told"),
    [
        (NOT_FOUND, b"", "the server says 4.04 Not Found"),
        (NOT_FOUND, b"Not Found", "the server says 4.04 Not Found"),
        (0xA0, b"no \x1b[2J power", "the server says 5.00 Internal Server Error: no \\x1b[2J power"),
        (0x5F, b"", "the server says 2.31 which is unknown here"),
    ],
)
async def test_an_error_is_told(code: int, payload: bytes, told: str) -> None:
    async with serving(lambda request, _: [piggybacked(request, payload, code)]) as (server,):
        assert await get(server.at) == (1, [], [told])


@needs_ctrl_c
async def test_on_a_terminal_what_others_wrote_is_shown_harmlessly() -> None:
    async with serving(lambda request, _: [piggybacked(request, b"\x1b[2Jhello\nthere")]) as (server,):
        with talking_on_a_terminal("coap_get.py", f"coap://{server.at}/") as talk:
            assert await talk.until("there") == "\\x1b[2Jhello\r\n"


def test_blocks_without_end_end(coap_get: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(request: Request) -> bytes:
        asked_for = int.from_bytes(coap_get.parsed(request.data).option(23) or b"", "big") >> 4
        return piggybacked(request.data, bytes(16), options=block(asked_for, 0, more=True))

    async def main() -> int:
        async with (
            Server(endless, "192.0.2.1", 5683) as server,
            udpguard.open_endpoint(correlate=coap_get.MessageIds()) as endpoint,
        ):
            with pytest.raises(coap_get.CoapError, match="it is larger than 1,000 bytes"):
                await coap_get.fetch(endpoint, server.address, [])
            return len(server.requests)

    monkeypatch.setattr(coap_get, "LARGEST", 1_000)
    with Simulation(seed=1) as simulation:
        assert simulation.run(main) == 63


async def test_a_reset_is_told() -> None:
    async with serving(lambda request, _: [message(RST, 0, request[2:4])]) as (server,):
        status, out, err = await get(server.at)
    assert (status, out) == (1, [])
    assert err == ["the server rejects the message (RST): it may have just started; try again"]


# ------------------------------------------------------------------------------------------------
# Whom not to believe


def changed(data: bytes, at: int) -> bytes:
    """The same but for one byte, whatever that was."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


FORGERIES = {
    "another token": lambda request: message(ACK, CONTENT, request[2:4], changed(request, 11)[4:12], payload=b"forged"),
    "a shorter token": lambda request: message(ACK, CONTENT, request[2:4], request[4:6], payload=b"forged"),
    "no token": lambda request: message(ACK, CONTENT, request[2:4], payload=b"forged"),
    "another message id": lambda request: message(
        ACK, CONTENT, changed(request, 3)[2:4], request[4:12], payload=b"forged"
    ),
    "an acknowledgement of something else": lambda request: message(ACK, 0, bytes([request[2] ^ 1, request[3]])),
    "a reset of something else": lambda request: message(RST, 0, bytes([request[2] ^ 1, request[3]])),
    "a ping": lambda request: message(CON, 0, request[2:4]),
    "the question": lambda request: request,
    "a reset with an answer": lambda request: message(RST, CONTENT, request[2:4], request[4:12], payload=b"forged"),
    "another version": lambda request: bytes([piggybacked(request)[0] ^ 0xC0]) + piggybacked(request)[1:],
    "a token that is too long": lambda request: bytes([0x69]) + piggybacked(request)[1:],
    "a marker without payload": lambda request: piggybacked(request, b"") + b"\xff",
    "an option that is cut short": lambda request: piggybacked(request, b"", options=b"\x45abc"),
    "a reserved length": lambda request: piggybacked(request, b"", options=b"\x4fabc"),
    "a critical option that is unknown": lambda request: piggybacked(request, b"forged", options=b"\x91x"),
    "nothing": lambda request: b"",
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
async def test_forgeries_change_nothing(forge: object) -> None:
    assert callable(forge)
    async with serving(lambda request, _: [forge(request), piggybacked(request)]) as (server,):
        assert await get(server.at) == (0, ["hello"], [])


async def test_who_gives_only_nonsense_is_told_of() -> None:
    forge = FORGERIES["a critical option that is unknown"]
    async with serving(lambda request, _: [forge(request)]) as (server,):
        status, out, (line,) = await get(server.at, timeout=HASTY)
    assert (status, out) == (1, [])
    assert line.startswith(f"no reply from {server.at} in {HASTY} s")
    assert "its critical option 9 is unknown here" in line


# ------------------------------------------------------------------------------------------------
# No answer


async def test_an_empty_acknowledgement_alone_is_no_answer() -> None:
    async with serving(lambda request, _: [message(ACK, 0, request[2:4])]) as (server,):
        status, out, (line,) = await get(server.at, timeout="3.5")
    assert (status, out) == (1, [])
    assert line.startswith(f"no reply from {server.at} in 3.5 s (1 sent)")  # It would have been sent again by now.


# ------------------------------------------------------------------------------------------------
# Arguments, and the format

WRONG = ["127.0.0.1", "http://127.0.0.1/", "coap://", "coap:///x", "coap://h:0/", "coap://h:x/", "coap://h:70000/"]
WRONG += ["coap://h/#part", "coap://me@h/", "coap://[::1/", f"coap://h/{'x' * 256}"]


@pytest.mark.parametrize("uri", WRONG)
def test_a_wrong_address_is_refused(uri: str) -> None:
    check_refused(run("coap_get.py", uri), "URI", repr(uri))


def test_coaps_is_refused() -> None:
    check_refused(run("coap_get.py", "coaps://127.0.0.1/"), "DTLS", "coap://")


@pytest.fixture(scope="module")
def coap_get() -> Iterator[ModuleType]:
    with imported("coap_get") as module:
        yield module


@pytest.mark.parametrize(
    ("uri", "host", "options"),
    [
        ("coap://192.0.2.1", "192.0.2.1", []),
        ("COAP://[2001:DB8::1]/", "2001:db8::1", []),
        ("coap://Sensor.Example/", "sensor.example", [(3, b"sensor.example")]),
        ("coap://192.0.2.1/%E2%82%AC/", "192.0.2.1", [(11, "€".encode()), (11, b"")]),
        ("coap://192.0.2.1?a%26b&c", "192.0.2.1", [(15, b"a&b"), (15, b"c")]),
    ],
)
def test_addresses(coap_get: ModuleType, uri: str, host: str, options: list[tuple[int, bytes]]) -> None:
    target = coap_get.target(uri)
    assert (target.server.host, target.server.port, target.options) == (host, 5683, options)


@given(options=st.lists(st.tuples(st.integers(0, 65_000), st.binary(max_size=300)), max_size=8), payload=st.binary())
def test_what_is_packed_is_read_again(coap_get: ModuleType, options: list[tuple[int, bytes]], payload: bytes) -> None:
    packet = message(ACK, CONTENT, b"id", b"token", coap_get.packed_options(options), payload)
    read = coap_get.parsed(packet)
    assert read.options == sorted(options, key=lambda option: option[0])
    assert (read.kind, read.code, read.token, read.payload) == (ACK, CONTENT, b"token", payload)


@given(packet=st.binary(max_size=40) | st.binary(max_size=40).map(lambda rest: b"\x42\x45" + rest))
def test_nonsense_is_a_value_error_at_worst(coap_get: ModuleType, packet: bytes) -> None:
    try:
        coap_get.parsed(packet)
    except ValueError:
        return
    assert len(packet) >= 4


@given(number=st.integers(0, (1 << 20) - 1), more=st.booleans(), code=st.integers(0, 6))
def test_blocks_are_numbered(coap_get: ModuleType, number: int, more: bool, code: int) -> None:
    packed = coap_get.Block(number, more, code).packed()
    assert len(packed) <= 3
    payload = bytes(16 << code)
    answer = coap_get.Message(ACK, CONTENT, 0, b"", [(23, packed)], payload)
    assert coap_get.block_of(answer) == (number, more, code)
