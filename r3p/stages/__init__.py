"""What a training stage is: its functions. The loop in `r3p.train` knows nothing else of it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from r3p.state import TrainState

Batch = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """A stage of training.

    Attributes:
      init: `rng -> state`, traceable.
      step: `(state, batch, rng) -> (state, metrics)`, traceable; metrics are scalars.
      batches: `first step -> iterator of host batches`; a pure function of the step, so that a run resumes.
      preview: `(state, batch) -> {name: u8 [h, w, 3]}` pictures for people, or None.
      evaluate: `(state, batch) -> metrics` of the averaged model, without any randomness, traceable; or None.
      held_out: `() -> host batches` to evaluate on, the same every time; or None.
    """

    init: Callable[[Any], TrainState]
    step: Callable[[TrainState, Batch, Any], tuple[TrainState, dict[str, Any]]]
    batches: Callable[[int], Iterator[Batch]]
    preview: Callable[[TrainState, Batch], dict[str, np.ndarray]] | None = None
    evaluate: Callable[[TrainState, Batch], dict[str, Any]] | None = None
    held_out: Callable[[], Iterable[Batch]] | None = None
