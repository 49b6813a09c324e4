"""Image-to-plane, motion adapter, renderer and head-torso-background super-resolution, trained together on a teacher.

This is how the small default is made: the teacher (synthetic people, a photograph) shows a source and a target view
with true camera, PNCC and masks, so what the paper does in three stages needs one. The same loss adapts the model to a
photograph (`r3p.adapt`).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from r3p import camera, losses, lpips, sharding
from r3p.models import layers
from r3p.models.decoder import Head
from r3p.models.portrait import Portrait
from r3p.models.superres import FusionOutput
from r3p.stages import Batch, Stage
from r3p.state import TrainState, apply_gradients, compute_dtype, create, gradients, make_optimizer

Array = jax.Array

HEAD_CLASSES = (1, 3, 5)  # hair, face skin, others
# Kernels stored with unit variance need larger steps than others for the same relative change.
UNIT_VARIANCE = "^decoder|^superres/(block|head_torso_block)|^adapter/mix"
# What of an example goes to the device.
KEYS = (
    "source", "source_segmap", "torso", "background", "target", "target_head", "target_head_mask", "target_mask",
    "target_camera", "source_keypoints", "target_keypoints", "pncc_canonical", "pncc_source", "pncc_target", "weight",
)  # fmt: skip


def to_float(image: Array) -> Array:
    """uint8 in [0, 255] -> float32 in [-1, 1]."""
    return image.astype(jnp.float32) / 127.5 - 1


def head_image(source: Array, segmap: Array, size: int) -> Array:
    """Source photograph u8 [b, s, s, 3], class ids u8 [b, s, s] -> the head on black, float [b, size, size, 3]."""
    keep = jnp.isin(segmap, jnp.array(HEAD_CLASSES))[..., None]
    return layers.resize(jnp.where(keep, to_float(source), -1.0), (size, size), antialias=True)


def pncc_stack(canonical: Array, source: Array, target: Array) -> Array:
    """Three u8 maps [b, p, p, 3] -> what the motion adapter reads, float [b, p, p, 9]."""
    return jnp.concatenate([to_float(canonical), to_float(source), to_float(target)], axis=-1)


def jitter_and_u(model: Portrait, batch_size: int, rng: Array) -> tuple[Array, Array | None]:
    """Random sample positions for training: `r3p.render.render`'s jitter and u."""
    rays = model.raw_resolution**2
    a, b = jax.random.split(rng)
    u = jax.random.uniform(b, (batch_size, rays, model.fine)) if model.fine else None
    return jax.random.uniform(a, (batch_size, rays, model.coarse)), u


def frame_loss(
    head: Head,
    frame: FusionOutput,
    batch: Batch,
    weights: Mapping[str, float],
    perceptual: tuple[lpips.Params, Array] | None = None,
    *,
    patch: int = 64,
) -> tuple[Array, dict[str, Array]]:
    """The loss of a rendered frame against its teacher.

    Args:
      head, frame: from `Portrait.frame`.
      batch: u8 images of the teacher (see `KEYS`), weight in sixteenths.
      weights: of each term: raw, raw_mask, image, edges, torso, person, entropy, lpips.
      perceptual: LPIPS's parameters and an rng, when that term is wanted.
      patch: side of the piece of the face that LPIPS sees, pixels; the frame's for all of it.

    Returns:
      The weighted sum, and each term with the image's PSNR in dB.
    """
    target, weight = to_float(batch["target"]), batch["weight"][..., None].astype(jnp.float32) / 16
    raw, mid = head.rgb.shape[1], frame.torso.rgb.shape[1]

    def shrink(image: Array, side: int) -> Array:
        return layers.resize(image, (side, side), antialias=True)

    mask = batch["target_head_mask"][..., None].astype(jnp.float32) / 255
    person = shrink(batch["target_mask"][..., None].astype(jnp.float32) / 255, mid)
    torso_only = person * (1 - shrink(mask, mid))
    terms = {
        "raw": losses.weighted_l1(head.rgb, shrink(to_float(batch["target_head"]), raw), shrink(weight, raw)),
        "raw_mask": losses.mask_l1(head.weight, shrink(mask, raw)),
        "image": losses.weighted_l1(frame.rgb, target, weight),
        "edges": losses.gradient_l1(frame.rgb, target, weight),
        "torso": (jnp.abs(frame.torso.rgb - shrink(target, mid)) * torso_only).mean(),
        "person": losses.mask_l1(frame.person_mask, person),
        "entropy": losses.binary_entropy(head.weight),
    }
    if perceptual is not None:
        params, rng = perceptual
        terms["lpips"] = losses.patch_lpips(params, frame.rgb, target, batch["target_keypoints"], rng, size=patch)
    total = sum((weights[name] * value for name, value in terms.items()), jnp.zeros(()))
    return total, {**terms, "psnr": losses.psnr(jnp.clip(frame.rgb, -1, 1), target)}


def forward(model: Portrait, variables: Any, batch: Batch, rng: Array | None, *, train: bool) -> tuple[Any, Any]:
    """Source to target through the whole model: `((head, frame), new model state)`; rng None = no jitter."""
    size = batch["source"].shape[0]
    jitter, u = (None, None) if rng is None else jitter_and_u(model, size, rng)
    arguments = (
        head_image(batch["source"], batch["source_segmap"], model.source_size),
        pncc_stack(batch["pncc_canonical"], batch["pncc_source"], batch["pncc_target"]),
        batch["target_camera"],
        to_float(batch["torso"]),
        to_float(batch["background"]),
        jax.nn.one_hot(batch["source_segmap"], 6),
        batch["source_keypoints"],
        batch["target_keypoints"],
    )
    mutable = [name for name in variables if name != "params"] if train else []
    out = model.apply(
        variables, *arguments, train=train, jitter=jitter, u=u, mutable=mutable,
        rngs=None if rng is None else {"dropout": jax.random.fold_in(rng, 1)},
    )  # fmt: skip
    return out


def example_shapes(size: int, pncc_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of one example on the device, without the batch axis."""
    image, mask, pncc = (size, size, 3), (size, size), (pncc_size, pncc_size, 3)
    shapes = {"source_keypoints": (68, 3), "target_keypoints": (68, 3), "target_camera": (25,)}
    out = {}
    for key in KEYS:
        shape = shapes.get(
            key, pncc if "pncc" in key else mask if key.endswith(("mask", "segmap", "weight")) else image
        )
        out[key] = jax.ShapeDtypeStruct(shape, jnp.float32 if key in shapes else jnp.uint8)
    return out


def init_variables(model: Portrait, size: int, pncc_size: int, rng: Array) -> Any:
    """Fresh variables of a model for examples of these sizes."""
    batch = {k: jnp.zeros((1, *s.shape), s.dtype) for k, s in example_shapes(size, pncc_size).items()}
    # The camera of a frontal head, so that the initial pass's rays are well defined.
    frontal = jnp.zeros((1, 3))
    images = (
        head_image(batch["source"], batch["source_segmap"], model.source_size),
        pncc_stack(*(batch[f"pncc_{k}"] for k in ("canonical", "source", "target"))),
        camera.from_pose(frontal, frontal),
        to_float(batch["torso"]),
        to_float(batch["background"]),
        jax.nn.one_hot(batch["source_segmap"], 6),
        batch["source_keypoints"],
        batch["target_keypoints"],
    )
    # Behind a barrier: the compiler would compute the whole network's answer to constants.
    return model.init({"params": rng}, *jax.lax.optimization_barrier(images))


def make(config: ConfigDict) -> Stage:
    """The stage from its config (`configs/portrait.py`)."""
    from data_pipelines import portrait as data

    model = Portrait(**config.model.to_dict(), dtype=compute_dtype(config))
    weights = config.loss.to_dict()

    def initialise(rng: Array) -> Any:
        return init_variables(model, config.data.size, config.data.pncc_size, rng)

    optimizer = make_optimizer(config, jax.eval_shape(initialise, jax.random.key(0))["params"])

    def init(rng: Array) -> TrainState:
        return create(initialise(rng), optimizer)

    def step(state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, dict[str, Array]]:
        def loss(params: Any, batch: Batch, rng: Array) -> tuple[Array, Any]:
            variables = {"params": params, **state.model_state}
            (head, frame), model_state = forward(model, variables, batch, rng, train=True)
            total, metrics = frame_loss(head, frame, batch, weights)
            return total, (model_state, metrics)

        (total, (model_state, metrics)), grads = gradients(
            loss, state.params, batch, rng, accumulate=config.accumulate, remat=config.remat
        )
        state = apply_gradients(state, grads, {**state.model_state, **model_state}, optimizer, config.average_decay)
        return state, {"loss": total, **metrics}

    @jax.jit
    def predict(variables: Any, batch: Batch) -> tuple[Array, Array, Array]:
        (head, frame), _ = forward(model, variables, batch, None, train=False)
        return head.rgb, frame.rgb, frame.torso.rgb

    def preview(state: TrainState, batch: Batch) -> dict[str, np.ndarray]:
        raw, image, torso = predict(state.variables(averaged=True), batch)
        size = image.shape[1:3]
        parts = [layers.resize(x, size) for x in (raw, torso)]
        rows = [to_float(batch["source"]), to_float(batch["target"]), image, *parts]
        strip = jnp.concatenate([jnp.concatenate(list(row), axis=0) for row in rows], axis=1)
        return {"source_target_image_raw_torso": np.asarray(jnp.clip(strip * 127.5 + 127.5, 0, 255)).astype(np.uint8)}

    def batches(first: int) -> Any:
        return data.batches(
            config.data.folder, config.batch_size, config.seed, first, KEYS, sharding.process(), config.data.count
        )

    return Stage(init, step, batches, preview, accumulates=True, half=True)
