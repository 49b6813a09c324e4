"""Golden cases of the volume renderer."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from r3p import camera, render
from r3p.models.decoder import Decoder
from r3p.models.planes import resize_planes
from r3p.parity.cases import Case, Runner, Values, parameter_gradients

CHUNK = 600  # fewer rays than any case has: chunks are a part of what is compared


def _decode(params: Any, x: Any) -> Any:
    return Decoder().apply({"params": params}, x)


def _planes(case: Case) -> Any:
    planes = jnp.asarray(case.inputs["planes"])
    b, _, c, h, w = planes.shape
    if c == 96:  # tri-grid: channel and depth are merged, channel outside
        return jnp.moveaxis(planes.reshape(b, 3, 32, 3, h, w), 2, -1)
    return jnp.moveaxis(planes, 2, -1)


def rendering(case: Case) -> Values:
    """A whole rendering; seams are read from its parts, called one by one."""
    x, planes, params = case.inputs, _planes(case), case.variables["params"]
    origins, directions = camera.rays(jnp.asarray(x["camera"]), int(x["jitter"].shape[1] ** 0.5))
    b, count, _ = origins.shape
    jitter = jnp.asarray(x["jitter"][..., 0])
    u = jnp.asarray(x["u"]).reshape(b, count, -1) if "u" in x else None
    coarse, fine = jitter.shape[-1], 0 if u is None else u.shape[-1]

    def field(planes: Any, params: Any, origins: Any, directions: Any, depths: Any) -> tuple[Any, Any]:
        b, r, s = depths.shape
        points = (origins[:, :, None] + directions[:, :, None] * depths[..., None]).reshape(b, r * s, 3)
        colour, density = render.query(planes, functools.partial(_decode, params), points)
        return colour.reshape(b, r, s, -1), density.reshape(b, r, s)

    @jax.jit
    def seams(planes: Any, params: Any, origins: Any, directions: Any, jitter: Any, u: Any) -> dict[str, Any]:
        box = render.ray_limits(origins, directions)
        near, far, valid = render.repair_missed(*box)
        depths = render.stratified_depths(near, far, coarse, jitter)
        colour, density = field(planes, params, origins, directions, depths)
        weights = render.ray_weights(depths, density)
        seen = {"box_near": box[0], "box_far": box[1], "near": near, "far": far, "valid": valid}
        seen |= {"depths_coarse": depths, "coarse_sigma": density, "coarse_weights": weights}
        if fine:
            seen["depths_fine"] = drawn = render.importance_depths(depths, weights, fine, u)
            both = jnp.concatenate([depths, drawn], -1)
            order = render.sort_order(both)
            depths = render.permute(both, *order)
            more = field(planes, params, origins, directions, drawn)[1]
            weights = render.ray_weights(depths, render.permute(jnp.concatenate([density, more], -1), *order))
        seen |= {"all_depths": depths, "all_weights": weights}
        return {k: v[..., None] for k, v in seen.items()} | {"coarse_rgb": colour}

    options: dict[str, Any] = {
        "coarse": coarse,
        "fine": fine,
        "chunk": CHUNK,
        "white_back": case.meta["rendering_options"]["white_back"],
    }

    def whole(planes: Any, params: Any, origins: Any, directions: Any, jitter: Any, u: Any) -> Any:
        decoder = functools.partial(_decode, params)
        return render.render(planes, decoder, origins, directions, jitter=jitter, u=u, **options)

    rays = origins, directions, jitter, u
    out = jax.jit(whole)(planes, params, *rays)
    values = {
        "ray_origins": origins,
        "ray_directions": directions,
        **seams(planes, params, *rays),
        "feature": out.feature,
        "depth": out.depth,
        "weight": out.weight,
        "valid": out.valid,
    }
    if "grad_total" in case.recorded:
        weigh = {k: case.cotangent(k) for k in ("feature", "weight")}

        @jax.jit
        @functools.partial(jax.value_and_grad, argnums=(0, 1))
        def total(planes: Any, params: Any) -> Any:
            out = whole(planes, params, *rays)
            return sum((getattr(out, k) * w).sum() for k, w in weigh.items())

        value, (planes_grad, grads) = total(planes, params)
        values |= {"grad_total": value[None], "grad/planes": jnp.moveaxis(planes_grad, -1, 2)}
        values |= parameter_gradients(case, grads)
    return values


def points(case: Case) -> Values:
    """Colour and density at single points, of planes as they are and resized."""
    planes, params, points = _planes(case), case.variables["params"], jnp.asarray(case.inputs["coords"])
    axes = jnp.asarray(render.PLANE_AXES)
    values = {
        "projected": jnp.moveaxis(points[:, :, axes], 2, 1)[0],
        "features": render.sample_planes(planes, points),
    }
    for ending, size in (("", 256), ("_rescaled_to_100", 100)):
        resized = resize_planes(planes, size)
        values[f"rgb{ending}"], values[f"sigma{ending}"] = render.query(
            resized, functools.partial(_decode, params), points
        )
    return values


_CASES = "det fixed_u 128 missed_rays white_back no_importance grad trigrid"
RUNNERS: dict[str, Runner] = {**{f"render_{name}": rendering for name in _CASES.split()}, "render_points": points}
