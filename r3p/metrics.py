"""Metrics of a run as JSON lines, in TensorBoard and on the screen; pictures beside them: the importer of tensorboardX.

Only the first process writes.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter

from r3p import flops, photo


class Writer:
    """`metrics.jsonl`, TensorBoard's event files and `previews/` in a folder; without one it writes nothing."""

    def __init__(self, workdir: Path | None):
        self._workdir = workdir
        if workdir:
            self._file = (workdir / "metrics.jsonl").open("a", buffering=1)
            self._board = SummaryWriter(str(workdir / "tensorboard"))

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """One line of numbers about a step."""
        if self._workdir is None:
            return
        rounded = {name: float(f"{value:.7g}") for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **rounded}) + "\n")
        for name, value in rounded.items():
            self._board.add_scalar(name, value, step)
        print(f"step {step} " + " ".join(f"{name} {value:.4g}" for name, value in rounded.items()), flush=True)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """uint8 [h, w, 3] as files and in TensorBoard."""
        if self._workdir is None:
            return
        folder = self._workdir / "previews"
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            photo.save_image(folder / f"{name}_{step:07d}.png", picture)
            self._board.add_image(name, picture, step, dataformats="HWC")

    def say(self, text: str) -> None:
        """A line on the screen."""
        if self._workdir:
            print(text, flush=True)

    def close(self) -> None:
        if self._workdir:
            self._file.close()
            self._board.close()


class Meter:
    """Means of the metrics between two rows, with the time that the steps took."""

    def __init__(self, batch_size: int, devices: int):
        self._batch_size, self._devices, self._peak = batch_size, devices, flops.peak()
        self.waited = 0.0
        self._sums: dict[str, float] = {}
        self.start()

    def start(self) -> None:
        """Begins anew: what happened since the last row is not the steps' doing."""
        self._since, self._sums, self._steps, self._flops, self.waited = time.monotonic(), {}, 0, 0.0, 0.0

    def wait(self, batches: Any) -> Any:
        """The next batch; the time counts as waiting for input."""
        started = time.monotonic()
        batch = next(batches)
        self.waited += time.monotonic() - started
        return batch

    def add(self, values: Mapping[str, float], operations: float) -> None:
        """The metrics of a finished step, and its floating-point operations."""
        self._steps += 1
        self._flops += operations
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def row(self) -> dict[str, float]:
        """Means since the last row; `examples_per_s`; `step_s`; `input_wait`, the share of time spent waiting for data;
        `mfu`, the share of the devices' peak that the step's arithmetic took, where that is known."""
        seconds, steps = max(time.monotonic() - self._since, 1e-9), max(self._steps, 1)
        row: dict[str, float] = {name: total / steps for name, total in self._sums.items()}
        row["examples_per_s"] = self._steps * self._batch_size / seconds
        row["step_s"] = seconds / steps
        row["input_wait"] = min(self.waited / seconds, 1.0)
        if self._peak is not None:
            row["mfu"] = self._flops / seconds / (self._peak * self._devices)
        self.start()
        return row
