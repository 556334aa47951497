"""The messages in the tables of "When it does not work" are those that the package has."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

import udpguard

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "when-it-does-not-work.md"
SEEN = re.compile(r"^\| (``? ?)(.+?)( ?``?) \|", re.MULTILINE)
# What Python says, not the package: what provokes it is in tests/loopback/test_loopback_first_contact.py.
PYTHONS = (
    "RuntimeWarning: coroutine",
    "'coroutine' object",
    "asyncio.run() cannot",
    "No module named",
    "partially initialized",
)


@functools.cache
def messages() -> tuple[str, ...]:
    """The texts in the code, without the values that go into them."""
    texts: list[str] = []
    for path in sorted(Path(udpguard.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(str(part.value) for part in node.values if isinstance(part, ast.Constant)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return tuple(texts)


TOLD = [text for _, text, _ in SEEN.findall(PAGE.read_text(encoding="utf-8")) if not text.startswith(PYTHONS)]


def test_there_are_such_tables() -> None:
    assert len(TOLD) > 25


@pytest.mark.parametrize("told", TOLD)
def test_each_message_is_one_of_the_packages(told: str) -> None:
    wanted = re.compile(".*".join(re.escape(part.strip()) for part in told.split("…")).replace("IPv6", ""))
    assert any(wanted.search(text) for text in messages()), told
