"""Drawing examples while a step computes."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
