"""Processes that do one job after another, where the death of one costs its job alone."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

_CLOSED = (EOFError, ConnectionResetError, BrokenPipeError)


def _serve(pipe: Connection, make: Callable[..., Callable[[Any], Any]], settings: tuple[Any, ...]) -> None:
    # Data workers leave accelerators alone.
    os.environ["JAX_PLATFORMS"] = "cpu"
    import cv2

    cv2.setNumThreads(1)
    try:
        work = make(*settings)
        while (job := pipe.recv()) is not None:
            pipe.send(work(job))
    except (KeyboardInterrupt, *_CLOSED):
        return


class _Worker:
    def __init__(self, make: Callable[..., Callable[[Any], Any]], settings: tuple[Any, ...]):
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make, settings), daemon=True)
        self.process.start()
        theirs.close()
        self.job: Any = None
        self.since = 0.0

    def give(self, job: Any) -> None:
        self.job, self.since = job, time.monotonic()
        self.pipe.send(job)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run(
    jobs: Sequence[Any], workers: int, make: Callable[..., Callable[[Any], Any]], settings: tuple[Any, ...],
    limit_s: float = 3600.0,
) -> Iterator[tuple[Any, Any, str | None]]:  # fmt: skip
    """(job, result, None) as jobs end, or (job, None, why) where the process died or took longer than `limit_s`.

    Every process calls `make(*settings)` once and the result of that with each of its jobs. With 0 workers the jobs
    are done in this process.
    """
    if workers == 0:
        work = make(*settings)
        for job in jobs:
            yield job, work(job), None
        return
    waiting, busy = deque(jobs), list[_Worker]()
    idle = list[_Worker]()
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                worker = idle.pop() if idle else _Worker(make, settings)
                busy.append(worker)
                worker.give(waiting.popleft())
            ready = set(wait([w.pipe for w in busy], timeout=5.0))
            for worker in list(busy):
                ended: tuple[Any, str | None] | None = None
                if worker.pipe in ready:
                    try:
                        ended = worker.pipe.recv(), None
                    except _CLOSED:
                        worker.process.join()
                        ended = None, f"crashed: its process ended with status {worker.process.exitcode}"
                elif time.monotonic() - worker.since > limit_s:
                    ended = None, f"too slow: it took more than {limit_s:.0f} s"
                if ended is None:
                    continue
                busy.remove(worker)
                if ended[1] is None:
                    idle.append(worker)
                else:
                    worker.stop()
                yield worker.job, *ended
    finally:
        for worker in busy + idle:
            worker.stop()
