"""What is released is tried as users have it."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _nothing_else_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have interpreters that are started here load no more than they are told to: they would measure coverage."""
    for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
