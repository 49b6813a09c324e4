"""Official PyTorch names and layouts to Flax variables: one table of rules a network (`r3p.names`).

NCHW exists only here. A rule maps one family of official names to one path of our tree; a name that no rule knows,
or a leaf of ours that nothing fills, is an error that prints both lists.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import traverse_util

from r3p.errors import InputError

Array = np.ndarray

# What happens to an array on its way from PyTorch's layout to ours.
LAYOUTS = {
    "raw": lambda a: a,
    "linear": lambda a: a.T,  # [out, in] -> [in, out]
    "image": lambda a: a.transpose(1, 2, 0),  # [c, h, w] -> [h, w, c]
    "conv1d": lambda a: a.transpose(2, 1, 0),  # [out, in, k] -> [k, in, out]
    "conv2d": lambda a: a.transpose(2, 3, 1, 0),  # [out, in, h, w] -> [h, w, in, out]
    "conv3d": lambda a: a.transpose(2, 3, 4, 1, 0),  # [out, in, d, h, w] -> [d, h, w, in, out]
    # A dense layer over flattened 4x4 images: [out, in * h * w] -> [h * w * in, out].
    "flat4x4": lambda a: a.reshape(len(a), -1, 4, 4).transpose(2, 3, 1, 0).reshape(-1, len(a)),
}


@dataclass(frozen=True)
class Rule:
    r"""One family of names: `pattern` (a regex for the whole official name) -> `path` of our tree.

    `path` may use the groups of the pattern (`\1`), is split at `/`, and its first part names the collection
    (`params`, `batch_stats`, `constants`). `kind` names the layout change in `LAYOUTS`; `path=None` says that the
    official array is a bookkeeping value which our tree does not hold.
    """

    pattern: str
    path: str | None
    kind: str = "raw"


def to_variables(state: Mapping[str, Array], rules: Iterable[Rule]) -> dict[str, Any]:
    """Converts an official state dict to Flax variables `{collection: tree}`.

    Raises:
      InputError: when a name is known to no rule, or two names land on one leaf.
    """
    compiled = [(re.compile(rule.pattern), rule) for rule in rules]
    flat: dict[tuple[str, ...], Array] = {}
    unknown = []
    for name, value in state.items():
        match, rule = next(((m, r) for p, r in compiled if (m := p.fullmatch(name))), (None, None))
        if match is None or rule is None:
            unknown.append(name)
        elif rule.path is not None:
            path = tuple(match.expand(rule.path).split("/"))
            if path in flat:
                raise InputError(f"two official arrays land on {'/'.join(path)}, the second is {name}: mend the table")
            flat[path] = np.asarray(LAYOUTS[rule.kind](np.asarray(value)))
    if unknown:
        raise InputError(f"no rule knows these {len(unknown)} names of the checkpoint: {', '.join(unknown[:20])}")
    return traverse_util.unflatten_dict(flat)


def check_against(variables: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compares converted variables with `wanted` (arrays or shapes from `jax.eval_shape(module.init, ...)`).

    Raises:
      InputError: with the missing leaves, the left-over ones and the shapes that differ.
    """
    have = {k: np.shape(v) for k, v in traverse_util.flatten_dict(dict(variables), sep="/").items()}
    want = {k: tuple(v.shape) for k, v in traverse_util.flatten_dict(dict(wanted), sep="/").items()}
    missing, extra = sorted(want.keys() - have.keys()), sorted(have.keys() - want.keys())
    shapes = [f"{k}: {have[k]} instead of {want[k]}" for k in sorted(have.keys() & want.keys()) if have[k] != want[k]]
    if missing or extra or shapes:
        raise InputError(
            f"the weights do not fit this network: missing {missing[:20]}, left over {extra[:20]}, shapes {shapes[:20]}"
        )
