"""What every test shares: the loop it runs on, Hypothesis' profiles, and an ear for errors nobody raised."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Mapping

import pytest
from hypothesis import HealthCheck, settings

# UDPGUARD_TEST_LOOP=uvloop runs the whole suite on uvloop.
LOOP = os.environ.get("UDPGUARD_TEST_LOOP", "asyncio")

_slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("dev", max_examples=50, deadline=None, suppress_health_check=_slow)
settings.register_profile("ci", max_examples=500, deadline=None, derandomize=True, suppress_health_check=_slow)
settings.register_profile("nightly", max_examples=20_000, deadline=None, suppress_health_check=_slow)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    if LOOP == "uvloop":
        uvloop = pytest.importorskip("uvloop")
        factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
        return factory
    return asyncio.SelectorEventLoop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {LOOP: _loop_factory()}


# What runs in virtual time, or without any, and what counts: the same on every loop and backend, and long.
ONCE = ("cancellation", "clients", "fuzzing", "odds", "schedules", "simulation", "sweeps")
ONCE_OF_OTHERS = ("test_core_interleavings.py", "test_core_schedules.py", "test_loopback_counts.py")
# Most of the time: ten thousand at once, each printed program, programs that are run, the benchmarks' own tests.
SLOW = (
    "test_benchmarks_smoke.py",
    "test_docs_blocks.py",
    "test_docs_figures.py",
    "test_loopback_concurrency.py",
)
# Of the examples' tests.
QUICK = ("test_example_clients.py", "test_example_quickstart.py", "test_example_three_clients.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what CI runs but once, and what isn't run unless asked for."""
    for item in items:
        if item.path.parent.name in ONCE or item.path.name in ONCE_OF_OTHERS:
            item.add_marker(pytest.mark.once)
        is_program = item.path.parent.name == "examples" and item.path.name not in QUICK
        if item.path.name in SLOW or is_program:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _no_error_in_callbacks(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test in which the event loop logged an error.

    `filterwarnings = error` does not see an exception in a loop's callback: asyncio only logs it.
    """
    yield
    errors = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.name == "asyncio" and record.levelno >= logging.ERROR
    ]
    assert not errors, f"the event loop logged: {errors}"
