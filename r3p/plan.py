"""`r3p plan`: whether a training step fits a pod and what bounds its speed, without the pod.

The very step of `r3p.train` is compiled ahead of time for the pod's chips, by their own compiler; nothing is run, and
no data or weights are needed: zeros stand in for files. Memory and collectives are the compiler's; FLOPs are counted in
the traced step, traffic in the compiled one. Times follow from the chips' published peaks: the least a step takes.
"""

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import json
import math
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from ml_collections import ConfigDict

from r3p import chips, flops, hlo, sharding
from r3p.errors import FINISHED, REFUSED, InputError
from r3p.plan_report import GIB, Plan, gib, report
from r3p.stages import Stage
from r3p.stages.absent import stand_in
from r3p.train import check_options, load_config, load_stage, trace_step

# An all-gather of less is of metrics or of indices.
SMALL = 2**16
# No machine of Google's is asked what it is, others may plan at the same time, and the compiler's start says nothing.
QUIETLY = {
    "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_STDERR_LOG_LEVEL": "3", "TPU_MIN_LOG_LEVEL": "3",
    "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0", "TPU_ACCELERATOR_TYPE": "v5litepod-16",
}  # fmt: skip
QUICK = {"exec_time_optimization_effort": -1.0}


class DoesNotFitError(Exception):
    """The compiler found no room: bytes that a step wants, where it told, its largest arrays, and what may help."""

    def __init__(self, message: str, remedies: str) -> None:
        super().__init__("the step does not fit")
        self.wanted, self.arrays, self.remedies = _room(message), _largest(message), remedies


# ------------------------------------------------------------------------------------------------ devices
def _command(platform: str) -> str:
    version = jax.__version__
    if platform == "tpu":
        return f"pip install 'jax[tpu]=={version}'"
    names = " ".join(f"jax-cuda13-{part}=={version}" for part in ("plugin", "pjrt"))
    return f"pip install --no-deps {names}"


def devices(topology: chips.Topology) -> list[Any]:
    """The chips of a topology, as the compiler sees them.

    Raises:
      InputError: when the compiler is not installed; it says which command installs it.
    """
    platform = topology.chip.platform
    module = "libtpu" if platform == "tpu" else "jax_cuda13_plugin"
    if importlib.util.find_spec(module) is None:
        raise InputError(f"the compiler for {topology.chip.name} ({module}) is not installed: run {_command(platform)}")
    options: dict[str, Any] = {}
    if platform == "tpu":
        for name, value in QUIETLY.items():
            os.environ.setdefault(name, value)
        _check_pin()
        name = f"{topology.name.partition('-')[0]}:{topology.shape}"
    else:
        name = "h100"
        options = {"topology": topology.shape, "target_config": chips.H100}
    try:
        found = topologies.get_topology_desc(name, platform=platform, **options).devices
    except (RuntimeError, ValueError, NotImplementedError) as error:
        told = str(error).splitlines()[0]
        raise InputError(
            f"{module} makes no topology {name} ({told}): run {_command(platform)}, or choose another topology"
        ) from None
    return list(found)


def _check_pin() -> None:
    """The compiler has to be the one that this jax pins: others refuse its programs, or crash."""
    found = importlib.metadata.version("libtpu")
    for line in importlib.metadata.requires("jax") or ():
        pin = re.match(r"libtpu\s*==\s*([\d.]+)", line)
        if pin and not f"{found}.".startswith(pin.group(1).rstrip("*")):
            raise InputError(f"libtpu is {found}, jax {jax.__version__} wants {pin.group(1)}: run {_command('tpu')}")


# ------------------------------------------------------------------------------------------------ one step
def _batch(stage: Stage, config: ConfigDict, mesh: Any) -> Any:
    row = stage.example() if stage.example else None
    if row is None:
        row = {name: np.asarray(array)[0] for name, array in next(stage.batches(0)).items()}
    lies = jax.sharding.NamedSharding(mesh, sharding.BATCH)

    def shape(x: Any) -> jax.ShapeDtypeStruct:
        x = np.asarray(x)
        return jax.ShapeDtypeStruct((config.batch_size, *x.shape), x.dtype, sharding=lies)

    return jax.tree.map(shape, row)


def _on_chip(tree: Any) -> float:
    return float(
        sum(math.prod(x.sharding.shard_shape(x.shape)) * _width(x) for x in jax.tree.leaves(tree))
    )  # fmt: skip


def _width(x: Any) -> int:
    return int(getattr(x.dtype, "itemsize", 4))


def _room(message: str) -> float | None:
    """Bytes that are wanted, from the compiler's complaint."""
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
    for pattern in (r"Used ([\d.]+)([KMG]?) of [\d.]+[KMG]? hbm", r"\(([\d.]+)([KMG]?)\) exceeds available HBM"):
        found = re.search(pattern, message)
        if found:
            return float(found.group(1)) * units[found.group(2)]
    return None


def _largest(message: str, count: int = 4) -> list[str]:
    """The largest arrays of a step without room, from the compiler's complaint."""
    found = re.findall(r"\d+\. Size: (\S+)\s+Operator: op_name=\"([^\"]*)\"[^\n]*\s+Shape: (\S+)", message)
    return [f"{size} {shape.partition('{')[0]} of {name}" for size, name, shape in found[:count]]


def _remedies(stage: Stage, config: ConfigDict) -> str:
    """What of a stage's settings makes its steps smaller."""
    out = []
    if stage.accumulates:
        out += [f"accumulate={2 * config.accumulate}"] + ["remat=products"] * (config.remat == "none")
    if stage.half and config.dtype == "float32":
        out.append("dtype=bfloat16")
    if config.get("adversary"):  # a stage of images
        out.append("mesh.spatial=2, which shares an image's rays between chips")
    out.append(f"mesh.fsdp={2 * max(config.mesh.get('fsdp', 1), 1)}")
    return ", or ".join(out)


def plan_step(
    config: ConfigDict, topology: chips.Topology, found: list[Any], per_chip: int, name: str = "", quick: bool = False
) -> Plan:
    """Compiles one step with `per_chip` examples a chip.

    quick: with the compiler's least effort, which takes a tenth of the time and gives a worse program.

    Raises:
      InputError: for a config that does not fit the mesh.
      DoesNotFitError: when the compiler itself finds no room.
    """
    config = ConfigDict(config.to_dict())
    config.batch_size = per_chip * len(found)
    mesh = sharding.make_mesh(config.mesh, found)
    sharding.check_divides(config.batch_size, mesh, config.accumulate)
    stage = load_stage(config)
    check_options(stage, config)
    shapes = jax.eval_shape(stage.init, jax.random.key(0, impl=config.random))
    shardings = sharding.shard_state(shapes, mesh, config.sharding_rules, config.fsdp_least)
    state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
    batch = _batch(stage, config, mesh)
    print(f"  compiling, {per_chip} a chip ...", file=sys.stderr, flush=True)
    started = time.monotonic()
    with sharding.using(mesh):
        traced, _ = trace_step(stage, config, shardings, mesh, state, batch)
        work = flops.count(traced.jaxpr) / len(found)
        try:
            compiled = traced.lower().compile(compiler_options=QUICK if quick else None)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise DoesNotFitError(str(error), _remedies(stage, config)) from None
    lasted = time.monotonic() - started
    text = compiled.as_text()
    traffic = hlo.traffic(text)
    kept = compiled.memory_analysis()
    memory = {"state": _on_chip(state), "batch": _on_chip(batch)}
    memory["temporary"] = float(kept.temp_size_in_bytes)
    memory["code"] = float(kept.generated_code_size_in_bytes)
    arguments = kept.argument_size_in_bytes + kept.output_size_in_bytes - kept.alias_size_in_bytes
    memory["total"] = float(arguments + kept.temp_size_in_bytes + kept.generated_code_size_in_bytes)
    collectives: dict[str, dict[str, float]] = {}
    for c in traffic.collectives:
        row = collectives.setdefault(c.kind, {"count": 0, "bytes": 0.0})
        row["count"] += c.times
        row["bytes"] += c.times * c.sent
    sent = sum(row["bytes"] for row in collectives.values())
    known, others = gathers(traffic, state)
    seconds = {
        "compute": work / topology.chip.flops,
        "memory": traffic.stored / topology.chip.bandwidth,
        "network": sent / topology.network,
    }
    return Plan(
        config=name,
        topology=topology.name,
        chip=topology.chip.name,
        chips=len(found),
        mesh={k: int(v) for k, v in mesh.shape.items()},
        per_chip=per_chip,
        memory=memory,
        capacity=_capacity(topology.chip),
        flops=work,
        moved=traffic.stored,
        collectives=collectives,
        gathers=others,
        state_gathers=known,
        dearest=dearest(traffic),
        seconds=seconds,
        compiling=lasted,
        quick=quick,
    )


def _capacity(chip: chips.Chip) -> float:
    """What a step may use: the TPUs' compiler and the GPUs' driver keep some for themselves."""
    return chip.memory - GIB / 4 if chip.platform == "tpu" else 0.95 * chip.memory


def gathers(traffic: hlo.Traffic, state: Any) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """All-gathers of parts of the state, which `fsdp` asks for, and those of anything else, which nothing asks for.

    A part of the state is known by its size, and only what is split among the chips can be gathered: where the whole
    state lies on every chip, each gather is of activations. Small ones, of metrics and indices, are left out.

    Returns:
      `{"count", "bytes"}` of the state's; `{"shape", "bytes", "times", "source"}` of each of the others.
    """
    split = {math.prod(x.shape) for x in jax.tree.leaves(state) if not x.sharding.is_fully_replicated}
    known, others = {"count": 0.0, "bytes": 0.0}, []
    for c in traffic.collectives:
        if c.kind != "all-gather":
            continue
        large = [shape for shape in c.results if math.prod(shape) > SMALL]
        strange = [shape for shape in large if math.prod(shape) not in split]
        if large and not strange:
            known["count"] += c.times
            known["bytes"] += c.times * c.sent
        for shape in strange:
            others.append({"shape": list(shape), "bytes": c.sent * c.times, "times": c.times, "source": c.source})
    return known, others


def dearest(traffic: hlo.Traffic, count: int = 8) -> list[dict[str, Any]]:
    """The collectives that send most, for whoever wants to know where a step's network traffic is from."""
    found = sorted(traffic.collectives, key=lambda c: -c.sent * c.times)[:count]
    return [
        {
            "kind": c.kind, "shape": [list(shape) for shape in c.results[:4]], "arrays": len(c.results),
            "bytes": c.sent * c.times, "times": c.times, "source": c.source,
        }
        for c in found
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------ search
def plan(
    config: ConfigDict,
    topology: chips.Topology,
    *,
    per_chip: int | None = None,
    tries: int = 4,
    name: str = "",
    quick: bool = False,
) -> Plan:
    """The plan of a config on a topology, and the largest batch a chip that fits.

    Args:
      config: of a training run; its `batch_size` is shared among the chips, at least one example each.
      topology: of the pod.
      per_chip: examples of a chip, instead of the config's.
      tries: compilations that may be spent on looking for the largest batch.
      name: of the config.
      quick: see `plan_step`.

    Raises:
      InputError: when the compiler is not installed, the config does not fit the mesh, or one example has no room.
    """
    found = devices(topology)
    with tempfile.TemporaryDirectory() as folder:
        config = ConfigDict(config.to_dict())
        absent = stand_in(config, Path(folder))
        first = per_chip or max(config.batch_size // len(found), 1)
        while True:
            try:
                start = plan_step(config, topology, found, first, name, quick)
                break
            except DoesNotFitError as error:
                for line in error.arrays:
                    print(f"    {line}", file=sys.stderr, flush=True)
                told = "" if error.wanted is None else f": it wants {gib(error.wanted)}"
                if first == 1 or per_chip:
                    raise InputError(
                        f"a step with {first} examples a chip does not fit {topology.name}{told}, a chip has "
                        f"{gib(_capacity(topology.chip))}: set {error.remedies}"
                    ) from None
                first //= 2
        start.stand_ins = absent
        _search(start, config, topology, found, tries)
    return start


def _search(start: Plan, config: ConfigDict, topology: chips.Topology, found: list[Any], tries: int) -> None:
    """Between what fits and what does not, where memory says it should be: it grows about linearly with the batch."""
    # (examples, bytes) that are known; the state is what none would take.
    fixed = start.memory["state"] + start.memory["code"]
    points = [(0, fixed), (start.per_chip, start.memory["total"])]
    good, bad = (start.per_chip, None) if start.fits else (None, start.per_chip)
    for _ in range(tries):
        (n0, m0), (n1, m1) = points[-2:]
        slope = max((m1 - m0) / max(n1 - n0, 1), 1.0)
        guess = int(n1 + (start.capacity - m1) / slope)
        low, high = (good or 0) + 1, (bad or 2**20) - 1
        if low > high:
            break
        guess = min(max(guess, low), high)
        try:
            tried = plan_step(config, topology, found, guess, quick=start.quick)
            wanted, fits = tried.memory["total"], tried.fits
        except DoesNotFitError as error:
            wanted, fits = error.wanted or 1.1 * start.capacity, False
        print(f"  {guess} a chip: {gib(wanted)}, {'fits' if fits else 'too much'}", file=sys.stderr, flush=True)
        good, bad = (guess, bad) if fits else (good, guess)
        points = [p for p in sorted([*points, (guess, wanted)]) if p[0] <= guess][-2:]
    if tries:
        start.largest, start.refused = good, bad


# ------------------------------------------------------------------------------------------------ command line
def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="r3p plan",
        description="Whether a training step fits a pod, and what bounds its speed. Nothing is run; no pod is needed.",
        epilog="example: r3p plan --config configs/torso.py:full --topology v5e-16",
    )
    parser.add_argument("--config", required=True, help="configs/STAGE.py:MODE")
    parser.add_argument("--topology", required=True, help=f"NAME-N, of {', '.join(chips.CHIPS)}: v5e-16, v5p-128")
    parser.add_argument("--batch", type=int, metavar="N", help="examples a chip; default: the config's batch, shared")
    parser.add_argument("--tries", type=int, default=4, metavar="N", help="compilations to find the largest batch")
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the time; memory and traffic are then too high"
    )
    parser.add_argument("--json", metavar="FILE", help="everything as JSON, too")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a config field")
    args = parser.parse_args(argv)
    try:
        if args.batch is not None and args.batch < 1:
            raise InputError(f"--batch is {args.batch}: expected 1 or more")
        topology, config = chips.topology(args.topology), load_config(args.config, args.set)
        jax.config.update("jax_platforms", "cpu")  # chips that this machine has are not touched
        made = plan(config, topology, per_chip=args.batch, tries=args.tries, name=args.config, quick=args.quick)
    except InputError as error:
        print(f"r3p plan: {error}", file=sys.stderr)
        return REFUSED
    print(report(made))
    if args.json:
        Path(args.json).write_text(json.dumps(dataclasses.asdict(made) | {"fits": made.fits}, indent=1) + "\n")
    return FINISHED


if __name__ == "__main__":
    sys.exit(main())
