"""Measures of two pictures, pixel by pixel: L1, PSNR, SSIM; jitted, a batch of frames at a time.

Frames are uint8 [b, h, w, 3]. Variant `a` is what the paper's laboratory computes (pixels in [-1, 1]), `s` the standard
one (pixels in [0, 1]); they differ by constants and by the order of mean and logarithm, so a report names them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r3p.errors import InputError
from r3p.evaluate.batching import in_batches

WINDOW, SIGMA = 11, 1.5  # of SSIM's Gaussian (Wang et al. 2004)
_LEAST_ERROR = 1e-10  # equal pictures have a PSNR of 100 dB, not an infinite one


class Pixels(NamedTuple):
    """Of each frame [b]: mean |difference| and mean squared difference on [0, 1], and three times SSIM.

    ssim: on [0, 1]. ssim_lab: on [-1, 1] with a range of 2. ssim_half: on [-1, 1] with a range of 1, which is what the
    laboratory's script takes for a clip without any pixel below -0.5.
    """

    l1: jax.Array
    mse: jax.Array
    ssim: jax.Array
    ssim_lab: jax.Array
    ssim_half: jax.Array


def gaussian(window: int = WINDOW, sigma: float = SIGMA) -> np.ndarray:
    """[window] weights that add up to 1."""
    weight = np.exp(-0.5 * ((np.arange(window) - (window - 1) / 2) / sigma) ** 2)
    return weight / weight.sum()


def _blur(x: jax.Array) -> jax.Array:
    """Gaussian means of [b, h, w, c], without padding. Sums of slices: on a processor faster than thin convolutions."""
    weight = gaussian()
    h, w = x.shape[1] - WINDOW + 1, x.shape[2] - WINDOW + 1
    x = sum((float(weight[k]) * x[:, k : k + h] for k in range(WINDOW)), jnp.zeros(()))
    return sum((float(weight[k]) * x[:, :, k : k + w] for k in range(WINDOW)), jnp.zeros(()))


def ssim(a: jax.Array, b: jax.Array, ranges: tuple[float, ...] = (1.0,)) -> list[jax.Array]:
    """SSIM [b] of float pictures [b, h, w, c] for each dynamic range, channels apart, where the window fits."""
    if min(a.shape[1:3]) < WINDOW:
        raise InputError(f"SSIM of {a.shape[2]}x{a.shape[1]} pixels: expected at least {WINDOW} a side")
    # Around the middle grey float32 loses nothing to the cancellation of variances.
    a, b = a - 0.5, b - 0.5
    count = len(a)
    # One blur over everything.
    means = _blur(jnp.concatenate([a, b, a * a, b * b, a * b]))
    mean_a, mean_b, aa, bb, ab = (means[k * count : (k + 1) * count] for k in range(5))
    var_a, var_b, cov = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
    mean_a, mean_b = mean_a + 0.5, mean_b + 0.5
    out = []
    for span in ranges:
        c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
        top = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
        out.append((top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean((1, 2, 3)))
    return out


@jax.jit
def compare(a: jax.Array, b: jax.Array) -> Pixels:
    """uint8 [b, h, w, 3] twice -> Pixels."""
    x, y = a.astype(jnp.float32) / 255, b.astype(jnp.float32) / 255
    # Of whole numbers: 0 for equal pictures, whatever the compiler fuses.
    difference = (a.astype(jnp.float32) - b.astype(jnp.float32)) / 255
    (standard,) = ssim(x, y)
    lab, half = ssim(2 * x - 1, 2 * y - 1, (2.0, 1.0))
    return Pixels(jnp.abs(difference).mean((1, 2, 3)), jnp.square(difference).mean((1, 2, 3)), standard, lab, half)


def psnr(mse: float | np.ndarray) -> np.ndarray:
    """dB of a mean squared error on [0, 1]; 100 where it is 0."""
    return -10 * np.log10(np.maximum(mse, _LEAST_ERROR))


class PixelTotals:
    """Sums of `compare` over the frames of a clip; `add` as often as there are batches."""

    def __init__(self) -> None:
        self.frames = 0
        self.dark = False  # whether the output has a pixel below -0.5 on [-1, 1]
        self._sums = dict.fromkeys(("l1", "mse", "psnr", "ssim", "ssim_lab", "ssim_half"), 0.0)

    def add(self, output: np.ndarray, truth: np.ndarray) -> None:
        """uint8 [b, h, w, 3] twice."""
        rows = {k: np.asarray(v, np.float64) for k, v in in_batches(compare, output, truth)._asdict().items()}
        rows["psnr"] = psnr(rows["mse"])
        for name, values in rows.items():
            self._sums[name] += float(values.sum())
        self.frames += len(output)
        self.dark |= bool(output.min() < 0.25 * 255)

    def figures(self) -> dict[str, float]:
        """Means by name, `_a` the laboratory's and `_s` the standard ones. Raises InputError without frames."""
        if not self.frames:
            raise InputError("no frame was compared: give a clip with at least one frame")
        mean = {k: v / self.frames for k, v in self._sums.items()}
        return {
            "l1_a": 2 * mean["l1"],
            "l1_s": mean["l1"],
            "psnr_a": float(psnr(4 * mean["mse"])),
            "psnr_s": mean["psnr"],
            "ssim_a": mean["ssim_lab" if self.dark else "ssim_half"],
            "ssim_s": mean["ssim"],
        }
