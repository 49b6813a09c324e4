"""Variables and compiled functions of small networks, in less time than jax takes for either."""

from typing import Any

import jax
import numpy as np
from flax import traverse_util


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
