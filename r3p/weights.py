"""One safe file for small models: arrays by path plus a JSON description, as an uncompressed `.npz` without pickles.

`load` reads the folders of `r3p convert` as well, which hold the same.
"""

import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np
from flax import traverse_util

from r3p.errors import InputError

META = "meta.json"
UNUSED = "unused"  # beside the trees: arrays of an official checkpoint that no network here reads


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that appears under its name when the context ends well, and leaves nothing behind otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def save(path: str | os.PathLike[str], trees: Mapping[str, Any], meta: Mapping[str, Any], dtype: Any = None) -> None:
    """Writes nested dicts of arrays and a JSON description; the file appears whole or not at all.

    Args:
      path: the file to write.
      trees: `{name: nested dict of arrays or one array}`; keys must not hold `/`.
      meta: whatever JSON can hold: model fields, provenance, figures.
      dtype: floating arrays are stored in it (`np.float16` for what ships); `None` keeps them.
    """
    path = Path(path)
    flat = {"/".join(k): np.asarray(v) for k, v in traverse_util.flatten_dict(dict(trees)).items()}
    if dtype is not None:
        with np.errstate(over="ignore"):  # told below, by name
            flat = {k: v.astype(dtype) if np.issubdtype(v.dtype, np.floating) else v for k, v in flat.items()}
        bad = [k for k, v in flat.items() if np.issubdtype(v.dtype, np.floating) and not np.isfinite(v).all()]
        if bad:
            raise InputError(f"{len(bad)} arrays are not finite in {np.dtype(dtype)}, such as {bad[0]}: not written")
    flat[META] = np.array(json.dumps(dict(meta)))
    with whole_file(path) as file:
        np.savez(file, **flat)  # type: ignore[arg-type]


def load(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads `save`'s file: `(trees, meta)`, floating arrays as float32. Nothing of the file is executed.

    Args:
      path: the file, or a folder of `r3p convert`.
      kind: what `meta["kind"]` has to be, so that a wrong file is named as such.

    Raises:
      InputError: no such file, not such a file, another kind, or arrays that are not finite.
    """
    flat, meta = read(path, kind)
    flat = {k: v for k, v in flat.items() if not k.startswith(f"{UNUSED}/")}
    if meta.get("kind") != kind:
        raise InputError(f"{path} holds {meta.get('kind', 'something else')!r}, expected {kind!r}: give the right file")
    for key, value in flat.items():
        if np.issubdtype(value.dtype, np.floating) or value.dtype == ml_dtypes.bfloat16:
            if not np.isfinite(value).all():
                raise InputError(f"{path} is damaged: {key} holds values that are not finite")
            flat[key] = value.astype(np.float32)
    return traverse_util.unflatten_dict({tuple(k.split("/")): v for k, v in flat.items()}), meta


def read(path: str | os.PathLike[str], kind: str = "weight") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays by path, as stored, and the description: of any kind. Raises InputError as `load` does."""
    if Path(path).is_dir():
        from r3p.checkpoint import load_weights  # orbax takes a while to import

        trees, meta = load_weights(path)
        return {"/".join(k): v for k, v in traverse_util.flatten_dict(trees).items()}, meta
    try:
        with np.load(path, allow_pickle=False) as archive:
            flat = {k: archive[k] for k in archive.files}
        return flat, dict(json.loads(str(flat.pop(META))))
    except FileNotFoundError:
        raise InputError(f"there is no file {path}: expected a {kind} file") from None
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{path} is not a {kind} file of r3p ({error})") from None
