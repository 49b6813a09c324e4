"""One safe file for small models: arrays by path plus a JSON description, as an uncompressed `.npz` without pickles."""

import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from r3p.errors import InputError

META = "meta.json"


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
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **flat)  # type: ignore[arg-type]
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def load(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads `save`'s file: `(trees, meta)`, floating arrays as float32. Nothing of the file is executed.

    Args:
      path: the file.
      kind: what `meta["kind"]` has to be, so that a wrong file is named as such.

    Raises:
      InputError: no such file, not such a file, another kind, or arrays that are not finite.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            flat = {k: archive[k] for k in archive.files}
        meta = json.loads(str(flat.pop(META)))
    except FileNotFoundError:
        raise InputError(f"there is no file {path}: expected a {kind} file") from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{path} is not a {kind} file of r3p ({error})") from None
    if meta.get("kind") != kind:
        raise InputError(f"{path} holds {meta.get('kind', 'something else')!r}, expected {kind!r}: give the right file")
    for key, value in flat.items():
        if np.issubdtype(value.dtype, np.floating):
            if not np.isfinite(value).all():
                raise InputError(f"{path} is damaged: {key} holds values that are not finite")
            flat[key] = value.astype(np.float32)
    return traverse_util.unflatten_dict({tuple(k.split("/")): v for k, v in flat.items()}), meta
