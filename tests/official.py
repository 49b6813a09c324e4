"""Moves between our variables and layouts and those of the official PyTorch code, for the golden cases."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from r3p.convert import Rule

# Inverses of `r3p.convert.LAYOUTS`.
_BACK = {
    "raw": None,
    "linear": (1, 0),
    "image": (2, 0, 1),
    "conv1d": (2, 1, 0),
    "conv2d": (3, 2, 0, 1),
    "conv3d": (4, 3, 0, 1, 2),
}


def channels_last(x: Any) -> np.ndarray:
    return np.moveaxis(np.asarray(x), 1, -1)


def channels_first(x: Any) -> np.ndarray:
    return np.moveaxis(np.asarray(x), -1, 1)


def leaf(variables: Mapping[str, Any], rules: Iterable[Rule], name: str) -> np.ndarray:
    """What our `variables` (or their gradients) hold for the official `name`, in its layout."""
    for rule in rules:
        match = re.fullmatch(rule.pattern, name)
        if match and rule.path is not None:
            value = np.asarray(traverse_util.flatten_dict(dict(variables), sep="/")[match.expand(rule.path)])
            if rule.kind == "flat4x4":
                return value.reshape(4, 4, -1, value.shape[-1]).transpose(3, 2, 0, 1).reshape(value.shape[-1], -1)
            order = _BACK[rule.kind]
            return value if order is None else value.transpose(order)
    raise AssertionError(f"no rule for {name}")


def captured(state: Mapping[str, Any], path: str) -> Any:
    """The value of the submodule at `path` during an `apply` with `capture_intermediates=True`."""
    return traverse_util.flatten_dict(dict(state["intermediates"]), sep="/")[f"{path}/__call__"][0]


def drawn(module: Any, *args: Any, seed: int = 0) -> dict[str, Any]:
    """Variables of `module` for the inputs `args`, drawn with NumPy: compiling an `init` takes far longer than a test.

    Kernels keep the scale of what passes, statistics differ from their start, stored singular vectors are true ones.
    """
    rng = np.random.default_rng(seed)
    shapes = traverse_util.flatten_dict(dict(jax.eval_shape(module.init, jax.random.key(0), *args)))
    flat: dict[tuple[str, ...], np.ndarray] = {}
    for path, spec in shapes.items():
        value = rng.standard_normal(spec.shape, dtype=np.float32)
        if path[-1] == "kernel":
            value *= np.prod(spec.shape[:-1]) ** -0.5
        elif path[-1] in ("scale", "var"):
            value = 1 + 0.1 * np.abs(value)
        else:
            value *= np.float32(0.1)
        flat[path] = value
    for path in [p for p in flat if p[-1] == "u"]:
        kernel = flat["params", *path[1:-1], "kernel"]
        # As the checkpoints flatten it: [o, c * kh * kw].
        matrix = np.moveaxis(kernel, (-1, -2), (0, 1)).reshape(kernel.shape[-1], -1)
        left, _, right = np.linalg.svd(matrix, full_matrices=False)
        flat[path], flat[*path[:-1], "v"] = left[:, 0], right[0]
    return traverse_util.unflatten_dict(flat)


def quick_jit(function: Any, **options: Any) -> Any:
    """`jax.jit` for functions that run once on tiny arrays: half the time to compile, slow code."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0}, **options)
