"""A test whose loop never comes back fails instead of hanging."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

LONGEST = 40.0


@pytest.fixture(autouse=True)
def _comes_back() -> Iterator[None]:
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        pytest.fail(f"the test was not done in {LONGEST:.0f} s", pytrace=True)

    before = signal.signal(signal.SIGALRM, ring)
    # Again, should the tear-down hang as well; but not soon, since between the two pytest reports, and would break.
    signal.setitimer(signal.ITIMER_REAL, LONGEST, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
