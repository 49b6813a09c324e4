"""NumPy arrays and scalars in a pickle, and what all readers agree on: arrays that are known before they are read."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from r3p.checkpoint_files.inert import Instance, Name, StandIn, key
from r3p.errors import InputError

_KINDS = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"})
_DEEPEST, _MOST = 64, 500_000  # levels and nodes of a file's tree


class Stored(Protocol):
    """An array of a file: its shape and type, and on demand its values."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def read(self) -> np.ndarray: ...


class _DType(StandIn):
    def __init__(self, code: Any, *_: object) -> None:
        if code not in _KINDS:
            raise InputError(f"the pickle holds an array of type {code!r}: only plain numbers are read")
        self.code, self.order = code, "<"

    def build(self, state: Any) -> None:
        self.order = {"|": "|", "<": "<", ">": ">"}[state[1]]

    def numpy(self) -> np.dtype:
        return np.dtype(self.order + self.code)


class Array(StandIn):
    """An array that lies in the pickle itself."""

    _value: np.ndarray | None = None

    @property
    def value(self) -> np.ndarray:
        if self._value is None:
            raise InputError("the pickle holds an array without its numbers: it is damaged")
        return self._value

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def dtype(self) -> np.dtype:
        return self.value.dtype

    def read(self) -> np.ndarray:
        return self.value

    def build(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        data = data.encode("latin-1") if isinstance(data, str) else data  # as Python 2 wrote bytes
        if not (isinstance(dtype, _DType) and isinstance(data, bytes) and isinstance(shape, tuple)):
            raise InputError("the pickle holds an array that is not plain numbers")
        flat = np.frombuffer(data, dtype.numpy())
        if any(not isinstance(n, int) or n < 0 for n in shape) or flat.size != _product(shape):
            raise InputError(f"the pickle holds {flat.size} numbers for an array of shape {shape}")
        self._value = flat.reshape(shape, order="F" if fortran else "C")


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for n in shape:  # in Python's integers: a lying shape must not wrap around
        total *= n
    return total


def _scalar(dtype: Any, data: Any) -> Any:
    data = data.encode("latin-1") if isinstance(data, str) else data
    if not isinstance(dtype, _DType) or not isinstance(data, bytes) or len(data) != dtype.numpy().itemsize:
        raise InputError("the pickle holds a NumPy scalar that is no plain number")
    return np.frombuffer(data, dtype.numpy())[0].item()


def encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes, as old protocols write them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise InputError(f"the pickle encodes a {type(text).__name__} as {encoding!r}: expected text as latin1")
    return text.encode("latin-1")


def _elements(items: Any = ()) -> set[Any]:
    return {key(x) for x in items}


CALLS: dict[Name, Callable[..., Any]] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): lambda *_: Array() for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): encode,
    ("builtins", "bytes"): lambda: b"",
    ("builtins", "set"): _elements,
}
# Only ever an argument of `_reconstruct`.
VALUES: dict[Name, Any] = {("numpy", "ndarray"): None}


def flatten(root: Any) -> dict[str, Stored]:
    """The arrays of a tree by dotted names; numbers, texts and what is no array is left out.

    A module of PyTorch (an instance that records `_parameters`) counts with its parameters, persistent buffers and
    submodules, as its state dict would.

    Raises:
      InputError: two arrays of one name, or a tree without end.
    """
    out: dict[str, Stored] = {}
    todo: list[tuple[tuple[str, ...], Any]] = [((), root)]
    seen = 0
    while todo:
        path, node = todo.pop()
        seen += 1
        if len(path) > _DEEPEST or seen > _MOST:
            raise InputError(
                f"the file nests its containers deeper than {_DEEPEST} levels or has more than {_MOST} entries: "
                "it is no checkpoint"
            )
        if hasattr(node, "read"):
            name = ".".join(path)
            if name in out:
                raise InputError(f"the file holds two arrays named {name}: it is damaged")
            out[name] = node
        else:
            todo += reversed([((*path, str(k)), value) for k, value in _children(node)])
    return out


def _children(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, dict):
        yield from node.items()
    elif isinstance(node, list | tuple):
        yield from enumerate(node)
    elif isinstance(node, Instance):
        yield from node.entries.items()
        transient = node.state.get("_non_persistent_buffers_set") or ()
        for group in ("_parameters", "_buffers", "_modules"):
            for name, value in _children(node.state.get(group)):
                if group != "_buffers" or name not in transient:
                    yield name, value
