"""quickstart.py: three servers, an impostor that answers first, and nobody is fooled."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

import pytest
from example_kit import EXAMPLES, LIMIT, run

ANSWERED = re.compile(r"  (\S+)  (.+) -> (.+)  in \d+\.\d+ ms")
TURNED_AWAY = re.compile(r"  (\S+)  forged answer to (.+)  reason: (\w+)")


def test_it_tells_who_answered_what_and_who_was_turned_away() -> None:
    done = run("quickstart.py")
    assert (done.returncode, done.stderr) == (0, "")
    answered, turned_away = ANSWERED.findall(done.stdout), TURNED_AWAY.findall(done.stdout)
    questions = ["hello, alpha", "hello, beta", "hello, gamma"]
    assert [(question, answer) for _, question, answer in answered] == [(q, q.upper()) for q in questions]
    servers = {server for server, _, _ in answered}
    assert len(servers) == 3
    assert sorted(question for _, question, _ in turned_away) == questions
    assert {reason for _, _, reason in turned_away} == {"unknown_peer"}
    (impostor,) = {address for address, _, _ in turned_away}
    assert impostor not in servers


def test_it_is_right_every_time() -> None:
    assert Counter(run("quickstart.py").returncode for _ in range(5)) == {0: 5}


SABOTAGE = {
    "other answers": (
        "quickstart.UppercaseServer.datagram_received = lambda self, data, addr: "
        "self._impostor.answer_first(data, addr, lambda: self.transport.sendto(b'nonsense', addr))"
    ),
    "no impostor": ("quickstart.Impostor.answer_first = lambda self, question, client, then: then()"),
    "no answers": "quickstart.UppercaseServer.datagram_received = lambda self, data, addr: None",
}


@pytest.mark.parametrize("sabotage", SABOTAGE.values(), ids=SABOTAGE)
def test_it_says_so_when_something_is_wrong(sabotage: str) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(EXAMPLES)!r})
import quickstart
{sabotage}
sys.exit(quickstart.main())
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("WRONG: ")
    assert "Traceback" not in done.stderr
    assert "all is well" not in done.stdout
