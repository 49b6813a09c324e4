"""Trains a stage: `python -m r3p.train --config configs/STAGE.py:MODE --workdir DIR`.

One loop for every stage: next batch, step, log (one step late, so that the device never waits for a print), checkpoint.
A run that is started again goes on from its last checkpoint; SIGTERM ends it with one.
"""

import argparse
import importlib
import importlib.util
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from r3p import photo, sharding
from r3p.checkpoint import Checkpoints
from r3p.errors import InputError
from r3p.stages import Stage


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
    """The stage that `config.stage` names: `r3p.stages.NAME.make(config)`."""
    name = f"r3p.stages.{config.stage}"
    if importlib.util.find_spec(name) is None:
        raise InputError(f"there is no training stage {config.stage!r} in r3p/stages: mend `stage` in the config")
    return importlib.import_module(name).make(config)


class Log:
    """Metrics as JSON lines, with throughput and the time spent waiting for input."""

    def __init__(self, path: Path, batch_size: int):
        self._file = path.open("a", buffering=1)
        self._batch_size = batch_size
        self._since, self._steps, self.waited = time.monotonic(), 0, 0.0
        self._pending: tuple[int, dict[str, Any]] | None = None

    def count(self) -> None:
        self._steps += 1

    def hold(self, step: int, metrics: dict[str, Any]) -> None:
        """Keeps metrics of a step that may still be computing."""
        self._pending = (step, metrics)

    def flush(self) -> dict[str, float] | None:
        """Writes what is held."""
        if self._pending is None:
            return None
        step, metrics = self._pending
        self._pending = None
        values = {k: float(v) for k, v in metrics.items()}
        now = time.monotonic()
        seconds = now - self._since
        row = {
            "step": step,
            **{k: round(v, 6) for k, v in values.items()},
            "examples_per_s": round(self._steps * self._batch_size / seconds, 3),
            "input_wait": round(self.waited / seconds, 4),
        }
        self._file.write(json.dumps(row) + "\n")
        self._since, self._steps, self.waited = now, 0, 0.0
        print(" ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
        return values


def train_and_evaluate(config: ConfigDict, workdir: Path) -> Any:
    """Trains `config.stage` for `config.steps` steps under `workdir`, or goes on where an earlier run stopped.

    Returns:
      The last train state.

    Raises:
      InputError: when the config does not fit the checkpoint, or a loss is not finite (the last good checkpoint stays).
    """
    workdir.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(workdir / "compiled"))
    (workdir / "config.json").write_text(config.to_json(indent=1))
    stage = load_stage(config)
    mesh = sharding.make_mesh()
    rng = jax.random.key(config.seed, impl="rbg")  # a tenth of the compile time of threefry
    state = jax.jit(stage.init, out_shardings=sharding.replicated(mesh))(rng)
    checkpoints = Checkpoints(workdir / "checkpoints", every=config.checkpoint_every, keep=config.checkpoints_kept)
    if checkpoints.latest() is not None:
        state = checkpoints.restore(state)
        print(f"resumed from step {int(state.step)}", flush=True)
    first = int(state.step)
    stop = False

    def on_sigterm(*_: Any) -> None:
        nonlocal stop
        stop = True

    previous = signal.signal(signal.SIGTERM, on_sigterm)
    step_fn = jax.jit(stage.step, donate_argnums=0)
    log = Log(workdir / "metrics.jsonl", config.batch_size)
    batches = stage.batches(first)
    try:
        for step in range(first, config.steps):
            started = time.monotonic()
            batch = sharding.put_batch(next(batches), mesh)
            log.waited += time.monotonic() - started
            state, metrics = step_fn(state, batch, jax.random.fold_in(rng, step))
            if step == first:
                jax.block_until_ready(state.step)
                print(f"compiled and ran the first step in {time.monotonic() - started:.1f} s", flush=True)
            log.count()
            if (step + 1) % config.log_every == 0 or step + 1 == config.steps:
                values = log.flush()
                _check_finite(values)
                log.hold(step + 1, metrics)
            checkpoints.save(step + 1, state)
            if stage.preview and ((step + 1) % config.preview_every == 0 or step + 1 == config.steps):
                _write_pictures(workdir / "previews", step + 1, stage.preview(state, batch))
            if stop:
                break
        _check_finite(log.flush())
        checkpoints.save(int(state.step), state, force=True)
    finally:
        checkpoints.close()
        signal.signal(signal.SIGTERM, previous)
    return state


def _check_finite(values: dict[str, float] | None) -> None:
    bad = [name for name, value in (values or {}).items() if not jnp.isfinite(value)]
    if bad:
        raise InputError(f"{', '.join(bad)} is not finite: lower learning_rate; the last checkpoint is kept")


def _write_pictures(folder: Path, step: int, pictures: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        photo.save_image(folder / f"{name}_{step:07d}.png", picture)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m r3p.train",
        description="Train one stage, or go on with it.",
        epilog="example: python -m r3p.train --config configs/portrait.py:small --workdir ~/r3p_runs/small",
    )
    parser.add_argument("--config", required=True, help="configs/STAGE.py:MODE")
    parser.add_argument("--workdir", required=True, type=Path, help="checkpoints, metrics and previews go here")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a config field")
    args = parser.parse_args(argv)
    try:
        train_and_evaluate(load_config(args.config, args.set), args.workdir)
    except InputError as error:
        print(f"r3p train: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
