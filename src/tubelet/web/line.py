"""Work one after the other, with a short line of those who wait: how long a line is, is how long the last one waits."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Busy(Exception):
    """As many wait as may."""


class Line:
    """One thread that does what is asked, in order; `most` may wait behind what is being done."""

    def __init__(self, name: str, most: int) -> None:
        self.most = most
        self._there, self._lock = 0, threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"tubelet-{name}")

    async def do(self, work: Callable[[], T]) -> T:
        """What the work gives. Raises what it raises, and Busy at once where the line is full.

        Work whose caller is gone is left out if it has not begun.
        """
        with self._lock:
            if self._there > self.most:
                raise Busy
            self._there += 1
        try:
            future = self._thread.submit(work)
        except BaseException:
            self._left()
            raise
        future.add_done_callback(self._left)
        return await asyncio.wrap_future(future)

    def _left(self, _: object = None) -> None:
        with self._lock:
            self._there -= 1

    def close(self) -> None:
        """Ends the thread when it has done what it does; what waits is left out."""
        self._thread.shutdown(wait=True, cancel_futures=True)
