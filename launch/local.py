"""Runs a command in several connected processes on this machine, and again from the last checkpoint when one dies."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from r3p.errors import FINISHED, REFUSED, STOPPED


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(devices: int | None, gpu: int | None) -> dict[str, str]:
    """Of a process that is to have `devices` virtual CPU devices, or one GPU."""
    env = dict(os.environ)
    if devices:
        flags = [f for f in env.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in f]
        env["XLA_FLAGS"] = " ".join([*flags, f"--xla_force_host_platform_device_count={devices}"])
        env["JAX_PLATFORMS"] = "cpu"
    if gpu is not None:
        env["CUDA_VISIBLE_DEVICES"] = str(gpu)
    return env


class Job:
    """Processes that live and die together."""

    def __init__(self, grace: float = 10.0):
        self.grace = grace
        self.asked = False  # whether somebody wants the end
        self._running: list[subprocess.Popen[Any]] = []

    def ask(self, *_: Any) -> None:
        """Passes a SIGTERM on; the processes write a checkpoint and leave."""
        self.asked = True
        for process in self._running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)

    def run(self, commands: Sequence[Sequence[str]], environments: Sequence[dict[str, str]]) -> int:
        """Runs all; the status is that of the first that failed. The others then have `grace` seconds to leave."""
        self._running = [subprocess.Popen(c, env=e) for c, e in zip(commands, environments, strict=True)]
        status, deadline = FINISHED, float("inf")
        try:
            while any(process.poll() is None for process in self._running):
                ended = [process.returncode for process in self._running if process.returncode is not None]
                failed = [code for code in ended if code != FINISHED]
                if failed and deadline == float("inf"):
                    status, deadline = failed[0], time.monotonic() + self.grace
                if time.monotonic() > deadline:
                    break
                time.sleep(0.1)
        finally:
            for process in self._running:
                if process.poll() is None:
                    process.kill()
            codes = [process.wait() for process in self._running]
        return status or next((code for code in codes if code != FINISHED), FINISHED)


def again(once: Callable[[], int], restarts: int, asked: Callable[[], bool], pause: float = 3.0) -> int:
    """Runs until it has finished, was refused or was told to stop; at most `restarts` times more than once."""
    for attempt in range(restarts + 1):
        status = once()
        if status in (FINISHED, REFUSED) or asked():
            return status
        how = f"ended by signal {-status}" if status < 0 else f"ended with status {status}"
        if attempt == restarts:
            print(f"launch: {how} after {restarts} restarts; no more of them", file=sys.stderr, flush=True)
            return status
        print(f"launch: {how}; restart {attempt + 1} of {restarts}", file=sys.stderr, flush=True)
        time.sleep(pause)
    raise AssertionError("unreachable")


def supervise(
    processes: int,
    train: Sequence[str],
    *,
    devices: int | None = None,
    gpu_each: bool = False,
    restarts: int = 3,
    commands: Callable[[int, int, Sequence[str]], list[list[str]]],
) -> int:
    """`launch/run.py` in each of `processes` processes, restarted together; returns the exit status."""
    job = Job()
    previous = {number: signal.signal(number, job.ask) for number in (signal.SIGTERM, signal.SIGINT)}
    environments = [environment(devices, k if gpu_each else None) for k in range(processes)]
    try:
        status = again(
            lambda: job.run(commands(processes, free_port(), train), environments), restarts, lambda: job.asked
        )
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return STOPPED if job.asked and status != FINISHED else status
