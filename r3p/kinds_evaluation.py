"""Rows of `r3p.recognise.KINDS` for what `r3p eval` measures with: Inception, ArcFace, Deep3DFaceRecon, SyncNet v2."""

from r3p.errors import InputError
from r3p.kinds import Fields, Options, Shapes, count, need
from r3p.kinds_training import Shape, row
from r3p.models import arcface as arcface_model
from r3p.models import deep3d as deep3d_model
from r3p.models import lipsync as lipsync_model
from r3p.models.arcface import ArcFace
from r3p.models.deep3d import Deep3D
from r3p.models.inception import SIDE, Inception
from r3p.models.lipsync import LipSync
from r3p.names import arcface, deep3d, inception, lipsync

_CLASSES = {1008: True, 1000: False}  # of the network of December 2015, and of torchvision's
_STAGES = range(1, 5)
_FIRSTS = (0, 4, 8, 11, 14, 18)  # SyncNet's convolutions


def _inception(shapes: Shapes, options: Options) -> Fields:
    classes = need(shapes, "fc.weight", 2)[0]
    if classes not in _CLASSES:
        raise InputError(
            f"the Inception network tells {classes} classes: expected 1008 (FID's) or 1000 (torchvision's)"
        )
    return {"fid": _CLASSES[classes], "divide": 32 // need(shapes, "Conv2d_1a_3x3.conv.weight", 4)[0]}


def _depths(shapes: Shapes, prefix: str) -> list[int]:
    return [count(shapes, rf"{prefix}layer{i}\.(\d+)\.") for i in _STAGES]


def _arcface(shapes: Shapes, options: Options) -> Fields:
    return {
        "depths": _depths(shapes, ""),
        "stem": need(shapes, "conv1.weight", 4)[0],
        "widths": [need(shapes, f"layer{i}.0.conv1.weight", 4)[0] for i in _STAGES],
        "embedding": need(shapes, "fc.weight", 2)[0],
    }


def _deep3d(shapes: Shapes, options: Options) -> Fields:
    heads = count(shapes, r"final_layers\.(\d+)\.")
    return {
        "depths": _depths(shapes, r"backbone\."),
        "stem": need(shapes, "backbone.conv1.weight", 4)[0],
        "widths": [need(shapes, f"backbone.layer{i}.0.conv1.weight", 4)[0] for i in _STAGES],
        "heads": [need(shapes, f"final_layers.{k}.weight", 4)[0] for k in range(heads)],
    }


def _lipsync(shapes: Shapes, options: Options) -> Fields:
    return {
        "sound_widths": [need(shapes, f"netcnnaud.{k}.weight", 4)[0] for k in _FIRSTS],
        "lip_widths": [need(shapes, f"netcnnlip.{k}.weight", 5)[0] for k in _FIRSTS],
        "width": need(shapes, "netfcaud.0.weight", 2)[0],
        "embedding": need(shapes, "netfcaud.3.weight", 2)[0],
    }


def _clips(fields: Fields, shapes: Shapes) -> list[Shape]:
    side = lipsync_model.SIDE
    return [
        (1, lipsync_model.FRAMES, side, side, 3),
        (1, lipsync_model.COEFFICIENTS, lipsync_model.STEPS, 1),
    ]


ROWS = (
    row(
        "inception",
        ("Conv2d_1a_3x3.conv.weight", "Mixed_5b.branch1x1.conv.weight", "Mixed_7c.branch_pool.conv.weight"),
        inception.RULES,
        _inception,
        Inception,
        lambda fields, shapes: [(1, SIDE, SIDE, 3)],
    ),
    row(
        "deep3d",
        ("backbone.conv1.weight", "backbone.layer4.0.conv3.weight", "final_layers.0.weight"),
        deep3d.RULES,
        _deep3d,
        Deep3D,
        lambda fields, shapes: [(1, deep3d_model.SIDE, deep3d_model.SIDE, 3)],
    ),
    row(
        "lipsync",
        ("netcnnaud.0.weight", "netcnnlip.0.weight", "netfcaud.0.weight", "netfclip.0.weight"),
        lipsync.RULES,
        _lipsync,
        LipSync,
        _clips,
    ),
    row(
        "arcface",
        ("layer1.0.prelu.weight", "prelu.weight", "fc.weight", "features.running_mean"),
        arcface.RULES,
        _arcface,
        ArcFace,
        lambda fields, shapes: [(1, arcface_model.SIDE, arcface_model.SIDE, 3)],
    ),
)
