"""Frames in batches of one size, so that a function is compiled once, spread over the devices of this machine."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np

from r3p import sharding

EACH = 4  # frames a device


@cache
def size() -> int:
    """Frames of a batch."""
    return EACH * jax.local_device_count()


def in_batches(function: Callable[..., Any], *arrays: np.ndarray) -> Any:
    """function of arrays [n, ..] with n of any size -> its tree of arrays [n, ..] as NumPy's.

    Batches have `size()` rows, the last one filled up with its own last row, and lie on all devices.
    """
    out = []
    spread = size() > EACH and jax.process_count() == 1
    for k in range(0, len(arrays[0]), size()):
        parts = [a[k : k + size()] for a in arrays]
        count = len(parts[0])
        full = tuple(np.concatenate([p, np.repeat(p[-1:], size() - count, 0)]) for p in parts)
        if spread:
            full = sharding.put_batch(full, sharding.make_mesh())
        out.append(jax.tree.map(lambda x, n=count: np.asarray(x)[:n], function(*full)))
    return jax.tree.map(lambda *x: np.concatenate(x), *out)
