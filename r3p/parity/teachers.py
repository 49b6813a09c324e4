"""Golden cases of what teaches: EG3D, the discriminator, perceptual and other losses, schedules."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r3p import losses, schedules
from r3p.models import layers
from r3p.models.discriminator import gradient_penalty
from r3p.parity.cases import Case, Runner, Values, parameter_gradients
from r3p.parity.layouts import captured, channels_first, channels_last, planes_first


def generator(case: Case) -> Values:
    model: Any = case.network.module
    x, variables = case.inputs, case.variables

    def style(model: Any, truncation: float) -> Any:
        return model.style(x["z"], x["ws_camera"], truncation)

    ws = model.apply(variables, 0.7, method=style)
    values = {"ws_psi1": model.apply(variables, 1.0, method=style)[:, 0], "ws": ws}
    run = jax.jit(lambda v, ws: model.apply(v, ws, method="planes", capture_intermediates=True))
    planes, state = run(variables, ws)
    for side in (4, 8, 16, 32, 64, 128, 256):
        features, image = captured(state, f"backbone/block{side}")
        values[f"b{side}.0"], values[f"b{side}.1"] = channels_first(features), channels_first(image)
    values["plane"] = planes_first(planes)
    silent = model.clone(backbone_fields={"noise": "none"})
    quiet = jax.jit(lambda v, ws: silent.apply(v, ws, method="planes"))(variables, ws)
    values["plane_noise_none"] = planes_first(quiet).reshape(1, 96, 256, 256)

    def draw(model: Any, jitter: Any, u: Any, ws: Any, planes: Any) -> Any:
        head = model.head(planes, x["camera"], jitter=jitter, u=u)
        return head, model.enlarge(head, ws)

    jitter, u = x["jitter"].reshape(1, -1, 48), x["u"][None]
    run = jax.jit(lambda v, *a: model.apply(v, *a, method=draw, capture_intermediates=True))
    (head, image), state = run(variables, jitter, u, ws, planes)
    values["image"] = channels_first(image)
    values["image_before_clamp"] = channels_first(captured(state, "superres"))
    values["image_raw"] = channels_first(head.rgb)
    values["image_depth"] = channels_first(head.depth)
    values["image_feature"] = channels_first(head.feature[..., 3:])
    return values


def discriminator(case: Case) -> Values:
    """Logits, their gradients, the gradient penalty and its gradients."""
    model: Any = case.network.module
    images = channels_last(case.inputs["image"]), channels_last(case.inputs["image_raw"])
    camera, noise = case.inputs["camera"], case.inputs["noise"]
    run = jax.jit(lambda v, *a: model.apply(v, *a, capture_intermediates=True))
    logits, state = run(case.variables, *images, camera, noise)
    values = {f"b{side}.0": channels_first(captured(state, f"block{side}")) for side in (512, 128, 32, 8)}
    values |= {"embed": captured(state, "mapping/embed"), "mapping": captured(state, "mapping"), "logits": logits}
    if "grad_total" in case.recorded:
        cotangent = case.cotangent("logits")

        def total(variables: Any, *images: Any) -> Any:
            return jnp.sum(model.apply(variables, *images, camera, noise) * cotangent)

        value, (grads, *inner) = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(case.variables, *images)
        values["grad_total"] = value[None]
        for name, grad in zip(("image", "image_raw"), inner, strict=True):
            values[f"grad/{name}"] = channels_first(grad)
        values |= parameter_gradients(case, grads["params"])
    if "r1" in case.recorded:

        def penalty(variables: Any, *images: Any) -> Any:
            return gradient_penalty(lambda *pair: model.apply(variables, *pair, camera, noise), *images)

        value, grads = jax.jit(jax.value_and_grad(penalty))(case.variables, *images)
        values |= {"r1": value[None], **parameter_gradients(case, grads["params"], "r1_grad/")}
    return values


def perceptual(case: Case) -> Values:
    model: Any = case.network.module
    a, b, a128, b128 = (channels_last(case.inputs[k]) for k in ("a", "b", "a128", "b128"))
    values: dict[str, Any] = {}
    run = jax.jit(lambda v, a: [model.bind(v).vgg19(a), model.bind(v).vggface(a)])
    for name, seen in zip(("vgg19", "vggface"), run(case.variables, a), strict=True):
        values |= {f"{name}/relu_{i + 1}_1": channels_first(x) for i, x in enumerate(seen)}
    values["loss512"] = jax.jit(model.apply)(case.variables, a, b)[None]
    loss, grad = jax.jit(jax.value_and_grad(model.apply, argnums=1))(case.variables, a128, b128)
    return {**values, "loss128": loss[None], "loss128_grad": channels_first(grad)}


def schedule_values(steps: Any) -> Values:
    """The released trainings' schedules at these steps, under their recorded names."""

    def columns(rates: Any) -> Any:
        return np.stack(list(rates.values()), -1)

    return {
        "kl_annealing_0.02": schedules.cyclic_weight(steps, top=0.02),
        "lr_secc": columns(schedules.head_rates(steps)),
        "lr_torso": columns(schedules.torso_rates(steps)),
        "lr_img2plane": columns(schedules.image_to_plane_rates(steps)),
        "lr_syncnet": schedules.syncnet_rate(steps)[:, None],
        "lr_a2m": schedules.audio_to_motion_rate(steps)[:, None],
    }


def losses_and_schedules(case: Case) -> Values:
    x = case.inputs
    prediction, target, mask = (jnp.asarray(channels_last(x[k])) for k in ("pred", "gt", "mask"))
    values = dict(schedule_values(jnp.asarray(case.recorded["steps"])))
    for name, squared in (("l1", False), ("l2", True)):
        for outside in (0.2, 0.5):
            loss = jax.value_and_grad(losses.masked_error)
            value, grad = loss(prediction, target, mask, outside=outside, squared=squared)
            values[f"masked_error_{name}_{outside}"] = value[None]
            values[f"masked_error_{name}_{outside}_grad"] = channels_first(grad)
    frames = x["x_mask"]
    return {
        **values,
        "dilate_mask_21": channels_first(layers.dilate(mask.astype(jnp.float32), 21)),
        "set_unmasked_to_black": channels_first(losses.black_outside(prediction, mask)),
        "a2m/lap_loss": losses.frame_laplacian(x["x"], frames, zero_ends=True)[None],
        "a2m/mse_loss": losses.frame_mse(x["x"], x["y"], frames)[None],
        "a2m/mae_loss": losses.frame_mae(x["x"], x["y"], frames)[None],
        "a2m/l2_reg_loss": losses.frame_power(x["x"], frames)[None],
        "a2m/vel_loss": losses.frame_velocity(x["x"], frames)[None],
        "a2m/lm468_mse_loss": losses.landmark_mse(x["lm_x"], x["lm_y"], frames)[None],
    }


RUNNERS: dict[str, Runner] = {
    "eg3d_r3d": generator,
    "eg3d_orig": generator,
    "disc": discriminator,
    "disc_b1": discriminator,
    "perceptual": perceptual,
    "losses": losses_and_schedules,
}
