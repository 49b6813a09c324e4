"""Golden cases of whole models: image-to-plane, the head system, the head and torso system."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r3p.parity.cases import Case, Runner, Values, parameter_gradients
from r3p.parity.layouts import channels_first, channels_last, planes_first


def inputs(case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    """Our inputs, and the options of rays."""
    x = {k: channels_last(v) if v.ndim == 4 else jnp.asarray(v) for k, v in case.inputs.items()}
    jitter, u = case.inputs["jitter"], case.inputs["u"]
    rays = {"resolution": int(jitter.shape[1] ** 0.5), "jitter": jnp.asarray(jitter[..., 0]), "u": jnp.asarray(u)[None]}
    return x, rays


def _method(case: Case, name: str, **options: Any) -> Any:
    # Variables as an argument: as constants the compiler would compute with them.
    run = jax.jit(functools.partial(case.network.module.apply, method=name, **options))
    return functools.partial(run, case.variables)


def _clipped(image: Any) -> Any:
    return np.clip(channels_first(image), -1, 1)


def _head(head: Any, prefix: str = "") -> dict[str, Any]:
    return {
        f"{prefix}image_raw": _clipped(head.rgb),
        f"{prefix}image_depth": channels_first(head.depth),
        f"{prefix}weights_img": channels_first(head.weight),
    }


def pncc(x: dict[str, Any], target: str = "cond_tgt") -> Any:
    """What the motion adapter reads: three maps as one."""
    return jnp.concatenate([x["cond_cano"], x["cond_src"], x[target]], axis=-1)


def image_to_plane(case: Case) -> Values:
    x, rays = inputs(case)
    planes = _method(case, "canonical")(x["img"])
    head, image = _method(case, "reconstruct", **rays)(x["img"], x["camera"])
    return {
        "plane": planes_first(planes),
        **_head(head),
        "image_feature": channels_first(head.feature)[:, 3:],
        "image_before_clamp": channels_first(image),
        "image": _clipped(image),
    }


def portrait(case: Case) -> Values:
    """Two frames of one portrait, as `r3p talk` makes them: what the portrait alone decides is computed once."""
    x, rays = inputs(case)
    motion, render = _method(case, "motion"), _method(case, "head", **rays)
    planes, residual = _method(case, "canonical")(x["img"]), motion(pncc(x))
    head = render(planes + residual, x["camera"])
    second = render(planes + motion(pncc(x, "cond_tgt2")), x["camera2"])
    values = {
        "cano_planes": planes_first(planes),
        "secc_planes": planes_first(residual),
        "plane": planes_first(planes + residual),
        **_head(head),
        "image_feature": channels_first(head.feature)[:, 3:],
        **_head(second, "second/"),
    }
    module: Any = case.network.module
    if module.torso:
        cache = _method(case, "encode")(x["ref_torso_img"], x["bg_img"], x["segmap"])
        frame = _method(case, "frame")
        out, out2 = (frame(cache, h, x["kp_s"], x[k]) for h, k in ((head, "kp_d"), (second, "kp_d2")))
        values["occlusion_2"] = channels_first(out.torso.occlusion_2)
        values["deformed_torso_hid"] = channels_first(out.torso.hidden)
        image, image2 = out.rgb, out2.rgb
    else:
        enlarge = _method(case, "enlarge")
        image, image2 = enlarge(head), enlarge(second)
    values["image_before_clamp"] = channels_first(image)
    values["image"], values["second/image"] = _clipped(image), _clipped(image2)
    return values | (_gradients(case, x, rays) if "grad_total" in case.recorded else {})


def _gradients(case: Case, x: dict[str, Any], rays: dict[str, Any]) -> dict[str, Any]:
    """Of the raw image and the weights, by the image, the target's PNCC and the parameters."""
    apply = case.network.module.apply
    raw_weight, weight = (case.cotangent(k) for k in ("image_raw", "weights_img"))

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
    def total(params: Any, image: Any, target: Any) -> Any:
        bound = {**case.variables, "params": params}
        planes: Any = apply(bound, image, method="canonical")
        planes += apply(bound, pncc({**x, "cond_tgt": target}), method="motion")
        head: Any = apply(bound, planes, x["camera"], method="head", **rays)
        raw = jnp.clip(jnp.moveaxis(head.rgb, -1, 1), -1, 1)
        return (raw * raw_weight).sum() + (jnp.moveaxis(head.weight, -1, 1) * weight).sum()

    value, (grads, image, target) = total(case.variables["params"], x["img"], x["cond_tgt"])
    return {
        "grad_total": value[None],
        "grad/img": channels_first(image),
        "grad/cond_tgt": channels_first(target),
        **parameter_gradients(case, grads),
    }


RUNNERS: dict[str, Runner] = {
    "i2p_full_small": image_to_plane,
    "i2p_full_trigrid_v2_small": image_to_plane,
    "head_full": portrait,
    "head_full_small": portrait,
    "torso_full": portrait,
    "torso_full_small": portrait,
}
