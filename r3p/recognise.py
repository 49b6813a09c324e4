"""Which network a foreign checkpoint holds, told by its names; and the fields that its shapes and options say.

A row of `KINDS` is all that a further network needs: names that only it has, its table of names, and how its fields
follow. Rows come before those whose networks are parts of theirs.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from r3p.avatar import WEIGHTS_KIND, build
from r3p.convert import Rule
from r3p.errors import InputError
from r3p.models.audio2motion import AudioToMotion
from r3p.models.segformer import SCALES
from r3p.names import audio2motion, portrait
from r3p.speech_motion import WEIGHTS_KIND as SPEECH_KIND

Shapes = Mapping[str, tuple[int, ...]]
Options = Mapping[str, str]  # of the config.yaml beside a checkpoint
Fields = dict[str, Any]
Meta = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A network that checkpoints hold.

    Attributes:
      name: what the user calls it.
      kind: of the weights that are written, see `r3p.weights.load`.
      marks: names which together only it has.
      table: rules for its fields.
      fields: its model's fields from official shapes and options.
      wanted: its variables' shapes from fields and official shapes.
      meta: what the description says beside its kind.
      back: fields of a description.
    """

    name: str
    kind: str
    marks: tuple[str, ...]
    table: Callable[[Fields], list[Rule]]
    fields: Callable[[Shapes, Options], Fields]
    wanted: Callable[[Fields, Shapes], Any]
    meta: Callable[[Fields], Meta] = lambda fields: {"fields": fields}
    back: Callable[[Meta], Fields] = lambda meta: meta["fields"]


@dataclass(frozen=True)
class Found:
    """A network in a checkpoint: its kind, and what comes before its names, such as `state_dict.model.`."""

    kind: Kind
    prefix: str


def find(names: Mapping[str, Any]) -> list[Found]:
    """The networks among these names, as `KINDS` has them; of several of one kind, the averaged one first."""
    left = set(names)
    out = []
    for kind in KINDS:
        first = kind.marks[0]
        prefixes = {n.removesuffix(first) for n in left if n == first or n.endswith("." + first)}
        for prefix in sorted(prefixes, key=lambda p: ("ema" not in p, p)):
            if all(prefix + mark in left for mark in kind.marks):
                out.append(Found(kind, prefix))
                left -= {n for n in left if n.startswith(prefix)}
    return out


def options_beside(path: Path) -> dict[str, str]:
    """Plain `name: value` lines of the config.yaml beside a checkpoint; empty when there is none."""
    try:
        text = (path.parent / "config.yaml").read_text()
    except (OSError, UnicodeDecodeError):
        return {}
    return dict(re.findall(r"^(\w+):[ \t]+['\"]?([^\s'\"#]+)['\"]?[ \t]*(?:#.*)?$", text, re.MULTILINE))


def _option(options: Options, name: str, convert: Callable[[str], Any]) -> Any:
    try:
        return convert(options[name])
    except ValueError:
        raise InputError(
            f"config.yaml beside the checkpoint says {name}: {options[name]}, which is no number"
        ) from None


def _need(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    shape = shapes.get(name, ())
    if len(shape) != dimensions:
        raise InputError(f"the checkpoint has {name} of shape {shape}: expected {dimensions} dimensions")
    return shape


def _count(shapes: Shapes, pattern: str) -> int:
    """How many different first groups the names have that begin with `pattern`."""
    return len({m[1] for name in shapes if (m := re.match(pattern, name))})


# ------------------------------------------------------------------------------------------------ portraits
_IMAGE = "low_reso_encoder.encoder.conv1.weight"
_DECODER = "decoder.net.0.weight"
_VITS = {"low_reso_vit": "low", "triplane_predictor_vit": "fusion"}
_INPUTS = {5: "rgb", 6: "rgb_alpha", 8: "rgb_camera", 9: "rgb_alpha_camera"}


def _img2plane(shapes: Shapes, prefix: str, channels: int) -> Fields:
    seen = _need(shapes, prefix + _IMAGE, 4)[1]
    if seen not in _INPUTS:
        raise InputError(f"the image-to-plane network reads {seen} channels: expected one of {sorted(_INPUTS)}")
    out = _need(shapes, f"{prefix}triplane_predictor_vit.final_conv.weight", 4)[0]
    blocks = {part: _count(shapes, re.escape(prefix + part) + r"\.block(\d+)\.") for part in _VITS}
    return {
        "channels": channels,
        "depth": out // (3 * channels),
        "input_mode": _INPUTS[seen],
        **{ours: {"blocks": blocks[theirs]} for theirs, ours in _VITS.items()},
    }


def _adapter(shapes: Shapes, prefix: str, channels: int) -> Fields:
    out = _need(shapes, f"{prefix}to_plane_cnn.7.weight", 4)[0]
    stages = range(1, 5)
    widths = tuple(_need(shapes, f"{prefix}mix_vit.patch_embed{i}.proj.weight", 4)[0] for i in stages)
    depths = tuple(_count(shapes, re.escape(prefix) + rf"mix_vit\.block{i}\.(\d+)\.") for i in stages)
    if (depths, widths) not in SCALES.values():
        raise InputError(f"the motion adapter has depths {depths} and widths {widths}: expected {list(SCALES)}")
    return {
        "channels": channels,
        "depth": out // (3 * channels),
        "mixed": _need(shapes, f"{prefix}prenet.weight", 4)[0],
        "encoder": {"depths": list(depths), "widths": list(widths)},
        "width": _need(shapes, f"{prefix}fuse_head.linear_fuse.conv.weight", 4)[0],
    }


def _torso(shapes: Shapes, options: Options) -> Fields:
    prefix = "superresolution."
    inside = f"{prefix}torso_model."
    fields: Fields = {"torso_fields": {
        "version": 2 if _count(shapes, re.escape(inside) + r"motion_field_estimator\.(tgt_head_fuser)\.") else 1,
        "alpha_input": _need(shapes, f"{inside}appearance_extractor.in_conv.layers.0.weight", 4)[1] == 5,
        "keypoints": _need(shapes, f"{inside}motion_field_estimator.mask_conv.weight", 5)[0] - 1,
    }}  # fmt: skip
    width = _need(shapes, f"{prefix}torso_encoder.0.weight", 4)[0]
    if _need(shapes, f"{prefix}fuse_fg_bg_convs.0.weight", 4)[1] == 3 * width:
        fields["fuse"] = "concat"
    elif f"{prefix}fuse_head_torso_convs.0.weight" not in shapes:
        fields["fuse"] = "v1"
    else:  # v3 has the names and shapes of v2
        fields["fuse"] = options.get("htbsr_head_weight_fuse_mode", "v2")
        if fields["fuse"] not in ("v2", "v3"):
            raise InputError(f"config.yaml says fuse mode {fields['fuse']}, the checkpoint holds v2 or v3: mend it")
    if "htbsr_head_threshold" in options:
        fields["threshold"] = _option(options, "htbsr_head_threshold", float)
    if "torso_mask_dilate_ksize" in options:
        fields["torso_fields"]["mask_dilation"] = _option(options, "torso_mask_dilate_ksize", int)
    return fields


def _portrait(part: str, shapes: Shapes, options: Options) -> Fields:
    hidden, channels = _need(shapes, _DECODER, 2)
    features = _need(shapes, "decoder.net.2.weight", 2)[0] - 1
    backbone = "img2plane_backbone." if part == "plane" else "cano_img2plane_backbone."
    fields: Fields = {
        "torso": part == "torso",
        "img2plane_fields": _img2plane(shapes, backbone, channels),
        "decoder_fields": {"hidden": hidden, "features": features},
    }
    if part != "plane":
        fields["adapter_fields"] = _adapter(shapes, "secc_img2plane_backbone.", channels)
        fields["plane_fusion"] = options.get("phase1_plane_fusion_mode", "add")
    if part == "torso":
        fields["superres_fields"] = _torso(shapes, options)
    for theirs, ours in (("num_samples_coarse", "coarse"), ("num_samples_fine", "fine")):
        if theirs in options:
            fields[ours] = _option(options, theirs, int)
    if "box_warp" in options:
        fields["box_warp"] = _option(options, "box_warp", float)
    return fields


def _wanted_portrait(method: str, fields: Fields, shapes: Shapes) -> Any:
    """The variables' shapes: from the official ones follow the channels of the PNCC images."""
    model = build(fields)
    side = model.source_size

    def image(channels: int) -> Any:
        return jnp.zeros((1, side, side, channels))

    camera, points = jnp.zeros((1, 25)), jnp.zeros((1, 68, 3))
    pncc = shapes.get("secc_img2plane_backbone.prenet.weight", (0, 9))[1]
    given: dict[str, list[Any]] = {
        "reconstruct": [image(3), camera],
        "animate": [image(3), image(pncc), camera],
        "__call__": [image(3), image(pncc), camera, image(3), image(3), image(6), points, points],
    }
    return jax.eval_shape(partial(model.init, method=method), jax.random.key(0), *given[method])


def _portrait_meta(fields: Fields) -> Meta:
    return {"fields": fields, "pncc_size": 512}


def _torso_table(fields: Fields) -> list[Rule]:
    return portrait.RULES_V3 if fields["superres_fields"].get("fuse") == "v3" else portrait.RULES


# ------------------------------------------------------------------------------------------------ audio to motion
def _speech(shapes: Shapes, options: Options) -> Fields:
    pitch = "pitch_embed.weight" in shapes
    return {
        "expression": _need(shapes, "vae.decoder.out_proj.weight", 3)[0],
        "condition_width": _need(shapes, "mel_encoder.3.weight", 3)[0],
        "pitch": pitch,
        "mouth_amplitude": "mouth_amp_embed" in shapes,
        "pairing": "first" if pitch else "mean",
    }


def _wanted_speech(fields: Fields, shapes: Shapes) -> Any:
    model = AudioToMotion(**fields)
    channels = _need(shapes, "mel_encoder.0.weight", 3)[1] // (2 if model.pairing == "stack" else 1)
    frames = 4 * model.stride
    sound, f0 = jnp.zeros((1, frames, channels)), jnp.zeros((1, frames))
    return jax.eval_shape(partial(model.init, method="everything"), jax.random.key(0), sound, f0)


_TRUNK = ("secc_img2plane_backbone.prenet.weight", _DECODER)
KINDS = (
    Kind(
        "torso",
        WEIGHTS_KIND,
        (f"cano_img2plane_backbone.{_IMAGE}", "superresolution.torso_encoder.0.weight", *_TRUNK),
        _torso_table,
        partial(_portrait, "torso"),
        partial(_wanted_portrait, "__call__"),
        _portrait_meta,
    ),
    Kind(
        "head",
        WEIGHTS_KIND,
        (f"cano_img2plane_backbone.{_IMAGE}", *_TRUNK),
        lambda fields: portrait.HEAD,
        partial(_portrait, "head"),
        partial(_wanted_portrait, "animate"),
        _portrait_meta,
    ),
    Kind(
        "img2plane",
        "image-to-plane model",
        (f"img2plane_backbone.{_IMAGE}", _DECODER),
        lambda fields: portrait.IMAGE_TO_PLANE,
        partial(_portrait, "plane"),
        partial(_wanted_portrait, "reconstruct"),
    ),
    Kind(
        "audio2motion",
        SPEECH_KIND,
        ("mel_encoder.0.weight", "vae.encoder.out_proj.weight", "vae.decoder.out_proj.weight"),
        lambda fields: audio2motion.RULES if fields["pitch"] else audio2motion.PLAIN_RULES,
        _speech,
        _wanted_speech,
        lambda fields: {"model": fields},
        lambda meta: meta["model"],
    ),
)


def of_description(meta: Mapping[str, Any]) -> tuple[Kind, Fields]:
    """The row and the fields that a description of ours names. Raises InputError for none or an unknown one."""
    rows = [kind for kind in KINDS if kind.kind == meta.get("kind")]
    try:
        name = meta.get("network")
        if name is None and meta.get("kind") == WEIGHTS_KIND:
            name = "torso" if meta["fields"].get("torso", True) else "head"
        for kind in rows:
            if name in (None, kind.name):
                return kind, kind.back(dict(meta))
    except (KeyError, AttributeError) as error:
        raise InputError(f"the weights' description is not whole ({error!r}): write them again") from None
    raise InputError(
        f"these weights are of kind {meta.get('kind')!r}, which has no official names: expected one of "
        f"{', '.join(sorted({kind.kind for kind in KINDS}))}"
    )
