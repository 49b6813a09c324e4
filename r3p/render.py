"""Volume rendering of tri-planes: rays in, composited features, depth and weight out.

Pure functions on arrays. Letters: b images, r rays, s samples of a ray, n points, k planes (3), h w c of a plane,
d depth slices of a tri-grid, f features of the decoder. World units throughout; the planes span a cube of side
`box_warp` about the origin. Sources: EG3D (Chan et al., CVPR 2022), section 4 and its sampling code; Max (1995) for
the compositing integral; mip-NeRF (Barron et al., ICCV 2021), eq. 5 and section 3.1 for midpoints and blurred weights.

Made for a processor as much as for an accelerator: a zero-padded table turns the border rule into a clamp, so the
corners of a point are plain row gathers which fuse with their weights (on TPUs one gather of packed rows); only scalars
are ever sorted; rays go through in chunks whose activations are recomputed in the backward pass, so memory is that of
one chunk.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from r3p import sharding
from r3p.errors import InputError
from r3p.sharding import split_rays

Array = jax.Array
Decoder = Callable[[Array], tuple[Array, Array]]  # features [..., c] -> colour [..., f], density [..., 1]

# Axes of a point (x, y, z) that a plane reads along its w, its h and, in a tri-grid, its d.
PLANE_AXES = ((0, 1, 2), (0, 2, 1), (2, 0, 1))


class Rendering(NamedTuple):
    """What a ray returns."""

    feature: Array  # [b, r, f], composited and scaled to [-1, 1]
    depth: Array  # [b, r, 1], distance along the ray
    weight: Array  # [b, r, 1], opacity in [0, 1]
    valid: Array  # [b, r, 1], whether the ray meets the box


def ray_limits(origins: Array, directions: Array, box: float | tuple[float, float, float] = 1.0) -> tuple[Array, Array]:
    """Where rays [b, r, 3] enter and leave a box about the origin -> near, far [b, r]; (-1, -2) for rays that miss it.

    The slab test; constants to differentiation. `box`: the side of a cube, or the sides along x, y and z.
    """
    origins, directions = jax.lax.stop_gradient((origins, directions))
    inverse = 1 / directions
    half = jnp.asarray(box, directions.dtype) / 2
    side = jnp.where(inverse < 0, -half, half)
    enter, leave = (-side - origins) * inverse, (side - origins) * inverse
    near, far = enter[..., 0], leave[..., 0]
    valid = jnp.ones(near.shape, bool)
    for axis in (1, 2):
        # Written as "not greater" so that 0 * inf, a ray inside a face, keeps the ray.
        valid &= ~((near > leave[..., axis]) | (enter[..., axis] > far))
        near, far = jnp.maximum(near, enter[..., axis]), jnp.minimum(far, leave[..., axis])
    return jnp.where(valid, near, -1.0), jnp.where(valid, far, -2.0)


def repair_missed(near: Array, far: Array, shared: bool = True) -> tuple[Array, Array, Array]:
    """Gives rays that miss the box the limits of the others -> near, far, valid [b, r].

    The official rule: the smallest near of the valid rays, and as far the largest *near* of the valid rays. `shared`
    takes them over the whole batch, as the official code does; otherwise over each image, which needs no collective
    on a sharded batch and keeps images independent. With no valid ray at all the limits stay.
    """
    valid = far > near
    axis = None if shared else 1
    least = jnp.min(jnp.where(valid, near, jnp.inf), axis=axis, keepdims=True)
    most = jnp.max(jnp.where(valid, near, -jnp.inf), axis=axis, keepdims=True)
    kept = valid | ~jnp.any(valid, axis=axis, keepdims=True)
    return jnp.where(kept, near, least), jnp.where(kept, far, most), valid


def stratified_depths(near: Array, far: Array, samples: int, jitter: Array | None = None) -> Array:
    """Evenly spaced depths from near to far [b, r] -> [b, r, s].

    `jitter` [b, r, s] in [0, 1) pushes each sample toward the next by that share of a step (the last one past `far`);
    None leaves them where they are.
    """
    step = (far - near) / (samples - 1)
    places = jnp.arange(samples, dtype=near.dtype) / (samples - 1)
    depths = near[..., None] + places * (far - near)[..., None]
    return depths if jitter is None else depths + jitter * step[..., None]


def _corners(position: Array, size: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """The two neighbours of a position in [-1, 1] on an axis of `size` texels: (index into the padded axis, weight)."""
    texel = (position + 1) * (size / 2) - 0.5
    low = jnp.floor(texel)
    fraction = texel - low
    index = low.astype(jnp.int32) + 1  # the padded axis starts one texel earlier
    return (jnp.clip(index, 0, size + 1), 1 - fraction), (jnp.clip(index + 1, 0, size + 1), fraction)


def _sample_plane(plane: Array, points: Array, axes: tuple[int, ...]) -> Array:
    """One plane [(d,) h, w, c] read at points [n, 3] in [-1, 1]; nothing outside -> [n, c]."""
    sizes = plane.shape[:-1]
    table = jnp.pad(plane, [(1, 1)] * len(sizes) + [(0, 0)]).reshape(-1, plane.shape[-1])
    corners: list[tuple[Array | int, Array | float]] = [(0, 1.0)]
    for axis, size in zip(reversed(axes[: len(sizes)]), sizes, strict=True):  # d, then h, then w
        neighbours = _corners(points[:, axis], size)
        corners = [(i * (size + 2) + j, w * v) for i, w in corners for j, v in neighbours]
    rows = [table.at[i].get(mode="promise_in_bounds") * w[:, None] for i, w in corners]  # type: ignore[index]
    return sum(rows[1:], rows[0])


def _sample_packed(plane: Array, points: Array, axes: tuple[int, ...]) -> Array:
    """`_sample_plane` of [h, w, c] from a table whose rows hold 2 x 2 texels.

    A row of 32 channels fills a quarter of a TPU's lanes: four of them are one row, read once instead of four times,
    and the gradient is one scatter instead of four.
    """
    h, w, c = plane.shape
    padded = jnp.pad(plane, ((1, 1), (1, 1), (0, 0)))
    table = jnp.concatenate([padded[i : i + h + 1, j : j + w + 1] for i in (0, 1) for j in (0, 1)], axis=-1)
    index: Array | int = 0
    weights: list[Array | float] = [1.0]
    for axis, size in ((axes[1], h), (axes[0], w)):
        texel = (points[:, axis] + 1) * (size / 2) - 0.5
        low = jnp.floor(texel)
        fraction, place = texel - low, low.astype(jnp.int32) + 1
        inside = ((place >= 0) & (place <= size)).astype(plane.dtype)
        index = index * (size + 1) + jnp.clip(place, 0, size)
        weights = [a * b for a in weights for b in (inside * (1 - fraction), inside * fraction)]
    rows = table.reshape(-1, 4 * c).at[index].get(mode="promise_in_bounds")
    parts = [rows[:, k * c : (k + 1) * c] * jnp.asarray(weights[k])[:, None] for k in range(4)]
    return sum(parts[1:], parts[0])


def _sampler(planes: Array) -> Callable[[Array, Array, tuple[int, ...]], Array]:
    """What reads a plane of `planes` [b, 3, (d,) h, w, c] on the devices that are computed on."""
    return _sample_packed if planes.ndim == 5 and sharding.platform() == "tpu" else _sample_plane


def _check_planes(planes: Array) -> None:
    if planes.ndim not in (5, 6) or planes.shape[1] != 3:
        raise InputError(f"tri-planes are [b, 3, h, w, c] or, as a tri-grid, [b, 3, d, h, w, c], got {planes.shape}")


def sample_planes(planes: Array, points: Array, box_warp: float = 1.0) -> Array:
    """Linear interpolation in each plane, zero outside.

    Args:
      planes: [b, 3, h, w, c], or [b, 3, d, h, w, c] for a tri-grid, which interpolates along the third axis too.
      points: [b, n, 3] in the world.

    Returns:
      [b, 3, n, c].
    """
    _check_planes(planes)
    sample = _sampler(planes)

    def one(planes: Array, points: Array) -> Array:
        return jnp.stack([sample(planes[k], points, PLANE_AXES[k]) for k in range(3)])

    return jax.vmap(one)(planes, points * (2 / box_warp))


def mean_features(planes: Array, points: Array, box_warp: float = 1.0) -> Array:
    """The mean over the planes of `sample_planes`, in one fused pass -> [b, n, c]."""
    _check_planes(planes)
    sample = _sampler(planes)

    def one(planes: Array, points: Array) -> Array:
        a, b, c = (sample(planes[k], points, PLANE_AXES[k]) for k in range(3))
        return (a + b + c) / 3

    return jax.vmap(one)(planes, points * (2 / box_warp))


def query(planes: Array, decoder: Decoder, points: Array, box_warp: float = 1.0) -> tuple[Array, Array]:
    """Colour [b, n, f] and density [b, n, 1] of world points [b, n, 3]."""
    return decoder(mean_features(planes, points, box_warp))


def ray_weights(depths: Array, densities: Array) -> Array:
    """Shares of the s - 1 intervals between sorted samples in a ray's colour: [b, r, s] twice -> [b, r, s - 1].

    Densities are averaged over each interval, shifted by -1 (so that zero is nearly empty) and made positive.
    """
    density = jax.nn.softplus((densities[..., 1:] + densities[..., :-1]) / 2 - 1)
    thickness = density * (depths[..., 1:] - depths[..., :-1])
    before = jnp.cumsum(thickness, axis=-1) - thickness
    return jnp.exp(-before) * -jnp.expm1(-thickness)


def _count(wanted: Callable[[int], Array], count: int) -> Array:
    """The sum of `count` comparisons. Unrolled: one fused pass, where a reduction would be stored and re-read."""
    total = wanted(0).astype(jnp.int32)
    for i in range(1, count):
        total += wanted(i).astype(jnp.int32)
    return total


def importance_depths(depths: Array, weights: Array, count: int, u: Array | None = None) -> Array:
    """Depths drawn where the first pass saw something, by inverting the distribution function of blurred weights.

    Args:
      depths: [b, r, s] sorted.
      weights: [b, r, s - 1].
      count: t, samples to draw.
      u: [b, r, t] in [0, 1], any order; None spaces them evenly, ends included.

    Returns:
      [b, r, t], in the order of u; a constant to differentiation.
    """
    depths, weights = jax.lax.stop_gradient((depths, weights))
    if u is None:
        u = jnp.broadcast_to(jnp.linspace(0, 1, count, dtype=depths.dtype), (*depths.shape[:-1], count))
    edge = jnp.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(1, 1)], constant_values=-jnp.inf)
    peak = jnp.maximum(edge[..., :-1], edge[..., 1:])
    blurred = (peak[..., :-1] + peak[..., 1:]) / 2 + 0.01
    share = blurred[..., 1:-1] + 1e-5
    share = share / share.sum(-1, keepdims=True)
    cdf = jnp.pad(jnp.cumsum(share, axis=-1), [(0, 0)] * (share.ndim - 1) + [(1, 0)])
    last = cdf.shape[-1] - 1
    # One bin more than the distribution has edges, as in the official code: the far end draws no samples.
    bins = (depths[..., :-1] + depths[..., 1:]) / 2
    found = _count(lambda i: cdf[..., i : i + 1] <= u, last + 1)
    below, above = jnp.maximum(found - 1, 0), jnp.minimum(found, last)
    cdf_below, cdf_above, bin_below, bin_above = (
        jnp.take_along_axis(a, i, axis=-1, mode="promise_in_bounds")
        for a, i in ((cdf, below), (cdf, above), (bins, below), (bins, above))
    )
    span = cdf_above - cdf_below
    return bin_below + (u - cdf_below) / jnp.where(span < 1e-5, 1.0, span) * (bin_above - bin_below)


def sort_order(depths: Array) -> tuple[Array, Array]:
    """The permutation that sorts depths [b, r, s], and its inverse -> order, rank [b, r, s].

    Rank by counting: rays are short and many, where a comparison sort is several times slower on every device.
    """
    s = depths.shape[-1]
    place = jnp.arange(s)

    def earlier(i: int) -> Array:
        other = depths[..., i : i + 1]
        return (other < depths) | ((other == depths) & (i < place))

    rank = _count(earlier, s)
    order = _count(lambda i: (rank[..., i : i + 1] == place) * i, s)
    return order, rank


@jax.custom_vjp
def permute(x: Array, order: Array, rank: Array) -> Array:
    """x [.., s] in the order of a permutation; `rank` is its inverse, so that the gradient is a gather as well."""
    return jnp.take_along_axis(x, order, axis=-1, mode="promise_in_bounds")


def _permute_forward(x: Array, order: Array, rank: Array) -> tuple[Array, tuple[Array, Array]]:
    return permute(x, order, rank), (order, rank)


def _permute_backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, None, None]:
    return permute(cotangent, saved[1], saved[0]), None, None


permute.defvjp(_permute_forward, _permute_backward)


def _spread(weights: Array) -> Array:
    """Weights of intervals [.., s - 1] -> of their ends [.., s]: an interval has its ends' mean colour."""
    padded = jnp.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(1, 1)])
    return (padded[..., :-1] + padded[..., 1:]) / 2


def _blend(weights: Array, colours: Array) -> Array:
    # A batched product: several times the speed of a multiplication and a sum on a processor.
    return jnp.einsum("brs,brsf->brf", weights, colours, precision=jax.lax.Precision.HIGHEST)


def _render_rays(
    planes: Array,
    decoder: Decoder,
    rays: tuple[Array, Array, Array, Array, Array | None, Array | None],
    coarse: int,
    fine: int,
    box_warp: float,
) -> tuple[Array, Array, Array, Array, Array]:
    """One chunk of rays -> feature sum [b, r, f], depth sum [b, r], weight [b, r], least and largest depth [b]."""
    origins, directions, near, far, jitter, u = rays

    def field(depths: Array) -> tuple[Array, Array]:
        b, r, s = depths.shape
        points = origins[:, :, None] + directions[:, :, None] * depths[..., None]
        colour, density = query(planes, decoder, points.reshape(b, r * s, 3), box_warp)
        return colour.reshape(b, r, s, -1), density.reshape(b, r, s)

    with jax.named_scope("coarse"):
        depths = stratified_depths(near, far, coarse, jitter)
        colours, densities = field(depths)
    if fine == 0:
        weights = ray_weights(depths, densities)
        feature = _blend(_spread(weights), colours)
    else:
        with jax.named_scope("fine"):
            drawn = importance_depths(depths, ray_weights(depths, densities), fine, u)
            more_colours, more_densities = field(drawn)
        with jax.named_scope("merge"):
            depths = jnp.concatenate([depths, drawn], axis=-1)
            order, rank = sort_order(depths)
            depths = permute(depths, order, rank)
            densities = permute(jnp.concatenate([densities, more_densities], axis=-1), order, rank)
            weights = ray_weights(depths, densities)
            # The colours stay where they are: their weights go to them.
            each = permute(_spread(weights), rank, order)
            feature = _blend(each[..., :coarse], colours) + _blend(each[..., coarse:], more_colours)
    middle = (depths[..., 1:] + depths[..., :-1]) / 2
    return feature, (weights * middle).sum(-1), weights.sum(-1), depths.min((1, 2)), depths.max((1, 2))


def render(
    planes: Array,
    decoder: Decoder,
    origins: Array,
    directions: Array,
    *,
    coarse: int = 48,
    fine: int = 48,
    jitter: Array | None = None,
    u: Array | None = None,
    box_warp: float = 1.0,
    box: tuple[float, float, float] | None = None,
    limits: tuple[float, float] | None = None,
    white_back: bool = False,
    shared_limits: bool = True,
    chunk: int = 1024,
) -> Rendering:
    """Renders rays through tri-planes.

    Args:
      planes: [b, 3, h, w, c], or a tri-grid [b, 3, d, h, w, c].
      decoder: features [..., c] -> colour [..., f], density [..., 1]. A plain function: close over its parameters.
      origins, directions: [b, r, 3], directions of unit length (`r3p.camera.rays`).
      coarse: evenly spaced samples of a ray.
      fine: samples drawn by importance after them; 0 leaves that pass out.
      jitter: [b, r, coarse] in [0, 1), see `stratified_depths`; None for none.
      u: [b, r, fine] in [0, 1], see `importance_depths`; None spaces them evenly.
      box_warp: side of the cube that the planes span.
      box: sides, along x, y and z, of the box in which rays are sampled; None = that cube. What is known to be empty
        need not be sampled.
      limits: near and far of every ray, instead of where it meets a box (EG3D as published).
      white_back: whether what is left of a ray's weight is white instead of black.
      shared_limits: whether missed rays and the range of depths take the whole batch's limits, as the official code
        does, or each image its own.
      chunk: rays of an image that go through at a time; the peak memory is proportional to it.

    Raises:
      InputError: for planes of another rank, or fewer samples than the passes need.
    """
    _check_planes(planes)
    if coarse < (4 if fine else 2):
        raise InputError(f"coarse is {coarse}, but needs at least 4 samples before an importance pass, 2 without one")
    if limits is not None and box is not None:
        raise InputError(f"got limits {limits} and box {box}, which both say where rays are sampled: drop one of them")
    if limits is None:
        near, far, valid = repair_missed(*ray_limits(origins, directions, box or box_warp), shared=shared_limits)
    else:
        near, far = (jnp.full(directions.shape[:-1], limit, directions.dtype) for limit in limits)
        valid = jnp.ones(near.shape, bool)
    rays = (origins, directions, near, far, jitter, u if fine else None)
    b, r = near.shape
    chunk = min(chunk, r)
    pieces = -(-r // chunk)

    def split(x: Array) -> Array:
        # The last chunk is filled with copies of the last ray.
        x = jnp.pad(x, [(0, 0), (0, pieces * chunk - r)] + [(0, 0)] * (x.ndim - 2), mode="edge")
        return jnp.moveaxis(x.reshape(b, pieces, chunk, *x.shape[2:]), 1, 0)

    def join(x: Array) -> Array:
        return jnp.moveaxis(x, 0, 1).reshape(b, pieces * chunk, *x.shape[3:])[:, :r]

    @jax.checkpoint
    def body(rays: tuple) -> tuple[Array, ...]:
        # Where a training mesh has an axis for rays, its devices share every chunk.
        rays = jax.tree.map(split_rays, rays)
        return _render_rays(planes, decoder, rays, coarse, fine, box_warp)

    with jax.named_scope("render"):
        feature, depth, weight, least, largest = jax.lax.map(body, jax.tree.map(split, rays))
    feature, depth, weight = join(feature), join(depth), join(weight)
    bounds = (None if shared_limits else (0,), True)
    least, largest = (
        fn(x, axis=bounds[0], keepdims=True).reshape(-1, 1) for fn, x in ((jnp.min, least), (jnp.max, largest))
    )
    # A ray without weight has no depth; it gets the farthest there is.
    depth = jnp.where(weight > 0, depth / jnp.where(weight > 0, weight, 1.0), jnp.inf)
    depth = jnp.clip(depth, least, largest)
    if white_back:
        feature = feature + 1 - weight[..., None]
    return Rendering(feature * 2 - 1, depth[..., None], weight[..., None], valid[..., None])
