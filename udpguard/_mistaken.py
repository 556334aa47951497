"""What is used with `async with` and `async for` says so to who leaves the `async` out, or awaits it.

Python's own message names the protocol that is missing, and not the line to write. Type checkers know nothing of the
methods that are added here, so that they complain as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeVar

T = TypeVar("T")


def used_with(enter: str, iterate: str | None = None) -> Callable[[type[T]], type[T]]:
    """Have a class refuse to be used in another way, with the right one in the message.

    Args:
        enter: The line that enters it.
        iterate: The line that reads it; None where nothing is to be read.
    """
    how = f"write `{enter}`" + (f", and in it `{iterate}`" if iterate is not None else "")

    def add(kind: type[T]) -> type[T]:
        no_with = f"`with` needs `async` before it: {how}"
        refusals: dict[str, str] = {"__enter__": no_with, "__exit__": no_with}
        if iterate is not None:
            refusals["__iter__"] = f"`for` needs `async` before it: {how}"
            refusals["__await__"] = f"a {kind.__name__} is nothing to await: {how}"
        for method, message in refusals.items():
            if not hasattr(kind, method):
                setattr(kind, method, _refusal(method, message))
        return kind

    return add


def _refusal(method: str, message: str) -> Callable[..., NoReturn]:
    def refuse(*_: object) -> NoReturn:
        raise TypeError(message)

    refuse.__name__ = refuse.__qualname__ = method
    refuse.__doc__ = "Raise a TypeError that shows the right way."
    return refuse
