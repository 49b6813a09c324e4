"""Training checkpoints: the only importer of orbax."""

import os
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from r3p.errors import InputError

Tree = Any


class Checkpoints:
    """Asynchronous checkpoints of a train state under `folder`, the newest `keep` of them, resumable."""

    def __init__(self, folder: str | os.PathLike[str], *, every: int, keep: int):
        self._checkpointer = ocp.training.Checkpointer(
            Path(folder).absolute(),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(every),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )

    def latest(self) -> int | None:
        """The newest whole checkpoint's step."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def save(self, step: int, state: Tree, *, force: bool = False) -> bool:
        """Starts to save when the interval says so (or `force`); says whether it did."""
        if force:
            if self.latest() == step:
                return False
            return self._checkpointer.save_pytree(step, state, force=True)
        return self._checkpointer.save_pytree_async(step, state) is not None

    def restore(self, like: Tree) -> Tree:
        """The newest checkpoint in the shapes, types and shardings of `like`.

        Raises:
          InputError: when the checkpoint does not fit the model that the config describes.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)), like
        )
        step = self.latest()
        try:
            return self._checkpointer.load_pytree(step, abstract)
        except (ValueError, KeyError, TypeError) as error:
            reason = str(error.__cause__ or error).split("\n")[0][:200]
            raise InputError(f"checkpoint {step} does not fit this config ({reason}): use another --workdir") from error

    def close(self) -> None:
        """Waits for what is being written."""
        self._checkpointer.close()
