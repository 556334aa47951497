"""A timer that is right to a tenth of a millisecond, where the system has one.

The timers of event loops are a millisecond coarse (`selectors` rounds time-outs up for epoll, libuv counts in whole
milliseconds). What is to leave every half a millisecond can't wait for those. Linux has timers that are descriptors
(`man 2 timerfd_create`), which any loop with `add_reader` can watch; Python's `os` has them from 3.13 on.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import sys
from collections.abc import Callable
from typing import Final, Protocol

logger = logging.getLogger("udpguard")

_CLOCK_MONOTONIC: Final = 1
_TFD_NONBLOCK: Final = 0o4000
_TFD_CLOEXEC: Final = 0o2000000
_SHORTEST: Final = 0.000_001


class Alarm(Protocol):
    """Calls back once after each time it is set."""

    is_fine: bool
    """Whether it is right to a fraction of a millisecond."""

    def set(self, seconds: float) -> None:
        """Call back in so many seconds; it must not be set already."""
        ...

    def close(self) -> None:
        """Don't call back any more."""
        ...


class LoopAlarm:
    """The loop's own timer.

    Args:
        loop: Whose.
        callback: What is called.
    """

    is_fine: bool = False

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
        self._loop = loop
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """See `Alarm.set`."""
        self._handle = self._loop.call_later(max(seconds, 0.0), self._callback)

    def close(self) -> None:
        """See `Alarm.close`."""
        if self._handle is not None:
            self._handle.cancel()


class FileAlarm:
    """A timer that is a descriptor.

    Args:
        loop: The loop that watches it.
        callback: What is called.

    Raises:
        OSError: The system has none.
        NotImplementedError: The loop can't watch descriptors.
    """

    is_fine: bool = True

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
        import ctypes  # slow to load, and few sweeps have a rate

        if ctypes.sizeof(ctypes.c_long) != 8:  # there `struct itimerspec` is of another layout
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        library = ctypes.CDLL(None, use_errno=True)
        try:
            create, self._settime = library.timerfd_create, library.timerfd_settime
        except AttributeError as error:
            raise OSError(errno.ENOSYS, str(error)) from None
        self._loop = loop
        self._callback = callback
        self._times = (ctypes.c_long * 4)()
        """`struct itimerspec`: the interval, always zero, and when it rings; both in seconds and nanoseconds."""
        self._fileno: int = create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self._fileno < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        try:
            loop.add_reader(self._fileno, self._ring)
        except BaseException:
            os.close(self._fileno)
            raise

    def set(self, seconds: float) -> None:
        """See `Alarm.set`."""
        whole, rest = divmod(max(seconds, _SHORTEST), 1.0)
        self._times[2], self._times[3] = int(whole), int(rest * 1e9)
        self._settime(self._fileno, 0, self._times, None)

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fileno, 8)
            self._callback()

    def close(self) -> None:
        """See `Alarm.close`."""
        if self._fileno < 0:
            return
        if not self._loop.is_closed():
            self._loop.remove_reader(self._fileno)
        os.close(self._fileno)
        self._fileno = -1


def open_alarm(loop: asyncio.AbstractEventLoop, callback: Callable[[], object], *, is_real: bool) -> Alarm:
    """The best alarm there is.

    Args:
        loop: Whose.
        callback: What is called.
        is_real: Whether the loop lives in the system's time.
    """
    if is_real and sys.platform == "linux" and os.environ.get("UDPGUARD_BACKEND") != "portable":
        try:
            return FileAlarm(loop, callback)
        except (OSError, NotImplementedError) as error:
            logger.debug("no fine timer: %s", error)
    return LoopAlarm(loop, callback)
