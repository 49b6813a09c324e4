"""From a network's output image to tri-planes."""

import jax
import jax.numpy as jnp

from r3p.errors import InputError
from r3p.models import layers

Array = jax.Array


def to_planes(x: Array, depth: int = 1) -> Array:
    """Splits channels into planes and turns them from image axes (row 0 on top) to world axes (index 0 at -0.5).

    Args:
      x: [b, h, w, 3 c d]; the plane is the slowest part of the channels, the depth slice the fastest.
      depth: d; 1 for tri-planes.

    Returns:
      float32 [b, 3, h, w, c], or [b, 3, d, h, w, c] for d > 1. Planes read (x, y), (x, z), (z, x): see `r3p.render`.
    """
    b, h, w, channels = x.shape
    if channels % (3 * depth):
        raise InputError(f"{channels} channels do not split into 3 planes of {depth} depth slices")
    x = x.astype(jnp.float32).reshape(b, h, w, 3, channels // (3 * depth), depth)
    frontal, level, side = x[..., 0, :, :][:, ::-1], x[..., 1, :, :][:, ::-1], x[..., 2, :, :][:, ::-1, ::-1]
    planes = jnp.moveaxis(jnp.stack([frontal, level, side], axis=1), -1, 2)
    return planes[:, :, 0] if depth == 1 else planes


def resize_planes(planes: Array, size: int) -> Array:
    """Planes [b, 3, (d,) h, w, c] -> [b, 3, (d,) size, size, c]; linear, not antialiased: EG3D's augmentation."""
    *lead, h, w, c = planes.shape
    return layers.resize(planes.reshape(-1, h, w, c), (size, size)).reshape(*lead, size, size, c)
