"""Trains a stage: `python -m r3p.train --config configs/STAGE.py:MODE --workdir DIR`.

One loop for every stage. A step is looked at when the next one has been sent to the devices, so that these never wait
for a print. A run that is started again goes on from its last checkpoint, on other devices too; SIGTERM ends it with
one. `launch/run.py` is the same for several processes.
"""

import argparse
import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from data_pipelines.ahead import read_ahead
from r3p import flops, metrics, sharding
from r3p.checkpoint import Checkpoints
from r3p.errors import FINISHED, REFUSED, STOPPED, InputError
from r3p.stages import Batch, Stage
from r3p.state import TrainState, compute_dtype


def load_config(spec: str, overrides: list[str]) -> ConfigDict:
    """`configs/STAGE.py:MODE` plus `name=value` overrides (JSON values) to a locked config.

    Raises:
      InputError: no such file or mode, or an override of a field that does not exist.
    """
    path, _, mode = spec.partition(":")
    if not Path(path).is_file():
        raise InputError(f"there is no config file {path}: expected configs/STAGE.py:MODE")
    module_spec = importlib.util.spec_from_file_location("r3p_config", path)
    assert module_spec and module_spec.loader
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    config: ConfigDict = module.get_config(*([mode] if mode else []))
    config.lock()
    for item in overrides:
        name, _, text = item.partition("=")
        try:
            value: Any = json.loads(text)
        except json.JSONDecodeError:
            value = text
        try:
            config.update_from_flattened_dict({name: value})
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"--set {item}: {str(error).strip(chr(34))}") from None
    return config


def load_stage(config: ConfigDict) -> Stage:
    """The stage that `config.stage` names: `r3p.stages.NAME.make(config)`; a name with dots is a module of your own."""
    own = "." in config.stage
    name = config.stage if own else f"r3p.stages.{config.stage}"
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        found = None
    if found is None:
        where = "on the path" if own else "in r3p/stages"
        raise InputError(f"there is no training stage {config.stage!r} {where}: mend `stage` in the config")
    return importlib.import_module(name).make(config)


def trace_step(
    stage: Stage, config: ConfigDict, shardings: Any, mesh: Any, state: TrainState, batch: Batch
) -> tuple[Any, list[str]]:
    """The training step, traced for the devices of `mesh`, and the names of its metrics.

    state, batch: arrays, or their shapes with shardings.
    """
    names: list[str] = []

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        rng = jax.random.fold_in(_key(config), state.step)  # from the seed and the step alone
        state, values = stage.step(state, batch, rng)
        names[:] = sorted(values)
        # A gradient can overflow where the loss does not; then the fault is this batch's, not the next one's.
        good = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(state.params)]).all()
        vector = [jnp.asarray(values[name], jnp.float32) for name in names]
        return state, jnp.stack([*vector, jnp.where(good, 0.0, jnp.nan)])

    # Batches are not donated: no output has their shape.
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, sharding.replicated(mesh)))
    return jitted.trace(state, batch), names


class Step:
    """The training step, compiled for the shapes that batches come in, and what it costs."""

    def __init__(self, stage: Stage, config: ConfigDict, shardings: Any, mesh: Any, say: Callable[[str], None]):
        self.flops = 0.0  # of the step that was called last
        self._names: list[str] = []
        self._compiled: dict[tuple[Any, ...], tuple[Any, float]] = {}
        self._trace = partial(trace_step, stage, config, shardings, mesh)
        self._say = say

    def prepare(self, state: TrainState, batch: Batch) -> None:
        """Compiles for batches of this shape, once."""
        shapes = tuple((name, x.shape, x.dtype) for name, x in sorted(batch.items()))
        if shapes not in self._compiled:
            self._say("compiling the training step ...")
            started = time.monotonic()
            traced, self._names = self._trace(state, batch)
            operations = flops.count(traced.jaxpr)
            self._compiled[shapes] = traced.lower().compile(), operations
            self._say(f"compiling done in {time.monotonic() - started:.1f} s: {operations / 1e9:.4g} GFLOP a step")
        self._run, self.flops = self._compiled[shapes]

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        """The next state, and the metrics as a vector that `read` understands."""
        self.prepare(state, batch)
        return self._run(state, batch)

    def read(self, values: jax.Array) -> dict[str, float]:
        """Waits for a step's metrics, and `parameters`, which is 0 where all of them are finite afterwards."""
        return dict(zip([*self._names, "parameters"], np.asarray(values).tolist(), strict=True))


class Watch:
    """Looks at a step while the next one computes: logs it, and ends the run when something is not finite."""

    def __init__(self, step: Step, config: ConfigDict, workdir: Path, writer: metrics.Writer, checkpoints: Checkpoints):
        self._step, self._config, self._workdir = step, config, workdir
        self._writer, self._checkpoints = writer, checkpoints
        self.meter = metrics.Meter(config.batch_size, jax.device_count())
        self._held: tuple[int, jax.Array, Batch, float] | None = None

    def hold(self, done: int, values: jax.Array, batch: Batch) -> None:
        """Keeps the metrics of a step that may still be computing."""
        self._held = done, values, batch, self._step.flops

    def look(self) -> None:
        """Waits for the step that is held."""
        if self._held is None:
            return
        done, vector, batch, operations = self._held
        self._held = None
        values = self._step.read(vector)
        _check_finite(values, done, batch, self._workdir, self._checkpoints)
        del values["parameters"]
        self.meter.add(values, operations)
        if done % self._config.log_every == 0 or done == self._config.steps:
            self._writer.row(done, self.meter.row())


def train_and_evaluate(config: ConfigDict, workdir: Path) -> TrainState:
    """Trains `config.stage` for `config.steps` steps under `workdir`, or goes on where an earlier run stopped.

    Returns:
      The last train state; its step is short of `config.steps` after a SIGTERM.

    Raises:
      InputError: when the config fits neither checkpoint nor devices, or a loss is not finite (the last good checkpoint
        stays).
    """
    stage = load_stage(config)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(config.batch_size, mesh, config.accumulate)
    check_options(stage, config)
    shapes = jax.eval_shape(stage.init, _key(config))
    shardings = sharding.shard_state(shapes, mesh, config.sharding_rules, config.fsdp_least)
    workdir.mkdir(parents=True, exist_ok=True)
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(workdir / "compiled"))
    if sharding.is_main():
        (workdir / "config.json").write_text(config.to_json(indent=1))

    with ExitStack() as stack:  # what is opened here is closed, whatever happens
        checkpoints = stack.enter_context(closing(_checkpoints(config, workdir)))
        writer = stack.enter_context(closing(metrics.Writer(workdir if sharding.is_main() else None)))
        preemption = stack.enter_context(sharding.Preemption())
        stack.enter_context(sharding.using(mesh))

        writer.say(sharding.describe(shapes, shardings))
        if checkpoints.latest() is None:
            state = jax.jit(stage.init, out_shardings=shardings)(_key(config))
        else:
            state = checkpoints.restore(jax.tree.map(_with_sharding, shapes, shardings))
            writer.say(f"resumed from step {int(state.step)}")
        first = int(state.step)
        if first >= config.steps:
            return state

        batches = read_ahead(_placed(stage.batches(first), mesh, config), config.read_ahead)
        stack.enter_context(closing(batches))
        host, batch = next(batches)
        step = Step(stage, config, shardings, mesh, writer.say)
        step.prepare(state, batch)
        evaluate = None
        if stage.evaluate and stage.held_out:
            evaluate = jax.jit(stage.evaluate, out_shardings=sharding.replicated(mesh))
            if first == 0:  # what there is to better
                writer.say("compiling the evaluation of held-out batches ...")
                writer.row(0, _evaluate(evaluate, state, stage, mesh))
        watch = Watch(step, config, workdir, writer, checkpoints)

        for done in range(first + 1, config.steps + 1):
            if done > first + 1:
                host, batch = watch.meter.wait(batches)
            state, values = step(state, batch)
            watch.look()
            watch.hold(done, values, host)
            final = done == config.steps
            stop = final or preemption.reached(done)
            if stop or checkpoints.due(done):
                watch.look()  # nothing that is not finite is saved
                checkpoints.save(done, state)
            if evaluate and (final or done % config.evaluate_every == 0):
                watch.look()
                writer.row(done, _evaluate(evaluate, state, stage, mesh))
                watch.meter.start()
            if stage.preview and config.preview_every and (final or done % config.preview_every == 0):
                watch.look()
                shown = sharding.on_one_device(state.replace(opt_state=()), mesh)
                if sharding.is_main():
                    writer.pictures(done, stage.preview(shown, host))
                watch.meter.start()
            if stop:
                break
    return state


def _checkpoints(config: ConfigDict, workdir: Path) -> Checkpoints:
    return Checkpoints(
        workdir / "checkpoints",
        every=config.checkpoint_every,
        keep=config.checkpoints_kept,
        keep_every=config.checkpoints_kept_every,
    )


def _with_sharding(shape: jax.ShapeDtypeStruct, where: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=where)


def _key(config: ConfigDict) -> jax.Array:
    return jax.random.key(config.seed, impl=config.random)


def check_options(stage: Stage, config: ConfigDict) -> None:
    """Raises InputError for options that no stage has, or that this one has not."""
    compute_dtype(config)
    if config.random not in ("rbg", "threefry2x32"):
        raise InputError(f"random is {config.random!r}: choose rbg or threefry2x32")
    if config.dtype != "float32" and not stage.half:
        raise InputError(
            f"stage {config.stage} computes in float32 only, but dtype is {config.dtype}: set dtype=float32"
        )
    if (config.accumulate != 1 or config.remat != "none") and not stage.accumulates:
        raise InputError(
            f"stage {config.stage} computes a batch at once, but accumulate is {config.accumulate} and remat "
            f"{config.remat}: set accumulate=1 and remat=none"
        )


def _placed(batches: Iterator[Batch], mesh: Any, config: ConfigDict) -> Iterator[tuple[Batch, Batch]]:
    """Batches of this process, as they are on the host and as the devices' share of the global batch."""
    for batch in batches:
        rows = {name: len(array) for name, array in batch.items()}
        wrong = [name for name, count in rows.items() if count * jax.process_count() != config.batch_size]
        if wrong:
            raise InputError(
                f"stage {config.stage} gives {rows[wrong[0]]} rows of {wrong[0]!r} in each of {jax.process_count()} "
                f"processes: expected {config.batch_size} in all, run it in one process if it does not share its rows"
            )
        yield batch, sharding.put_batch(batch, mesh)


def _evaluate(evaluate: Any, state: TrainState, stage: Stage, mesh: Any) -> dict[str, float]:
    """Means over the held-out batches."""
    assert stage.held_out
    rows = [evaluate(state, sharding.put_batch(batch, mesh)) for batch in stage.held_out()]
    if not rows:
        raise InputError("there is no held-out batch: make the held-out data larger, or batch_size smaller")
    return {f"held_out/{name}": float(np.mean([float(row[name]) for row in rows])) for name in rows[0]}


def _check_finite(values: dict[str, float], step: int, batch: Batch, workdir: Path, checkpoints: Checkpoints) -> None:
    """Raises InputError for what is not finite of a step, and keeps its batch for a look."""
    bad = [name for name, value in values.items() if not np.isfinite(value)]
    if not bad:
        return
    path = workdir / f"bad_batch_{step:07d}_process_{jax.process_index()}.npz"
    np.savez(path, **batch)
    which = f"examples {', '.join(map(str, np.asarray(batch['example']).tolist()))}, " if "example" in batch else ""
    kept = checkpoints.latest()
    raise InputError(
        f"step {step} made {', '.join(bad)} not finite (its batch: {which}in "
        f"{path}); {'no checkpoint was written yet' if kept is None else f'checkpoint {kept} is the last good one'}: "
        "lower learning_rate, or look at the batch"
    )


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m r3p.train",
        description="Train one stage, or go on with it.",
        epilog="example: python -m r3p.train --config configs/portrait.py:small --workdir ~/r3p_runs/small",
    )
    parser.add_argument("--config", required=True, help="configs/STAGE.py:MODE")
    parser.add_argument("--workdir", required=True, help="checkpoints, metrics and previews go here")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a config field")
    args = parser.parse_args(argv)
    try:
        if "://" in args.workdir:
            raise InputError(f"--workdir {args.workdir} is an address: give a folder, with the bucket mounted there")
        config = load_config(args.config, args.set)
        state = train_and_evaluate(config, Path(args.workdir).expanduser())
    except InputError as error:
        print(f"r3p train: {error}", file=sys.stderr)
        return REFUSED
    if int(state.step) < config.steps:
        print(f"r3p train: stopped at step {int(state.step)}; the same command goes on from there", file=sys.stderr)
        return STOPPED
    return FINISHED


if __name__ == "__main__":
    sys.exit(main())
