"""Writes what `torch.load(path, weights_only=True)` reads, without PyTorch."""

import os
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from r3p.checkpoint_files.pytorch import DTYPES, STORAGES
from r3p.errors import InputError
from r3p.weights import whole_file

_ROOT = "archive"
_ALIGNMENT = 64
_STORAGE_OF = {DTYPES[dtype]: name for name, dtype in STORAGES.items()}


class _Pickle:
    """Emits a pickle of protocol 2 in which arrays are tensors, each on a storage of its own."""

    def __init__(self) -> None:
        self.out = bytearray(b"\x80\x02")
        self.storages: list[np.ndarray] = []

    def put(self, node: Any, path: str = "the root") -> None:
        if isinstance(node, Mapping):
            self.out += b"}("
            for name, value in node.items():
                self.put(name, path)
                self.put(value, f"{path}/{name}")
            self.out += b"u"
        elif isinstance(node, np.ndarray | np.generic):
            self._tensor(np.asarray(node), path)
        elif isinstance(node, str):
            data = node.encode()
            self.out += b"X" + struct.pack("<I", len(data)) + data
        elif isinstance(node, bool):
            self.out += b"\x88" if node else b"\x89"
        elif isinstance(node, int):
            data = pickle.encode_long(node)
            self.out += b"\x8a" + bytes([len(data)]) + data
        else:
            raise InputError(f"{path} is a {type(node).__name__}: expected dicts, arrays, text and whole numbers")

    def _tuple(self, *numbers: int) -> None:
        self.out += b"("
        for number in numbers:
            self.put(number)
        self.out += b"t"

    def _tensor(self, array: np.ndarray, path: str) -> None:
        dtype = array.dtype.newbyteorder("<") if array.dtype.isbuiltin == 0 else array.dtype
        if dtype not in _STORAGE_OF:
            raise InputError(f"{path} is of type {array.dtype}, which PyTorch's files do not have: convert it before")
        self.out += b"ctorch._utils\n_rebuild_tensor_v2\n(("
        self.put("storage")
        self.out += f"ctorch\n{_STORAGE_OF[dtype]}\n".encode()
        self.put(str(len(self.storages)))
        self.put("cpu")
        self.put(array.size)
        self.out += b"tQ"
        self.put(0)
        self._tuple(*array.shape)
        self._tuple(*(int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim)))
        self.out += b"\x89ccollections\nOrderedDict\n)RtR"
        self.storages.append(array.astype(dtype, order="C", copy=False))

    def finished(self) -> bytes:
        return bytes(self.out + b".")


def write_torch(path: str | os.PathLike[str], tree: Mapping[str, Any]) -> None:
    """Writes nested dicts of arrays (text and whole numbers beside them) as a zip checkpoint of PyTorch.

    The file appears whole or not at all. Raises InputError for what such a file cannot hold.
    """
    emitted = _Pickle()
    emitted.put(tree)
    data = emitted.finished()
    with whole_file(Path(path)) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:

        def member(name: str, content: Any, size: int) -> None:
            info = zipfile.ZipInfo(f"{_ROOT}/{name}")  # of 1980: the same arrays give the same file
            info.file_size = size
            # PyTorch wants values at multiples of 64, so that they can be mapped into memory.
            zip64 = 20 if size * 1.05 > zipfile.ZIP64_LIMIT else 0
            start = file.tell() + 30 + len(info.filename) + 4 + zip64
            padding = -start % _ALIGNMENT
            info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
            with archive.open(info, "w") as out:
                out.write(content)

        member("data.pkl", data, len(data))
        member("byteorder", b"little", 6)
        for number, array in enumerate(emitted.storages):
            member(f"data/{number}", array.reshape(-1).view(np.uint8).data, array.nbytes)
        member("version", b"3\n", 2)
