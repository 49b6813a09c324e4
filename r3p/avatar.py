"""Avatar: prepare a portrait once, render many frames. The whole inference graph in one readable file.

avatar = prepare(photograph, steps=160)
for frame in frames(avatar, Motion(expression, euler, trans)):
    ...
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict

from r3p import adapt, camera, face, fit, matting, motion, photo, weights
from r3p.detect import FaceFinder
from r3p.errors import InputError
from r3p.models.decoder import Head
from r3p.models.portrait import Portrait
from r3p.models.superres import FusionOutput
from r3p.puppet import Puppet
from r3p.stages import portrait as stage

Array = np.ndarray
Tree = Any

DEFAULT_WEIGHTS = Path(__file__).parent / "assets" / "portrait.npz"
CROP_SIZE = 512
FACE_AREA = 0.2  # of the crop, unless the user asks for another framing
SMOOTHED = 3  # frames
KIND, WEIGHTS_KIND = "portrait", "portrait model"


@dataclass(frozen=True)
class Avatar:
    """A prepared portrait: everything that does not change with time, and the model adapted to it.

    Attributes:
      fields: of `Portrait`.
      variables: adapted variables, without image-to-plane.
      canonical: canonical planes [1, 3, h, w, c].
      identity [80], expression [64], euler [3], trans [3]: the fit of the photograph.
      source, torso, background: u8 [s, s, 3] at the frames' size; segmap u8 [s, s].
      figures: how the adaptation ended.
    """

    fields: dict[str, Any]
    variables: Tree
    canonical: Array
    identity: Array
    expression: Array
    euler: Array
    trans: Array
    source: Array
    torso: Array
    background: Array
    segmap: Array
    figures: dict[str, float]

    @property
    def size(self) -> int:
        """Side of the frames in pixels."""
        return self.source.shape[0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a portrait file, which `load` reads and `r3p talk --portrait` reuses."""
        arrays = ("canonical", "identity", "expression", "euler", "trans", "source", "torso", "background", "segmap")
        trees = {"variables": self.variables, **{name: getattr(self, name) for name in arrays}}
        meta = {"kind": KIND, "fields": self.fields, "figures": self.figures}
        weights.save(path, trees, meta)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Avatar":
        """Reads a portrait file. Raises InputError when it is none."""
        trees, meta = weights.load(path, KIND)
        try:
            return cls(fields=meta["fields"], figures=meta["figures"], **trees)
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{path} was written by another version of r3p ({error}): prepare the portrait again"
            ) from None


@dataclass(frozen=True)
class Motion:
    """What the head does: expression [t, 64], euler [t, 3] radians, trans [t, 3] head units of 10 cm."""

    expression: Array
    euler: Array
    trans: Array

    def __post_init__(self) -> None:
        t = len(self.expression)
        if not t or self.euler.shape != (t, 3) or self.trans.shape != (t, 3):
            raise InputError(
                f"motion of shapes {self.expression.shape}, {self.euler.shape}, {self.trans.shape}: expected [t, 64], "
                "[t, 3], [t, 3] with the same t of at least 1"
            )


def load_model(path: str | os.PathLike[str] | None = None) -> tuple[Portrait, dict[str, Tree], dict[str, Any]]:
    """Model, pre-trained variables and description of a weight file; None = the embedded default."""
    trees, meta = weights.load(DEFAULT_WEIGHTS if path is None else path, WEIGHTS_KIND)
    return build(meta["fields"]), trees, meta


def build(fields: Mapping[str, Any]) -> Portrait:
    """The model of these fields, say from JSON: frozen, since a static argument of a jitted function is hashed."""

    def freeze(value: Any) -> Any:
        if isinstance(value, Mapping):
            return FrozenDict({k: freeze(v) for k, v in value.items()})
        return tuple(freeze(v) for v in value) if isinstance(value, list | tuple) else value

    return Portrait(**{k: freeze(v) for k, v in fields.items()})


def find_portrait(
    image: Array, finder: FaceFinder, *, name: str = "the photograph", face_area: float = FACE_AREA,
    face_index: int | None = None, background: Array | None = None,
) -> tuple[photo.Crop, matting.Layers, fit.Fit]:  # fmt: skip
    """Crops a photograph [h, w, 3] to its face, splits it into layers and fits the head.

    Raises:
      InputError: no face, several faces, or one too small.
    """
    found = finder.find(image, name=name, face_index=face_index)
    crop = photo.crop_portrait(image, found.landmarks, CROP_SIZE, face_area)
    segmap = finder.segment(crop.image).argmax(-1).astype(np.uint8) if finder.has_classes else None
    behind = (
        None if background is None else cv2.resize(background, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_AREA)
    )
    layers = matting.split_layers(
        crop.image, finder.person_mask(crop.image), crop.landmarks, segmap=segmap, background=behind
    )
    fitted = fit.fit_image(face.load_face_model(), crop.landmarks[:, :2] / CROP_SIZE)
    return crop, layers, fitted


def prepare(
    image: Array,
    *,
    steps: int,
    name: str = "the photograph",
    model_path: str | os.PathLike[str] | None = None,
    finder: FaceFinder | None = None,
    face_area: float = FACE_AREA,
    face_index: int | None = None,
    background: Array | None = None,
    spread: float = 0.0,
    seed: int = 0,
    progress: Callable[[int, dict[str, float]], None] | None = None,
) -> Avatar:
    """A photograph RGB u8 [h, w, 3] -> an avatar, adapted for `steps` steps (see `r3p.adapt`).

    background: u8 image instead of the photograph's own. spread: of the expressions that it learns, see `Puppet`.
    Raises InputError when no portrait can be found in it.
    """
    model, variables, meta = load_model(model_path)
    crop, layers, fitted = find_portrait(
        image, finder or FaceFinder(), name=name, face_area=face_area, face_index=face_index, background=background
    )
    size = model.frame_size
    puppet = Puppet(crop.image, crop.landmarks, fitted, layers, size=size, pncc_size=meta["pncc_size"], spread=spread)
    figures: dict[str, float] = {"steps": steps, "fit_error_px": float(fitted.error) * CROP_SIZE}

    def report(step: int, metrics: dict[str, float]) -> None:
        figures.update(metrics)
        if progress:
            progress(step, metrics)

    adapted, canonical = adapt.adapt(model, variables, puppet, steps=steps, seed=seed, progress=report)
    return Avatar(
        fields={**meta["fields"], "pncc_size": meta["pncc_size"]},
        variables=adapted,
        canonical=canonical,
        identity=np.asarray(fitted.identity, np.float32),
        expression=np.asarray(fitted.expression, np.float32),
        euler=np.asarray(fitted.euler, np.float32),
        trans=np.asarray(fitted.trans, np.float32),
        source=puppet.source["source"],
        torso=puppet.source["torso"],
        background=puppet.source["background"],
        segmap=puppet.source["source_segmap"],
        figures=figures,
    )


@dataclass(frozen=True)
class Frame:
    """A finished frame u8 [s, s, 3], with what it was made of: raw u8 [r, r, 3], depth and opacity f32 [r, r].

    `pncc` u8 [p, p, 3] drove it; `person` f32 [mid, mid] is the person's mask, for output with alpha.
    """

    image: Array
    raw: Array
    depth: Array
    weight: Array
    pncc: Array
    person: Array


@partial(jax.jit, static_argnums=0)
def _encode(model: Portrait, variables: Tree, torso: Any, background: Any, segmap: Any) -> Any:
    return model.apply(
        variables, stage.to_float(torso), stage.to_float(background), jax.nn.one_hot(segmap, 6), method="encode"
    )


@partial(jax.jit, static_argnums=(0, 1))
def _render(
    model: Portrait, size: int, variables: Tree, canonical: Any, cache: Any, fixed_pncc: Any, mesh: Any,
    head_model: Any, viewpoint: Any, source_keypoints: Any, keypoints: Any,
) -> Any:  # fmt: skip
    target = face.pncc_of_vertices(head_model, mesh, size=size, frame="box")[None]
    pncc = jnp.concatenate([fixed_pncc, jnp.round(target * 127.5 + 127.5) / 127.5 - 1], axis=-1)

    def run(m: Portrait) -> Any:
        head = m.head(m.fuse(canonical, m.motion(pncc)), viewpoint)
        return head, m.frame(cache, head, source_keypoints, keypoints)

    head, frame = cast(tuple[Head, FusionOutput], model.apply(variables, method=run))

    def to_u8(x: Any) -> Any:
        return jnp.round(jnp.clip(x, -1, 1) * 127.5 + 127.5).astype(jnp.uint8)

    return (
        to_u8(frame.rgb)[0],
        to_u8(head.rgb)[0],
        head.depth[0, ..., 0],
        head.weight[0, ..., 0],
        to_u8(target)[0],
        frame.person_mask[0, ..., 0],
    )


def frames(avatar: Avatar, move: Motion) -> Iterator[Frame]:
    """Renders a motion frame by frame; memory does not grow with its length.

    Cameras and keypoints are smoothed over 3 frames: what drives them is smooth already, and the 7 of the official
    inference swallow quick nods.
    """
    fields = dict(avatar.fields)
    size = fields.pop("pncc_size")
    model = build(fields)
    head_model = jax.device_put(face.load_face_model())
    keypoints = partial(face.keypoints68, head_model, avatar.identity)
    source_keypoints = np.asarray(keypoints(avatar.expression, avatar.euler, avatar.trans))[None]
    cameras = motion.smooth_cameras(np.asarray(camera.from_pose(move.euler, move.trans), np.float32), SMOOTHED)
    points = motion.box_smooth(np.asarray(keypoints(move.expression, move.euler, move.trans)), SMOOTHED)
    batch = (avatar.torso[None], avatar.background[None], avatar.segmap[None])
    variables, canonical = jax.device_put((avatar.variables, avatar.canonical))
    cache = _encode(model, variables, *batch)
    still = [np.zeros_like(avatar.expression), avatar.expression]
    maps = [face.pncc(head_model, avatar.identity, e, size=size, frame="box")[None] for e in still]
    fixed = jnp.concatenate([jnp.round(m * 127.5 + 127.5) / 127.5 - 1 for m in maps], axis=-1)

    def start(t: int) -> Any:
        mesh = face.vertices(head_model, jnp.asarray(avatar.identity), jnp.asarray(move.expression[t], jnp.float32))
        return _render(
            model, size, variables, canonical, cache, fixed, mesh, head_model,
            cameras[t : t + 1], source_keypoints, points[t : t + 1],
        )  # fmt: skip

    # The device works on the next frame while the host takes this one.
    pending = start(0)
    for t in range(1, len(move.expression) + 1):
        done, pending = pending, start(t) if t < len(move.expression) else None
        yield Frame(*(np.asarray(x) for x in done))


def with_background(avatar: Avatar, background: Array) -> Avatar:
    """The same portrait before another background u8 [h, w, 3]."""
    resized = cv2.resize(background, (avatar.size, avatar.size), interpolation=cv2.INTER_AREA)
    return dataclasses.replace(avatar, background=resized)
