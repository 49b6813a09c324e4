"""Drawing examples while a step computes."""

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def draw_ahead(draw: Callable[[int], T], numbers: Iterable[int], ahead: int = 3) -> Iterator[T]:
    """`draw` of each number in order, up to `ahead` of them drawn early by one thread."""
    numbers = iter(numbers)
    with ThreadPoolExecutor(1) as pool:  # one thread: what `draw` keeps needs no lock
        waiting = [pool.submit(draw, k) for k in islice(numbers, ahead)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(draw, k) for k in islice(numbers, 1)]


def read_ahead(items: Iterator[T], ahead: int = 2) -> Generator[T, None, None]:
    """The items in order, up to `ahead` of them read early by one thread; 0 reads when asked.

    What reading raises is raised here, in the item's place. To be closed when it is left early.
    """
    if not ahead:
        yield from items
        return
    end = object()

    def read() -> T | object:
        return next(items, end)

    context = copy_context()  # the thread sees its maker's context variables
    waiting: list[Future[T | object]] = []
    try:
        with ThreadPoolExecutor(1) as pool:
            waiting += [pool.submit(context.run, read) for _ in range(ahead)]
            try:
                while (item := waiting.pop(0).result()) is not end:
                    waiting.append(pool.submit(context.run, read))
                    yield item  # type: ignore[misc]
            finally:
                for future in waiting:
                    future.cancel()
    finally:
        close = getattr(items, "close", None)
        if close:
            close()
