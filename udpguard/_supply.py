"""What a sweep asks comes from its caller, a little at a time: from any iterable, or from an asynchronous one.

An ordinary iterable is asked for items when there are places for them. An asynchronous one has a task, which takes
items a little ahead of that, and no further.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator
from itertools import islice


def _nothing(*_: object) -> None:
    """Tell nobody."""


class Supply:
    """The items of a sweep.

    Args:
        requests: What gives them.
        ahead: How many are taken at the most before there are places for them.
    """

    __slots__ = ("_ahead", "_fail", "_feeder", "_generator", "_hungry", "_is_fed", "_items", "_requests", "_stir")

    def __init__(
        self,
        requests: Iterable[object] | AsyncIterable[object],
        ahead: int,
    ) -> None:
        self._requests = requests
        self._ahead = ahead
        self._stir: Callable[[], object] = _nothing
        self._fail: Callable[[BaseException], object] = _nothing
        self._items: Iterator[object] | deque[object] | None = None
        """Where they come from; None: there are no more."""
        self._feeder: asyncio.Task[None] | None = None
        """What fills that, where they come from an asynchronous iterable."""
        self._is_fed = False
        """Whether that is over."""
        self._generator: Generator[object, object, object] | None = None
        """What is to be closed in the end."""
        self._hungry: asyncio.Future[None] | None = None
        """What the feeder waits for while it is ahead."""

    def begin(
        self, loop: asyncio.AbstractEventLoop, stir: Callable[[], object], fail: Callable[[BaseException], object]
    ) -> None:
        """Begin to take items. What making an iterator of the iterable raises is raised.

        Args:
            loop: Where to.
            stir: Called when there may be more of them, or no more.
            fail: Called with the error that they ended with.
        """
        self._stir, self._fail = stir, fail
        requests = self._requests
        self._items = buffer = deque[object]()  # there are some to come, if the iterable itself closes the endpoint
        if isinstance(requests, AsyncIterable):
            self._feeder = loop.create_task(self._feed(aiter(requests), buffer))
        else:
            self._items = items = iter(requests)
            self._generator = items if isinstance(items, Generator) else None

    @property
    def is_over(self) -> bool:
        """Whether there are no more."""
        if self._is_fed and isinstance(self._items, deque) and not self._items:
            self._items = None
        return self._items is None

    @property
    def may_have_some(self) -> bool:
        """Whether there may be one now."""
        return not self.is_over and not (isinstance(self._items, deque) and not self._items)

    def pull(self, most: int) -> list[object]:
        """Take as many, unless there are fewer now."""
        source = self._items
        if isinstance(source, deque):
            return self._pull_fed(source, most)
        assert source is not None
        items: list[object] = []
        try:
            items.extend(islice(source, most))  # what was taken before an error stays
        except BaseException as error:
            self.stop()
            self._fail(error)
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
        else:
            if len(items) < most:
                self._items = None
        return items

    def _pull_fed(self, buffer: deque[object], most: int) -> list[object]:
        items = [buffer.popleft() for _ in range(min(most, len(buffer)))]
        if self._hungry is not None and not self._hungry.done():
            self._hungry.set_result(None)
        return items

    def stop(self) -> None:
        """Take nothing more."""
        self._items = None
        # Only once is it cancelled, lest its own cleaning up be.
        if self._feeder is not None and not self._is_fed:
            self._is_fed = True
            self._feeder.cancel()

    async def close(self) -> None:
        """Take nothing more, and close what items come from."""
        self.stop()
        feeder = self._feeder
        if feeder is not None:
            await asyncio.wait([feeder])
            if not feeder.cancelled():
                feeder.result()
        elif self._generator is not None:
            self._generator.close()
        self._stir = self._fail = _nothing  # which hold the sweep, as it holds this

    async def _feed(self, items: AsyncIterator[object], buffer: deque[object]) -> None:
        """Take items from an asynchronous iterable, a little ahead of their being asked."""
        try:
            async for item in items:
                if self._is_fed:  # it took no notice of being cancelled
                    break
                buffer.append(item)
                self._stir()
                while len(buffer) >= self._ahead:
                    self._hungry = asyncio.get_running_loop().create_future()
                    await self._hungry
        except BaseException as error:
            if self._items is None:  # it was cancelled since there is no need for it any more
                raise
            self._fail(error)
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
        finally:
            self._is_fed = True
            self._stir()
            if isinstance(items, AsyncGenerator):
                await items.aclose()
