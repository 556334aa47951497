"""The public face of the testing kit: what is exported, how it names itself, and that it says what it does."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

import udpguard.testing

PUBLIC = [(name, getattr(udpguard.testing, name)) for name in udpguard.testing.__all__]
NAMED = [(name, value) for name, value in PUBLIC if inspect.isclass(value) or inspect.isroutine(value)]
KIT = (udpguard.testing.Simulation, udpguard.testing.Network, udpguard.testing.Server, udpguard.testing.Impostor)
PAGES = sorted((Path(__file__).parents[2] / "docs" / "reference").glob("*.md"))
REFERENCE = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def test_all_is_sorted_and_nothing_else_is_public() -> None:
    assert list(udpguard.testing.__all__) == sorted(set(udpguard.testing.__all__))
    public = {
        name
        for name, value in vars(udpguard.testing).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public == set(udpguard.testing.__all__)


@pytest.mark.parametrize(("name", "value"), NAMED)
def test_names_show_where_users_find_them_and_say_what_they_are(name: str, value: Any) -> None:
    assert value.__module__ == "udpguard.testing"
    assert value.__qualname__ == name
    assert value.__doc__
    assert not value.__doc__.startswith(f"{name}(")
    assert len(value.__doc__.split()) >= 3


@pytest.mark.parametrize(("name", "kind"), [(name, value) for name, value in NAMED if inspect.isclass(value)])
def test_methods_and_properties_say_what_they_do(name: str, kind: type) -> None:
    bare = []
    for member in vars(kind):
        value = inspect.getattr_static(kind, member)
        if isinstance(value, (classmethod, staticmethod)):
            value = value.__func__
        told = inspect.getdoc(value) or inspect.getdoc(getattr(kind, member))
        if not member.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)) and not told:
            bare.append(f"{name}.{member}")
    assert not bare


def test_each_name_is_in_the_documentation() -> None:
    missing = [name for name in udpguard.testing.__all__ if f"`{name}" not in REFERENCE]
    assert not missing


@pytest.mark.parametrize("owner", KIT)
def test_each_method_is_in_the_documentation(owner: type) -> None:
    ours = {"attach", "detach", "deliver", "next_arrival", "send", "look_up", "owner", "give_link_local"}
    missing = [
        name
        for name in vars(owner)
        if not name.startswith("_") and name not in ours
        if f"{name}(" not in REFERENCE and f"`{name}`" not in REFERENCE
    ]
    assert not missing
