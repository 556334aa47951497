"""radius_login.py: what it asks, what it believes, and that who doesn't know the secret can't change it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import ModuleType

import pytest
from example_kit import HASTY, PATIENT, check_refused, free_address, imported, needs_icmp, needs_ipv6, run
from hypothesis import given
from hypothesis import strategies as st

import udpguard
from udpguard.testing import Answer, Handler, Impostor, Request, Server, silent

SECRET = b"xyzzy5461"
ACCEPT, REJECT, CHALLENGE = 2, 3, 11
REPLY_MESSAGE, MESSAGE_AUTHENTICATOR = 18, 80

# RFC 2865 section 7.1: who asks, and the answer, of a time before there were Message-Authenticators.
SAMPLE_REQUEST = bytes.fromhex(
    "01000038 0f403f9473978057bd83d5cb98f4227a 01066e656d6f 02120dbe708d93d413ce3196e43f782a0aee"
    "0406c0a80110 050600000003"
)
SAMPLE_ANSWER = bytes.fromhex("02000026 86fe220e7624ba2a1005f6bf9b55e0b2 060600000001 0f0600000000 0e06c0a80103")


def attribute(kind: int, value: bytes) -> bytes:
    return bytes((kind, 2 + len(value))) + value


def answer(
    request: bytes, code: int, *attributes: bytes, secret: bytes = SECRET, signed: bool = True, off: int = 0
) -> bytes:
    """What a server answers; another secret's, without a Message-Authenticator, or with one that is wrong."""
    body = b"".join(attributes)
    size = 20 + len(body) + 18 * signed
    head = bytes((code, request[1], size >> 8, size & 0xFF))
    if signed:
        blank = head + request[4:20] + attribute(MESSAGE_AUTHENTICATOR, bytes(16)) + body
        signature = hmac.digest(secret, blank, "md5")
        body = attribute(MESSAGE_AUTHENTICATOR, bytes((signature[0] ^ off,)) + signature[1:]) + body
    return head + hashlib.md5(head + request[4:20] + body + secret).digest() + body


def accepted(request: Request) -> bytes:
    return answer(request.data, ACCEPT)


def rejected(request: Request) -> bytes:
    return answer(request.data, REJECT, attribute(REPLY_MESSAGE, b"no, and \x1b[2J"), attribute(REPLY_MESSAGE, b"go"))


async def login(
    at: object, *arguments: str, timeout: str = PATIENT, typed: str = "arctangent\n"
) -> tuple[int, str, str]:
    """Run it beside the test's servers: its exit status, and what it printed on stdout and on stderr."""
    options = ("--secret", SECRET.decode(), "--timeout", timeout, *arguments)
    done = await asyncio.to_thread(run, "radius_login.py", str(at), "nemo", *options, stdin=typed.encode())
    assert "Traceback" not in done.stderr
    assert "arctangent" not in done.stdout + done.stderr
    return done.returncode, done.stdout, done.stderr


async def told(handler: Handler, *arguments: str, timeout: str = PATIENT) -> tuple[int, str, str]:
    """The same with such a server; where its address would stand there are three dots."""
    async with Server(handler) as server:
        status, out, err = await login(server.address, *arguments, timeout=timeout)
    return status, out, err.replace(str(server.address), "…")


# ------------------------------------------------------------------------------------------------
# Answers


@pytest.mark.parametrize(
    ("handler", "status", "out"),
    [
        (accepted, 0, "nemo is let in\n"),
        (rejected, 1, "nemo is refused\nthe server says: no, and \\x1b[2J\nthe server says: go\n"),
        (
            lambda request: answer(request.data, CHALLENGE),
            1,
            "nemo is asked for more, which this example has no answer to\n",
        ),
        (lambda request: accepted(request) + b"\0padding", 0, "nemo is let in\n"),
    ],
)
async def test_the_verdict(handler: Handler, status: int, out: str) -> None:
    assert await told(handler) == (status, out, "")


async def test_what_it_asks() -> None:
    async with Server(accepted) as server:
        await login(server.address, "--nas-identifier", "door 5")
        (request,) = server.requests
    data = request.data
    assert (data[0], int.from_bytes(data[2:4], "big")) == (1, len(data))
    assert data[20:22] == attribute(MESSAGE_AUTHENTICATOR, bytes(16))[:2], "the first attribute"
    assert data[22:38] == hmac.digest(SECRET, data[:22] + bytes(16) + data[38:], "md5")
    mask = hashlib.md5(SECRET + data[4:20]).digest()
    hidden = bytes(a ^ b for a, b in zip(mask, b"arctangent".ljust(16, b"\0"), strict=True))
    assert data[38:] == attribute(1, b"nemo") + attribute(2, hidden) + attribute(32, b"door 5")


async def test_a_request_that_was_lost_is_sent_again_as_it_was() -> None:
    """With the same identifier, authenticator and signature (RFC 5080 section 2.2.1)."""
    async with Server(lambda request: accepted(request) if request.number else None) as server:
        assert await login(server.address) == (0, "nemo is let in\n", "")
        first, second = (request.data for request in server.requests)
    assert first == second


async def test_no_two_requests_are_alike() -> None:
    async with Server(accepted) as server:
        for _ in range(4):
            await login(server.address)
        requests = [request.data for request in server.requests]
    assert len({data[1] for data in requests}) > 1
    assert len({data[4:20] for data in requests}) == 4


@needs_ipv6
async def test_a_server_with_an_ipv6_address() -> None:
    async with Server(accepted, "::1") as server:
        assert await login(server.address) == (0, "nemo is let in\n", "")


def forgeries(data: bytes) -> list[bytes]:
    """Accepts by those who have seen the request, and don't know the secret."""
    true = answer(data, REJECT)
    return [
        b"",
        data,
        bytes((ACCEPT,)) + data[1:],
        bytes((ACCEPT,)) + true[1:],
        answer(data, ACCEPT, secret=b"guessed"),
        answer(data, ACCEPT, signed=False, secret=b""),
        answer(data, ACCEPT)[:4] + bytes(16) + answer(data, ACCEPT)[20:],
        bytes((ACCEPT, data[1], 0, 20)) + data[4:20],
        answer(data[:4] + bytes(16) + data[20:], ACCEPT),  # the answer to another request
        answer(data[:1] + bytes((data[1] ^ 1,)) + data[2:], ACCEPT),  # or to one with another identifier
        # And what nobody without the secret, and no server with it, would send.
        answer(data, ACCEPT, off=1),
        answer(data, ACCEPT, signed=False),
        answer(data, ACCEPT, b"\x12"),
        answer(data, ACCEPT, b"\x12\1"),
        answer(data, ACCEPT, b"\x12\7abc"),
        answer(data, 4),
        answer(data, ACCEPT)[:-1],
    ]


async def test_an_impostors_accepts_are_passed_over_and_the_true_reject_counts() -> None:
    async with Server(silent) as server, Impostor(server) as impostor:
        task = asyncio.create_task(login(server.address))
        request = await server.next()
        for forged in forgeries(request.data):
            await impostor.forge(forged, request.peer)
        await impostor.forge_from_other_port(answer(request.data, ACCEPT), request.peer)
        await server.send(answer(request.data, REJECT), request.peer)
        assert await task == (1, "nemo is refused\n", "")


async def test_an_impostors_rejects_are_passed_over_and_the_true_accept_counts() -> None:
    def beset(request: Request) -> list[bytes | Answer]:
        data = request.data
        lies = [answer(data, REJECT, secret=b"guessed"), bytes((REJECT,)) + accepted(request)[1:]]
        return [*lies, Answer(answer(data, REJECT), sent_from="port"), accepted(request)]

    assert await told(beset) == (0, "nemo is let in\n", "")


# ------------------------------------------------------------------------------------------------
# No answers


async def test_a_silent_server() -> None:
    status, out, err = await told(silent, timeout=HASTY)
    assert (status, out) == (1, "")
    assert err.startswith(f"no reply from … in {HASTY} s (1 sent)")
    assert err.endswith("; a server that doesn't know this machine, or has another secret for it, is silent, too\n")


@needs_icmp
async def test_a_server_that_is_not_there() -> None:
    at = free_address()
    status, out, err = await login(at)
    assert (status, out) == (1, "")
    assert err.startswith(f"{at} refused: ")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            lambda data: answer(data, ACCEPT, secret=b"other"),
            "its authenticator is wrong: it is forged, or the secrets",
        ),
        (lambda data: answer(data, ACCEPT, off=1), "its Message-Authenticator is wrong: it is forged, or the secrets"),
        (lambda data: answer(data, ACCEPT, signed=False), "update that server, or pass --unsigned to believe it"),
        (lambda data: answer(data, ACCEPT, b"\x12\1"), "it has an attribute that is cut off"),
        (lambda data: data, "it is no answer to a login"),
        (lambda data: data[:2], "it is too short for RADIUS"),
    ],
)
async def test_what_was_wrong_with_an_answer_is_told(wrong: Callable[[bytes], bytes], words: str) -> None:
    status, out, err = await told(lambda request: wrong(request.data), timeout=HASTY)
    assert (status, out) == (1, "")
    assert err.startswith(
        f"no reply from … in {HASTY} s (1 sent); 1 datagram came from … and accept raised ValueError: it"
    )
    assert words in err


@pytest.mark.parametrize(("off", "status"), [(0, 0), (1, 1)])
async def test_unsigned_lets_none_through_that_are_wrong(off: int, status: int) -> None:
    def signed(request: Request) -> bytes:
        return answer(request.data, ACCEPT, off=off)

    assert (await told(lambda request: answer(request.data, ACCEPT, signed=False), "--unsigned"))[0] == 0
    assert (await told(signed, "--unsigned", timeout=PATIENT if not off else HASTY))[0] == status


def test_without_a_secret_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RADIUS_SECRET", raising=False)
    check_refused(run("radius_login.py", "127.0.0.1", "nemo"), "--secret", "RADIUS_SECRET")
    check_refused(run("radius_login.py", "127.0.0.1", "nemo", "--secret", ""), "--secret", "RADIUS_SECRET")


async def test_the_secret_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADIUS_SECRET", SECRET.decode())
    async with Server(accepted) as server:
        done = await asyncio.to_thread(run, "radius_login.py", str(server.address), "nemo", stdin=b"arctangent")
    assert (done.returncode, done.stdout, done.stderr) == (0, "nemo is let in\n", "")


@pytest.mark.parametrize("user", ["", "x" * 254])
def test_a_user_who_does_not_fit_is_refused(user: str) -> None:
    check_refused(run("radius_login.py", "127.0.0.1", user, "--secret", "x"), "USER", "1 to 253 bytes")


def test_a_password_that_does_not_fit_is_refused() -> None:
    check_refused(run("radius_login.py", "127.0.0.1", "nemo", "--secret", "x", stdin=b"x" * 129), "128 bytes")


# ------------------------------------------------------------------------------------------------
# Packets


@pytest.fixture(scope="module")
def radius_login() -> Iterator[ModuleType]:
    with imported("radius_login") as module:
        yield module


def genuine(radius_login: ModuleType, data: bytes, asked: bytes, secret: bytes = SECRET, *, unsigned: bool) -> bool:
    reply = udpguard.Reply(data, udpguard.Peer("192.0.2.1", 1812), None, 1)
    answer: bool = radius_login.is_genuine(reply, asked, secret, unsigned=unsigned)
    return answer


def test_the_sample_of_rfc_2865(radius_login: ModuleType) -> None:
    assert radius_login.hidden(b"arctangent", SECRET, SAMPLE_REQUEST[4:20]) == SAMPLE_REQUEST[28:44]
    assert genuine(radius_login, SAMPLE_ANSWER, SAMPLE_REQUEST, unsigned=True)
    for at in range(len(SAMPLE_ANSWER)):
        damaged = SAMPLE_ANSWER[:at] + bytes((SAMPLE_ANSWER[at] ^ 1,)) + SAMPLE_ANSWER[at + 1 :]
        with pytest.raises(ValueError, match=r"^it"):
            genuine(radius_login, damaged, SAMPLE_REQUEST, unsigned=True)


@given(
    password=st.binary(max_size=128), secret=st.binary(min_size=1), authenticator=st.binary(min_size=16, max_size=16)
)
def test_a_password_is_hidden_in_whole_blocks(
    radius_login: ModuleType, password: bytes, secret: bytes, authenticator: bytes
) -> None:
    hidden = radius_login.hidden(password, secret, authenticator)
    assert len(hidden) == max(16, -(-len(password) // 16) * 16)
    shown, previous = b"", authenticator
    for at in range(0, len(hidden), 16):
        mask = hashlib.md5(secret + previous).digest()
        previous = hidden[at : at + 16]
        shown += bytes(a ^ b for a, b in zip(previous, mask, strict=True))
    assert shown == password.ljust(len(hidden), b"\0")


@given(data=st.binary(max_size=80), start=st.integers(0, 60), sane=st.booleans())
def test_no_bytes_off_the_wire_do_harm(radius_login: ModuleType, data: bytes, start: int, sane: bool) -> None:
    """At random, and an answer that goes wrong somewhere."""
    if sane:
        data = answer(SAMPLE_REQUEST, ACCEPT, attribute(REPLY_MESSAGE, b"hello"))[:start] + data
    with suppress(ValueError):
        assert genuine(radius_login, data, SAMPLE_REQUEST, unsigned=True)


def test_identifiers_under_one_secret_are_shared(radius_login: ModuleType) -> None:
    one, same, other = (radius_login.SignedIdentifier(secret) for secret in (b"a", b"a", b"b"))
    assert (one == same, hash(one) == hash(same), one == other) == (True, True, False)
    assert one != udpguard.TransactionId(1, 1, assign=True)
