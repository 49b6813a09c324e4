"""What a stage begins with: weight files, folders of `r3p convert`, and runs of earlier stages."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from flax.core import FrozenDict
from ml_collections import ConfigDict

from r3p import weights
from r3p.errors import InputError

Tree = Any
MODELS = ("portrait model", "image-to-plane model")  # kinds of weights that hold parts of `Portrait`


def frozen_fields(value: Any) -> Any:
    """Fields as JSON or a config has them -> as a module can be hashed: frozen mappings, tuples."""
    if isinstance(value, Mapping):
        return FrozenDict({k: frozen_fields(v) for k, v in value.items()})
    return tuple(frozen_fields(v) for v in value) if isinstance(value, list | tuple) else value


def read(path: str) -> tuple[dict[str, Tree], Tree | None]:
    """Variables of a portrait model and, where it has one, the discriminator that it was trained against.

    path: a weight file, a folder that `r3p convert` wrote, or the `--workdir` of a training run (its averaged weights).

    Raises:
      InputError: when it is none of these.
    """
    folder = Path(path).expanduser()
    if (folder / "config.json").exists() and (folder / "checkpoints").is_dir():
        return _read_run(folder)
    kind = weights.read(folder)[1].get("kind")
    if kind not in MODELS:
        raise InputError(f"{path} holds {kind!r}: a stage starts from one of {', '.join(MODELS)}, or from a run")
    return weights.load(folder, kind)[0], None


def _read_run(folder: Path) -> tuple[dict[str, Tree], Tree | None]:
    from r3p.checkpoint import Checkpoints
    from r3p.stages.adversary import NAME
    from r3p.train import load_stage

    config = ConfigDict(json.loads((folder / "config.json").read_text()))
    checkpoints = Checkpoints(folder / "checkpoints", every=1, keep=1_000_000)
    try:
        if checkpoints.latest() is None:
            raise InputError(f"{folder} holds no checkpoint yet: train that stage longer")
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        like = jax.eval_shape(load_stage(config).init, jax.random.key(0, impl="rbg"))
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), like)
        state = checkpoints.restore(like)
    finally:
        checkpoints.close()
    variables = jax.tree.map(np.asarray, dict(state.average))
    judge = state.params.get(NAME) if isinstance(state.params, Mapping) else None
    return variables, None if judge is None else jax.tree.map(np.asarray, judge)


def discriminator(path: str) -> Tree:
    """Parameters from a folder that `r3p convert` made of EG3D's or an original stage's discriminator."""
    return weights.load(path, "discriminator")[0]["params"]


def graft(into: Tree, found: Tree, origin: str) -> tuple[Tree, list[str]]:
    """`into` with every array of `found` that has a place in it; the others stay.

    Returns the tree and the parts (two names deep) that keep what they had.

    Raises:
      InputError: when shapes differ, or nothing has a place.
    """
    ours = traverse_util.flatten_dict(dict(into), sep="/")
    theirs = traverse_util.flatten_dict(dict(found), sep="/")
    shared = ours.keys() & theirs.keys()
    differ = [f"{k}: {np.shape(theirs[k])} for {ours[k].shape}" for k in sorted(shared)
              if tuple(np.shape(theirs[k])) != tuple(ours[k].shape)]  # fmt: skip
    if differ:
        raise InputError(f"{origin} is of another size than the config's model, such as {differ[0]}: mend `model`")
    if not shared:
        raise InputError(f"{origin} holds nothing of this stage's model: it has {', '.join(sorted(theirs)[:3])} ..")
    kept = sorted({"/".join(k.split("/")[1:3]) for k in ours.keys() - shared if k.startswith("params/")})
    out = {k: theirs[k] if k in shared else v for k, v in ours.items()}
    return traverse_util.unflatten_dict(out, sep="/"), kept
