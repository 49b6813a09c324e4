"""Training checkpoints and folders of weights: the only importer of orbax."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from r3p.errors import InputError
from r3p.sharding import path_name

Tree = Any


def save_weights(folder: str | os.PathLike[str], trees: Mapping[str, Tree], meta: Mapping[str, Any]) -> None:
    """Writes variables with their description; the folder, which must not exist or be empty, appears whole or not.

    Raises:
      InputError: when there is something already, or an array is empty.
    """
    path = Path(folder).absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{folder} exists already: choose another name, or remove it")
    empty = [jax.tree_util.keystr(k) for k, v in jax.tree_util.tree_leaves_with_path(dict(trees)) if not np.size(v)]
    if empty:
        raise InputError(f"{len(empty)} arrays are empty, such as {empty[0]}: these cannot be written")
    if path.exists():
        path.rmdir()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        ocp.save(path, jax.tree.map(lambda x: np.asarray(x, order="C"), dict(trees)), custom_metadata=dict(meta))
    except BaseException:
        for left in path.parent.iterdir():
            if left.name.startswith(f"{path.name}.orbax-checkpoint-tmp"):
                shutil.rmtree(left, ignore_errors=True)
        raise


def is_weights(folder: Path) -> bool:
    """Whether a folder is one of `save_weights`, by what orbax leaves in it."""
    return (folder / "_CHECKPOINT_METADATA").exists()


def load_weights(folder: str | os.PathLike[str]) -> tuple[dict[str, Tree], dict[str, Any]]:
    """What `save_weights` wrote: arrays of NumPy, and their description.

    Raises:
      InputError: when the folder holds no such thing.
    """
    path = Path(folder).absolute()
    try:
        meta = ocp.metadata(path).custom_metadata
        if not isinstance(meta, dict) or "kind" not in meta:
            raise ValueError("it has no description")
        return jax.tree.map(np.asarray, ocp.load(path)), meta
    except (ValueError, KeyError, TypeError, OSError) as error:
        reason = str(error.__cause__ or error).split("\n")[0][:200]
        raise InputError(f"{folder} is no folder of weights ({reason}): give one that r3p convert wrote") from error


def _shapes(tree: Tree) -> dict[str, list[int]]:
    return {path_name(path): list(x.shape) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


class Checkpoints:
    """Asynchronous checkpoints of a train state under `folder`, resumable on other processes and another mesh.

    Kept are the newest `keep`, and for good those of steps that are multiples of `keep_every` (0 = none).
    """

    def __init__(self, folder: str | os.PathLike[str], *, every: int, keep: int, keep_every: int = 0):
        if every < 1 or keep < 1:
            raise InputError(f"checkpoint_every is {every} and checkpoints_kept {keep}: expected at least 1 of each")
        self._every = every
        kept = ocp.training.preservation_policies
        policies: list[Any] = [kept.LatestN(keep)]
        if keep_every:
            policies.append(kept.EveryNSteps(keep_every))
        self._checkpointer = ocp.training.Checkpointer(
            Path(folder).absolute(),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(every),
            preservation_policy=kept.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
        )

    def latest(self) -> int | None:
        """The newest whole checkpoint's step."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def steps(self) -> list[int]:
        """The steps of all whole checkpoints, oldest first."""
        return sorted(c.step for c in self._checkpointer.checkpoints)

    def due(self, step: int) -> bool:
        """Whether the interval asks for a checkpoint of this step."""
        return step % self._every == 0

    def save(self, step: int, state: Tree) -> None:
        """Starts to save, waiting for an earlier one that is still being written; nothing where the step is saved.

        Raises:
          RuntimeError: when nothing was started.
        """
        if self.latest() == step:
            return
        if self._checkpointer.save_async(step, state, force=True) is None:
            raise RuntimeError(f"the checkpoint of step {step} was not started")

    def restore(self, like: Tree) -> Tree:
        """The newest checkpoint in the shapes, types and shardings of `like`, arrays or their descriptions.

        Raises:
          InputError: when the checkpoint does not fit the model that the config describes.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)), like
        )
        step = self.latest()
        # Compared before anything is read: a read that fails half-way leaves the others unfinished behind.
        stored = _shapes(self._checkpointer.metadata(step).metadata)
        wanted = _shapes(abstract)
        differing = [name for name in {**wanted, **stored} if wanted.get(name) != stored.get(name)]
        if differing:
            name = differing[0]
            there, here = (f"has {name} {x[name]}" if name in x else f"has no {name}" for x in (stored, wanted))
            raise InputError(
                f"checkpoint {step} does not fit this config in {len(differing)} of {len(wanted)} arrays: it {there}, "
                f"the config {here}: use another --workdir, or the config it was made with"
            )
        try:
            return self._checkpointer.load(step, abstract)
        except (ValueError, KeyError, TypeError) as error:
            reason = str(error.__cause__ or error).split("\n")[0][:200]
            raise InputError(f"checkpoint {step} does not fit this config ({reason}): use another --workdir") from error

    def close(self) -> None:
        """Waits for what is being written."""
        self._checkpointer.close()
