"""Inception v3 as FID uses it (Szegedy et al. 2016, arXiv:1512.00567), without its classifiers.

`fid` is the network of TensorFlow's release of December 2015, whose features every published FID is made of: averages
in its blocks leave the padding out, and its last block pools by maxima. Without it, it is torchvision's of ImageNet.
Shapes: b images, h w, c channels. Layers are called what the PyTorch ports call them.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from r3p.models import layers
from r3p.models.norms import BatchNorm

Array = jax.Array
SIDE = 299  # pixels a side of what it was trained on


class Unit(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: tuple[int, int] = (0, 0)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        pad = [(p, p) for p in self.padding]
        x = nn.Conv(
            self.features, self.kernel, (self.stride,) * 2, pad, use_bias=False, precision="highest", name="conv"
        )(x)
        return nn.relu(BatchNorm(epsilon=1e-3, name="bn")(x))


class Block(nn.Module):
    """One of the five kinds of block, "A" to "E": branches that are joined along the channels.

    Attributes:
      kind: which one.
      width: of the pooled branch (A) or of the narrow part of the 7x7 ones (C).
      divide: all widths are divided by it, for tests.
      whole: averages count the padding.
      maximum: the pooled branch takes maxima (the last block of `fid`).
    """

    kind: str
    width: int = 0
    divide: int = 1
    whole: bool = False
    maximum: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def unit(name: str, y: Array, features: int, kernel: int | tuple[int, int] = 1, stride: int = 1) -> Array:
            size = (kernel, kernel) if isinstance(kernel, int) else kernel
            padding = (0, 0) if stride > 1 else (size[0] // 2, size[1] // 2)
            return Unit(features // self.divide, size, stride, padding, name=name)(y)

        def chain(prefix: str, *steps: tuple[int, int | tuple[int, int], int]) -> Array:
            y = x
            for k, step in enumerate(steps):
                y = unit(f"{prefix}_{k + 1}", y, *step)
            return y

        def fork(prefix: str, y: Array, number: int) -> list[Array]:
            return [unit(f"{prefix}_{number}{s}", y, 384, k) for s, k in (("a", (1, 3)), ("b", (3, 1)))]

        wide, tall, narrow = (1, 7), (7, 1), self.width
        if self.kind in "BD":
            pooled = nn.max_pool(x, (3, 3), (2, 2))
        elif self.maximum:
            pooled = nn.max_pool(x, (3, 3), (1, 1), ((1, 1), (1, 1)))
        else:
            pooled = nn.avg_pool(x, (3, 3), (1, 1), ((1, 1), (1, 1)), count_include_pad=self.whole)
        if self.kind == "A":
            parts = [
                unit("branch1x1", x, 64),
                chain("branch5x5", (48, 1, 1), (64, 5, 1)),
                chain("branch3x3dbl", (64, 1, 1), (96, 3, 1), (96, 3, 1)),
                unit("branch_pool", pooled, narrow),
            ]
        elif self.kind == "B":
            parts = [unit("branch3x3", x, 384, 3, 2), chain("branch3x3dbl", (64, 1, 1), (96, 3, 1), (96, 3, 2)), pooled]
        elif self.kind == "C":
            deep: list[tuple[int, int | tuple[int, int], int]] = [
                (narrow, 1, 1), (narrow, tall, 1), (narrow, wide, 1), (narrow, tall, 1), (192, wide, 1)
            ]  # fmt: skip
            parts = [
                unit("branch1x1", x, 192),
                chain("branch7x7", (narrow, 1, 1), (narrow, wide, 1), (192, tall, 1)),
                chain("branch7x7dbl", *deep),
                unit("branch_pool", pooled, 192),
            ]
        elif self.kind == "D":
            parts = [
                chain("branch3x3", (192, 1, 1), (320, 3, 2)),
                chain("branch7x7x3", (192, 1, 1), (192, wide, 1), (192, tall, 1), (192, 3, 2)),
                pooled,
            ]
        else:
            deep_one = chain("branch3x3dbl", (448, 1, 1), (384, 3, 1))
            parts = [
                unit("branch1x1", x, 320),
                *fork("branch3x3", unit("branch3x3_1", x, 384), 2),
                *fork("branch3x3dbl", deep_one, 3),
                unit("branch_pool", pooled, 192),
            ]
        return jnp.concatenate(parts, -1)


class Inception(nn.Module):
    """Images [b, h, w, 3] in [-1, 1] -> pooled features [b, 2048 / divide].

    Attributes:
      fid: the network of December 2015; see above.
      blocks: letter, kind and width of the blocks, in their order.
      divide: of all widths; 1 for the published ones.
    """

    fid: bool = True
    blocks: Sequence[tuple[str, str, int]] = (
        ("5b", "A", 32), ("5c", "A", 64), ("5d", "A", 64), ("6a", "B", 0), ("6b", "C", 128), ("6c", "C", 160),
        ("6d", "C", 160), ("6e", "C", 192), ("7a", "D", 0), ("7b", "E", 0), ("7c", "E", 0),
    )  # fmt: skip
    divide: int = 1

    @nn.compact
    def __call__(self, images: Array) -> Array:
        # PyTorch's bilinear filter without antialiasing: what the published figures were made with.
        x = layers.resize(images, (SIDE, SIDE))
        x = Unit(32 // self.divide, (3, 3), 2, name="Conv2d_1a_3x3")(x)
        x = Unit(32 // self.divide, (3, 3), name="Conv2d_2a_3x3")(x)
        x = Unit(64 // self.divide, (3, 3), 1, (1, 1), name="Conv2d_2b_3x3")(x)
        x = nn.max_pool(x, (3, 3), (2, 2))
        x = Unit(80 // self.divide, name="Conv2d_3b_1x1")(x)
        x = Unit(192 // self.divide, (3, 3), name="Conv2d_4a_3x3")(x)
        x = nn.max_pool(x, (3, 3), (2, 2))
        last = self.blocks[-1][0]
        for letters, kind, width in self.blocks:
            x = Block(
                kind, width, self.divide, not self.fid, self.fid and letters == last, name=f"Mixed_{letters}"
            )(x)  # fmt: skip
        return x.mean((1, 2))


def prepared(frames: Any) -> Array:
    """uint8 RGB frames [b, h, w, 3] -> what `Inception` takes."""
    return jnp.asarray(frames, jnp.float32) / 127.5 - 1
