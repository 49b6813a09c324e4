"""What a training stage is: a few functions. The loop in `r3p.train` knows nothing else of it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from r3p.state import TrainState

Batch = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """A stage of training.

    What is drawn at random for a batch is drawn for all of its rows at once, `jax.random.uniform(rng, (b, ...))`: a
    row's place in the batch decides, so that neither the number of devices nor of processes changes a run.

    Attributes:
      init: `rng -> state`, traceable.
      step: `(state, batch, rng) -> (state, metrics)`, traceable; metrics are scalars. `state.step` goes up by one.
      batches: `first step -> iterator of host batches`; a pure function of the step, so that a run resumes. A process
        gives its own run of rows, `r3p.sharding.process()`. Besides what the step reads a batch may hold `example`
        [b], which examples these are; a loss that is not finite is reported with them.
      preview: `(state, batch) -> {name: u8 [h, w, 3]}` pictures for people, or None. Gets one process's rows, and no
        optimiser state.
      evaluate: `(state, batch) -> metrics` of the averaged model, without any randomness, traceable; or None.
      held_out: `() -> host batches` to evaluate on, the same every time, as `batches` shares them among processes. None
        = training does not evaluate.
      example: `() -> {name: array}`, a row of a batch whose shapes and types alone count (the largest, where batches
        differ in shape): for planning without data. None = `batches` tells.
      accumulates: whether `step` honours `config.accumulate` and `config.remat` (through `r3p.state.gradients`).
      half: whether its models compute in `config.dtype` (through `r3p.state.compute_dtype`).
    """

    init: Callable[[Any], TrainState]
    step: Callable[[TrainState, Batch, Any], tuple[TrainState, dict[str, Any]]]
    batches: Callable[[int], Iterator[Batch]]
    preview: Callable[[TrainState, Batch], dict[str, np.ndarray]] | None = None
    evaluate: Callable[[TrainState, Batch], dict[str, Any]] | None = None
    held_out: Callable[[], Iterable[Batch]] | None = None
    example: Callable[[], Batch] | None = None
    accumulates: bool = False
    half: bool = False

    def __post_init__(self) -> None:
        if self.held_out is not None and self.evaluate is None:
            raise TypeError("a stage has `held_out` batches and nothing to `evaluate` on them")
