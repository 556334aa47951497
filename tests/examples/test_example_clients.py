"""The whole clients in examples/clients: what holds for all, and what each does where the network or the server is bad.

They run in virtual time, so that a minute's wait takes none; tests/interop has them with real servers.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import io
import struct
import subprocess
import sys
import time
import tokenize
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from types import ModuleType

import pytest
from example_kit import EXAMPLES, LIMIT
from hypothesis import given
from hypothesis import strategies as st

import udpguard
from udpguard.testing import Answer, Answers, Request, Server, Simulation, silent

CLIENTS = EXAMPLES / "clients"
SCRIPTS = sorted(path.name for path in CLIENTS.glob("*.py"))
MOST_LINES = 60
Handler = Callable[[Request], Answers]


def client(name: str) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(CLIENTS)
        yield importlib.import_module(name)


@pytest.fixture
def sim() -> Iterator[Simulation]:
    with Simulation(seed=1) as simulation:
        yield simulation


def changed(data: bytes, at: int) -> bytes:
    """The same but for one byte, whatever that was."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


# ------------------------------------------------------------------------------------------------
# All of them


def test_they_are_there() -> None:
    assert {"a2s_split.py", "coap_separate.py", "dns_failover.py", "ntp_clock.py"} <= set(SCRIPTS)


@pytest.mark.parametrize("arguments", [[], ["--help"]])
@pytest.mark.parametrize("script", SCRIPTS)
def test_it_says_how_it_is_run(script: str, arguments: list[str]) -> None:
    command = [sys.executable, str(CLIENTS / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"python examples/clients/{script} " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_is_small_and_readable(script: str) -> None:
    text = (CLIENTS / script).read_text()
    lines = text.splitlines()
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= 120
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    assert not [token.start for token in tokens if token.type == tokenize.OP and token.string == ";"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_its_docstring_says_how_to_run_it(script: str) -> None:
    docstring = ast.get_docstring(ast.parse((CLIENTS / script).read_text()))
    assert docstring is not None
    assert f"python examples/clients/{script} " in docstring


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_needs_the_public_face_and_the_standard_library_alone(script: str) -> None:
    tree = ast.parse((CLIENTS / script).read_text())
    modules = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    modules |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "udpguard" in modules
    assert {name.partition(".")[0] for name in modules} <= {"udpguard", *sys.stdlib_module_names}
    assert not [name for name in modules if name.startswith("udpguard.")]
    names = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and not _is_self(node.value)]
    names += [name.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for name in node.names]
    assert not [name for name in names if name.startswith("_") and not name.endswith("__")]  # those are Python's


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


# ------------------------------------------------------------------------------------------------
# DNS with failover

SERVFAIL, NXDOMAIN, REFUSED = 2, 3, 5
RESPONSE, TRUNCATED = 0x8180, 0x0200
NAME = "www.example.test"
POINTER = b"\xc0\x0c"  # to the question's name


@pytest.fixture(scope="module")
def dns_failover() -> Iterator[ModuleType]:
    yield from client("dns_failover")


def record(kind: int, data: bytes, name: bytes = POINTER) -> bytes:
    return name + struct.pack("!HHIH", kind, 1, 300, len(data)) + data


def response(request: Request, *records: bytes, flags: int = 0) -> bytes:
    head = request.data[:2] + struct.pack("!HHHHH", RESPONSE | flags, 1, len(records), 0, 0)
    return head + request.data[12:] + b"".join(records)


def good(request: Request) -> bytes:
    """An alias and two addresses."""
    alias = b"\5alias\xc0\x10"
    addresses = [record(1, bytes([192, 0, 2, last]), alias) for last in (1, 2)]
    return response(request, record(5, alias), *addresses)


def looked_up(sim: Simulation, module: ModuleType, *handlers: Handler | None, name: str = NAME) -> list[str]:
    """Look a name up at servers with these handlers; None is a host where none runs."""

    async def main() -> list[str]:
        sim.host("192.0.2.53")
        addresses = [("192.0.2.53", 5300 + number) for number in range(len(handlers))]
        servers = [Server(handler, *address) for handler, address in zip(handlers, addresses, strict=True) if handler]
        for server in servers:
            await server.__aenter__()
        try:
            async with udpguard.open_endpoint(correlate=module.ID, timeout=1.0) as endpoint:
                found: list[str] = await module.look_up(endpoint, name, addresses)
                return found
        finally:
            for server in servers:
                await server.__aexit__(None, None, None)

    return sim.run(main)


FAILING: dict[str, tuple[Handler | None, float]] = {
    "dead": (None, 0.5),
    "SERVFAIL": (lambda request: response(request, flags=SERVFAIL), 0.5),
    "REFUSED": (lambda request: response(request, flags=REFUSED), 0.5),
    "truncated": (lambda request: response(request, record(1, bytes(4)), flags=TRUNCATED), 0.5),
    "cut short": (lambda request: good(request)[:-3], 0.5),
    "silent": (silent, 1.5),
    "another question": (lambda request: good(request).replace(b"example", b"another"), 1.5),
    "another type": (lambda request: response(request)[:-4] + b"\0\x1c\0\1", 1.5),
    "no response": (lambda request: request.data, 1.5),
    "no question": (lambda request: request.data[:2] + struct.pack("!HHHHH", RESPONSE, 0, 0, 0, 0), 1.5),
    "too short": (lambda request: request.data[:11], 1.5),
}


@pytest.mark.parametrize(("handler", "seconds"), FAILING.values(), ids=FAILING)
def test_dns_moves_on(sim: Simulation, dns_failover: ModuleType, handler: Handler | None, seconds: float) -> None:
    assert looked_up(sim, dns_failover, handler, good) == ["192.0.2.1", "192.0.2.2"]
    assert sim.loop.time() < seconds


def test_dns_comes_back_to_who_was_busy(sim: Simulation, dns_failover: ModuleType) -> None:
    busy = lambda request: good(request) if request.number else None  # noqa: E731
    assert looked_up(sim, dns_failover, busy, None) == ["192.0.2.1", "192.0.2.2"]


def test_dns_knows_that_a_name_is_not_there(sim: Simulation, dns_failover: ModuleType) -> None:
    assert looked_up(sim, dns_failover, lambda request: response(request, flags=NXDOMAIN), good) == []


def test_dns_says_why_nobody_could_tell(sim: Simulation, dns_failover: ModuleType) -> None:
    with pytest.raises(OSError, match="error 2") as caught:
        looked_up(sim, dns_failover, lambda request: response(request, flags=SERVFAIL), None, silent)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3  # each server twice, and each reason once
    assert lines[1].startswith("192.0.2.53: 192.0.2.53:5301 refused: ")
    assert lines[2].startswith("192.0.2.53: no reply from 192.0.2.53:5302 in 1.0 s")


def test_dns_asks_for_what_it_is_to_ask(sim: Simulation, dns_failover: ModuleType) -> None:
    asked: list[bytes] = []

    def handler(request: Request) -> bytes:
        asked.append(request.data)
        return response(request)

    for name in ("bücher.example", "xn--bcher-kva.example."):
        assert looked_up(sim, dns_failover, handler, name=name) == []
    question = b"\x01\x00\0\1\0\0\0\0\0\0\x0dxn--bcher-kva\7example\0\0\1\0\1"
    assert [data[2:] for data in asked] == [question] * 2
    assert asked[0][:2] != asked[1][:2]


@given(answer=st.binary(max_size=80), at=st.integers(0, 40), count=st.integers(0, 5))
def test_dns_survives_nonsense(dns_failover: ModuleType, answer: bytes, at: int, count: int) -> None:
    try:
        found = dns_failover.addresses(answer, at, count)
    except (IndexError, OSError, struct.error):
        return
    assert len(found) <= count


# ------------------------------------------------------------------------------------------------
# CoAP with separate responses

CON, NON, ACK, RST = 0x40, 0x50, 0x60, 0x70


@pytest.fixture(scope="module")
def coap_separate() -> Iterator[ModuleType]:
    yield from client("coap_separate")


def message(kind: int, request: bytes, payload: bytes = b"hello", code: int = 0x45, options: bytes = b"") -> bytes:
    """An answer; one that is sent apart has a message id of its own."""
    message_id = request[2:4] if kind == ACK else b"\xab\xcd"
    return bytes([kind | 8, code]) + message_id + request[4:12] + options + (b"\xff" + payload if payload else b"")


def empty(kind: int, request: bytes) -> bytes:
    return bytes([kind, 0]) + request[2:4]


@asynccontextmanager
async def conversing(module: ModuleType, handler: Handler) -> AsyncIterator[tuple[Server, udpguard.Session]]:
    """A server, and a session with it in which the client acknowledges what comes again."""
    async with (
        Server(handler, "192.0.2.1", 5683) as server,
        udpguard.open_endpoint() as endpoint,
        endpoint.session(server.address) as session,
    ):
        again = asyncio.create_task(module.acknowledge_again(session))
        yield server, session
    await again  # It ends with the session.


def got(sim: Simulation, module: ModuleType, handler: Handler, *path: str) -> tuple[bytes, list[bytes]]:
    """What comes of a question; and what the server was sent, a minute later."""

    async def main() -> tuple[bytes, list[bytes]]:
        async with conversing(module, handler) as (server, session):
            answer = await module.get(session, *path)
            await asyncio.sleep(60)
            return answer, [request.data for request in server.requests]

    return sim.run(main)


def test_coap_an_answer_that_comes_with_the_acknowledgement(sim: Simulation, coap_separate: ModuleType) -> None:
    answer, (question,) = got(sim, coap_separate, lambda request: message(ACK, request.data), "a", "b c")
    assert answer == b"hello"
    assert question[:2] == b"\x48\x01"
    assert question[12:] == b"\xb1a\x03b c"


def test_coap_an_answer_that_comes_later_and_again(sim: Simulation, coap_separate: ModuleType) -> None:
    """It is acknowledged each time; nothing is asked again, though the answer takes longer than a retransmission."""

    def separate(request: Request) -> Answers:
        if request.number:
            return None
        con = message(CON, request.data)
        return [empty(ACK, request.data), *(Answer(con, delay=at) for at in (20.0, 23.0, 28.0))]

    answer, (question, *rest) = got(sim, coap_separate, separate)
    assert answer == b"hello"
    assert question[:2] == b"\x48\x01"
    assert rest == [b"\x60\0\xab\xcd"] * 3
    assert sim.loop.time() > 80


def test_coap_an_answer_that_overtakes_the_acknowledgement(sim: Simulation, coap_separate: ModuleType) -> None:
    def overtaking(request: Request) -> Answers:
        if request.number:
            return None
        return [message(CON, request.data), Answer(empty(ACK, request.data), delay=1.0)]

    answer, (_, *rest) = got(sim, coap_separate, overtaking)
    assert (answer, rest) == (b"hello", [b"\x60\0\xab\xcd"])


def test_coap_what_is_lost_is_sent_again(sim: Simulation, coap_separate: ModuleType) -> None:
    """The same message, with the same id and token."""
    answer, sent = got(sim, coap_separate, lambda request: message(NON, request.data) if request.number == 2 else None)
    assert answer == b"hello"
    assert len(sent) == 3
    assert len(set(sent)) == 1


COAP_FORGERIES: dict[str, Callable[[bytes], bytes]] = {
    "another token": lambda request: message(ACK, changed(request, 11), b"forged"),
    "another message id": lambda request: b"\x68\x45??" + message(ACK, request, b"forged")[4:],
    "an empty acknowledgement of something else": lambda request: b"\x60\0" + changed(request, 3)[2:4],
    "a reset of something else": lambda request: b"\x70\0??",
    "a shorter token": lambda request: b"\x62\x45" + request[2:6] + b"\xffforged",
    "nothing": lambda request: b"",
}


@pytest.mark.parametrize("forge", COAP_FORGERIES.values(), ids=COAP_FORGERIES)
def test_coap_forgeries_change_nothing(
    sim: Simulation, coap_separate: ModuleType, forge: Callable[[bytes], bytes]
) -> None:
    handler = lambda request: [forge(request.data), Answer(message(ACK, request.data), delay=0.5)]  # noqa: E731
    assert got(sim, coap_separate, handler)[0] == b"hello"


REFUSALS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "an error": (lambda request: message(ACK, request, b"Not Found", code=0x84), "the server says 4.04"),
    "a reset": (lambda request: empty(RST, request), "the server says 0.00"),
    "blocks": (lambda request: message(ACK, request, options=b"\xd1\x0a\x08"), "option 23, which is unknown"),
}


@pytest.mark.parametrize(("answer", "why"), REFUSALS.values(), ids=REFUSALS)
def test_coap_a_refusal_is_told(
    sim: Simulation, coap_separate: ModuleType, answer: Callable[[bytes], bytes], why: str
) -> None:
    with pytest.raises(LookupError, match=why):
        got(sim, coap_separate, lambda request: answer(request.data))


def test_coap_options_are_passed_over(sim: Simulation, coap_separate: ModuleType) -> None:
    """ETag of two bytes, Max-Age, Size2, and one of number 1,000 and 300 bytes."""
    options = (
        b"\x42\xff\xff" + b"\xa1\x3c" + b"\xd2\x01\xff\xff" + b"\xee" + struct.pack("!HH", 703, 31) + b"\xff" * 300
    )
    handler = lambda request: message(ACK, request.data, options=options)  # noqa: E731
    assert got(sim, coap_separate, handler)[0] == b"hello"
    assert got(sim, coap_separate, lambda request: message(ACK, request.data, b"", options=options))[0] == b""


def test_coap_a_dead_server_is_known_at_once(sim: Simulation, coap_separate: ModuleType) -> None:
    """The request is told of it, and the task that only listens goes on."""

    async def main() -> None:
        async with udpguard.open_endpoint() as endpoint, endpoint.session(("192.0.2.1", 5683)) as session:
            again = asyncio.create_task(coap_separate.acknowledge_again(session))
            await coap_separate.get(session)
        await again

    sim.host("192.0.2.1")
    with pytest.raises(udpguard.PeerRefusedError):
        sim.run(main)


def test_coap_a_silent_server_times_out_as_the_rfc_says(sim: Simulation, coap_separate: ModuleType) -> None:
    with pytest.raises(udpguard.ReplyTimeoutError) as caught:
        got(sim, coap_separate, silent)
    assert caught.value.attempts == 5
    assert sim.loop.time() == pytest.approx(93, abs=0.1)  # MAX_TRANSMIT_WAIT, RFC 7252 section 4.8.2


# ------------------------------------------------------------------------------------------------
# A2S answers that are split

SINGLE, SPLIT = b"\xff\xff\xff\xff", b"\xfe\xff\xff\xff"
CHALLENGE = b"\1\2\3\4"
RULES = {f"rule {number}": str(number) for number in range(100)}


@pytest.fixture(scope="module")
def a2s_split() -> Iterator[ModuleType]:
    yield from client("a2s_split")


def parts_of(ident: int, size: int = 200, rules: dict[str, str] = RULES) -> list[bytes]:
    """The datagrams of an answer."""
    texts = "".join(f"{name}\0{value}\0" for name, value in rules.items()).encode()
    answer = SINGLE + b"E" + struct.pack("<H", len(rules)) + texts
    chunks = [answer[at : at + size] for at in range(0, len(answer), size)]
    return [
        SPLIT + struct.pack("<IBBH", ident, len(chunks), number, size) + chunk for number, chunk in enumerate(chunks)
    ]


def asked(sim: Simulation, module: ModuleType, *answers: Sequence[bytes]) -> tuple[dict[str, str], int]:
    """The rules, as a server tells them that gives these answers one after the other, to who knows the challenge."""
    left = iter(answers)

    def handler(request: Request) -> Answers:
        if request.data == SINGLE + b"V" + SINGLE:
            return SINGLE + b"A" + CHALLENGE
        return next(left, []) if request.data == SINGLE + b"V" + CHALLENGE else None

    async def main() -> tuple[dict[str, str], int]:
        retry = udpguard.Retry(attempts=3, initial=0.5)
        async with Server(handler, "192.0.2.1", 27015) as server, udpguard.open_endpoint(retry=retry) as endpoint:
            return await module.rules(endpoint, server.address), len(server.requests)

    return sim.run(main)


def test_a2s_an_answer_in_one_datagram(sim: Simulation, a2s_split: ModuleType) -> None:
    rules = {"mp_friendlyfire": "1", "empty": ""}
    (part,) = parts_of(0, 1400, rules)
    assert asked(sim, a2s_split, [part[12:]]) == (rules, 2)


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
@pytest.mark.parametrize("copies", [1, 3])
def test_a2s_parts_in_any_order_and_twice(sim: Simulation, a2s_split: ModuleType, order: slice, copies: int) -> None:
    assert len(parts_of(1)) > 5
    assert asked(sim, a2s_split, [part for part in parts_of(1)[order] for _ in range(copies)]) == (RULES, 2)


def test_a2s_a_part_that_is_lost_is_asked_for_again(sim: Simulation, a2s_split: ModuleType) -> None:
    """And what the server says then is not mixed with what it said before."""
    old = parts_of(1, rules=dict.fromkeys(RULES, "old"))
    new = {**RULES, "rule 7": "new"}
    assert asked(sim, a2s_split, old[1:], parts_of(2, rules=new)) == (new, 3)


def test_a2s_parts_of_two_answers_are_kept_apart(sim: Simulation, a2s_split: ModuleType) -> None:
    old, new = parts_of(1, rules=dict.fromkeys(RULES, "old")), parts_of(2)
    mixed = [part for pair in zip(old[:-1], new, strict=False) for part in pair]
    assert asked(sim, a2s_split, [*mixed, new[-1]]) == (RULES, 2)


def test_a2s_nonsense_changes_nothing(sim: Simulation, a2s_split: ModuleType) -> None:
    nonsense = [b"", SPLIT, SINGLE + b"D\0", parts_of(1)[0][:4] + struct.pack("<IBBH", 1, 3, 7, 200), b"E" * 20]
    assert asked(sim, a2s_split, [*nonsense, *parts_of(1)]) == (RULES, 2)


def test_a2s_a_part_that_never_comes_is_told(sim: Simulation, a2s_split: ModuleType) -> None:
    parts = parts_of(1)
    with pytest.raises(udpguard.ReplyTimeoutError, match=f"{len(parts) - 1} of {len(parts)} parts came") as caught:
        asked(sim, a2s_split, *[parts[:-1]] * 3)
    assert caught.value.attempts == 3


def test_a2s_challenges_without_end(sim: Simulation, a2s_split: ModuleType) -> None:
    with pytest.raises(LookupError, match=r"192\.0\.2\.1 gives nothing but challenges"):
        asked(sim, a2s_split, *[[SINGLE + b"A" + CHALLENGE]] * 9)


# ------------------------------------------------------------------------------------------------
# NTP

SINCE_1900 = 2_208_988_800
ON_THE_WAY = 0.01  # seconds that a simulated datagram takes


@pytest.fixture(scope="module")
def ntp_clock() -> Iterator[ModuleType]:
    yield from client("ntp_clock")


def ntp(
    request: Request, *, ahead: float = 0.0, first: int = 0x24, stratum: int = 2, code: bytes = b"", takes: float = 0.0
) -> bytes:
    """A server's answer, whose clock is ahead."""
    got, left = (round((time.time() + ahead + SINCE_1900 + it) * 2**32) % 2**64 for it in (0.0, takes))
    head = struct.pack("!BB10x4s8x", first, stratum, code)
    return head + request.data[40:48] + struct.pack("!QQ", got, left)


def ahead_by(seconds: float) -> Handler:
    return lambda request: ntp(request, ahead=seconds)


def median(sim: Simulation, module: ModuleType, *handlers: Handler) -> float:
    async def main() -> float:
        servers = [Server(handler, f"192.0.2.{1 + index}", 123) for index, handler in enumerate(handlers)]
        for server in servers:
            await server.__aenter__()
        try:
            async with udpguard.open_endpoint(correlate=module.ORIGIN, retry=udpguard.Retry(attempts=3)) as endpoint:
                found: float = await module.offset(endpoint, [server.address for server in servers])
                return found
        finally:
            for server in servers:
                await server.__aexit__(None, None, None)

    return sim.run(main)


def close_to(seconds: float) -> object:
    """What is on the way takes no real time, and this machine may be busy."""
    return pytest.approx(seconds - ON_THE_WAY, abs=1.0)


@pytest.mark.parametrize("ahead", [0.0, 100.0, -5_000.0, 20 * 365 * 86_400.0])
def test_ntp_one_server(sim: Simulation, ntp_clock: ModuleType, ahead: float) -> None:
    assert median(sim, ntp_clock, ahead_by(ahead)) == close_to(ahead)


def test_ntp_what_a_server_takes_is_no_delay(sim: Simulation, ntp_clock: ModuleType) -> None:
    async def main() -> tuple[float, float]:
        async with (
            Server(lambda request: Answer(ntp(request, takes=30.0), delay=30.0), "192.0.2.1", 123) as server,
            udpguard.open_endpoint(correlate=ntp_clock.ORIGIN, timeout=60.0) as endpoint,
        ):
            pair: tuple[float, float] = await ntp_clock.ask(endpoint, server.address)
            return pair

    offset, delay = sim.run(main)
    assert offset == close_to(0)
    assert delay == pytest.approx(2 * ON_THE_WAY, abs=1e-4)  # A float of so many seconds since 1900 is no finer.


def test_ntp_the_median_bears_who_is_wrong(sim: Simulation, ntp_clock: ModuleType) -> None:
    wrong = ahead_by(1e6)
    assert median(sim, ntp_clock, ahead_by(10), wrong, ahead_by(20), silent, ahead_by(15)) == close_to(17.5)
    assert median(sim, ntp_clock, wrong, ahead_by(20), ahead_by(-1e6)) == close_to(20)


def test_ntp_each_attempt_has_a_timestamp_of_its_own(sim: Simulation, ntp_clock: ModuleType) -> None:
    sent: list[bytes] = []

    def handler(request: Request) -> Answers:
        sent.append(request.data)
        return ntp(request) if request.number == 2 else None

    assert median(sim, ntp_clock, handler) == close_to(0)
    assert {data[:40] for data in sent} == {b"\x23" + bytes(39)}
    assert len({data[40:] for data in sent}) == 3


NTP_FORGERIES: dict[str, Handler] = {
    "another origin": lambda request: changed(ntp(request, ahead=1e6), 31),
    "no origin": lambda request: ntp(request, ahead=1e6)[:24] + bytes(8) + ntp(request, ahead=1e6)[32:],
    "a client": lambda request: ntp(request, ahead=1e6, first=0x23),
    "cut short": lambda request: ntp(request, ahead=1e6)[:47],
}


@pytest.mark.parametrize("forge", NTP_FORGERIES.values(), ids=NTP_FORGERIES)
def test_ntp_forgeries_change_nothing(sim: Simulation, ntp_clock: ModuleType, forge: Handler) -> None:
    def handler(request: Request) -> Answers:
        forged = forge(request)
        assert isinstance(forged, bytes)
        return [forged, Answer(ntp(request), delay=0.2)]

    assert median(sim, ntp_clock, handler) == pytest.approx(-0.11, abs=1.0)


NO_TIME: dict[str, tuple[Handler, str]] = {
    "a kiss of death": (lambda request: ntp(request, first=0xE4, stratum=0, code=b"RATE"), "RATE"),
    "a clock that is not set": (lambda request: ntp(request, first=0xE4), "won't tell the time"),
    "stratum 16": (lambda request: ntp(request, stratum=16), "won't tell the time"),
    "silence": (silent, "no reply from"),
}


@pytest.mark.parametrize(("handler", "why"), NO_TIME.values(), ids=NO_TIME)
def test_ntp_who_does_not_tell_the_time_has_no_say(
    sim: Simulation, ntp_clock: ModuleType, handler: Handler, why: str
) -> None:
    assert median(sim, ntp_clock, handler, ahead_by(10)) == close_to(10)
    with pytest.raises(LookupError, match=why):
        median(sim, ntp_clock, handler)
