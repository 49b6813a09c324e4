"""Nested dicts of arrays out of a pickle, without running anything that the pickle names."""

import io
from typing import Any

import numpy as np

from r3p.checkpoint_files import arrays
from r3p.checkpoint_files.inert import Admitted, interpret
from r3p.errors import InputError

# Exactly the names that a NumPy array is written with.
_ADMITTED = Admitted(
    {name: call for name, call in arrays.CALLS.items() if name[0] != "builtins"},
    arrays.VALUES,
    remedy="so the file is not what it should be; delete it and fetch it again",
)


def _flatten(node: Any, path: str, out: dict[str, np.ndarray]) -> None:
    if isinstance(node, arrays.Array):
        out[path] = node.value
    elif isinstance(node, dict) and all(isinstance(k, str) for k in node):
        for key, value in node.items():
            _flatten(value, f"{path}/{key}" if path else key, out)
    else:
        raise InputError(
            f"the pickle holds a {type(node).__name__} at {path or 'its root'!r}: expected nested dicts of arrays"
        )


def read_arrays(data: bytes) -> dict[str, np.ndarray]:
    """Nested dicts of arrays, pickled, as {"a/b/kernel": array}. Raises InputError on anything else."""
    tree = interpret(io.BytesIO(data), _ADMITTED)
    out: dict[str, np.ndarray] = {}
    try:
        _flatten(tree, "", out)
    except RecursionError:
        raise InputError("the pickle nests dicts without end: fetch the file again") from None
    return out
