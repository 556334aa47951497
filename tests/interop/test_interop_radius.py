"""RADIUS (RFC 2865) with a real freeradius: who is let in, who isn't, and that forgeries don't change it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager

import interop_radius
import pytest
from interop_radius import PASSWORDS, SECRET, told
from interop_servers import Server

import udpguard
from udpguard import testing

pytestmark = pytest.mark.interop

Example = Callable[..., str]


@pytest.fixture(scope="module")
def freeradius(
    start: Callable[[AbstractContextManager[Server]], Server], tmp_path_factory: pytest.TempPathFactory
) -> Server:
    return start(interop_radius.freeradius(tmp_path_factory.mktemp("freeradius")))


@pytest.mark.parametrize("user", ["alice", "bob", "élodie"])
def test_who_knows_the_password_is_let_in(freeradius: Server, run_example: Example, user: str) -> None:
    password = PASSWORDS[user]
    printed = run_example("radius_login.py", freeradius.at, user, "--secret", SECRET, typed=f"{password}\n")
    assert printed == f"{user} is let in\nthe server says: hello, {user}\n"
    assert told(freeradius, user, password) == ("Access-Accept", f"hello, {user}")


@pytest.mark.parametrize(("user", "password"), [("alice", "wonder"), ("alice", ""), ("bob", "x" * 128), ("carol", "?")])
def test_who_does_not_is_refused(freeradius: Server, run_failing: Example, user: str, password: str) -> None:
    printed = run_failing("radius_login.py", freeradius.at, user, "--secret", SECRET, typed=f"{password}\n")
    assert printed.splitlines()[0] == f"{user} is refused"
    kind, message = told(freeradius, user, password or "another")
    assert kind == "Access-Reject"
    assert printed.splitlines()[1:] == ([f"the server says: {message}"] if message else [])


def test_a_wrong_secret_is_met_with_silence(freeradius: Server, run_failing: Example) -> None:
    """The server sees that it is wrong by the Message-Authenticator, and discards the request."""
    arguments = (freeradius.at, "alice", "--secret", "wrong", "--timeout", "0.5")
    printed = run_failing("radius_login.py", *arguments, typed=PASSWORDS["alice"])
    assert printed.startswith(f"no reply from {freeradius.at} in 0.5 s (1 sent); ")
    assert printed.endswith("; a server that doesn't know this machine, or has another secret for it, is silent, too\n")


def test_an_answer_without_a_message_authenticator_counts_only_if_it_may(
    freeradius: Server, run_example: Example, run_failing: Example
) -> None:
    arguments = (freeradius.at, "old", "--secret", SECRET)
    printed = run_failing("radius_login.py", *arguments, "--timeout", "0.5", typed="fogey\n")
    assert "1 datagram came from" in printed
    assert "it has no Message-Authenticator: update that server, or pass --unsigned to believe it" in printed
    printed = run_example("radius_login.py", *arguments, "--unsigned", typed="fogey\n")
    assert printed == "old is let in\nthe server says: hello, old\n"


@pytest.mark.parametrize(("password", "verdict"), [("wonderland", "is let in"), ("wrong", "is refused")])
async def test_somebody_on_the_way_can_not_turn_the_verdict(
    freeradius: Server, run_example: Example, run_failing: Example, password: str, verdict: str
) -> None:
    """He sees all, answers first, changes the server's own answer, and passes it on at last."""
    async with (
        testing.Server(testing.silent) as way,
        testing.Impostor(way) as impostor,
        udpguard.open_endpoint(correlate=udpguard.TransactionId(1, 1)) as endpoint,
    ):
        run = run_example if verdict == "is let in" else run_failing
        arguments = ("radius_login.py", str(way.address), "alice", "--secret", SECRET)
        login = asyncio.create_task(asyncio.to_thread(run, *arguments, typed=password))
        request = await way.next()
        true = await endpoint.request(freeradius.address, request.data, timeout=10)
        for forged in (
            b"\2" + request.data[1:2] + b"\0\x14" + bytes(16),
            b"\2" + request.data[1:],
            bytes((5 - true[0],)) + true[1:],  # Accept for Reject, and the other way round
            true[:4] + bytes(16) + true[20:],
            true[:-1] + bytes((true[-1] ^ 1,)),
        ):
            await impostor.forge(forged, request.peer)
        await impostor.forge(true, request.peer)
        assert await login == f"alice {verdict}\nthe server says: hello, alice\n"
