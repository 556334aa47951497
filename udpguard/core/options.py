"""What callers may set, and the checks of it."""

from __future__ import annotations

import enum
import inspect
import math
import sys
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from udpguard.core.record import record


class Default(enum.Enum):
    """The type of `DEFAULT`, for the signatures of wrappers."""

    DEFAULT = "DEFAULT"

    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT: Final = Default.DEFAULT
"""Stands for "not given": what the client or the endpoint says counts. Wrappers can pass it on."""

KernelFilter: TypeAlias = Literal["auto", "on", "off"]
"""When a socket filter keeps strangers out."""

DEFAULT_TIMEOUT: Final = 5.0
"""The deadline of a request in seconds where nobody says otherwise."""


def checked_timeout(timeout: object) -> float:
    """A time-out in seconds; None gives infinity.

    Raises:
        TypeError: It is not a number.
        ValueError: It is zero, negative or not a number.
    """
    if type(timeout) is float and timeout > 0.0:
        return timeout
    if type(timeout) is int and 0 < timeout < 1 << 53:
        return float(timeout)
    if timeout is None:
        return math.inf
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool):
        hint = ": pass its total_seconds()" if hasattr(timeout, "total_seconds") else ""
        raise TypeError(f"timeout must be seconds or None, not {timeout!r}{hint}")
    if not timeout > 0:
        raise ValueError(f"timeout must be more than 0 seconds, not {timeout!r} (None: no deadline)")
    try:
        return float(timeout)
    except OverflowError:
        raise ValueError("timeout is longer than any clock counts: None means no deadline") from None


def checked_window(window: object) -> float:
    """For how many seconds answers may come; there must be an end.

    Raises:
        TypeError: It is not a number.
        ValueError: It is not more than 0, or never ends.
    """
    if window is not None and (not isinstance(window, (int, float)) or isinstance(window, bool)):
        raise TypeError(f"window must be seconds, not {window!r}")
    if window is None or window == math.inf or window > sys.float_info.max:
        raise ValueError("window must be a number of seconds: answers may come for ever")
    if not window > 0:
        raise ValueError(f"window must be more than 0 seconds, not {window!r}")
    return float(window)


def checked_rate(rate: object) -> float | None:
    """A number of datagrams a second, or None.

    Raises:
        TypeError: It is not a number.
        ValueError: It is not positive.
    """
    if rate is None:
        return None
    if not isinstance(rate, (int, float)) or isinstance(rate, bool):
        raise TypeError(f"rate must be datagrams a second or None, not {rate!r}")
    if not 0 < rate < math.inf:
        raise ValueError(f"rate must be more than 0 datagrams a second, not {rate!r} (None: as fast as it goes)")
    return float(rate)


def check_hook(name: str, hook: Callable[..., object] | None) -> None:
    """Refuse what can't be called back.

    Raises:
        TypeError: It is not callable, or is a coroutine function.
    """
    if hook is None:
        return
    if not callable(hook):
        raise TypeError(f"{name} must be a function, not {hook!r}")
    if inspect.iscoroutinefunction(hook):
        raise TypeError(f"{name} must be a plain function, not a coroutine function: nothing would await it")


@record
class Limits:
    """What one endpoint may hold at once.

    Args:
        pending: How many requests and expectations may wait for a reply. Requests beyond it wait for room; an
            expectation raises `TooManyPendingError`.
        in_flight_per_peer: How many requests with a transaction key may be in flight to one peer, for protocols that
            bound it (CoAP's NSTART, RFC 7252 section 4.7); the others wait. None: any number.
        near_misses: How many datagrams from the right place with the wrong transaction key may come while a request
            waits: one more ends it with `ForgerySuspectedError`, since somebody may be guessing keys (RFC 5452
            section 9.2). Strangers never count. None: any number.

    Raises:
        ValueError: A limit is less than one (`near_misses`: less than zero).
    """

    pending: int = 65_536
    in_flight_per_peer: int | None = None
    near_misses: int | None = None

    def __post_init__(self) -> None:
        check_limit("pending", self.pending)
        check_limit("in_flight_per_peer", self.in_flight_per_peer, optional=True)
        check_limit("near_misses", self.near_misses, lowest=0, optional=True)


def check_limit(name: str, value: int | None, *, lowest: int = 1, optional: bool = False) -> None:
    """Refuse what can't be a limit; None is none, where that is allowed.

    Raises:
        TypeError: It is no int.
        ValueError: It is too low.
    """
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < lowest:
        raise ValueError(f"{name} must be at least {lowest}, not {value}")
