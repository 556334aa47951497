"""The kit of tests/loopback serves here, too; and the hosts of a test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "loopback"))

from networks_kit import Networks


@pytest.fixture
def networks() -> Iterator[Networks]:
    made = Networks()
    try:
        yield made
    finally:
        made.close()
