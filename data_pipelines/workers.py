"""Processes that do one job after another, where the death of one costs its job alone."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
    """A process and the job that it has."""

    def __init__(self, make: Callable[..., Callable[[Any], Any]], settings: tuple[Any, ...]):
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make, settings), daemon=True)
        with _one_thread():
            self.process.start()
        theirs.close()
        self.job: Any = None
        self.since = 0.0

    def give(self, job: Any) -> None:
        self.job, self.since = job, time.monotonic()
        with suppress(*_CLOSED):  # it died meanwhile: `ended` says so
            self.pipe.send(job)

    def ended(self, ready: bool, limit_s: float) -> tuple[Any, str | None] | None:
        """(result, None), or (None, why there is none); None while it works. ready: its pipe can be read."""
        if ready:
            try:
                return self.pipe.recv(), None
            except _CLOSED:
                self.process.join()
                return None, f"crashed: its process ended with status {self.process.exitcode}"
        if time.monotonic() - self.since > limit_s:
            return None, f"too slow: it took more than {limit_s:.0f} s"
        return None

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes started here do their linear algebra in one thread each: there is one of them for each core."""
    held = os.environ.get("OPENBLAS_NUM_THREADS")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if held is None:
            del os.environ["OPENBLAS_NUM_THREADS"]
        else:
            os.environ["OPENBLAS_NUM_THREADS"] = held


class Guarded:
    """Does jobs in a process of its own, one at a time; another process follows one that died or took too long."""

    def __init__(self, make: Callable[..., Callable[[Any], Any]], settings: tuple[Any, ...], limit_s: float = 3600.0):
        self._make, self._settings, self._limit_s = make, settings, limit_s
        self._worker: _Worker | None = None

    def __call__(self, job: Any) -> tuple[Any, str | None]:
        """(result, None), or (None, why there is none)."""
        self._worker = self._worker or _Worker(self._make, self._settings)
        self._worker.give(job)
        while (ended := self._worker.ended(self._worker.pipe.poll(1.0), self._limit_s)) is None:
            pass
        if ended[1] is not None:
            self.close()
        return ended

    def close(self) -> None:
        """Ends the process."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None


def run(
    jobs: Sequence[Any], workers: int, make: Callable[..., Callable[[Any], Any]], settings: tuple[Any, ...],
    limit_s: float = 3600.0,
) -> Iterator[tuple[Any, str | None]]:  # fmt: skip
    """(job, None) as jobs end, or (job, why) where the process died or took longer than `limit_s`.

    Every process calls `make(*settings)` once and the result of that with each of its jobs. With 0 workers the jobs
    are done in this process.
    """
    if workers == 0:
        work = make(*settings)
        for job in jobs:
            work(job)
            yield job, None
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
                if (ended := worker.ended(worker.pipe in ready, limit_s)) is None:
                    continue
                busy.remove(worker)
                if ended[1] is None:
                    idle.append(worker)
                else:
                    worker.stop()
                yield worker.job, ended[1]
    finally:
        for worker in busy + idle:
            worker.stop()
