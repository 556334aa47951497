"""Nothing that users rely on changes unseen."""

from __future__ import annotations

import ast
import difflib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import public_face
import pytest

import udpguard
import udpguard.testing

FROZEN = Path(__file__).with_name("public_face.txt")
RENEW = "python tests/release/public_face.py > tests/release/public_face.txt"


def test_the_public_face_is_the_one_that_is_frozen() -> None:
    frozen, now = FROZEN.read_text(encoding="utf-8").splitlines(), public_face.face().splitlines()
    diff = "\n".join(difflib.unified_diff(frozen, now, "frozen", "now", lineterm=""))
    if diff:
        pytest.fail(
            f"the public face has changed:\n{diff}\n\n"
            f"If that is meant, say so in CHANGELOG.md, heed docs/project/deprecation.md, and renew it:\n    {RENEW}",
            pytrace=False,
        )


def test_every_public_name_is_in_it() -> None:
    heads = {line.removeprefix("class ").removeprefix("def ") for line in FROZEN.read_text().splitlines()}
    for module in (udpguard, udpguard.testing):
        for name in module.__all__:
            full = f"{module.__name__}.{name}"
            assert any(head.startswith(full) and not head[len(full) : len(full) + 1].isalnum() for head in heads), full


def test_what_is_frozen_is_what_runs() -> None:
    """It is read from the source; a decorator may have made something else of that."""
    functions = list(frozen_functions())
    assert len(functions) > 100
    for runs, node in functions:
        parameters = inspect.signature(runs).parameters.values()
        real = [one.name for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
        frozen = [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)]
        assert frozen[len(frozen) - len(real) :] == real, ast.unparse(node)  # a bound one has no `cls`


def frozen_functions() -> Iterator[tuple[Callable[..., object], ast.FunctionDef]]:
    """Each function and method that can be looked up, and its frozen line."""
    kind = ""
    for line in FROZEN.read_text(encoding="utf-8").splitlines():
        if line.startswith("class "):
            kind = re.split(r"[( ]", line)[1]
        head, found, rest = line.partition("def ")
        if found and "property" not in head and "setter" not in head:
            full, _, arguments = rest.partition("(")
            name = f"{kind}.{full}" if line.startswith(" ") else full
            node = ast.parse(f"def {name.rpartition('.')[2]}({arguments}: ...").body[0]
            assert isinstance(node, ast.FunctionDef)
            yield pkgutil.resolve_name(name), node


def test_the_order_of_arguments_is_frozen() -> None:
    text = FROZEN.read_text()
    for kind in (udpguard.Ports, udpguard.Limits, udpguard.Retry, udpguard.Peer, udpguard.Reply):
        begin = text.index(f"class udpguard.{kind.__name__}")
        places = [text.index(f"    {name}:", begin) for name in kind.__match_args__]
        assert places == sorted(places)


def test_it_is_written_as_its_command_writes_it() -> None:
    assert f"\n    {RENEW}" in (public_face.__doc__ or "")
    assert sys.modules["public_face"].__file__ == str(FROZEN.with_suffix(".py"))
