"""LPIPS with VGG16 or AlexNet (Zhang et al. 2018, arXiv:1801.03924, version 0.1 "lin"), a pure function of its weights.

The weights come from `r3p assets`. As a metric it wants precision="highest"; as a training loss the
default precision and fewer stages do.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r3p.assets import asset_path
from r3p.errors import InputError

STAGES = 5
_CONVS = (2, 2, 3, 3, 3)  # convolutions of each stage; 2x2 max pooling stands between stages
# AlexNet's convolutions (stride, padding); 3x3 max pooling of stride 2 stands before the second and the third.
_ALEX = ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))
_ALEX_LEAST = 31  # pixels a side
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's mean and deviation for images in [-1, 1]

Params = dict[str, Any]


def load(path: str | Path | None = None, net: str = "vgg16") -> Params:
    """{"convs": [(kernel [h, w, i, o], bias [o])] * 13 or 5, "weights": [[o]] * 5} from the cache or an .npz file.

    net: "vgg16" or "alexnet". Raises InputError when the file is absent or holds something else.
    """
    path = asset_path(f"{net}.npz") if path is None else Path(path)
    scope, count = ("AlexNet_0", len(_ALEX)) if net == "alexnet" else ("VGG16_0", sum(_CONVS))
    try:
        with np.load(path, allow_pickle=False) as f:
            convs = [
                (jnp.asarray(f[f"{scope}/Conv_{k}/kernel"]), jnp.asarray(f[f"{scope}/Conv_{k}/bias"]))
                for k in range(count)
            ]
            weights = [jnp.asarray(f[f"NetLinLayer_{k}/Conv_0/kernel"]).reshape(-1) for k in range(STAGES)]
    except (OSError, ValueError, KeyError) as e:
        raise InputError(f"{path} does not hold LPIPS weights ({e}): run `r3p assets`") from e
    return {"convs": convs, "weights": weights}


def features(
    params: Params, images: jax.Array, stages: int = STAGES, precision: jax.lax.PrecisionLike = None
) -> list[jax.Array]:
    """VGG16's activations after each of the first stages: images [b, h, w, 3] in [-1, 1] -> [[b, h', w', c]]."""
    x = (images - jnp.array(_SHIFT, images.dtype)) / jnp.array(_SCALE, images.dtype)
    out, k = [], 0
    for stage in range(stages):
        if stage:
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        for _ in range(_CONVS[stage]):
            kernel, bias = params["convs"][k]
            x = jax.lax.conv_general_dilated(
                x,
                kernel.astype(x.dtype),
                (1, 1),
                "SAME",
                precision=precision,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            x = jax.nn.relu(x + bias.astype(x.dtype))
            k += 1
        out.append(x)
    return out


def alex_features(params: Params, images: jax.Array, precision: jax.lax.PrecisionLike = None) -> list[jax.Array]:
    """AlexNet's five activations: images [b, h, w, 3] in [-1, 1] -> [[b, h', w', c]]."""
    x = (images - jnp.array(_SHIFT, images.dtype)) / jnp.array(_SCALE, images.dtype)
    out = []
    for k, ((kernel, bias), (stride, pad)) in enumerate(zip(params["convs"], _ALEX, strict=True)):
        if k in (1, 2):
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")
        x = jax.lax.conv_general_dilated(
            x,
            kernel.astype(x.dtype),
            (stride, stride),
            [(pad, pad)] * 2,
            precision=precision,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = jax.nn.relu(x + bias.astype(x.dtype))
        out.append(x)
    return out


def lpips_alex(params: Params, a: jax.Array, b: jax.Array, *, precision: jax.lax.PrecisionLike = None) -> jax.Array:
    """`lpips` with AlexNet: the variant that most papers report. Raises InputError on shapes it cannot take."""
    if a.shape != b.shape or a.ndim != 4 or a.shape[-1] != 3 or min(a.shape[1:3]) < _ALEX_LEAST:
        raise InputError(
            f"LPIPS of {a.shape} and {b.shape}: expected two equal shapes [b, h, w, 3] of {_ALEX_LEAST} pixels or more"
        )
    return _distance(params, alex_features(params, jnp.concatenate([a, b]), precision), len(a))


def _distance(params: Params, pairs: list[jax.Array], count: int) -> jax.Array:
    """[b]: weighted squared distances of features whose first `count` images are compared with the rest."""
    total = jnp.zeros(count, jnp.float32)
    for x, weight in zip(pairs, params["weights"], strict=False):
        difference = _unit(x[:count]) - _unit(x[count:])
        total += (difference * difference * weight).sum(-1).mean((1, 2))
    return total


def _unit(x: jax.Array) -> jax.Array:
    """Each pixel's vector at length 1. The floor keeps the gradient finite where nothing is active."""
    x = x.astype(jnp.float32)
    return x / (jnp.sqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-20)) + 1e-10)


def lpips(
    params: Params, a: jax.Array, b: jax.Array, *, stages: int = STAGES, precision: jax.lax.PrecisionLike = None
) -> jax.Array:
    """Perceptual distance [b] of images [b, h, w, 3] in [-1, 1]; 0 for equal ones, about 0.6 for unrelated ones.

    stages: how many of VGG16's five are summed; fewer are cheaper and look at finer detail. Images need at least
    2^(stages-1) pixels a side. Raises InputError on other shapes.
    """
    if a.shape != b.shape or a.ndim != 4 or a.shape[-1] != 3:
        raise InputError(f"LPIPS of {a.shape} and {b.shape}: expected two equal shapes [b, h, w, 3]")
    if not 1 <= stages <= STAGES or min(a.shape[1:3]) < 2 ** (stages - 1):
        raise InputError(
            f"LPIPS with {stages} stages on {a.shape[1]}x{a.shape[2]} pixels: "
            f"expected 1 to {STAGES} stages and at least 2^(stages-1) pixels a side"
        )
    # One pass over both: the network is read once.
    return _distance(params, features(params, jnp.concatenate([a, b]), stages, precision), len(a))
