"""SNMP (RFC 3416) with a real snmpd: the request-id is inside BER, and net-snmp's own tools are told the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager

import interop_snmp
import pytest
from interop_servers import Server
from interop_snmp import COMMUNITY, told

pytestmark = pytest.mark.interop

SYSTEM = "1.3.6.1.2.1.1"
NAME, CONTACT, SERVICES, UPTIME, ID = (f"{SYSTEM}.{number}.0" for number in (5, 4, 7, 3, 2))
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
