"""Networks that a user brought and `r3p convert` wrote, as functions of uint8 frames."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from scipy.io import loadmat

from r3p import recognise
from r3p.errors import InputError
from r3p.evaluate.batching import in_batches
from r3p.evaluate.sync import Judge
from r3p.models import deep3d, inception

_STANDARD = "similarity_Lm3D_all.mat"  # Deep3DFaceRecon's standard face: 68 points
_FIVE = ((36, 39), (42, 45), (30,), (48,), (54,))  # of iBUG's 68: eyes, nose, corners of the mouth
_SCALE = 102.0  # Deep3DFaceRecon's: pixels of a crop for 10 cm of the face
_KINDS = {"inception": "inception", "arcface": "arcface", "deep3d": "deep3d", "syncnet": "lipsync"}


class Brought:
    """A network with weights. crops: it wants faces cut out by `crop`, not frames.

    Raises InputError when the weights are another network's.
    """

    def __init__(self, name: str, path: Path) -> None:
        self.path = path
        module, variables = recognise.load(path, _KINDS[name])
        prepare: dict[str, Callable[[jax.Array], jax.Array]] = {
            "inception": inception.prepared,
            "arcface": inception.prepared,  # the same: [-1, 1]
            "deep3d": lambda x: x.astype(jnp.float32) / 255,
        }
        self.judge = Judge(module, variables) if name == "syncnet" else None
        if name == "inception" and not module.fid:
            raise InputError(
                f"{path} is torchvision's Inception of ImageNet, whose distances are not FID: convert the weights of "
                "December 2015 (pt_inception-2015-12-05)"
            )
        self.standard = _standard_face(path) if name == "deep3d" else None
        if name != "syncnet":
            # Weights are arguments: as constants they would lie in the compiled program as well.
            self._run: Any = partial(jax.jit(lambda v, x: module.apply(v, prepare[name](x))), variables)

    @property
    def weights(self) -> Path:
        """A file that stands for the weights: what a report hashes."""
        return self.path if self.path.is_file() else max(
            (f for f in self.path.rglob("*") if f.is_file()), key=lambda f: (f.stat().st_size, f.name)
        )  # fmt: skip

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [b, h, w, 3] -> [b, k]."""
        return np.asarray(in_batches(self._run, frames))

    def crop(self, frame: np.ndarray, five: np.ndarray) -> np.ndarray:
        """[224, 224, 3]: the face where Deep3DFaceRecon wants it; five points [5, 2], continuous pixels."""
        assert self.standard is not None
        shift, scale = orthographic(five, self.standard)
        k = _SCALE / scale
        # Its pictures are shrunk before they are cut: no aliasing.
        side = deep3d.SIDE
        matrix = np.array([[k, 0, side / 2 - k * shift[0]], [0, k, side / 2 - k * shift[1]]])
        matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5  # OpenCV counts from pixel centres
        soft = frame if k >= 0.7 else cv2.GaussianBlur(frame, (0, 0), 0.4 / k)
        return np.asarray(cv2.warpAffine(soft, matrix, (side, side), flags=cv2.INTER_LINEAR))


def _standard_face(path: Path) -> np.ndarray:
    folder = path if path.is_dir() else path.parent
    found = next((p for p in (folder / _STANDARD, folder.parent / _STANDARD) if p.exists()), None)
    if found is None:
        raise InputError(f"Deep3DFaceRecon aligns faces by {_STANDARD} of its repository: put it into {folder}")
    try:
        points = np.asarray(loadmat(found)["lm"], np.float64)
    except (KeyError, ValueError, NotImplementedError) as error:
        raise InputError(f"{found} is not {_STANDARD} ({error}): expected a MATLAB file with `lm`") from error
    if points.shape != (68, 3):
        raise InputError(f"{found} has `lm` of shape {points.shape}: expected (68, 3)")
    return np.stack([points[list(k)].mean(0) for k in _FIVE])


def orthographic(five: np.ndarray, standard: np.ndarray) -> tuple[np.ndarray, float]:
    """Where the standard face's origin lies [2] and how many pixels its unit has, in a scaled orthographic picture.

    five [5, 2] pixels, y down; standard [5, 3], y up. Least squares of the two rows of an affine camera.
    """
    design = np.concatenate([standard, np.ones((len(standard), 1))], 1)
    rows = np.linalg.lstsq(design, five * [1, -1], rcond=None)[0].T
    scale = (np.linalg.norm(rows[0, :3]) + np.linalg.norm(rows[1, :3])) / 2
    return rows[:, 3] * [1, -1], float(scale)
