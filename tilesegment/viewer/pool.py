"""A few threads that work for requests, and drop what nobody waits for any more."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tilesegment.errors import ViewError
from tilesegment.threads import thread_count

T = TypeVar("T")
_MOST_THREADS = 4
MOST_WAITING = 128  # requests; a page asks for six at a time


class BusyError(ViewError):
    """Too many requests wait already."""


class Pool:
    """Threads, at most four, and a queue of bounded length."""

    def __init__(self, most_waiting: int = MOST_WAITING) -> None:
        self._executor = ThreadPoolExecutor(max(2, min(_MOST_THREADS, thread_count())), "tile")
        self._places = threading.BoundedSemaphore(most_waiting)

    def submit(self, function: Callable[[], T]) -> "Future[T]":
        """Start or queue a call; cancelling what is returned drops it if it has not begun.

        Raises:
            BusyError: too many calls wait.
        """
        if not self._places.acquire(blocking=False):
            raise BusyError("too many requests at once: ask again later")
        future = self._executor.submit(function)
        future.add_done_callback(lambda done: self._places.release())
        return future

    async def run(self, function: Callable[[], T]) -> T:
        """Call a function in a thread; cancelled with the task that awaits it.

        Raises:
            BusyError: too many calls wait.
        """
        return await asyncio.wrap_future(self.submit(function))

    def close(self) -> None:
        """Drop what waits, and wait for what has begun."""
        self._executor.shutdown(cancel_futures=True)
