"""From a network's output image to tri-planes and tri-grids.

Shapes: b batch, d depth slices, h w plane, c channels of a plane.
"""

from typing import Any

import flax.linen as nn
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


class GridBlock(nn.Module):
    """Twice group norm, ReLU and 3x3x3 convolution, times a learnt factor, added to the input: [n, d, h, w, c] -> same.

    What a convolution sees beyond an edge is the edge. The factor starts small: the grid begins as it came.
    """

    groups: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        n, d, h, w, c = x.shape
        scale = self.param("scale", nn.initializers.constant(0.01), (1,))
        y = x
        for i in range(2):
            norm = nn.GroupNorm(self.groups, epsilon=1e-5, use_fast_variance=False, dtype=self.dtype, name=f"norm{i}")
            y = nn.relu(norm(y))
            kernel = self.param(f"kernel{i}", nn.initializers.lecun_normal(), (3, 3, 3, c, c))
            bias = self.param(f"bias{i}", nn.initializers.zeros, (c,))
            # The three slices side by side as channels of a 2-D convolution: XLA:CPU's 3-D one is four times slower.
            y = jnp.pad(y, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)), mode="edge")
            y = jnp.concatenate([y[:, j : j + d] for j in range(3)], axis=-1).reshape(n * d, h + 2, w + 2, 3 * c)
            taps = kernel.transpose(1, 2, 0, 3, 4).reshape(3, 3, 3 * c, c)
            y = layers.conv(y, taps, "VALID").reshape(n, d, h, w, c) + bias.astype(self.dtype)
        return x + scale.astype(self.dtype) * y


class GridRefiner(nn.Module):
    """Lets the depth slices of tri-grids see each other: [b, 3, d, h, w, c] -> float32, same (`trigrid_v2`).

    Attributes:
      blocks: 1 in the original for up to three slices, 2 for more.
      groups: of the norms; they divide c.
    """

    blocks: int = 1
    groups: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, grid: Array) -> Array:
        if grid.ndim != 6 or grid.shape[-1] % self.groups:
            raise InputError(
                f"refining planes of shape {grid.shape}: give tri-grids [b, 3, d, h, w, c], that is depth above 1, "
                f"with channels divisible by {self.groups}"
            )
        x = grid.reshape(-1, *grid.shape[2:]).astype(self.dtype)
        for i in range(self.blocks):
            x = GridBlock(self.groups, self.dtype, name=f"block{i}")(x)
        return x.astype(jnp.float32).reshape(grid.shape)
