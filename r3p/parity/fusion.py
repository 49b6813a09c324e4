"""Golden cases of the super-resolution: of the head, and of head, torso and background; and of the torso model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r3p.models import torso
from r3p.models.superres import TorsoSuperResolution
from r3p.parity.cases import Case, Runner, Values, parameter_gradients
from r3p.parity.layouts import captured, channels_first, channels_last, leaf
from r3p.parity.networks import NOISY_HEAD

_LOSSES = {
    "occlusion_l1": "facev2v/occlusion_reg_l1",
    "occlusion_2_l1": "facev2v/occlusion_2_reg_l1",
    "occlusion_2_entropy": "facev2v/occlusion_2_weights_entropy",
}


def _images(case: Case, *names: str) -> list[Any]:
    return [channels_last(case.inputs[name]) for name in names]


# ------------------------------------------------------------------------------------------------ head
def head(case: Case) -> Values:
    model = case.network.module
    run = jax.jit(lambda v, *a: model.apply(v, *a, capture_intermediates=True))
    rgb, state = run(case.variables, *_images(case, "rgb", "x"), case.inputs["ws"][0, -1])
    values = {
        "rgb": rgb,
        "block0_conv0": captured(state, "block0/conv0"),
        "block0_conv1": captured(state, "block0/conv1"),
        "block0_torgb": captured(state, "block0/rgb"),
    }
    for block in ("block0", "block1"):
        values[f"{block}.0"], values[f"{block}.1"] = captured(state, block)
    return {name: channels_first(value) for name, value in values.items()}


def head_resized(case: Case) -> Values:
    """Inputs of other sizes than the network wants."""
    run, values = jax.jit(case.network.module.apply), {}
    for n in ("64", "192"):
        values[f"rgb{n}"] = run(case.variables, *_images(case, f"rgb{n}", f"x{n}"), case.inputs["ws"][:, -1])
    return {name: channels_first(value) for name, value in values.items()}


def head_in_training(case: Case) -> Values:
    """With constant noise; without, as it trains, and its gradients."""
    model, images = case.network.module, _images(case, "rgb", "x")
    noisy = jax.jit(NOISY_HEAD.module.apply)(NOISY_HEAD.variables(case.official), *images)
    cotangent = channels_last(case.cotangent("rgb", like="rgb_train"))

    def total(variables: Any, rgb: Any, features: Any) -> Any:
        image = model.apply(variables, rgb, features)
        return jnp.sum(image * cotangent), image

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))
    (value, image), (grads, rgb, features) = run(case.variables, *images)
    return {
        "rgb_const": channels_first(noisy),
        "rgb_train": channels_first(image),
        "grad_total": value[None],
        "grad/rgb": channels_first(rgb),
        "grad/x": channels_first(features),
        **parameter_gradients(case, grads["params"]),
    }


# ------------------------------------------------------------------------------------------------ fusion
def fused(case: Case) -> Values:
    model: Any = case.network.module
    assert isinstance(model, TorsoSuperResolution)
    x = case.inputs
    images = _images(case, "rgb", "x", "weights_img", "ref_torso_rgb", "ref_bg_rgb", "segmap")
    run = jax.jit(lambda v, *a: model.apply(v, *a, capture_intermediates=True))
    out, state = run(case.variables, *images, x["kp_s"], x["kp_d"], x["ws"][0, -1])
    values = {
        "rgb": out.rgb,
        "occlusion_2": out.torso.occlusion_2,
        "deformed_torso_hid": out.torso.hidden,
        "torso_encoder": model.apply(case.variables, out.torso.hidden, method=lambda m, x: m.torso_encoder(x)),
        "bg_encoder": captured(state, "background_encoder"),
        "fuse_fg_bg": captured(state, "person_background_mix"),
    }
    blocks = ["block0", "block1"]
    if model.fuse in ("v2", "v3"):
        values["fuse_head_torso"] = captured(state, "head_torso_mix")
        blocks.append("head_torso_block")
    if model.fuse == "v3":
        values["alpha_predictor"] = jax.nn.sigmoid(captured(state, "alpha_predictor"))
    for block in blocks:
        values[f"{block}.0"], values[f"{block}.1"] = captured(state, block)
    values = {name: channels_first(value) for name, value in values.items()}
    if "grad_total" not in case.recorded:
        return values
    cotangent = channels_last(case.cotangent("rgb"))

    def total(params: Any, rgb: Any, features: Any) -> Any:
        variables = {**case.variables, "params": params}
        out: Any = model.apply(variables, rgb, features, *images[2:], x["kp_s"], x["kp_d"])
        return jnp.sum(out.rgb * cotangent)

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))
    value, (grads, rgb, features) = run(case.variables["params"], *images[:2])
    values |= {"grad_total": value[None], "grad/rgb": channels_first(rgb), "grad/x": channels_first(features)}
    return values | parameter_gradients(case, grads)


# ------------------------------------------------------------------------------------------------ torso
def _torso_arguments(case: Case) -> tuple[Any, ...]:
    source, segmap, image, weights = _images(case, "torso_src", "segmap", "head_img", "head_weights")
    return source, segmap, case.inputs["kp_s"], case.inputs["kp_d"], image, weights


def torso_model(case: Case) -> Values:
    model: Any = case.network.module
    args = _torso_arguments(case)
    out, state = jax.jit(lambda v, *a: model.apply(v, *a, capture_intermediates=True))(case.variables, *args)
    motion = captured(state, "motion")
    values = {
        "appearance_in_conv": captured(state, "appearance/stem"),
        "appearance_res0": captured(state, "appearance/res0"),
        "appearance": captured(state, "appearance"),
        "compress": captured(state, "compress"),
        "motion_down": torso.halve(captured(state, "motion/hourglass/down4")),
        "motion_up": captured(state, "motion/hourglass/up4"),
        "mask_conv": captured(state, "motion/mask"),
        "motion.1": motion.occlusion,
        "motion.2": motion.occlusion_2,
        "gen_in_conv": captured(state, "generator/stem"),
        "gen_res": captured(state, "generator/res5"),
        "gen_up": captured(state, "generator/up1"),
        "torso_rgb": out.rgb,
        "occlusion_2": out.occlusion_2,
        "deformed_torso_hid": out.hidden,
        "occlusion": out.motion.occlusion,
    }
    if model.version == 2:
        values["head_encoder"] = captured(state, "motion/head_encoder/res2")
        values["head_fuser"] = captured(state, "motion/head_fuser")
    values = {name: channels_first(value) for name, value in values.items()}
    values["motion.0"] = motion.deformation
    for prefix, mask in (("nomask", None), ("mask", case.inputs["target_mask"])):
        for name, value in torso.occlusion_losses(out, mask).items():
            values[f"{prefix}/{_LOSSES[name]}"] = value[None]
    if "grad_total" not in case.recorded:
        return values
    cotangents = [channels_last(case.cotangent(name)) for name in ("torso_rgb", "occlusion_2")]

    def total(params: Any, image: Any, head: Any, weights: Any) -> Any:
        out = model.apply({**case.variables, "params": params}, image, *args[1:4], head, weights)
        return jnp.sum(out.rgb * cotangents[0]) + jnp.sum(out.occlusion_2 * cotangents[1])

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2, 3)))
    value, (grads, *inner) = run(case.variables["params"], args[0], *args[4:])
    values["grad_total"] = value[None]
    for name, grad in zip(("torso_src", "head_img", "head_weights"), inner, strict=True):
        values[f"grad/{name}"] = channels_first(grad)
    return values | parameter_gradients(case, grads)


def torso_in_training(case: Case) -> Values:
    model, mask = case.network.module, case.inputs["target_mask"]
    run = jax.jit(lambda v, *a: model.apply(v, *a, train=True, mutable=["batch_stats"]))
    out, updated = run(case.variables, *_torso_arguments(case))
    values = {"torso_rgb": channels_first(out.rgb), "occlusion_2": channels_first(out.occlusion_2)}
    for name in (n for n in case.recorded if n.startswith("after/")):
        values[name] = leaf(updated, case.network.rules, name.removeprefix("after/"))
    # The official regulariser mixes the samples of a batch: the mean over pairs of one's occlusion and other's mask.
    for ours, occlusion in (("occlusion_l1", out.motion.occlusion), ("occlusion_2_l1", out.occlusion_2)):
        pairs = []
        for i in range(len(occlusion)):
            one = torso.Motion(out.rgb, out.motion.occlusion[i : i + 1], out.occlusion_2[i : i + 1])
            alone = torso.TorsoOutput(out.rgb[i : i + 1], out.hidden[i : i + 1], out.occlusion_2[i : i + 1], one)
            pairs += [torso.occlusion_losses(alone, mask[j : j + 1])[ours] for j in range(len(mask))]
        values[f"mask/{_LOSSES[ours]}"] = np.mean(pairs, keepdims=True)
    entropy = torso.occlusion_losses(out, mask)["occlusion_2_entropy"]
    return {**values, f"mask/{_LOSSES['occlusion_2_entropy']}": entropy[None]}


RUNNERS: dict[str, Runner] = {
    "sr_head": head,
    "sr_head_resize": head_resized,
    "sr_head_const_train": head_in_training,
    **{f"sr_warp_{t}_{f}": fused for t in ("v1", "v2") for f in ("v1", "v2", "v3", "nofuse")},
    "torso_v1": torso_model,
    "torso_v2": torso_model,
    "torso_v2_rgb": torso_model,
    "torso_v2_train": torso_in_training,
}
