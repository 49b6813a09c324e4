"""An exact triangle rasteriser in plain JAX: z-buffer, top-left rule, perspective-correct weights.

Vertices are snapped to 1/16 pixel and edges are evaluated in integers, so coverage is exact: triangles that share an
edge neither overlap nor leave a gap. Among equally near triangles the lowest index wins. Every pixel centre inside a
triangle's bounding box becomes a fragment; fragments are handled in fixed-size chunks until none is left, so that the
work follows the triangles' size and no capacity can overflow. Pixel (0, 0) covers [0, 1) x [0, 1), y down.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SUBPIXEL = 16
GUARD = 11_585  # 1/16 pixels around the picture's middle: products of coordinate differences stay below 2**31
CHUNK = 1 << 15
_NO_TRIANGLE = np.iinfo(np.int32).max


class Raster(NamedTuple):
    """What each pixel shows: triangle int32 [h, w], -1 where empty; weights float32 [h, w, 3] of its corners, 0 where
    empty; depth float32 [h, w], infinite where empty."""

    triangle: jax.Array
    weights: jax.Array
    depth: jax.Array


def _corners(points: jax.Array, triangles: jax.Array, size: tuple[int, int]) -> tuple[jax.Array, ...]:
    """Snapped corners x, y int32 [t, 3] about the picture's middle with positive area, that area [t], and whether the
    second and third corner were swapped [t]; area 0 for what cannot be drawn."""
    middle = jnp.asarray([size[1] / 2, size[0] / 2], points.dtype)
    limit = GUARD / SUBPIXEL
    offset = points[:, :2] - middle
    drawable = (jnp.abs(offset) <= limit).all(-1) & (points[:, 2] > 0) & jnp.isfinite(points[:, 2])
    snapped = jnp.round(jnp.where(drawable[:, None], offset, 0) * SUBPIXEL).astype(jnp.int32)
    x, y = (snapped[triangles, k] for k in range(2))
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (y[:, 1] - y[:, 0]) * (x[:, 2] - x[:, 0])
    swapped = area < 0
    order = jnp.where(swapped[:, None], jnp.asarray([0, 2, 1]), jnp.asarray([0, 1, 2]))
    x, y = (jnp.take_along_axis(a, order, 1) for a in (x, y))
    return x, y, jnp.where(drawable[triangles].all(1), jnp.abs(area), 0), swapped


def _edges(x: jax.Array, y: jax.Array, px: jax.Array, py: jax.Array) -> tuple[list[jax.Array], jax.Array]:
    """Edge functions opposite to each corner at points px, py [n] of triangles x, y [n, 3], and coverage."""
    values, covered = [], jnp.ones(px.shape, bool)
    for k in range(3):
        a, b = (k + 1) % 3, (k + 2) % 3
        dx, dy = x[..., b] - x[..., a], y[..., b] - y[..., a]
        value = dx * (py - y[..., a]) - dy * (px - x[..., a])
        owned = (dy < 0) | ((dy == 0) & (dx > 0))  # left and top edges keep the pixels on them
        covered &= (value > 0) | ((value == 0) & owned)
        values.append(value)
    return values, covered


def _interpolant(points: jax.Array, triangles: jax.Array, swapped: jax.Array, *, perspective: bool) -> jax.Array:
    """Per corner [t, 3], in the snapped corners' order, the number that is linear on screen: -1/depth or depth."""
    value = points[:, 2]
    value = jnp.where(value > 0, value, 1)  # of vertices that are not drawn; keeps gradients finite
    value = (-1 / value if perspective else value)[triangles]
    return jnp.where(swapped[:, None], value[:, jnp.asarray([0, 2, 1])], value)


@partial(jax.jit, static_argnames=("size", "perspective", "chunk"))
def rasterize(
    points: jax.Array, triangles: jax.Array, *, size: tuple[int, int], perspective: bool = True, chunk: int = CHUNK
) -> Raster:
    """Draws triangles [t, 3] over points [v, 3] = (x, y in pixels, depth > 0, smaller is nearer); size = (h, w).

    Both windings are drawn. perspective=True interpolates 1/depth linearly on screen, False the depth itself. Left out
    are triangles with a corner at depth <= 0 or further than 724 pixels from the picture's middle on either axis.
    Gradients flow through `weights` and `depth` (not through coverage).
    """
    if max(size) > 2 * GUARD // SUBPIXEL:
        raise ValueError(f"size {size}: at most {2 * GUARD // SUBPIXEL} pixels a side")
    points, triangles = jnp.asarray(points, jnp.float32), jnp.asarray(triangles, jnp.int32)
    triangle = _visible(jax.lax.stop_gradient(points), triangles, size, perspective, chunk)
    hit = triangle >= 0
    weights, depth = _weights(points, triangles, jnp.maximum(triangle, 0), size, perspective)
    return Raster(triangle, jnp.where(hit[..., None], weights, 0), jnp.where(hit, depth, jnp.inf))


def _visible(
    points: jax.Array, triangles: jax.Array, size: tuple[int, int], perspective: bool, chunk: int
) -> jax.Array:
    h, w = size
    x, y, area, swapped = _corners(points, triangles, size)
    linear = _interpolant(points, triangles, swapped, perspective=perspective)
    # Pixel centres lie at 16 i + 8 from the corner of the picture; first and last column and row inside the box:
    shift_x, shift_y = SUBPIXEL // 2 - w * SUBPIXEL // 2, SUBPIXEL // 2 - h * SUBPIXEL // 2
    x0 = jnp.clip(-((shift_x - x.min(1)) // SUBPIXEL), 0, w)
    y0 = jnp.clip(-((shift_y - y.min(1)) // SUBPIXEL), 0, h)
    x1 = jnp.clip((x.max(1) - shift_x) // SUBPIXEL, -1, w - 1)
    y1 = jnp.clip((y.max(1) - shift_y) // SUBPIXEL, -1, h - 1)
    wide, high = jnp.maximum(x1 - x0 + 1, 0), jnp.maximum(y1 - y0 + 1, 0)
    count = jnp.where(area > 0, wide * high, 0)
    end = jnp.cumsum(count)
    table_i = jnp.stack([x[:, 0], x[:, 1], x[:, 2], y[:, 0], y[:, 1], y[:, 2], x0, y0, wide, end - count], 1)
    table_f = linear / jnp.maximum(area, 1)[:, None].astype(jnp.float32)

    def body(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        start, nearest, owner = state
        fragment = start + jnp.arange(chunk, dtype=jnp.int32)
        t = jnp.searchsorted(end, fragment, side="right", method="scan").astype(jnp.int32)
        t = jnp.minimum(t, len(end) - 1)
        row = table_i[t]
        number = fragment - row[:, 9]
        column_width = jnp.maximum(row[:, 8], 1)
        i, j = row[:, 6] + number % column_width, row[:, 7] + number // column_width
        px, py = i * SUBPIXEL + shift_x, j * SUBPIXEL + shift_y
        edges, covered = _edges(row[:, 0:3], row[:, 3:6], px, py)
        f = table_f[t]
        key = edges[0].astype(jnp.float32) * f[:, 0]
        key += edges[1].astype(jnp.float32) * f[:, 1]
        key += edges[2].astype(jnp.float32) * f[:, 2]
        # The key is compared with its own minimum: it must not be computed twice with different rounding.
        key, pixel = jax.lax.optimization_barrier((key, jnp.where(covered & (fragment < end[-1]), j * w + i, h * w)))
        closer = nearest.at[pixel].min(key, mode="drop")
        owner = jnp.where(closer < nearest, _NO_TRIANGLE, owner)
        wins = key == closer[jnp.minimum(pixel, h * w - 1)]
        owner = owner.at[jnp.where(wins, pixel, h * w)].min(t, mode="drop")
        return start + chunk, closer, owner

    nearest = jnp.full(h * w, jnp.inf, jnp.float32)
    owner = jnp.full(h * w, _NO_TRIANGLE, jnp.int32)
    _, _, owner = jax.lax.while_loop(lambda s: s[0] < end[-1], body, (jnp.int32(0), nearest, owner))
    return jnp.where(owner == _NO_TRIANGLE, -1, owner).reshape(h, w)


def _weights(
    points: jax.Array, triangles: jax.Array, triangle: jax.Array, size: tuple[int, int], perspective: bool
) -> tuple[jax.Array, jax.Array]:
    """Corner weights [h, w, 3] at pixel centres and depth [h, w], from the unsnapped corners so that gradients flow."""
    h, w = size
    corner = points[triangles[triangle]]  # [h, w, 3 corners, 3]
    px = jnp.arange(w, dtype=jnp.float32) + 0.5
    py = (jnp.arange(h, dtype=jnp.float32) + 0.5)[:, None]
    dx, dy = corner[..., 0] - px[..., None], corner[..., 1] - py[..., None]
    share = [
        dx[..., (k + 1) % 3] * dy[..., (k + 2) % 3] - dy[..., (k + 1) % 3] * dx[..., (k + 2) % 3] for k in range(3)
    ]
    area = share[0] + share[1] + share[2]
    flat = jnp.abs(area) < 1e-6  # thinner than the snapping grid can tell: any point of it will do
    screen = jnp.stack(share, -1) / jnp.where(flat, 1, area)[..., None]
    screen = jnp.where(flat[..., None], 1 / 3, jnp.clip(screen, 0, 1))
    screen /= screen.sum(-1, keepdims=True)
    depth = jnp.where(corner[..., 2] > 0, corner[..., 2], 1)
    if not perspective:
        return screen, (screen * depth).sum(-1)
    part = screen / depth
    total = part.sum(-1, keepdims=True)
    return part / total, 1 / total[..., 0]


def interpolate(
    raster: Raster, triangles: jax.Array, attributes: jax.Array, background: float | jax.Array = 0.0
) -> jax.Array:
    """Vertex attributes [v, c] -> picture [h, w, c], `background` where nothing was drawn."""
    attributes, triangles = jnp.asarray(attributes), jnp.asarray(triangles)
    corner = attributes[triangles[jnp.maximum(raster.triangle, 0)]]
    colour = (raster.weights[..., None] * corner).sum(-2)
    return jnp.where(raster.triangle[..., None] >= 0, colour, background)


def rasterize_batch(
    points: jax.Array, triangles: jax.Array, *, size: tuple[int, int], perspective: bool = True
) -> Raster:
    """`rasterize` over a leading batch axis of points [b, v, 3], one picture after the other."""
    return jax.lax.map(lambda p: rasterize(p, triangles, size=size, perspective=perspective), points)
