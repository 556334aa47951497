"""What holds for all examples."""

from __future__ import annotations

import ast
import re
import sys

import pytest
from example_kit import EXAMPLES, check_refused, run

EXTRA = {"rich", "distributed"}
SHARED = ["command_line.py"]  # what several import
SCRIPTS = sorted({path.name for path in EXAMPLES.glob("*.py")}.difference(SHARED))


@pytest.mark.parametrize("script", SCRIPTS)
def test_docstring_says_how_to_run_it(script: str) -> None:
    docstring = ast.get_docstring(ast.parse((EXAMPLES / script).read_text()))
    assert docstring is not None
    assert f"\n    python examples/{script}" in docstring


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_imports_udpguard_the_standard_library_and_what_the_extras_have(script: str) -> None:
    tree = ast.parse((EXAMPLES / script).read_text())
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    tops = {name.partition(".")[0] for name in imported}
    siblings = {name.removesuffix(".py") for name in (*SHARED, *SCRIPTS)}
    assert tops - sys.stdlib_module_names - siblings <= {"udpguard", "typing_extensions", *EXTRA}
    assert "udpguard" not in imported - {"udpguard"}
    assert not [name for name in imported if name.startswith("udpguard.")]


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_has_no_path_of_any_machine_in_it(script: str) -> None:
    text = re.sub("/(quit|who)", "", (EXAMPLES / script).read_text())  # what is typed into chat.py
    assert not re.search(r"""[\s'"(]/\w|\b[A-Z]:\\""", text)


TAKES_ARGUMENTS = [script for script in SCRIPTS if "argparse" in (EXAMPLES / script).read_text()]


@pytest.mark.parametrize("script", TAKES_ARGUMENTS)
def test_help(script: str) -> None:
    done = run(script, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: {script}")
    assert not done.stderr


@pytest.mark.parametrize("script", TAKES_ARGUMENTS)
def test_an_unknown_option_is_refused(script: str) -> None:
    check_refused(run(script, "--no-such-option", "127.0.0.1", "@127.0.0.1:53"), "--no-such-option")
