"""Arrays out of foreign checkpoints, without PyTorch and without running any code of the file.

    with opened("model.ckpt") as file:
        shapes = {name: array.shape for name, array in file.arrays.items()}
        weight = file.arrays["state_dict.model.decoder.net.0.weight"].read()

The layout is told by the file's first bytes: `torch.save` (zip, or the older stream), safetensors, or the pickled
networks of EG3D.
"""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from r3p.checkpoint_files import pytorch, safetensors
from r3p.checkpoint_files.arrays import Stored, flatten
from r3p.errors import InputError

__all__ = ["Opened", "Stored", "opened", "read_arrays"]


class Opened(NamedTuple):
    """The arrays of a file by dotted names, and the tree that they lie in."""

    arrays: dict[str, Stored]
    tree: Any


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Opened]:
    """A checkpoint whose arrays can be read as long as the context lasts.

    Raises:
      InputError: no such file, one of an unknown layout, one that is cut off or damaged, or one that asks for more
        than arrays in plain containers.
    """
    path = Path(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give a checkpoint file") from None
    with file:
        length = os.fstat(file.fileno()).st_size
        if not length:
            raise InputError(f"{path} is empty: fetch it again")
        head = file.read(512)
        file.seek(0)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            try:
                if head[:4] == b"PK\x03\x04":
                    tree = pytorch.read_zip(file, length)
                elif pytorch.is_legacy(head):
                    tree = pytorch.read_legacy(mapped, length)
                elif safetensors.looks_like(head, length):
                    tree = safetensors.read_safetensors(file, length)
                elif head[:1] == b"\x80":
                    tree = pytorch.read_networks(mapped)
                else:
                    old = " (a tar archive, as PyTorch wrote before 0.1.10)" if head[257:262] == b"ustar" else ""
                    raise InputError(f"its layout is not known{old}: expected .pt, .ckpt, .safetensors or EG3D's .pkl")
                arrays = flatten(tree)
                if not arrays:
                    raise InputError("it holds no arrays: give a checkpoint")
            except InputError as error:
                raise InputError(f"{path}: {error}") from error
            yield Opened(arrays, tree)


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint by dotted names. Raises InputError as `opened` does."""
    with opened(path) as file:
        return {name: array.read() for name, array in file.arrays.items()}
