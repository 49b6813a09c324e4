"""Golden cases of image-to-plane networks, the motion adapter and the refiner of tri-grids."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r3p.models.motion_adapter import MotionAdapter
from r3p.parity.cases import Case, Runner, Values, parameter_gradients
from r3p.parity.layouts import captured, channels_first, channels_last, entering, planes_first, tokens


def _gradients(case: Case, image: str, planes: Any) -> Values:
    """Of the planes times their cotangent, by the parameters and the input `image`; {} when none were recorded."""
    if "grad_total" not in case.recorded:
        return {}
    cotangent = case.cotangent("planes")

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradient(params: Any, x: Any) -> Any:
        out: Any = case.network.module.apply({**case.variables, "params": params}, x)
        return (jnp.moveaxis(out, -1, 2) * cotangent).sum()

    grads, inner = gradient(case.variables["params"], channels_last(case.inputs[image]))
    return {
        # In double precision: the sum of 400,000 signed terms loses more than the networks do.
        "grad_total": np.sum(planes_first(planes).astype(np.float64) * cotangent)[None],
        f"grad/{image}": channels_first(inner),
        **parameter_gradients(case, grads),
    }


def _apply(case: Case, image: str, part: str) -> tuple[Any, Any, Any]:
    """Planes, the values of all submodules, and what the submodule `part` is given."""

    def run(variables: Any, x: Any) -> tuple[Any, Any, Any]:
        with entering(part) as given:
            planes, state = case.network.module.apply(variables, x, capture_intermediates=True)
        return planes, state, given[0]

    return jax.jit(run)(case.variables, channels_last(case.inputs[image]))


def image_to_plane(case: Case) -> Values:
    planes, state, given = _apply(case, "img", "low_encoder/resnet")
    stages = captured(state, "low_encoder/resnet")
    return {
        "planes": planes_first(planes),
        "encoder.0": channels_first(given),
        **{f"encoder.{i + 1}": channels_first(stage) for i, stage in enumerate(stages)},
        "aspp": channels_first(captured(state, "low_encoder/pooling")),
        "low_reso_encoder": channels_first(captured(state, "low_encoder")),
        "vit_patch_embed.0": tokens(captured(state, "low_vit/embed")),
        "vit_block1": tokens(captured(state, "low_vit/block0")),
        "vit_block5": tokens(captured(state, "low_vit/block4")),
        "low_reso_vit": channels_first(captured(state, "low_vit")),
        "high_reso_encoder": channels_first(captured(state, "high_encoder")),
        "tri_patch_embed.0": tokens(captured(state, "fusion/embed")),
        "tri_block1": tokens(captured(state, "fusion/block0")),
        "tri_out": channels_first(captured(state, "fusion")),
        **_gradients(case, "img", planes),
    }


def segformer(case: Case) -> Values:
    """Both the motion adapter, whose SegFormer is a part of it, and the image-to-plane network on one SegFormer."""
    adapter = isinstance(case.network.module, MotionAdapter)
    at = "planes/" if adapter else ""
    planes, state, given = _apply(case, "x", at.rstrip("/"))

    def seen(path: str) -> Any:
        value = captured(state, at + path)
        return value[0] if isinstance(value, tuple) else value

    return {
        "planes": planes_first(planes),
        **({"prenet": channels_first(given)} if adapter else {}),
        "patch_embed1.0": tokens(seen("encoder/embed0")),
        "block1_0": tokens(seen("encoder/block0_0")),
        "block3_1_attn": tokens(seen("encoder/block2_1/attention")),
        **{f"mix_vit.{i}": channels_first(seen(f"encoder/norm{i}")) for i in range(4)},
        "fuse_head": channels_first(seen("head")),
        "to_plane_cnn": channels_first(seen("out")),
        **_gradients(case, "x", planes),
    }


def batch_statistics(case: Case) -> Values:
    """The motion adapter as it trains, without dropout: with the batch's statistics; the running ones after it."""
    model = MotionAdapter(dropout=0.0, encoder={"drop_path": 0.0})
    run = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    planes, updated = run(case.variables, channels_last(case.inputs["x"]), rngs={"dropout": jax.random.key(0)})
    statistics = updated["batch_stats"]["planes"]["head"]["norm"]
    return {
        "planes": planes_first(planes),
        "running_mean": statistics["mean"],
        "running_var": statistics["var"],
    }


def refiner(case: Case) -> Values:
    x = case.inputs["x"]
    b, _, h, w = x.shape
    # Official channels: plane, channel, depth slice.
    grid = x.reshape(b, 3, 32, 3, h, w).transpose(0, 1, 3, 4, 5, 2)
    y = np.asarray(jax.jit(case.network.module.apply)(case.variables, grid))
    return {"y": y.transpose(0, 1, 5, 2, 3, 4).reshape(x.shape)}


RUNNERS: dict[str, Runner] = {
    "img2plane": image_to_plane,
    "img2plane_small": image_to_plane,
    "segformer_img2plane_b3": segformer,
    "secc2plane": segformer,
    "secc2plane_small": segformer,
    "secc2plane_bn_train": batch_statistics,
    "plane2grid": refiner,
}
