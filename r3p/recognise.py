"""Which network a foreign checkpoint holds, told by its names; and the fields that its shapes and options say.

A row of `KINDS` is all that a further network needs, see `r3p.kinds.Kind`. Rows come before those whose networks are
parts of theirs.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from r3p import kinds_evaluation, kinds_training, weights
from r3p.avatar import WEIGHTS_KIND, build
from r3p.convert import Rule
from r3p.errors import InputError
from r3p.kinds import Fields, Kind, Meta, Options, Shapes, count, need, option
from r3p.models.audio2motion import AudioToMotion
from r3p.models.segformer import SCALES
from r3p.names import audio2motion, portrait
from r3p.speech_motion import WEIGHTS_KIND as SPEECH_KIND


@dataclass(frozen=True)
class Found:
    """A network in a checkpoint: its kind, and what comes before its names, such as `state_dict.model.`."""

    kind: Kind
    prefix: str


_RAYS = {
    "ray_start": "ray_near",
    "ray_end": "ray_far",
    "box_warp": "box_warp",
    "depth_resolution": "num_samples_coarse",
    "depth_resolution_importance": "num_samples_fine",
    "white_back": "white_back",
}


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


def options_beside(path: Path) -> dict[str, Any]:
    """Plain `name: value` lines of the config.yaml beside a checkpoint, or what its config.json has; empty for none."""
    try:
        text = (path.parent / "config.yaml").read_text()
    except (OSError, UnicodeDecodeError):
        text = ""
    lines = dict(re.findall(r"^(\w+):[ \t]+['\"]?([^\s'\"#]+)['\"]?[ \t]*(?:#.*)?$", text, re.MULTILINE))
    try:
        described = json.loads((path.parent / "config.json").read_text())
    except (OSError, ValueError):
        described = {}
    return {**(described if isinstance(described, dict) else {}), **lines}


def options_inside(tree: Any, prefix: str) -> dict[str, Any]:
    """What a pickled network of EG3D says of its rays, under the names of config.yaml; empty for any other file."""
    node = tree
    for part in prefix.removesuffix(".").split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    state = getattr(node, "state", None)
    if not isinstance(state, Mapping):
        # Someone took the arrays out of such a pickle: these are its names of the generator and its running mean.
        return {"published": True} if prefix in ("G.", "G_ema.") else {}
    rays = state.get("rendering_kwargs")
    rays = getattr(rays, "entries", rays)
    rays = rays if isinstance(rays, Mapping) else {}
    return {"published": True, **{ours: rays[theirs] for theirs, ours in _RAYS.items() if theirs in rays}}


# ------------------------------------------------------------------------------------------------ portraits
_IMAGE = "low_reso_encoder.encoder.conv1.weight"
_DECODER = "decoder.net.0.weight"
_VITS = {"low_reso_vit": "low", "triplane_predictor_vit": "fusion"}
_INPUTS = {5: "rgb", 6: "rgb_alpha", 8: "rgb_camera", 9: "rgb_alpha_camera"}


def _img2plane(shapes: Shapes, prefix: str, channels: int) -> Fields:
    seen = need(shapes, prefix + _IMAGE, 4)[1]
    if seen not in _INPUTS:
        raise InputError(f"the image-to-plane network reads {seen} channels: expected one of {sorted(_INPUTS)}")
    out = need(shapes, f"{prefix}triplane_predictor_vit.final_conv.weight", 4)[0]
    blocks = {part: count(shapes, re.escape(prefix + part) + r"\.block(\d+)\.") for part in _VITS}
    return {
        "channels": channels,
        "depth": out // (3 * channels),
        "input_mode": _INPUTS[seen],
        **{ours: {"blocks": blocks[theirs]} for theirs, ours in _VITS.items()},
    }


def _adapter(shapes: Shapes, prefix: str, channels: int) -> Fields:
    out = need(shapes, f"{prefix}to_plane_cnn.7.weight", 4)[0]
    stages = range(1, 5)
    widths = tuple(need(shapes, f"{prefix}mix_vit.patch_embed{i}.proj.weight", 4)[0] for i in stages)
    depths = tuple(count(shapes, re.escape(prefix) + rf"mix_vit\.block{i}\.(\d+)\.") for i in stages)
    if (depths, widths) not in SCALES.values():
        raise InputError(f"the motion adapter has depths {depths} and widths {widths}: expected {list(SCALES)}")
    return {
        "channels": channels,
        "depth": out // (3 * channels),
        "mixed": need(shapes, f"{prefix}prenet.weight", 4)[0],
        "encoder": {"depths": list(depths), "widths": list(widths)},
        "width": need(shapes, f"{prefix}fuse_head.linear_fuse.conv.weight", 4)[0],
    }


def _torso(shapes: Shapes, options: Options) -> Fields:
    prefix = "superresolution."
    inside = f"{prefix}torso_model."
    fields: Fields = {"torso_fields": {
        "version": 2 if count(shapes, re.escape(inside) + r"motion_field_estimator\.(tgt_head_fuser)\.") else 1,
        "alpha_input": need(shapes, f"{inside}appearance_extractor.in_conv.layers.0.weight", 4)[1] == 5,
        "keypoints": need(shapes, f"{inside}motion_field_estimator.mask_conv.weight", 5)[0] - 1,
    }}  # fmt: skip
    width = need(shapes, f"{prefix}torso_encoder.0.weight", 4)[0]
    if need(shapes, f"{prefix}fuse_fg_bg_convs.0.weight", 4)[1] == 3 * width:
        fields["fuse"] = "concat"
    elif f"{prefix}fuse_head_torso_convs.0.weight" not in shapes:
        fields["fuse"] = "v1"
    else:  # v3 has the names and shapes of v2
        fields["fuse"] = options.get("htbsr_head_weight_fuse_mode", "v2")
        if fields["fuse"] not in ("v2", "v3"):
            raise InputError(f"config.yaml says fuse mode {fields['fuse']}, the checkpoint holds v2 or v3: mend it")
    if "htbsr_head_threshold" in options:
        fields["threshold"] = option(options, "htbsr_head_threshold", float)
    if "torso_mask_dilate_ksize" in options:
        fields["torso_fields"]["mask_dilation"] = option(options, "torso_mask_dilate_ksize", int)
    return fields


def _portrait(part: str, shapes: Shapes, options: Options) -> Fields:
    hidden, channels = need(shapes, _DECODER, 2)
    features = need(shapes, "decoder.net.2.weight", 2)[0] - 1
    backbone = "img2plane_backbone." if part == "plane" else "cano_img2plane_backbone."
    fields: Fields = {
        "torso": part == "torso",
        "img2plane_fields": _img2plane(shapes, backbone, channels),
        "decoder_fields": {"hidden": hidden, "features": features},
    }
    if blocks := count(shapes, r"plane2grid_module\.res_blocks_3d\.(\d+)\."):
        fields["grid_blocks"] = blocks
    if part != "plane":
        fields["adapter_fields"] = _adapter(shapes, "secc_img2plane_backbone.", channels)
        fields["plane_fusion"] = options.get("phase1_plane_fusion_mode", "add")
    if part == "torso":
        fields["superres_fields"] = _torso(shapes, options)
    for theirs, ours in (("num_samples_coarse", "coarse"), ("num_samples_fine", "fine")):
        if theirs in options:
            fields[ours] = option(options, theirs, int)
    if "box_warp" in options:
        fields["box_warp"] = option(options, "box_warp", float)
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
        "expression": need(shapes, "vae.decoder.out_proj.weight", 3)[0],
        "condition_width": need(shapes, "mel_encoder.3.weight", 3)[0],
        "pitch": pitch,
        "mouth_amplitude": "mouth_amp_embed" in shapes,
        "pairing": "first" if pitch else "mean",
    }


def _wanted_speech(fields: Fields, shapes: Shapes) -> Any:
    model = AudioToMotion(**fields)
    channels = need(shapes, "mel_encoder.0.weight", 3)[1] // (2 if model.pairing == "stack" else 1)
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
    *kinds_training.ROWS,
    *kinds_evaluation.ROWS,
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


def load(path: Path, name: str) -> tuple[Any, dict[str, Any]]:
    """The module and the variables of a folder that `r3p convert` wrote of one of the networks of `r3p.kinds_training`
    or `r3p.kinds_evaluation`.

    Raises:
      InputError: as `r3p.weights.load`, and when the folder holds another network.
    """
    (row,) = (kind for kind in (*kinds_training.ROWS, *kinds_evaluation.ROWS) if kind.name == name)
    variables, meta = weights.load(path, row.kind)
    named, fields = of_description(meta)
    assert named.module is not None
    return named.module(fields), variables
