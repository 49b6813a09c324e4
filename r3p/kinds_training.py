"""Rows of `r3p.recognise.KINDS` for what teaches or prepares: HuBERT, SyncNets, EG3D, discriminator, VGG."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from r3p.convert import Rule
from r3p.errors import InputError
from r3p.kinds import Fields, Kind, Options, Shapes, count, need, option
from r3p.models.discriminator import Discriminator
from r3p.models.eg3d import EG3D, PUBLISHED
from r3p.models.hubert import Hubert, from_config
from r3p.models.perceptual import FACES, VGG, VGG16, VGG19, PerceptualLoss
from r3p.models.syncnet import SyncNet
from r3p.names import discriminator, eg3d, hubert, perceptual, syncnet

Shape = Sequence[int]


def row(
    name: str,
    marks: Sequence[str],
    rules: list[Rule],
    fields: Callable[[Shapes, Options], Fields],
    module: Callable[..., Any],
    inputs: Callable[[Fields, Shapes], list[Shape]],
) -> Kind:
    """A row for a network that is a module of its own. `inputs`: shapes that reach every variable of it."""

    def build(fields: Fields) -> Any:
        return module(**{k: _frozen(v) for k, v in fields.items()})

    def wanted(fields: Fields, shapes: Shapes) -> Any:
        arrays = [jax.ShapeDtypeStruct(tuple(shape), jnp.float32) for shape in inputs(fields, shapes)]
        return jax.eval_shape(build(fields).init, jax.random.key(0), *arrays)

    return Kind(name, name, tuple(marks), lambda fields: rules, fields, wanted, module=build)


def _frozen(value: Any) -> Any:
    """As JSON has it -> as a module's field can be hashed."""
    if isinstance(value, Mapping):
        return FrozenDict({k: _frozen(v) for k, v in value.items()})
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value


# ------------------------------------------------------------------------------------------------ speech
_HEADS = {768: 12, 1024: 16, 1280: 16}  # of the published widths: base, large, extra large
_STRIDES = (5, 2, 2, 2, 2, 2, 2)
_FEATURES = "feature_projection.projection.weight"
_EXTRACTOR = "feature_extractor.conv_layers"
_HUBERT_FIELDS = (
    "width layers heads hidden conv_widths conv_kernels conv_strides conv_bias conv_norm conv_activation "
    "projection_norm position_kernel position_groups position_batch_norm pre_norm activation epsilon"
)


def _hubert(shapes: Shapes, options: Options) -> Fields:
    """From config.json where there is one: shapes tell neither heads nor strides nor where the norms stand."""
    if "num_attention_heads" in options:
        model = from_config(options)
        return {name: getattr(model, name) for name in _HUBERT_FIELDS.split()}
    width = need(shapes, _FEATURES, 2)[0]
    kernels = [
        need(shapes, f"{_EXTRACTOR}.{i}.conv.weight", 3) for i in range(count(shapes, rf"{_EXTRACTOR}\.(\d+)\."))
    ]
    if width not in _HEADS or len(kernels) != len(_STRIDES):
        raise InputError(
            f"the HuBERT of width {width} with {len(kernels)} convolutions is none of the published sizes "
            f"({', '.join(map(str, _HEADS))} with 7): put its config.json beside the checkpoint"
        )
    position = "encoder.pos_conv_embed.conv"
    names = ("weight_v", "parametrizations.weight.original1", "weight")
    place = next((f"{position}.{n}" for n in names if f"{position}.{n}" in shapes), f"{position}.weight")
    _, per_group, length = need(shapes, place, 3)
    layered = f"{_EXTRACTOR}.1.layer_norm.weight" in shapes
    return {
        "width": width,
        "layers": count(shapes, r"encoder\.layers\.(\d+)\."),
        "heads": _HEADS[width],
        "hidden": need(shapes, "encoder.layers.0.feed_forward.intermediate_dense.weight", 2)[0],
        "conv_widths": [shape[0] for shape in kernels],
        "conv_kernels": [shape[2] for shape in kernels],
        "conv_strides": list(_STRIDES),
        "conv_bias": f"{_EXTRACTOR}.0.conv.bias" in shapes,
        "conv_norm": "layer" if layered else "group",
        "projection_norm": "feature_projection.layer_norm.weight" in shapes,
        "position_kernel": length,
        "position_groups": width // per_group,
        "position_batch_norm": "encoder.pos_conv_embed.batch_norm.weight" in shapes,
        "pre_norm": layered,  # so are the published ones
    }


def _syncnet(shapes: Shapes, options: Options) -> Fields:
    blocks = count(shapes, r"hubert_encoder\.(\d+)\.")
    return {
        "features": need(shapes, f"hubert_encoder.{blocks - 1}.conv_block.0.weight", 3)[0],
        "width": need(shapes, "hubert_encoder.0.conv_block.0.weight", 3)[0],
        "mouth_stem": need(shapes, "mouth_encoder.0.conv_block.0.weight", 3)[0],
        # A first block, three levels, four blocks at the end.
        "depth": (blocks - 5) // 3,
    }


def _clips(fields: Fields, shapes: Shapes) -> list[Shape]:
    audio, mouth = (need(shapes, f"{part}_encoder.0.conv_block.0.weight", 3)[1] for part in ("hubert", "mouth"))
    return [(1, 10, audio), (1, 5, mouth)]


# ------------------------------------------------------------------------------------------------ portraits' teachers
_FRAME = (512, 512)


def _eg3d(shapes: Shapes, options: Options) -> Fields:
    """Both variants have the same names: the published one is told by its pickle, or by options of its rays."""
    sides = sorted({int(m[1]) for n in shapes if (m := re.match(r"backbone\.synthesis\.b(\d+)\.", n))})
    widths = [need(shapes, f"backbone.synthesis.b{side}.conv1.weight", 4)[0] for side in sides]
    style = need(shapes, "backbone.mapping.w_avg", 1)[0]
    hidden = need(shapes, "decoder.net.0.weight", 2)[0]
    published = bool(options.get("published"))
    if "ones_ws_for_sr" in options:
        published = str(options["ones_ws_for_sr"]).lower() != "true"
    if options.get("white_back") in (True, "true", "True"):
        raise InputError("this EG3D generator renders on white (white_back), which is not known here: use one on black")
    if (last := shapes.get("superresolution.block1.conv1.noise_const", _FRAME)) != _FRAME:
        raise InputError(f"this EG3D generator ends in images of {last}: only those of {_FRAME} pixels are known here")
    fields: Fields = {
        "latent": need(shapes, "backbone.mapping.fc0.weight", 2)[1]
        - need(shapes, "backbone.mapping.embed.weight", 2)[0],
        "style_width": style,
        "mapping_depth": count(shapes, r"backbone\.mapping\.fc(\d+)\."),
        "plane_channels": need(shapes, f"backbone.synthesis.b{sides[-1]}.torgb.weight", 4)[0] // 3,
        "backbone_fields": {"widths": widths},
        "decoder_fields": {"hidden": hidden, "features": need(shapes, "decoder.net.2.weight", 2)[0] - 1},
        "superres_fields": {
            "clamp": 256.0,
            "widths": [need(shapes, f"superresolution.block{i}.conv1.weight", 4)[0] for i in range(2)],
        },
        **({k: list(v) if isinstance(v, tuple) else v for k, v in PUBLISHED.items()} if published else {}),
    }
    for theirs, ours, kind in (("num_samples_coarse", "coarse", int), ("num_samples_fine", "fine", int)):
        if theirs in options:
            fields[ours] = option(options, theirs, kind)
    if "box_warp" in options:
        fields["box_warp"] = option(options, "box_warp", float)
    if options.get("ray_near", "auto") != "auto":
        fields["limits"] = [option(options, name, float) for name in ("ray_near", "ray_far") if name in options]
    return fields


def _discriminator(shapes: Shapes, options: Options) -> Fields:
    sides = sorted({int(m[1]) for n in shapes if (m := re.match(r"b(\d+)\.conv0\.", n))}, reverse=True)
    fields: Fields = {
        "widths": [
            need(shapes, f"b{sides[0]}.fromrgb.weight", 4)[0],
            *(need(shapes, f"b{side}.conv1.weight", 4)[0] for side in sides),
        ],
        "mapping_depth": count(shapes, r"mapping\.fc(\d+)\."),
        "mapping_width": need(shapes, "mapping.embed.weight", 2)[0],
    }
    for theirs, ours, kind in (
        ("group_size_for_mini_batch_std", "group", int),
        ("disc_c_noise", "camera_noise", float),
    ):
        if theirs in options:
            fields[ours] = option(options, theirs, kind)
    return fields


def _pairs(fields: Fields, shapes: Shapes) -> list[Shape]:
    side = 4 * 2 ** (len(fields["widths"]) - 1)
    return [(1, side, side, 3), (1, side // 4, side // 4, 3), (1, need(shapes, "mapping.embed.weight", 2)[1])]


def _widths(shapes: Shapes, *firsts: str) -> list[int]:
    """Channels of a VGG's stages from the names of their first convolutions."""
    return [need(shapes, f"{first}.weight", 4)[0] for first in firsts]


def _numbered(shapes: Shapes, prefix: str, numbers: Sequence[int]) -> list[int]:
    return _widths(shapes, *(f"{prefix}.{n}" for n in numbers))


def _perceptual(shapes: Shapes, options: Options) -> Fields:
    return {
        "vgg19_fields": {"widths": _numbered(shapes, "vgg19.network", _VGG19_FIRSTS)},
        "vggface_fields": {"widths": _numbered(shapes, "vggface.network", _VGG16_FIRSTS)},
    }


def _vgg19(shapes: Shapes, options: Options) -> Fields:
    return {"convs": list(VGG19), "widths": _numbered(shapes, "features", _VGG19_FIRSTS)}


def _vggface(shapes: Shapes, options: Options) -> Fields:
    widths = _widths(shapes, *(f"conv{i}_1" for i in range(1, 6)))
    return {"convs": list(VGG16), "widths": widths, **{k: list(v) for k, v in FACES.items()}}


# Torchvision's numbers of the stages' first convolutions.
_VGG19_FIRSTS = (0, 5, 10, 19, 28)
_VGG16_FIRSTS = (0, 5, 10, 17, 24)
_IMAGE = (1, 32, 32, 3)
ROWS = (
    row(
        "hubert",
        (_FEATURES, "encoder.layers.0.attention.q_proj.weight", f"{_EXTRACTOR}.0.conv.weight"),
        hubert.RULES,
        _hubert,
        Hubert,
        lambda fields, shapes: [(1, 800)],
    ),
    row(
        "syncnet",
        ("hubert_encoder.0.conv_block.0.weight", "mouth_encoder.0.conv_block.0.weight"),
        syncnet.RULES,
        _syncnet,
        SyncNet,
        _clips,
    ),
    row(
        "eg3d",
        ("backbone.synthesis.b4.const", "backbone.mapping.embed.weight", "decoder.net.0.weight"),
        eg3d.RULES,
        _eg3d,
        EG3D,
        lambda fields, shapes: [(1, fields["latent"]), (1, 25), (1, 25)],
    ),
    row(
        "discriminator",
        ("b4.fc.weight", "b4.out.weight", "b8.conv0.weight", "mapping.embed.weight"),
        discriminator.RULES,
        _discriminator,
        Discriminator,
        _pairs,
    ),
    row(
        "perceptual",
        ("vgg19.network.0.weight", "vggface.network.0.weight"),
        perceptual.RULES,
        _perceptual,
        PerceptualLoss,
        lambda fields, shapes: [_IMAGE, _IMAGE],
    ),
    # Each on its own, as it was published.
    row(
        "vgg19",
        ("features.0.weight", "features.34.weight"),
        perceptual.VGG19_RULES,
        _vgg19,
        VGG,
        lambda fields, shapes: [_IMAGE],
    ),
    row(
        "vggface",
        ("conv1_1.weight", "conv5_3.weight"),
        perceptual.VGGFACE_RULES,
        _vggface,
        VGG,
        lambda fields, shapes: [_IMAGE],
    ),
)
