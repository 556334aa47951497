"""What `import udpguard` loads: nobody adds a slow module unseen.

`tests/benchmarks/run.py --parts import` has the times. Each case runs in an interpreter of its own.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import pytest

AT_ONCE = {
    *("udpguard", "udpguard._errors", "udpguard._typing", "udpguard.core"),
    *("udpguard.core.address", "udpguard.core.correlation", "udpguard.core.explain", "udpguard.core.icmp"),
    *("udpguard.core.memory", "udpguard.core.options", "udpguard.core.ports", "udpguard.core.record"),
    *("udpguard.core.retransmission", "udpguard.core.statistics", "udpguard.core.verdict"),
}
"""Values and errors, and what they need."""
WITH_ENDPOINTS = {
    *(
        "udpguard._asking",
        "udpguard._binding",
        "udpguard._client",
        "udpguard._context",
        "udpguard._endpoint",
        "udpguard._exchange",
    ),
    *(
        "udpguard._guard",
        "udpguard._host",
        "udpguard._mistaken",
        "udpguard._outbox",
        "udpguard._reasons",
        "udpguard._outgoing",
        "udpguard._ports",
    ),
    *("udpguard._protocol", "udpguard._resolve", "udpguard._sending"),
    *("udpguard.core.gate", "udpguard.core.ids", "udpguard.core.source"),
}
"""What `udpguard.open_endpoint` needs before it is called: neither system calls nor a registry."""
LIBRARY = {"__future__", "_bisect", "bisect"}
"""Of the standard library, beyond what `import asyncio` loads."""


def loaded_by(statement: str) -> set[str]:
    """The modules that a program has loaded, beyond those that asyncio loads."""
    return modules_of(statement) - modules_of("import asyncio")


@cache
def modules_of(statement: str) -> set[str]:
    program = f"{statement}\nimport sys; print(*sys.modules)"
    return set(subprocess.check_output([sys.executable, "-I", "-c", program], text=True, timeout=60).split())


def test_to_import_it_loads_values_and_errors() -> None:
    assert loaded_by("import udpguard") == AT_ONCE | LIBRARY


def test_that_needs_no_asyncio_and_no_socket() -> None:
    assert not {"asyncio", "socket", "ssl", "ctypes", "dataclasses"} & modules_of("import udpguard")


def test_where_asyncio_is_loaded_already_no_loop_has_to_wait_for_what_is_named_first() -> None:
    assert loaded_by("import asyncio, udpguard") == AT_ONCE | WITH_ENDPOINTS | LIBRARY


@pytest.mark.parametrize("name", ["open_endpoint", "Endpoint", "Client", "GuardProtocol"])
def test_to_name_what_opens_an_endpoint_loads_no_more_than_that_needs(name: str) -> None:
    loaded = loaded_by(f"from udpguard import {name}")
    assert loaded <= AT_ONCE | WITH_ENDPOINTS | LIBRARY
    if name == "open_endpoint":
        assert loaded == AT_ONCE | WITH_ENDPOINTS | LIBRARY


@pytest.mark.parametrize(
    ("name", "module"), [("Sweep", "_sweep"), ("Session", "_session"), ("Discovery", "_discovery"), ("Outcome", None)]
)
def test_the_longer_verbs_are_loaded_when_they_are_named(name: str, module: str | None) -> None:
    loaded = loaded_by(f"import udpguard; assert udpguard.{name}.__module__ == 'udpguard'")
    verbs = {"udpguard._sweep", "udpguard._session", "udpguard._discovery"}
    assert loaded & verbs == ({f"udpguard.{module}"} if module else set())


def test_every_public_name_can_be_had_in_every_way() -> None:
    program = """
import udpguard
assert set(udpguard.__all__) <= set(dir(udpguard))
names = {}
exec("from udpguard import *", names)
assert set(udpguard.__all__) <= names.keys()
assert all(names[name] is getattr(udpguard, name) for name in udpguard.__all__)
"""
    subprocess.run([sys.executable, "-I", "-c", program], check=True, timeout=60)


def test_a_name_that_it_does_not_have_is_an_attribute_error() -> None:
    program = """
import udpguard
try:
    udpguard.open_endpont
except AttributeError as error:
    print(error)
try:
    from udpguard import missing
except ImportError as error:
    print(error.name)
"""
    said = subprocess.check_output([sys.executable, "-I", "-c", program], text=True, timeout=60).splitlines()
    assert said == ["module 'udpguard' has no attribute 'open_endpont'", "udpguard"]
