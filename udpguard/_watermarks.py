"""How much a transport queues before it holds its protocol back, as `asyncio.WriteTransport` has it for streams."""

from __future__ import annotations

import asyncio
from typing import Any, Final

_HIGH_WATER: Final = 256 * 1024


class WaterMarks(asyncio.DatagramTransport):
    """A datagram transport that calls `pause_writing` above a mark; who drains it calls `resume_writing` below another.

    Args:
        extra: What `get_extra_info` tells.
    """

    _protocol: asyncio.DatagramProtocol

    def __init__(self, extra: dict[str, Any]) -> None:
        super().__init__(extra)
        self._queued: int = 0
        """Bytes; a datagram of none counts as one, since it needs room, too."""
        self._high: int = _HIGH_WATER
        self._low: int = _HIGH_WATER // 4
        self._paused: bool = False

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        """The bytes that are queued; a datagram of none counts as one."""
        return self._queued

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The low and the high water mark in bytes."""
        return (self._low, self._high)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the water marks in bytes.

        Raises:
            ValueError: Not `high >= low >= 0`.
        """
        if high is None:
            high = _HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low
        if self._queued > high:
            self._pause()
