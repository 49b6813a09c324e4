"""What is known of a planned training step, and how it is said; see `r3p.plan`."""

import dataclasses
from typing import Any

GIB = 2**30


@dataclasses.dataclass
class Plan:
    """What is known of one step; bytes, FLOPs and seconds are of one chip and one step.

    Attributes:
      memory: `state` and `batch` as they lie on a chip, `temporary`, `code` and `total`.
      capacity: of a chip's memory, as the compiler has it where it tells, or as the data sheet does.
      moved: to and from memory.
      collectives: by kind, `{"count", "bytes"}`; bytes that a chip sends.
      gathers: all-gathers of what is no part of the train state: `{"shape", "bytes", "times", "source"}`.
      largest: the largest batch a chip that compiled and fits; `refused`, the smallest that does not; None = not
        looked for, or none found.
      stand_ins: what zeros stood in for.
      state_gathers: all-gathers of parts of the train state, `{"count", "bytes"}`.
      dearest: the collectives that send most.
      quick: compiled with the least effort: traffic and, as a rule, memory are larger than the real step's.
    """

    config: str
    topology: str
    chip: str
    chips: int
    mesh: dict[str, int]
    per_chip: int
    memory: dict[str, float]
    capacity: float
    flops: float
    moved: float
    collectives: dict[str, dict[str, float]]
    gathers: list[dict[str, Any]]
    seconds: dict[str, float]
    compiling: float
    largest: int | None = None
    refused: int | None = None
    stand_ins: list[str] = dataclasses.field(default_factory=list)
    state_gathers: dict[str, float] = dataclasses.field(default_factory=lambda: {"count": 0.0, "bytes": 0.0})
    dearest: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    quick: bool = False

    @property
    def fits(self) -> bool:
        return self.memory["total"] <= self.capacity

    @property
    def bound(self) -> str:
        """What the step waits for: `compute`, `memory` or `network`."""
        return max(self.seconds, key=lambda k: self.seconds[k])

    @property
    def least(self) -> float:
        """Seconds that the step cannot take less than; traffic counts if it is that of the program that would run."""
        return max(v for k, v in self.seconds.items() if not (self.quick and k == "memory"))


def gib(size: float) -> str:
    """Bytes for people."""
    return f"{size / GIB:.2f} GiB" if size >= GIB / 100 else f"{size / 2**20:.3g} MiB"


_WAITS = {
    "compute": "arithmetic",
    "memory": "the chip's own memory",
    "network": "the network between chips",
}  # fmt: skip


def report(plan: Plan) -> str:
    """What people read."""
    mesh = " x ".join(f"{k} {v}" for k, v in plan.mesh.items())
    memory, seconds = plan.memory, plan.seconds
    examples = plan.per_chip * plan.chips
    verdict = "fits" if plan.fits else "does NOT fit"
    lines = [
        f"{plan.config} on {plan.topology} {verdict}: {gib(memory['total'])} of a chip's {gib(plan.capacity)}",
        f"  {plan.chips} chips ({plan.chip}) as a mesh {mesh}; {_examples(plan.per_chip)} a chip, {examples} a step; "
        f"compiled in {plan.compiling:.0f} s",
    ]
    if plan.stand_ins:
        lines.append(f"  not at hand, zeros of the same size were planned with: {', '.join(plan.stand_ins)}")
    if plan.quick:
        lines.append(
            "  compiled quickly: the real step wants less traffic and, as a rule, less memory than is said here"
        )
    lines += [
        "of one chip and one step, times at the published peaks:",
        "  memory      " + ", ".join(f"{k} {gib(memory[k])}" for k in ("state", "batch", "temporary", "code")),
        f"  arithmetic  {plan.flops / 1e12:.4g} TFLOP of products and convolutions: {_time(seconds['compute'])}",
        f"  traffic     {plan.moved / 1e9:.4g} GB to and from memory: {_time(seconds['memory'])}",
        f"  network     {_sent(plan) / 1e6:.4g} MB sent to other chips: {_time(seconds['network'])}",
    ]
    for kind, row in sorted(plan.collectives.items()):
        lines.append(f"    {kind}: {row['count']:.0f} times, {row['bytes'] / 1e6:.4g} MB")
    lines += [
        _best(plan),
        "checks:",
        f"  all-gathers of activations: {_strange(plan)}",
        f"  all-gathers of parameters: {_known(plan)}",
    ]
    if plan.largest is not None:
        beyond = "" if plan.refused is None else f"; {plan.refused} do not fit"
        least = "" if plan.refused == plan.largest + 1 else "at least "
        lines.append(f"  largest batch: {least}{plan.largest} examples a chip{beyond}")
    return "\n".join(lines)


def _best(plan: Plan) -> str:
    seconds = plan.seconds
    slowest, examples = max(seconds.values()), plan.per_chip * plan.chips
    if plan.quick and plan.bound == "memory":
        least = plan.least
        return (
            f"  at best     {_time(least)} a step, {examples / least:.4g} examples/s on all chips, if traffic allows; "
            f"this quickly compiled program's would take {_time(slowest)}"
        )
    return (
        f"  at best     {_time(slowest)} a step, bound by {_WAITS[plan.bound]}: {examples / slowest:.4g} examples/s "
        f"on all chips, arithmetic busy {100 * seconds['compute'] / slowest:.0f} % of the time"
    )


def _examples(count: int) -> str:
    return f"{count} example{'s' * (count != 1)}"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


def _sent(plan: Plan) -> float:
    return sum(row["bytes"] for row in plan.collectives.values())


def _strange(plan: Plan) -> str:
    if not plan.gathers:
        return "none"
    total = sum(g["bytes"] for g in plan.gathers)
    shown = [f"    {g['shape']}, {g['bytes'] / 1e6:.4g} MB, of {g['source'] or 'unknown source'}" for g in plan.gathers]
    rest = [f"    and {len(shown) - 5} more"] if len(shown) > 5 else []
    return "\n".join([f"{len(shown)}, {total / 1e6:.4g} MB sent", *shown[:5], *rest])


def _known(plan: Plan) -> str:
    if not plan.state_gathers["count"]:
        return "none" + (", every chip has all of them" if plan.mesh.get("fsdp", 1) == 1 else "")
    return f"{plan.state_gathers['count']:.0f}, {plan.state_gathers['bytes'] / 1e6:.4g} MB sent, for fsdp"
