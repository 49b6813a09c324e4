"""Files of safetensors: a JSON header with types, shapes and places, then the values."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np

from r3p.checkpoint_files.pytorch import DTYPES
from r3p.errors import InputError

_TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
_LONGEST_HEADER = 100_000_000  # as the format says


@dataclass(eq=False)
class _Slice:
    file: IO[bytes]
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self) -> np.ndarray:
        self.file.seek(self.start)
        count = int(np.prod(self.shape, dtype=np.int64))
        return np.frombuffer(self.file.read(count * self.dtype.itemsize), self.dtype).reshape(self.shape)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise InputError("the header names one array twice: the file is damaged")
    return out


def looks_like(head: bytes, length: int) -> bool:
    """Whether a file of this length that begins so is one of safetensors."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= min(length, _LONGEST_HEADER)


def read_safetensors(file: IO[bytes], length: int) -> dict[str, Any]:
    """The arrays of a file by name; their values read from `file` later."""
    size = int.from_bytes(file.read(8), "little")
    try:
        header = json.loads(file.read(size).decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the header is no JSON ({str(error)[:100]}): the file is damaged") from None
    out: dict[str, Any] = {}
    places = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, shape = DTYPES[_TYPES[entry["dtype"]]], tuple(entry["shape"])
            begin, end = entry["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"the header describes {name} in a way that is not known ({error!r})") from None
        numbers = (begin, end, *shape)
        if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in numbers):
            raise InputError(f"the header gives {name} the numbers {numbers[:8]}: expected natural ones")
        need = dtype.itemsize
        for n in shape:
            need *= n
        if end - begin != need or 8 + size + end > length:
            raise InputError(
                f"the file has bytes {begin} to {end} for {name} of shape {shape} ({need} bytes), and {length} in all: "
                "it is cut off or damaged; fetch it again"
            )
        places.append((begin, end, name))
        out[name] = _Slice(file, 8 + size + begin, shape, dtype)
    places.sort()
    for (_, end, _), (begin, _, name) in pairwise(places):
        if begin < end:
            raise InputError(f"the file lays {name} over another array: it is damaged")
    return out


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as such a file. Raises InputError for a type that the format does not have."""
    names = {DTYPES[ours]: theirs for theirs, ours in _TYPES.items()}
    header, values, place = {}, [], 0
    for name, array in arrays.items():
        if array.dtype not in names:
            raise InputError(f"{name} is of type {array.dtype}, which safetensors does not have: convert it before")
        values.append(np.ascontiguousarray(array).tobytes())
        end = place + len(values[-1])
        header[name] = dict(dtype=names[array.dtype], shape=array.shape, data_offsets=(place, end))
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # values lie at multiples of eight bytes
    path.write_bytes(b"".join([len(text).to_bytes(8, "little"), text, *values]))
