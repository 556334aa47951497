"""Simulations are run once, whatever the suite is run on."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _same_on_every_loop() -> None:
    loop, backend = os.environ.get("UDPGUARD_TEST_LOOP", "asyncio"), os.environ.get("UDPGUARD_BACKEND", "auto")
    if loop != "asyncio" or backend == "portable":
        pytest.skip("a simulation has a loop and sockets of its own: it is the same whatever the others are")
