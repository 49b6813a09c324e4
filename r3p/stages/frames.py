"""Examples of `data_pipelines.frames` on the device: what the head and the torso stages compare with.

b images, s their side, p that of PNCC maps.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from r3p import camera, sharding
from r3p.errors import InputError
from r3p.models import layers
from r3p.models.portrait import Portrait
from r3p.stages import Batch, terms
from r3p.stages.adversary import Shown
from r3p.stages.teacher import to_float

Array = jax.Array
Tree = Any

HEAD_CLASSES, TORSO_CLASSES = (1, 3, 5), (2, 4)


class Truth(NamedTuple):
    """A frame as it is: the whole picture and the head on black [b, s, s, 3] in [-1, 1], masks [b, s, s, 1] in [0, 1].

    keypoints [b, 68, 3], camera [b, 25].
    """

    image: Array
    head: Array
    head_mask: Array
    torso_mask: Array
    keypoints: Array
    camera: Array

    def shown(self, model: Portrait) -> Shown:
        """The head as a discriminator wants it."""
        return Shown(self.head, terms.shrink(self.head, model.raw_resolution), self.camera)


def _of_classes(segmap: Array, classes: tuple[int, ...]) -> Array:
    return jnp.isin(segmap, jnp.array(classes))[..., None].astype(jnp.float32)


def source_truth(batch: Batch) -> Truth:
    """The source frame; its masks are its classes'."""
    image, segmap = to_float(batch["source"]), batch["source_segmap"]
    mask = _of_classes(segmap, HEAD_CLASSES)
    head = jnp.where(mask > 0, image, -1.0)
    torso = _of_classes(segmap, TORSO_CLASSES)
    return Truth(image, head, mask, torso, batch["source_keypoints"], batch["source_camera"])


def target_truth(batch: Batch) -> Truth:
    """The target frame; its torso is the person less the head."""
    head, person = (batch[k][..., None].astype(jnp.float32) / 255 for k in ("target_head_mask", "target_mask"))
    images = to_float(batch["target"]), to_float(batch["target_head"])
    return Truth(*images, head, person * (1 - head), batch["target_keypoints"], batch["target_camera"])


def model_input(head: Array, model: Portrait) -> Array:
    """The head on black at the size that image-to-plane wants."""
    return layers.resize(head, (model.source_size,) * 2, antialias=True)


def pncc_stack(batch: Batch, target: Array) -> Array:
    """What the motion adapter reads for target maps u8 [b, p, p, 3]: canonical, source and target, [b, p, p, 9]."""
    maps = batch["pncc_canonical"], batch["pncc_source"], target
    return jnp.concatenate([to_float(m) for m in maps], axis=-1)


def perceived(
    prefix: str, perception: terms.Perception, trees: Tree, image: Array, truth: Array, small: Array, raw: Array
) -> dict[str, Array]:
    """Perceptual terms of the image and of the raw image, if any."""
    if not perception:
        return {}
    pairs = {f"{prefix}_lpips": (image, truth), f"{prefix}_raw_lpips": (small, raw)}
    return {name: perception(trees, *pair) for name, pair in pairs.items()}


def lip_terms(
    prefix: str, perception: terms.Perception, trees: Tree, image: Array, truth: Array, keypoints: Array, size: int
) -> dict[str, Array]:
    """Terms of the square about the lips, which is enlarged to `size` for the perceptual one."""
    boxes = terms.lip_boxes(keypoints, image.shape[1])
    out = {f"{prefix}_lip_l1": terms.lip_l1(image, truth, boxes)}
    if perception:
        crops = (terms.crop_boxes(x, boxes, size) for x in (image, truth))
        out[f"{prefix}_lip_lpips"] = perception(trees, *crops)
    return out


def init_variables(model: Portrait, config: ConfigDict, rng: Array, *, method: str) -> Tree:
    """Fresh variables by a pass of `animate` or, with torso, `__call__` over an empty example."""
    side, pncc = model.frame_size, config.data.pncc_size
    frontal = jnp.zeros((1, 3))  # the camera of a frontal head: its rays are well defined
    arguments = [
        jnp.zeros((1, model.source_size, model.source_size, 3)),
        jnp.zeros((1, pncc, pncc, 9)),
        camera.from_pose(frontal, frontal),
    ]
    if method == "__call__":
        found = model.superres_fields.get("keypoints") == "unsupervised"  # in images, instead of landmarks
        points = jnp.zeros((1, side, side, 3) if found else (1, 68, 3))
        arguments += [*(jnp.zeros((1, side, side, c)) for c in (3, 3, 6)), points, points]
    # Behind a barrier: the compiler would compute the whole network's answer to constants.
    return model.init(rng, *jax.lax.optimization_barrier(arguments), method=method)


def streams(
    config: ConfigDict, size: int, keys: tuple[str, ...], *, extrapolated: bool = False
) -> tuple[Callable[[int], Iterator[Batch]], Callable[[], Iterator[Batch]] | None]:
    """`batches` and `held_out` of a stage on the frames of `config.data`: `keys` of them, see `data_pipelines.frames`.

    `held_out` is None where `config.held_out_batches` is 0.
    """
    from data_pipelines import frames as data

    settings = config.data

    def rows(held_out: bool) -> Any:
        source = data.examples(
            settings.source, folder=settings.folder, seed=config.seed, size=size, pncc_size=settings.pncc_size,
            held_out=held_out,
        )  # fmt: skip
        wanted = data.KEYS if held_out else keys  # an evaluation has no use for the motion about a frame
        return data.part(data.Frames(source, config.seed, settings.pncc_size, wanted, extrapolated), source, held_out)

    def batches(first: int) -> Iterator[Batch]:
        if config.held_out_batches:
            try:
                rows(True)  # now, not at the first evaluation, an empty half is told
            except InputError as error:
                raise InputError(f"{error}; or set held_out_batches=0 to train without evaluations") from None
        return data.batches(rows(False), config.batch_size, config.seed, first, sharding.process())

    def held_out() -> Iterator[Batch]:
        return data.batches(rows(True), config.batch_size, config.seed, 0, sharding.process(), config.held_out_batches)

    return batches, held_out if config.held_out_batches else None
