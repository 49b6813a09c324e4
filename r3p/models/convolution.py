"""The one place where a convolution becomes code for a device: a drop-in for `jax.lax.conv_general_dilated`.

On a processor wide 3x3 convolutions take Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray, CVPR 2016), which
multiplies a quarter as often; everything else, and every accelerator, takes XLA's own convolution. Kernels are
transformed at every call: that costs a thousandth of the convolution, and weights stay what they are for training.

Shapes: b batch, h height, w width, c channels in, o channels out, t tiles of 4x4 pixels.
"""

import functools
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

Array = jax.Array

TILE, WINDOW = 4, 6  # pixels of a tile along an axis, and the inputs it looks at: TILE + 2
# With fewer channels in or out, fewer products of them, or fewer pixels, the transforms cost more than they save.
LEAST_CHANNELS, LEAST_PRODUCTS, LEAST_SIDE = 64, 96 * 128, 16
TILES_AT_ONCE = 128  # of a strip; its transforms stay in the cache
_NHWC = ("NHWC", "HWIO", "NHWC")


def conv_general_dilated(
    x: Array, kernel: Array, strides: Any, padding: Any, *, dimension_numbers: Any, **options: Any
) -> Array:
    """`jax.lax.conv_general_dilated`, by Winograd's filtering where that is faster; `nn.Conv` takes it as a field."""
    if _is_zero_padded(x, kernel, strides, padding, dimension_numbers, options) and is_wide(x, kernel):
        return _conv(x, kernel)
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=dimension_numbers, **options)


# `flax.linen.Conv` whose convolution is the one above.
Conv = functools.partial(nn.Conv, conv_general_dilated=conv_general_dilated)


def is_wide(x: Array, kernel: Array) -> bool:
    """Whether Winograd's filtering of images [b, h, w, c] with a 3x3 kernel is faster on a processor."""
    c, o = kernel.shape[2:]
    return min(x.shape[1:3]) >= LEAST_SIDE and min(c, o) >= LEAST_CHANNELS and c * o >= LEAST_PRODUCTS


def _is_zero_padded(x: Array, kernel: Array, strides: Any, padding: Any, numbers: Any, options: Any) -> bool:
    """Whether this is a plain 3x3 convolution that keeps the images' size."""
    if x.ndim != 4 or numbers not in (_NHWC, lax.conv_dimension_numbers(x.shape, kernel.shape, _NHWC)):
        return False
    dilations = [d for name in ("lhs_dilation", "rhs_dilation") for d in options.get(name) or ()]
    return (
        kernel.shape[:2] == (3, 3)
        and (padding == "SAME" or [tuple(p) for p in padding] == [(1, 1), (1, 1)])
        and all(n == 1 for n in (*strides, *dilations, options.get("feature_group_count", 1)))
    )


def _direct(x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_NHWC)


@jax.custom_jvp
def _conv(x: Array, kernel: Array) -> Array:
    return lax.platform_dependent(x, kernel, cpu=winograd, default=_direct)


@_conv.defjvp
def _conv_tangent(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # What is differentiated is the plain convolution, of any order: XLA transposes it better than strips of tiles. Its
    # values are, too: minimal filtering rounds coarser, and a ReLU behind it that tips over changes gradients by 1e-3.
    (x, kernel), (dx, dkernel) = primals, tangents
    return _direct(x, kernel), _direct(dx, kernel) + _direct(x, dkernel)


# ------------------------------------------------------------------------------------------------ Winograd
def _transforms(points: tuple[Fraction, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A [TILE, n], G [n, 3] and B [n, n] of the Toom-Cook algorithm at n - 1 points and infinity, n = WINDOW.

    A ((G g) * (B d)) are the TILE sums of three of the n values d with the filter g. Rows of B are scaled by powers of
    two to near one, those of G by the inverse, so that no rounding is added.
    """

    def product(roots: list[Fraction]) -> list[Fraction]:
        out = [Fraction(1)]
        for root in roots:
            out = [a - root * b for a, b in zip([Fraction(0), *out], [*out, Fraction(0)], strict=True)]
        return out

    a = [[p**i for p in points] + [Fraction(int(i == TILE - 1))] for i in range(TILE)]
    g, b = [], []
    for p in points:
        others = [q for q in points if q != p]
        scale = Fraction(1)
        for q in others:
            scale *= p - q
        g.append([p**k / scale for k in range(3)])
        b.append([*product(others), Fraction(0)])
    g.append([Fraction(0), Fraction(0), Fraction(1)])
    b.append(product(list(points)))
    matrices = [np.array([[float(v) for v in row] for row in m]) for m in (a, g, b)]
    powers = 2.0 ** np.round(np.log2(np.abs(matrices[2]).max(1, keepdims=True)))
    return matrices[0], matrices[1] * powers, matrices[2] / powers


# Of the small sets of points those with the least rounding: half of that of 0, 1, -1, 2, -2.
_A, _G, _B = _transforms(tuple(Fraction(*p) for p in ((0, 1), (1, 1), (-1, 1), (1, 2), (-2, 1))))


def _combine(row: np.ndarray, parts: list[Array]) -> Array:
    """Sum of parts times the numbers of a row, zeros left out: written out, so that it fuses."""
    terms = [p if f == 1 else p * np.float32(f) for f, p in zip(row, parts, strict=True) if f != 0]
    return sum(terms[1:], terms[0])


def winograd(x: Array, kernel: Array) -> Array:
    """Zero-padded convolution of [b, h, w, c] with [3, 3, c, o] -> [b, h, w, o], computed in float32.

    Strips of tile rows go through one after the other: windows to 36 images of one value a tile, 36 matrix products
    over the channels, and back.
    """
    b, h, w, c = x.shape
    o = kernel.shape[-1]
    wide, high = -(-w // TILE), -(-h // TILE)
    rows = max(1, min(high, TILES_AT_ONCE // (b * wide)))
    strips = -(-high // rows)
    lines = rows * TILE + 2  # a strip sees one row more on both sides
    taps = np.einsum("ia,jb->jiab", _G, _G).reshape(WINDOW**2, 9).astype(np.float32)
    kernels = (taps @ kernel.astype(jnp.float32).reshape(9, -1)).reshape(WINDOW**2, c, o)
    kept = max(strips * rows * TILE, lines)
    tall = jnp.pad(x, ((0, 0), (0, kept - h), (0, 0), (0, 0))) if kept > h else x

    def windows(seen: Array, axis: int, tiles: int) -> Array:
        size = (tiles - 1) * TILE + 1
        parts = [lax.slice_in_dim(seen, a, a + size, TILE, axis) for a in range(WINDOW)]
        # Kept apart from the next step, which would otherwise repeat it for every one of its sums.
        return lax.optimization_barrier(jnp.stack([_combine(f, parts) for f in _B]))

    def strip(i: Array) -> Array:
        # Padded here and not as a whole: what is written stays in the cache.
        first = i * rows * TILE - 1
        start = jnp.clip(first, 0, kept - lines)
        seen = lax.dynamic_slice_in_dim(tall, start, lines, axis=1)
        seen = jnp.pad(seen, ((0, 0), (1, 1), (1, wide * TILE + 1 - w), (0, 0)))
        seen = lax.dynamic_slice_in_dim(seen, first - start + 1, lines, axis=1).astype(jnp.float32)
        points = windows(windows(seen, 1, rows), 3, wide).reshape(WINDOW**2, b * rows * wide, -1)
        sums = jnp.einsum("ptc,pco->pto", points, kernels, precision=lax.Precision.HIGHEST)
        sums = sums.reshape(WINDOW, WINDOW, b, rows, wide, o)
        across = lax.optimization_barrier(jnp.stack([_combine(f, list(sums)) for f in _A], axis=4))
        pixels = jnp.stack([_combine(f, list(across)) for f in _A], axis=2)
        return pixels.reshape(b, rows * TILE, wide * TILE, o).astype(x.dtype)

    y = jnp.moveaxis(lax.map(strip, jnp.arange(strips)), 0, 1)
    return y.reshape(b, strips * rows * TILE, wide * TILE, o)[:, :h, :w]
