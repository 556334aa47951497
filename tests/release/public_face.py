"""The public face of udpguard, as text: what users rely on, and what a release must not change unseen.

    python tests/release/public_face.py > tests/release/public_face.txt     # renews it

It is read from the source, without running it: names, kinds, parameters with their defaults and annotations, the
methods and attributes of classes, members of enumerations, bases. What a function does is not in it; neither is how
objects are made that only the library makes.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Final

MODULES: Final = ("udpguard", "udpguard.testing")
MADE_BY_THE_LIBRARY: Final = {
    "Client",
    "Discovery",
    "Endpoint",
    "EndpointOpener",
    "Event",
    "Expectation",
    "Host",
    "Session",
    "Sweep",
}
"""Nobody else calls their constructors."""
OPERATORS: Final = {
    f"__{name}__"
    for name in (
        *("aenter", "aexit", "aiter", "anext", "await", "call", "contains", "enter", "eq", "exit", "getitem", "hash"),
        *("iter", "len", "next", "str"),
    )
}
"""Special methods that users use."""
KNOWN_AS: Final = {"record": "dataclass(frozen=True, slots=True)"}
INDENT: Final = "    "

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Assign | ast.AnnAssign


def face() -> str:
    """All of it."""
    return "\n\n".join("\n".join(_described(module, name)) for module, name in _names()) + "\n"


def _names() -> Iterator[tuple[ModuleType, str]]:
    for name in MODULES:
        module = importlib.import_module(name)
        for public in module.__all__:
            yield module, public


def _described(module: ModuleType, name: str) -> Iterator[str]:
    home, definition = _definition(module, name)
    full = f"{module.__name__}.{name}"
    if isinstance(definition, ast.ClassDef):
        yield f"class {full}{_bases(definition)}"
        kinds = list(_own_classes(home, definition))
        for kind in kinds:  # in their order, since that is the order of arguments
            yield from (INDENT + line for line in _values(kind))
        lines = {line for kind in kinds for line in _methods(kind, name)}
        yield from sorted(INDENT + line for line in lines)
    elif isinstance(definition, (ast.FunctionDef, ast.AsyncFunctionDef)):
        yield _signature(definition, full)
    else:
        annotation = f": {ast.unparse(definition.annotation)}" if isinstance(definition, ast.AnnAssign) else ""
        value = f" = {ast.unparse(definition.value)}" if definition.value is not None else ""
        yield f"{full}{annotation}{value}"


# ------------------------------------------------------------------------------------------- where it is written


def _definition(module: ModuleType, name: str) -> tuple[ModuleType, Definition]:
    """The module where a name is written that another one imports, and what is written there."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module and any(alias.name == name for alias in node.names):
            return _definition(importlib.import_module(node.module), name)
    for node in _tree(module).body:
        if name in _defines(node):
            assert isinstance(node, Definition)
            return module, node
    raise LookupError(f"{name} is not written in {module.__name__}")


def _defines(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


@cache
def _tree(module: ModuleType) -> ast.Module:
    assert module.__file__ is not None
    return ast.parse(Path(module.__file__).read_text(encoding="utf-8"))


def _own_classes(home: ModuleType, definition: ast.ClassDef) -> Iterator[ast.ClassDef]:
    """A class, and those it derives from that have no public name: what they have is its own."""
    yield definition
    kind: type = getattr(home, definition.name)
    for base in kind.__mro__[1:]:
        if base.__module__.startswith("udpguard.") and base.__module__ not in MODULES:
            _, found = _definition(importlib.import_module(base.__module__), base.__name__)
            assert isinstance(found, ast.ClassDef)
            yield found


# ------------------------------------------------------------------------------------------------- what it is


def _bases(definition: ast.ClassDef) -> str:
    decorators = [ast.unparse(decorator) for decorator in definition.decorator_list]
    kinds = [KNOWN_AS.get(one, one) for one in decorators]
    bases = [ast.unparse(base) for base in (*definition.bases, *definition.keywords)]
    shown = f"({', '.join(bases)})" if bases else ""
    return shown + "".join(f" @{kind}" for kind in kinds if kind.startswith("dataclass"))


def _values(definition: ast.ClassDef) -> Iterator[str]:
    """What is assigned or annotated in a class."""
    for node in definition.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and any(map(_is_public, _defines(node))):
            yield ast.unparse(node)


def _methods(definition: ast.ClassDef, public_name: str) -> Iterator[str]:
    """Its methods, and the attributes that its constructor assigns."""
    for node in definition.body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if _is_public(node.name):
            yield _method(node)
        elif node.name == "__init__":
            if public_name not in MADE_BY_THE_LIBRARY:
                yield _signature(node, node.name)
            yield from _attributes(node)


def _is_public(name: str) -> bool:
    return not name.startswith("_") or name in OPERATORS


def _attributes(init: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    for node in ast.walk(init):
        annotated = isinstance(node, ast.AnnAssign)
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if annotated else []
        for target in targets:
            if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self" and _is_public(target.attr):
                yield f"self.{target.attr}" + (f": {ast.unparse(node.annotation)}" if annotated else "")


def _method(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    shown = "".join(f"@{decorator} " for decorator in decorators if decorator != "override")
    return shown + _signature(node, node.name)


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> str:
    kind = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    return f"{kind} {name}({ast.unparse(node.args)}){returns}"


if __name__ == "__main__":
    sys.stdout.write(face())
