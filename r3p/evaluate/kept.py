"""Scores on disk, so that a long evaluation goes on where it was stopped: one file a clip and method.

A file is used again only for the same output (size and time of its files), the same references and the same provenance.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from r3p.evaluate import frechet
from r3p.evaluate.clip import Score
from r3p.evaluate.manifest import Row
from r3p.weights import whole_file


def _stamp(path: Path | None) -> list[Any] | None:
    if path is None:
        return None
    files = sorted(path.glob("*.png")) if path.is_dir() else [path]
    stats = [f.stat() for f in files if f.exists()]
    return [str(path.absolute()), [[s.st_size, s.st_mtime_ns] for s in stats]]


class Kept:
    """The folder of one evaluation; `provenance` is what all its figures rest on. An output of None is made of the
    references alone."""

    def __init__(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        self.folder, self.provenance = folder, provenance

    def _key(self, row: Row, output: Path | None) -> str:
        used = [_stamp(p) for p in (output, row.source, row.driver, row.audio, row.truth)]
        text = json.dumps([row.protocol, used, self.provenance], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def _file(self, row: Row, method: str) -> Path:
        name = hashlib.sha256(f"{method}\n{row.id}".encode()).hexdigest()[:24]
        return self.folder / f"{name}.npz"

    def read(self, row: Row, method: str, output: Path | None) -> Score | None:
        """What is there of this clip, if it still holds."""
        try:
            with np.load(self._file(row, method)) as f:
                told = json.loads(str(f["told"]))
                if told.pop("key") != self._key(row, output):
                    return None
                sides = [{k: frechet.Features.of(f[f"{side}_{k}"]) for k in told["networks"]} for side in ("own", "of")]
        except (OSError, ValueError, KeyError):
            return None
        return Score(told["figures"], told["frames"], told["notes"], *sides)

    def write(self, row: Row, method: str, output: Path | None, score: Score) -> None:
        """Keeps a score. A clip of more feature vectors than a sample holds is not kept: its sums would be lost."""
        sides = {"own": score.features, "of": score.reference_features}
        if any(not f.whole for side in sides.values() for f in side.values()):
            return
        arrays = {f"{side}_{k}": f.sample for side, of in sides.items() for k, f in of.items()}
        told = {
            "key": self._key(row, output), "figures": score.figures, "frames": score.frames, "notes": score.notes,
            "networks": list(score.features),
        }  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(self._file(row, method)) as f:
            np.savez_compressed(f, told=np.array(json.dumps(told, default=float)), **arrays)  # type: ignore[arg-type]
