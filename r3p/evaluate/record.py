"""Held-out figures in a weight file's own provenance: a report of `r3p eval`'s harness, and nothing else.

What was measured is tied to the arrays: their hash stands beside the figures, and beside clips that they made.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from r3p import weights
from r3p.errors import InputError

STAMP = "weights.sha256"


def digest(path: Path) -> str:
    """SHA-256 of the arrays by name: what describes them may change without changing what they make."""
    flat, _ = weights.read(path)
    out = hashlib.sha256()
    for name in sorted(flat):
        array = np.ascontiguousarray(flat[name])
        out.update(f"{name} {array.dtype} {array.shape}".encode())
        out.update(array.tobytes())
    return out.hexdigest()


def stamp(folder: Path, path: Path) -> None:
    """Marks a folder of clips with the weights that make them. Raises InputError when others made them."""
    now, file = digest(path), folder / STAMP
    if file.exists() and file.read_text().strip() != now:
        raise InputError(f"{folder} holds clips that other weights than {path} made: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(now + "\n")


def _short(interval: Mapping[str, Any]) -> list[float | None]:
    """[mean, low, high] to four digits."""
    return [None if interval[k] is None else float(f"{interval[k]:.4g}") for k in ("mean", "low", "high")]


def figures(report: Mapping[str, Any]) -> dict[str, Any]:
    """By protocol: how many clips, failures by method, and [mean, low, high] by method and figure."""
    out = {}
    for protocol, part in report["protocols"].items():
        methods = {
            m: {k: _short(v) for k, v in {**part["figures"][m], **part["pooled"].get(m, {})}.items() if k != "frames"}
            for m in report["methods"]
        }
        failures = {m: len(f) for m, f in part["failures"].items() if m in report["methods"]}
        out[protocol] = {"clips": part["common"], "failures": failures, "methods": methods}
    return out


def record(path: Path, report: Mapping[str, Any], **how: Any) -> None:
    """Puts a report's figures into the provenance of a weight file, in the place of earlier ones; arrays stay.

    how: the settings that made the clips.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: only a file of r3p.export keeps figures of its own")
    flat, meta = weights.read(path)
    told = {**how, "arrays_sha256": digest(path), "protocols": figures(report), "harness": report["provenance"]}
    meta["provenance"] = {**meta.get("provenance", {}), "held_out": told}
    weights.save(path, traverse_util.unflatten_dict({tuple(k.split("/")): v for k, v in flat.items()}), meta)
