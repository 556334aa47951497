"""What tests share whose example is a part of a program, and is imported."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

import udpguard


@pytest.fixture
async def endpoint() -> AsyncIterator[udpguard.Endpoint]:
    async with udpguard.open_endpoint() as opened:
        yield opened
