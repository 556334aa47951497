"""clients/snmp_walk.py: it gives each value once, in order, and an agent that makes no sense can't keep it."""

from __future__ import annotations

import ast
import importlib
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from example_kit import EXAMPLES, run
from example_snmp import END_OF_MIB_VIEW, GET_BULK, NULL, STRING, Oid, asked, ber, bound, message, name, number
from hypothesis import given
from hypothesis import strategies as st

import udpguard
from udpguard.testing import Answers, Conditions, Request, Server, Simulation

FILE = EXAMPLES / "clients" / "snmp_walk.py"
ROOT = (1, 3, 6, 1)
VALUES: dict[Oid, bytes] = {
    (1, 3, 5): b"before",
    **{(*ROOT, 2, row): b"%d" % row for row in range(1, 301)},
    (*ROOT, 2**32 - 1): b"the last",
    (1, 3, 7): b"after",
}
BELOW = {oid: value for oid, value in VALUES.items() if oid[:4] == ROOT}


@pytest.fixture(scope="module")
def snmp_walk() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FILE.parent)
        yield importlib.import_module("snmp_walk")


def after(oid: Oid, at_once: int) -> list[bytes]:
    """The bindings that follow an OID; past the end there is one that says so."""
    names = list(VALUES)
    begin = bisect_right(names, oid)
    found = [bound(each, ber(STRING, VALUES[each])) for each in names[begin : begin + at_once]]
    return found if len(found) == at_once else [*found, bound(names[-1], ber(END_OF_MIB_VIEW))]


def agent(request: Request) -> bytes:
    question = asked(request.data)
    assert question[:2] == (b"public", GET_BULK)
    assert question.first == 0
    (oid,) = question.oids
    return message(question.request_id, *after(oid, question.second))


def walk(
    snmp_walk: ModuleType, root: Oid, answer: Callable[[Request], Answers] = agent, **conditions: Any
) -> tuple[dict[Oid, object], int]:
    """What a walk gives in a simulated network, as it comes, and how often the agent was asked."""

    text = ".".join(map(str, root))

    async def main() -> tuple[dict[Oid, object], int]:
        async with (
            Server(answer, "192.0.2.1", 161) as server,
            udpguard.open_endpoint(retry=udpguard.Retry(attempts=20)) as endpoint,
        ):
            found = [binding async for binding in snmp_walk.walk(endpoint, server.address, "public", text)]
            assert len(dict(found)) == len(found)
            return dict(found), len(server.requests)

    with Simulation(seed=1) as simulation:
        simulation.network.conditions = Conditions(**conditions)
        return simulation.run(main())


def test_it_gives_what_is_below_the_root(snmp_walk: ModuleType) -> None:
    found, asked_often = walk(snmp_walk, ROOT)
    assert list(found.items()) == list(BELOW.items())
    assert asked_often == len(BELOW) // 25 + 1


@pytest.mark.parametrize("root", [(1, 3), (1, 3, 7), (1, 3, 5), (1, 4), (2, 999), (*ROOT, 2, 300), (*ROOT, 3)])
def test_it_ends_where_the_subtree_or_the_mib_ends(snmp_walk: ModuleType, root: Oid) -> None:
    found, _ = walk(snmp_walk, root)
    assert found == {oid: value for oid, value in VALUES.items() if oid[: len(root)] == root and oid != root}


def test_a_bad_network_changes_nothing(snmp_walk: ModuleType) -> None:
    found, asked_often = walk(snmp_walk, ROOT, loss=0.3, duplicate=0.3, delay=(0.0, 3.0))
    assert list(found.items()) == list(BELOW.items())
    assert asked_often > len(BELOW) // 25 + 1


def test_what_others_were_answered_is_passed_over(snmp_walk: ModuleType) -> None:
    lie = bound((*ROOT, 2, 1, 5), ber(STRING, b"lie"))

    deep = b""
    for _ in range(5_000):
        deep = ber(0x30, deep)

    def beset(request: Request) -> list[bytes]:
        key = asked(request.data).request_id
        return [b"", b"\x30", message(key + 1, lie), message(key, lie)[:20], b"\x30\x80" * 30_000, deep, agent(request)]

    assert walk(snmp_walk, ROOT, beset)[0] == BELOW


@pytest.mark.parametrize("other", [(*ROOT, 2, 25), (*ROOT, 2, 1), ROOT])
def test_an_agent_whose_oids_do_not_increase_is_left(snmp_walk: ModuleType, other: Oid) -> None:
    def circling(request: Request) -> bytes:
        question = asked(request.data)
        again = bound(other, ber(STRING, b"again"))
        return message(question.request_id, again) if question.oids != [ROOT] else agent(request)

    with pytest.raises(ValueError, match="error 0, or OIDs that don't increase, at"):
        walk(snmp_walk, ROOT, circling)


@pytest.mark.parametrize("echoes", [True, False])
@pytest.mark.parametrize("status", [1, 5, 16])
def test_an_error_of_the_agents_is_told(snmp_walk: ModuleType, status: int, echoes: bool) -> None:
    def unwilling(request: Request) -> bytes:
        question = asked(request.data)
        bindings = [bound(oid, ber(NULL)) for oid in question.oids if echoes]
        return message(question.request_id, *bindings, status=status)

    with pytest.raises(ValueError, match=f"error {status}, "):
        walk(snmp_walk, ROOT, unwilling)


def test_an_agent_that_answers_with_nothing_is_left(snmp_walk: ModuleType) -> None:
    with pytest.raises(ValueError, match="error 0, "):
        walk(snmp_walk, ROOT, lambda request: message(asked(request.data).request_id))


def test_values(snmp_walk: ModuleType) -> None:
    """Each kind of value, from bytes written by hand (RFC 2578 section 2)."""
    data = bytes.fromhex(
        "0201ff 0403616263 0400 0500 06032b0601 3003020105 4004c0000201 410500ffffffff 420109 43020100 44029f78"
        "4609 00ffffffffffffffff 8000 8100 8200 a20302012a"
    )
    assert list(snmp_walk.values(data)) == [
        *(-1, b"abc", b"", None, (1, 3, 6, 1), [5], b"\xc0\0\2\1", 2**32 - 1, 9, 256, b"\x9f\x78", 2**64 - 1),
        *(None, None, None, [42]),
    ]


@given(
    oid=st.tuples(st.just(2), st.integers(0, 2**31)) | st.tuples(st.integers(0, 1), st.integers(0, 39)), data=st.data()
)
def test_oids_are_read_as_they_are(snmp_walk: ModuleType, oid: Oid, data: st.DataObject) -> None:
    oid += tuple(data.draw(st.lists(st.integers(0, 2**32 - 1), max_size=20)))
    assert list(snmp_walk.values(name(oid) + number(1))) == [oid, 1]


def test_a_server_that_does_not_answer_is_told_in_a_line() -> None:
    done = run("clients/snmp_walk.py", "no.such.host.invalid", "161", "public", "1.3")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "no.such.host.invalid" in done.stderr


def test_it_is_a_whole_client_in_sixty_lines_on_the_public_api() -> None:
    text = FILE.read_text()
    assert len(text.splitlines()) <= 60
    tree = ast.parse(text)
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module.partition(".")[0] for module in imported} - sys.stdlib_module_names == {"udpguard"}
    assert all(module == "udpguard" or not module.startswith("udpguard") for module in imported)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.startswith("_")]
