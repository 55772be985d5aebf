"""One after the other, and how many may wait."""

import asyncio
import threading

import pytest

from tubelet.web.line import Busy, Line


def test_work_is_done_in_order_and_those_too_many_are_told_so():
    line, done, go = Line("test", 2), [], threading.Event()

    def work(number: int) -> int:
        go.wait(10)
        done.append(number)
        return number

    async def all_at_once() -> list[int]:
        waiting = [asyncio.ensure_future(line.do(lambda n=n: work(n))) for n in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await line.do(lambda: work(3))
        go.set()
        return await asyncio.gather(*waiting)

    assert asyncio.run(all_at_once()) == done == [0, 1, 2]
    assert asyncio.run(line.do(lambda: 7)) == 7  # there is room again
    line.close()


def test_what_work_raises_is_raised_and_leaves_its_place():
    line = Line("test", 0)

    def fail() -> None:
        raise ValueError("x")

    for _ in range(3):
        with pytest.raises(ValueError, match="x"):
            asyncio.run(line.do(fail))
    line.close()


def test_work_whose_caller_is_gone_is_left_out():
    line, done, go = Line("test", 2), [], threading.Event()

    async def leave() -> None:
        first = asyncio.ensure_future(line.do(lambda: go.wait(10)))
        second = asyncio.ensure_future(line.do(lambda: done.append(2)))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
        go.set()
        await first

    asyncio.run(leave())
    assert asyncio.run(line.do(lambda: len(done))) == 0
    line.close()
