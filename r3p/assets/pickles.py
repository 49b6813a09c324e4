"""Arrays out of a pickle without running anything that the pickle names.

A pickle is a program: loading one can call any importable function. This reader admits exactly the three names that a
numpy array is written with, and gives each its own small stand-in here, so that not even numpy's unpickling runs.
"""

import io
import pickle
from typing import Any

import numpy as np

from r3p.errors import InputError

_KINDS = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"})


class _DType:
    def __init__(self, code: str, *_: object) -> None:
        if code not in _KINDS:
            raise InputError(f"the pickle holds an array of type {code!r}: only plain numbers are read")
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = {"|": "|", "<": "<", ">": ">"}[state[1]]

    def numpy(self) -> np.dtype:
        return np.dtype(self.order + self.code)


class _Array:
    value: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        if not (isinstance(dtype, _DType) and isinstance(data, bytes) and isinstance(shape, tuple)):
            raise InputError("the pickle holds an array that is not plain numbers")
        flat = np.frombuffer(data, dtype.numpy())
        if flat.size != int(np.prod(shape, dtype=np.int64)):
            raise InputError(f"the pickle holds {flat.size} numbers for an array of shape {shape}")
        self.value = flat.reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_: object) -> _Array:
    return _Array()


class _NDArray:
    """Only ever an argument of `_reconstruct`."""


_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _NDArray,
    ("numpy", "dtype"): _DType,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise InputError(
                f"the pickle asks for {module}.{name}: only arrays in plain containers are read, "
                "so the file is not what it should be; delete it and fetch it again"
            ) from None


def _flatten(node: Any, path: str, out: dict[str, np.ndarray]) -> None:
    if isinstance(node, _Array):
        out[path] = node.value
    elif isinstance(node, dict) and all(isinstance(k, str) for k in node):
        for key, value in node.items():
            _flatten(value, f"{path}/{key}" if path else key, out)
    else:
        raise InputError(
            f"the pickle holds a {type(node).__name__.lstrip('_')} at {path or 'its root'!r}: "
            "expected nested dicts of arrays"
        )


def read_arrays(data: bytes) -> dict[str, np.ndarray]:
    """Nested dicts of arrays, pickled, as {"a/b/kernel": array}. Raises InputError on anything else."""
    try:
        tree = _Unpickler(io.BytesIO(data)).load()
    except InputError:
        raise
    except Exception as e:  # a broken pickle may raise nearly anything
        raise InputError(f"the pickle cannot be read ({type(e).__name__}: {e}): fetch the file again") from e
    out: dict[str, np.ndarray] = {}
    _flatten(tree, "", out)
    return out
