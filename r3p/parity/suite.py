"""Every golden case that is known, and how one is run."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import jax

from r3p.errors import InputError
from r3p.parity import fusion, planes, rays, speech, teachers, whole
from r3p.parity.cases import GIVEN, Case, Comparison, Runner

RUNNERS: dict[str, Runner] = (
    planes.RUNNERS | rays.RUNNERS | fusion.RUNNERS | whole.RUNNERS | speech.RUNNERS | teachers.RUNNERS
)
LEFT_OUT = {
    "ops": "primitives, which the unit tests take one by one",
    "sr_warp_v1_staged": "a path that the original never calls",
}


@dataclass(frozen=True)
class Result:
    """What became of a case: its comparisons, or why it could not be run; `left_out` says why that is no failure."""

    case: str
    comparisons: Sequence[Comparison] = ()
    seconds: float = 0.0
    problem: str = ""
    left_out: str = ""

    @property
    def passed(self) -> bool:
        return bool(self.left_out) or (not self.problem and all(c.passed for c in self.comparisons))

    @property
    def nearest(self) -> Comparison | None:
        """What comes nearest its bound, or exceeds it most."""
        return max(self.comparisons, key=lambda c: c.share, default=None)

    def worst(self, role: str) -> float | None:
        """Largest relative L2 error of `outputs`, `seams` or `gradients`; None where none were recorded."""
        errors = [c.error for c in self.comparisons if c.role == role]
        return next((e for e in errors if e != e), max(errors, default=None))


def run(case: Case) -> Result:
    """Runs our network on a case and compares all that was recorded, in float32 at the highest precision."""
    if case.name in LEFT_OUT:
        return Result(case.name, left_out=LEFT_OUT[case.name])
    if case.name not in RUNNERS:
        return Result(case.name, problem="no counterpart here")
    start = time.monotonic()
    try:
        if strange := case.strange_inputs():
            some = ", ".join(strange[:5])
            return Result(case.name, problem=f"seed {case.seed!r} gives other inputs than were recorded: {some}")
        with jax.default_matmul_precision("highest"):
            values = RUNNERS[case.name](case)
            names = [n for n in case.recorded if n not in GIVEN]
            if missing := [n for n in names if n not in values]:
                return Result(case.name, problem=f"no counterpart here of {', '.join(missing)}")
            compared = [case.compare(n, values[n]) for n in names]
    except (InputError, LookupError, TypeError, ValueError, jax.errors.JaxRuntimeError) as error:
        # One case that cannot be run must not hide what hours of the others showed.
        what = f"{type(error).__name__}: " * (not isinstance(error, InputError)) + str(error)[:500]
        return Result(case.name, problem=f"could not be run: {what}", seconds=time.monotonic() - start)
    return Result(case.name, compared, time.monotonic() - start)
