"""Loss terms that the paper's three stages of images share, and what they need: masks, lips, points, perception.

Every term is a mean over the batch. Names in logs are ours, shorter than the original's `G_th1kh_mv_img_mae` and so
on: `mv` is the view or frame asked for (source to target), `ref` the source shown as it is; then `l1`, `raw_l1`,
`lpips`, `raw_lpips`, `lip_l1`, `lip_lpips`, `weight_l1`, `weight_entropy`, `adv`, `depth_l1`.
Letters: b images, h w, c; s side of the image, r of the raw image, n points, p planes.
"""

from collections.abc import Mapping
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from r3p import losses, lpips, weights
from r3p.errors import InputError
from r3p.models import layers
from r3p.models.perceptual import PerceptualLoss
from r3p.models.portrait import Portrait
from r3p.stages.pretrained import frozen_fields

Array = jax.Array
Tree = Any

LIPS = slice(48, 60)  # of the 68 key points: the outline of the lips


def clamped(image: Array) -> Array:
    """To [-1, 1]: what the losses see. Saturated pixels have no gradient, as in the original."""
    return jnp.clip(image, -1, 1)


def shrink(image: Array, side: int) -> Array:
    """[b, h, w, c] -> [b, side, side, c], antialiased: how a raw target is made of a large one."""
    return layers.resize(image, (side, side), antialias=True)


def grown(mask: Array, pixels: int) -> Array:
    """A mask [b, h, w, 1] in [0, 1], bool -> dilated by a square window of `pixels` at 512 pixels a side, float."""
    window = round(pixels * mask.shape[1] / 512) | 1
    return layers.dilate((mask > 0.5).astype(jnp.float32), window)


# ------------------------------------------------------------------------------------------------ reconstruction
def image_l1(prediction: Array, target: Array, kind: Literal["l1", "mse"] = "l1") -> Array:
    """Mean absolute (official `img_mae`) or squared error."""
    error = prediction - target
    return jnp.mean(jnp.abs(error) if kind == "l1" else jnp.square(error))


def weight_terms(weight: Array, mask: Array) -> dict[str, Array]:
    """Opacity against the head's silhouette, and its entropy in bits.

    Args:
      weight: [b, r, r, 1] rays' weight sums.
      mask: [b, r, r, 1] the head. (The silhouette itself: its dilation would ask for opacity beside the head.)

    Returns:
      `weight_l1`: mean w^2 off the head plus mean (1 - w)^2 on it; `weight_entropy`.
    """
    on = (mask > 0.5).astype(jnp.float32)

    def mean(value: Array, where: Array) -> Array:
        return (value * where).sum() / jnp.maximum(where.sum(), 1.0)

    silhouette = mean(jnp.square(weight), 1 - on) + mean(jnp.square(1 - weight), on)
    return {"weight_l1": silhouette, "weight_entropy": losses.binary_entropy(weight)}


# ------------------------------------------------------------------------------------------------ lips
def lip_boxes(keypoints: Array, size: int) -> Array:
    """Squares about the lips of key points [b, 68, 3] in [-1, 1]: int32 [b, 3], left, top and side in pixels.

    1.2 times as far from the middle as the farther of both half-spans; pushed inside the image, never empty.
    """
    points = (keypoints[:, LIPS, :2] + 1) * (size / 2)
    low, high = points.min(1), points.max(1)
    half = jnp.floor(1.2 * (high - low).max(-1) / 2).astype(jnp.int32)
    half = jnp.clip(half, 1, size // 2)
    centre = jnp.floor((low + high) / 2).astype(jnp.int32)
    corner = jnp.clip(centre - half[:, None], 0, size - 2 * half[:, None])
    return jnp.concatenate([corner, 2 * half[:, None]], axis=1)


def box_mask(boxes: Array, size: int) -> Array:
    """[b, 3] of `lip_boxes` -> float [b, size, size, 1], 1 inside."""
    place = jnp.arange(size)
    left, top, side = (boxes[:, k, None] for k in range(3))
    columns, rows = (((place >= at) & (place < at + side)).astype(jnp.float32) for at in (left, top))
    return (rows[:, :, None] * columns[:, None, :])[..., None]


def crop_boxes(image: Array, boxes: Array, size: int) -> Array:
    """Cuts the boxes [b, 3] out of images [b, h, w, c] and resizes them, bilinear -> [b, size, size, c].

    As cutting and then enlarging: pixels beyond the box are not looked at. A box larger than `size` is not antialiased.
    """

    def rows(start: Array, side: Array, count: int) -> Array:
        place = (jnp.arange(size) + 0.5) * side[:, None] / size - 0.5
        place = start[:, None] + jnp.clip(place, 0, side[:, None] - 1)
        return jnp.maximum(0.0, 1 - jnp.abs(place[..., None] - jnp.arange(count)))

    left, top, side = boxes[:, 0], boxes[:, 1], boxes[:, 2].astype(jnp.float32)
    precision = jax.lax.Precision.HIGHEST
    image = jnp.einsum("bsh,bhwc->bswc", rows(top, side, image.shape[1]), image, precision=precision)
    return jnp.einsum("bsw,bhwc->bhsc", rows(left, side, image.shape[2]), image, precision=precision)


def lip_l1(prediction: Array, target: Array, boxes: Array) -> Array:
    """Mean absolute error within the boxes: the mean of each image's box, then of the batch."""
    mask = box_mask(boxes, prediction.shape[1])
    error = (jnp.abs(prediction - target) * mask).sum((1, 2, 3)) / (mask.sum((1, 2, 3)) * prediction.shape[-1])
    return error.mean()


# ------------------------------------------------------------------------------------------------ planes
def density_l1(model: Portrait, variables: Tree, planes: Array, points: Array, shift: Array) -> Array:
    """Mean absolute difference of the densities at points [b, n, 3] and beside them, `shift` [b, n, 3] away."""
    both = jnp.concatenate([points, points + shift], axis=1)
    density = cast(Array, model.apply(variables, planes, both, method="density"))
    here, beside = jnp.split(density, 2, axis=1)
    return jnp.abs(here - beside).mean()


def laplacian(before: Array, here: Array, after: Array, *, squared: bool = True) -> Array:
    """How far planes are from the mean of their neighbours': the paper's L_Lap, or its absolute value."""
    away = here - (before + after) / 2
    return jnp.mean(jnp.square(away) if squared else jnp.abs(away))


def coarsened(planes: Array, size: Array) -> Array:
    """Planes as if they had `size` [b] texels a side, of those that they have: the augmentation of EG3D's rescaling.

    Planes [b, 3, (d,) h, w, c] are shrunk to that size, bilinear, and enlarged again, so that the arrays keep theirs.
    """
    n = planes.shape[-2]

    def there_and_back(size: Array) -> Array:
        size, full = size.astype(jnp.float32), jnp.arange(n)
        down = jnp.clip((full + 0.5) * (n / size) - 0.5, 0, n - 1)
        shrink = jnp.maximum(0.0, 1 - jnp.abs(down[:, None] - full))  # rows from `size` on are never looked at
        up = jnp.clip((full + 0.5) * (size / n) - 0.5, 0, size - 1)
        return jnp.maximum(0.0, 1 - jnp.abs(up[:, None] - full)) @ shrink

    across = jax.vmap(there_and_back)(size)
    planes = jnp.einsum("bij,b...jwc->b...iwc", across, planes)
    return jnp.einsum("bij,b...hjc->b...hic", across, planes)


def self_tuned(weight: Array, value: Array, *, goal: float, rate: float, top: float) -> Array:
    """The next weight of a term that is to stay near `goal`: heavier while the term is above it, within [0, top].

    It grows by `rate` for every decade that the term is above its goal, at every evaluation.
    """
    step = rate * (jnp.log10(jnp.maximum(value, 1e-12)) - np.log10(goal))
    return jnp.clip(weight + step, 0.0, top)


# ------------------------------------------------------------------------------------------------ perception
class Perception:
    """The perceptual term of a stage's `config.perceptual`.

    kind `vgg`: VGG19 and VGGFace with the weights at `weights` (of both), or at `vgg19` and `vggface`, as `r3p convert`
    writes them; it looks at images of `size`. `lpips`: LPIPS(VGG16) of `r3p assets`, on images as they come. `none`:
    the term is left out. Random networks never stand in for missing weights.

    signed: whether VGG19 and VGGFace get [-1, 1], as the original's head and torso stages feed them by mistake, instead
    of the [0, 1] that they were trained on.
    """

    def __init__(self, config: ConfigDict) -> None:
        self.kind, self.signed = config.kind, config.signed
        self._trees: Tree = {}
        if self.kind == "vgg":
            self._trees, fields = _vgg(config)
            self._network = PerceptualLoss(size=config.size, **frozen_fields(fields))
        elif self.kind == "lpips":
            self._trees = cast(Tree, lpips.load())
        elif self.kind != "none":
            raise InputError(f"perceptual.kind is {self.kind!r}: choose vgg, lpips or none")

    def __bool__(self) -> bool:
        return self.kind != "none"

    def init(self) -> Tree:
        """The networks' weights, which the train state carries along."""
        return self._trees

    def __call__(self, trees: Tree, prediction: Array, target: Array) -> Array:
        """The distance of images [b, h, w, 3] in [-1, 1], a scalar; no gradient reaches `target`."""
        target = jax.lax.stop_gradient(target)
        if self.kind == "lpips":
            return lpips.lpips(trees, prediction, target).mean()
        if not self.signed:
            prediction, target = prediction / 2 + 0.5, target / 2 + 0.5
        return cast(Array, self._network.apply(trees, prediction, target))


def _vgg(config: ConfigDict) -> tuple[Tree, dict[str, Any]]:
    if config.weights:
        trees, meta = weights.load(config.weights, "perceptual")
        fields = meta["fields"]
        return trees, {k: fields[k] for k in ("vgg19_fields", "vggface_fields") if k in fields}
    if not (config.vgg19 and config.vggface):
        raise InputError(
            "perceptual.kind is vgg but no weights are given: set perceptual.weights, or perceptual.vgg19 and "
            "perceptual.vggface, to what r3p convert made of the networks; or perceptual.kind to lpips or none"
        )
    params, fields = {}, {}
    for name in ("vgg19", "vggface"):
        trees, meta = weights.load(config[name], name)
        params[name] = trees["params"]
        fields[f"{name}_fields"] = {k: v for k, v in meta["fields"].items() if k in ("convs", "widths")}
    return {"params": params}, fields


def total(terms: Mapping[str, Array], factors: Mapping[str, Array | float]) -> Array:
    """The weighted sum; a term without a factor is only logged."""
    return sum((factors[name] * value for name, value in terms.items() if name in factors), jnp.zeros(()))
