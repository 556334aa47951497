"""The whole clients in examples/clients with servers that send nonsense: they end, and say so in a line."""

from __future__ import annotations

import asyncio
import importlib
import struct
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import NamedTuple

import pytest
from example_kit import EXAMPLES, INTERRUPTED, needs_ctrl_c, run, talking
from example_snmp import INTEGER, NULL, SEQUENCE, STRING, asked, ber, bound, message, name, number
from hypothesis import given, settings
from hypothesis import strategies as st

import udpguard
from udpguard.testing import Answers, Request, Server, Simulation, silent

CLIENTS = EXAMPLES / "clients"
KNOWN = (OSError, ValueError, LookupError, udpguard.UdpGuardError)
"""What the clients' own last lines expect."""
SINGLE, SPLIT = b"\xff\xff\xff\xff", b"\xfe\xff\xff\xff"
ROOT = "1.3.6.1"

Answer = Callable[[bytes], list[bytes]]


def imported(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(CLIENTS)
        return importlib.import_module(name)


# ------------------------------------------------------------------------------------------------
# Honest answers, and who asks for them


def dns_answer(request: bytes) -> list[bytes]:
    """An address, and a record of a kind that nobody asked for."""
    head = struct.pack("!HHIH", 1, 1, 300, 4) + bytes([192, 0, 2, 1])
    other = struct.pack("!HHIH", 16, 1, 300, 3) + b"\2hi"
    return [request[:2] + b"\x81\x80\0\1\0\2\0\0\0\0" + request[12:] + b"\xc0\x0c" + head + b"\xc0\x0c" + other]


def a2s_answer(request: bytes) -> list[bytes]:
    if request.endswith(SINGLE):
        return [SINGLE + b"A\1\2\3\4"]
    answer = SINGLE + b"E\x02\0" + b"gravity\0800\0motd\0\x1b[2Jhi\0"
    chunks = [answer[at : at + 9] for at in range(0, len(answer), 9)]
    return [SPLIT + struct.pack("<IBBH", 7, len(chunks), each, 9) + chunk for each, chunk in enumerate(chunks)]


def coap_answer(request: bytes) -> list[bytes]:
    """With an ETag, and an option of number 1,000 and 300 bytes."""
    options = b"\x42\xff\xff" + b"\xee" + struct.pack("!HH", 727, 31) + b"x" * 300
    return [b"\x68\x45" + request[2:12] + options + b"\xff\x1b[2Jhi\xff"]


def ntp_answer(request: bytes) -> list[bytes]:
    now = int((time.time() + 2_208_988_800) * 2**32)
    return [struct.pack("!BB10x4s8x", 0x24, 2, b"GPS\0") + request[40:48] + struct.pack("!QQ", now, now)]


def snmp_answer(request: bytes) -> list[bytes]:
    key = asked(request).request_id
    return [message(key, bound((1, 3, 6, 1, 2), ber(STRING, b"\x1b[2Jhi")), bound((1, 3, 7), ber(NULL)))]


async def walked(module: ModuleType, endpoint: udpguard.Endpoint, server: udpguard.Address) -> list[object]:
    found: list[object] = []
    async for each in module.walk(endpoint, server, "public", ROOT):
        found.append(each)
        assert len(found) < 1000
    return found


async def got(module: ModuleType, endpoint: udpguard.Endpoint, server: udpguard.Address) -> object:
    async with endpoint.session(server) as session:
        return await module.get(session, "async")


class Case(NamedTuple):
    """A client, where it asks, and an honest answer."""

    module: ModuleType
    port: int
    ask: Callable[[ModuleType, udpguard.Endpoint, udpguard.Address], Awaitable[object]]
    answer: Answer
    shown: str
    correlate: udpguard.Correlator | None = None


DNS, NTP = imported("dns_failover"), imported("ntp_clock")
CASES = {
    "dns_failover": Case(
        DNS, 53, lambda it, endpoint, at: it.look_up(endpoint, "a.test", [at]), dns_answer, "192.0.2.1\n", DNS.ID
    ),
    "a2s_split": Case(
        imported("a2s_split"),
        27015,
        lambda it, endpoint, at: it.rules(endpoint, at),
        a2s_answer,
        "gravity = 800\nmotd = \\x1b[2Jhi\n",
    ),
    "coap_separate": Case(imported("coap_separate"), 5683, got, coap_answer, "\\x1b[2Jhi\N{REPLACEMENT CHARACTER}\n"),
    "ntp_clock": Case(NTP, 123, lambda it, endpoint, at: it.offset(endpoint, [at]), ntp_answer, " s\n", NTP.ORIGIN),
    "snmp_walk": Case(imported("snmp_walk"), 161, walked, snmp_answer, "1.3.6.1.2 = b'\\x1b[2Jhi'\n"),
}
ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
ARGUMENTS = {"dns_failover": ["a.test", "192.0.2.1"], "snmp_walk": ["192.0.2.1", "161", "public", ROOT]}


def outcome(case: Case, answer: Answer) -> object:
    """What the client makes of such answers; or the error, if it is one that it is to end with."""

    async def main() -> object:
        retry = udpguard.Retry(attempts=2, initial=0.5)
        handler: Callable[[Request], Answers] = lambda request: answer(request.data)  # noqa: E731
        async with (
            Server(handler, "192.0.2.1", case.port) as server,
            udpguard.open_endpoint(retry=retry, correlate=case.correlate) as endpoint,
        ):
            try:
                return await case.ask(case.module, endpoint, server.address)
            except KNOWN as error:
                return error
            finally:
                statistics = endpoint.statistics()
                assert (statistics.pending, statistics.waiting) == (0, 0)

    with Simulation(seed=1) as simulation:
        return simulation.run(main)


# ------------------------------------------------------------------------------------------------
# Nonsense


@ALL
def test_an_honest_answer_is_believed(case: Case) -> None:
    assert not isinstance(outcome(case, case.answer), Exception)


@ALL
@settings(max_examples=25)
@given(data=st.data())
def test_whatever_comes_it_ends_with_an_error_that_it_knows_at_worst(case: Case, data: st.DataObject) -> None:
    at, gone = data.draw(st.integers(0, 80)), data.draw(st.integers(0, 80))
    new = data.draw(st.binary(max_size=20) | st.sampled_from([bytes(60_000), b"\x30\x80" * 30_000, b"\xff" * 60_000]))

    def damaged(request: bytes) -> list[bytes]:
        return [each[:at] + new + each[at + gone :] for each in case.answer(request)]

    outcome(case, damaged)


@pytest.mark.parametrize("client", ["dns_failover", "snmp_walk", "ntp_clock"])
def test_what_is_cut_short_anywhere_is_not_believed(client: str) -> None:
    """Of the others each part may end with the datagram."""
    case = CASES[client]

    def cut(size: int) -> Answer:
        return lambda request: [each[: min(size, len(each) - 1)] for each in case.answer(request)]

    for size in range(80):
        assert isinstance(outcome(case, cut(size)), Exception), size


@pytest.mark.parametrize(
    "options",
    [b"\x45abc", b"\xee\0\0\xff\xffabc", b"\x4fabc", b"\xf0abc", b"\xd1", b"\x91x"],
    ids=["value", "long value", "reserved length", "reserved number", "no value", "critical"],
)
def test_coap_options_that_are_none_are_told(options: bytes) -> None:
    error = outcome(CASES["coap_separate"], lambda request: [b"\x68\x45" + request[2:12] + options])
    assert isinstance(error, LookupError)
    assert str(error).startswith("the answer has option ")


@pytest.mark.parametrize("stamps", [(0, 0), (0, 1), (1, 0)])
def test_ntp_a_server_that_has_no_time_is_not_believed(stamps: tuple[int, int]) -> None:
    error = outcome(CASES["ntp_clock"], lambda request: [ntp_answer(request)[0][:32] + struct.pack("!QQ", *stamps)])
    assert isinstance(error, LookupError)
    assert str(error) == "192.0.2.1 won't tell the time: b'GPS\\x00'"


VALUE = ber(STRING, b"lie")
SHAPES: dict[str, bytes] = {
    "a number for an OID": ber(SEQUENCE, number(5), VALUE),
    "a string for an OID": ber(SEQUENCE, VALUE, VALUE),
    "a sequence for an OID": ber(SEQUENCE, ber(SEQUENCE, number(5)), VALUE),
    "an OID without a value": ber(SEQUENCE, name((1, 3, 6, 1, 2))),
    "three of them": ber(SEQUENCE, name((1, 3, 6, 1, 2)), VALUE, VALUE),
    "a number for a binding": number(5),
    "a string for a binding": VALUE,
    "nothing in an OID": ber(SEQUENCE, ber(0x06), VALUE),
}


@pytest.mark.parametrize("binding", SHAPES.values(), ids=SHAPES)
def test_snmp_bindings_that_are_none_end_no_walk_as_if_it_were_done(binding: bytes) -> None:
    error = outcome(CASES["snmp_walk"], lambda request: [message(asked(request).request_id, binding)])
    assert isinstance(error, (ValueError, udpguard.ReplyTimeoutError))


@pytest.mark.parametrize("bindings", [number(5), VALUE, name((1, 3, 6)), ber(NULL)])
def test_snmp_what_is_no_list_of_bindings_ends_no_walk_as_if_it_were_done(bindings: bytes) -> None:
    def strange(request: bytes) -> list[bytes]:
        pdu = ber(0xA2, number(asked(request).request_id), number(0), number(0), bindings)
        return [ber(SEQUENCE, number(1), ber(STRING, b"public"), pdu)]

    assert isinstance(outcome(CASES["snmp_walk"], strange), (ValueError, udpguard.ReplyTimeoutError))


def test_snmp_a_value_as_long_as_a_datagram_is_given() -> None:
    number_of_bytes, after = b"\x7f" * 60_000, bound((2, 0), ber(NULL))
    binding = bound((1, 3, 6, 1, 2), ber(INTEGER, number_of_bytes))
    found = outcome(CASES["snmp_walk"], lambda request: [message(asked(request).request_id, binding, after)])
    assert found == [((1, 3, 6, 1, 2), int.from_bytes(number_of_bytes, "big"))]


def test_a2s_parts_that_contradict_each_other_are_never_put_together() -> None:
    def contradicting(request: bytes) -> list[bytes]:
        parts = a2s_answer(request)
        return [*parts[:-1], parts[0][:8] + bytes([len(parts) - 1, 77]) + parts[0][10:]] if len(parts) > 1 else parts

    assert isinstance(outcome(CASES["a2s_split"], contradicting), udpguard.ReplyTimeoutError)


async def test_a2s_answers_that_are_never_finished_do_not_fill_the_memory() -> None:
    """Of 400 answers the first halves come, each as long as a datagram can be."""

    class Flooded:
        """What its requests hear."""

        async def request(self, addr: object, data: bytes, *, accept: Callable[[udpguard.Reply], bool]) -> None:
            for ident in range(400):
                part = SPLIT + struct.pack("<IBBH", ident, 2, 0, 9) + bytes(65_000)
                with pytest.raises(ValueError, match="1 of 2 parts came"):
                    accept(udpguard.Reply(part, udpguard.Peer("192.0.2.1", 27015), None, 1))

    tracemalloc.start()
    try:
        await CASES["a2s_split"].module.ask(Flooded(), ("192.0.2.1", 27015), SINGLE)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2_000_000


# ------------------------------------------------------------------------------------------------
# What is printed


@ALL
def test_terminals_do_not_obey_servers(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with Server(lambda request: case.answer(request.data), "192.0.2.1", case.port):
            await case.module.main(*ARGUMENTS.get(case.module.__name__, ["192.0.2.1"]))

    with Simulation(seed=1) as simulation:
        simulation.run(main)
    assert capsys.readouterr().out.endswith(case.shown)


@pytest.mark.parametrize("client", CASES)
def test_an_error_is_told_in_a_line(client: str) -> None:
    server = "no.such.host.invalid"
    given = {"dns_failover": ["a.test", server], "snmp_walk": [server, "161", "public", ROOT]}
    done = run(f"clients/{client}.py", *given.get(client, [server]))
    assert (done.returncode, done.stdout) == (1, "")
    assert server in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("client", CASES)
def test_without_arguments_it_says_how_to_run_it(client: str) -> None:
    done = run(f"clients/{client}.py")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"python examples/clients/{client}.py" in done.stderr
    assert "Traceback" not in done.stderr


@needs_ctrl_c
async def test_ctrl_c_ends_it_quietly() -> None:
    arrived = asyncio.Event()

    def handler(request: Request) -> Answers:
        arrived.set()
        return silent(request)

    async with Server(handler) as server:
        at = (server.address.host, str(server.address.port))
        with talking("clients/snmp_walk.py", *at, "public", ROOT) as talk:
            await arrived.wait()
            talk.interrupt()
            status, out, err = await talk.end()
    assert (status, out, err) == (INTERRUPTED, "", "")
