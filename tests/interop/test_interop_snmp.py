"""SNMP (RFC 3416) with a real snmpd: the request-id is inside BER, and net-snmp's own tools are told the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import interop_snmp
import pytest
from interop_servers import Server
from interop_snmp import COMMUNITY, told

pytestmark = pytest.mark.interop

SYSTEM = "1.3.6.1.2.1.1"
NAME, CONTACT, SERVICES, UPTIME, ID = (f"{SYSTEM}.{number}.0" for number in (5, 4, 7, 3, 2))
CLOCKS = {UPTIME, "1.3.6.1.6.3.10.2.1.3.0"}  # snmpEngineTime
INTERFACE = "1.3.6.1.2.1.2.2.1"
TICKS = re.compile(r"Timeticks: \((\d+)\) (.*)")


@pytest.fixture(scope="module")
def snmpd(
    start: Callable[[AbstractContextManager[Server]], Server], tmp_path_factory: pytest.TempPathFactory
) -> Server:
    return start(interop_snmp.snmpd(tmp_path_factory.mktemp("snmpd")))


def test_it_gets_what_snmpget_gets(snmpd: Server, run_example: Callable[..., str]) -> None:
    asked = [
        NAME,
        CONTACT,
        SERVICES,
        ID,
        f"{INTERFACE}.2.1",
        f"{INTERFACE}.5.1",
        f"{INTERFACE}.6.1",
        f".{SYSTEM}.9.1.3.1",
    ]
    printed = run_example("snmp_get.py", snmpd.at, "-c", COMMUNITY, *asked).splitlines()
    assert len(printed) == len(asked)
    assert printed == told("snmpget", snmpd, *asked)


def test_many_values_need_long_lengths(snmpd: Server, run_example: Callable[..., str]) -> None:
    """A request of more than 255 bytes, and an answer of more than 1,000."""
    asked = [f"{SYSTEM}.9.1.{column}.{row}" for column in (2, 3) for row in range(1, 10)]
    printed = run_example("snmp_get.py", snmpd.at, "-c", COMMUNITY, *asked).splitlines()
    assert printed == told("snmpget", snmpd, *asked)
    assert sum(map(len, printed)) > 1000


def test_the_uptime_is_between_what_snmpget_gets_before_and_after(
    snmpd: Server, run_example: Callable[..., str]
) -> None:
    before, printed, after = (
        TICKS.search(line)
        for line in (
            *told("snmpget", snmpd, UPTIME),
            run_example("snmp_get.py", snmpd.at, "-c", COMMUNITY, UPTIME),
            *told("snmpget", snmpd, UPTIME),
        )
    )
    assert before is not None
    assert printed is not None
    assert after is not None
    assert int(before[1]) <= int(printed[1]) <= int(after[1])
    assert re.fullmatch(r"0:\d\d:\d\d\.\d\d", printed[2])


def test_what_there_is_not_is_told_and_shows_in_the_status(snmpd: Server, run_failing: Callable[..., str]) -> None:
    asked = [NAME, f"{SYSTEM}.9.1.3.999", "1.3.9.9"]
    printed = run_failing("snmp_get.py", snmpd.at, "-c", COMMUNITY, *asked)
    assert printed.splitlines() == told("snmpget", snmpd, *asked)
    assert printed.count("No Such ") == 2


def test_a_wrong_community_is_met_with_silence(snmpd: Server, run_failing: Callable[..., str]) -> None:
    printed = run_failing("snmp_get.py", snmpd.at, "-c", "wrong", "--timeout", "0.5", NAME)
    assert printed.startswith(f"no reply from {snmpd.at} in 0.5 s (1 sent); ")
    assert printed.endswith("; an agent that doesn't know the community is silent, too\n")


@pytest.mark.parametrize("root", [SYSTEM, f"{SYSTEM}.9", "1.3.6.1.6.3", "1.3.6.1.6.3.16"])
def test_a_walk_gives_what_snmpbulkwalk_gives(snmpd: Server, run_example: Callable[..., str], root: str) -> None:
    """In the same order, with the same values, but that its clocks have gone on meanwhile."""
    printed = run_example("clients/snmp_walk.py", snmpd.host, str(snmpd.port), COMMUNITY, root).splitlines()
    values = [line.split(" = ", 1) for line in printed]
    expected = list(read(told("snmpbulkwalk", snmpd, root)))
    assert len(values) > 20
    assert [oid for oid, _ in values] == [oid for oid, _ in expected]
    for (oid, value), (_, later) in zip(values, expected, strict=True):
        assert value == later or (oid in CLOCKS and int(value) < int(later)), oid


def read(lines: list[str]) -> Iterator[tuple[str, str]]:
    """OIDs and values as the walk prints them, from what net-snmp's tool prints."""
    # Bytes in hexadecimal go on in the next line.
    for line in re.sub(r"\n(?!\.)", "", "\n".join(lines)).splitlines():
        oid, shown = line.removeprefix(".").split(" = ", 1)
        kind, colon, value = shown.partition(": ")
        if "No more variables" in shown:
            continue
        if not colon:
            assert shown == '""'
            yield oid, "b''"
        elif kind == "STRING":
            yield oid, repr(re.sub(r"\\(.)", r"\1", value[1:-1]).encode())
        elif kind == "Hex-STRING":
            yield oid, repr(bytes.fromhex(value))
        elif kind == "OID":
            yield oid, repr(tuple(map(int, value.split(".")[1:])))
        elif kind == "Timeticks":
            yield oid, value[1:].partition(")")[0]
        else:
            assert kind in {"INTEGER", "Counter32", "Gauge32", "Counter64"}
            yield oid, value


def test_a_walk_of_all_there_is_comes_to_its_end(snmpd: Server, run_example: Callable[..., str]) -> None:
    """Hundreds of values, of which others change meanwhile: but these are among them."""
    printed = run_example("clients/snmp_walk.py", snmpd.host, str(snmpd.port), COMMUNITY, "1.3").splitlines()
    assert len(printed) > 200
    assert len(set(printed)) == len(printed)
    names = [tuple(map(int, line.split(" = ")[0].split("."))) for line in printed]
    assert names == sorted(names)
    for line in run_example("clients/snmp_walk.py", snmpd.host, str(snmpd.port), COMMUNITY, "1.3.6.1.6.3").splitlines():
        assert line in printed or line.split(" = ")[0] in CLOCKS
