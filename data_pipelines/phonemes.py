"""Phones to mouth shapes: what the lips do while flite's phones sound, as weights of named ARKit units.

Each phone has a shape and a dominance, which says how strongly it holds that shape against its neighbours: "m" shuts
the lips whatever comes next, "k" takes the shape of its vowel (the idea of Cohen and Massaro 1993). Both are smoothed
over time, further ahead than back, and read a little before the sound: lips anticipate.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from r3p.errors import InputError

FPS = 25
LEAD_S = 0.06  # lips before sound: 1.5 frames
AHEAD_S, BEHIND_S = 0.040, 0.035  # standard deviations of the smoothing, toward coming and past phones
DEFAULT_AMPLITUDE = 0.4  # of the network's mouth amplitude: the shapes below as they are
_STEP_S = 0.005

SILENCE = "pau"
CLOSED = ("m", "b", "p")
# Left and right of these are named together.
PAIRED = ("mouthPress", "mouthStretch", "mouthUpperUp", "mouthLowerDown", "mouthSmile")
# Units that a larger mouth amplitude enlarges; those that press the lips together stay as they are.
SCALED = ("jawOpen", "mouthClose", "mouthFunnel", "mouthPucker", "mouthStretch", "mouthUpperUp", "mouthLowerDown")

_Shape = dict[str, float]
_AA: _Shape = dict(jawOpen=0.30, mouthLowerDown=0.10, mouthUpperUp=0.04)
_AE: _Shape = dict(jawOpen=0.26, mouthStretch=0.12, mouthLowerDown=0.14, mouthUpperUp=0.08, mouthSmile=0.06)
_AH: _Shape = dict(jawOpen=0.19, mouthLowerDown=0.08, mouthUpperUp=0.03)
_AO: _Shape = dict(jawOpen=0.22, mouthFunnel=0.20, mouthPucker=0.12)
_EH: _Shape = dict(jawOpen=0.19, mouthStretch=0.12, mouthLowerDown=0.12, mouthUpperUp=0.06, mouthSmile=0.06)
_IH: _Shape = dict(jawOpen=0.12, mouthStretch=0.10, mouthLowerDown=0.10, mouthUpperUp=0.05, mouthSmile=0.08)
_IY: _Shape = dict(jawOpen=0.08, mouthStretch=0.18, mouthLowerDown=0.12, mouthUpperUp=0.06, mouthSmile=0.16)
_UW: _Shape = dict(jawOpen=0.05, mouthFunnel=0.14, mouthPucker=0.48)
_UH: _Shape = dict(jawOpen=0.10, mouthFunnel=0.16, mouthPucker=0.26)
_ER: _Shape = dict(jawOpen=0.10, mouthFunnel=0.16, mouthPucker=0.18, mouthLowerDown=0.05)
_LIPS_SHUT: _Shape = dict(jawOpen=0.03, mouthClose=0.035, mouthPress=0.28, mouthRollLower=0.10, mouthRollUpper=0.08)
_LIP_TEETH: _Shape = dict(jawOpen=0.03, mouthRollLower=0.32, mouthUpperUp=0.16)
_TEETH: _Shape = dict(jawOpen=0.035, mouthStretch=0.12, mouthLowerDown=0.16, mouthUpperUp=0.06, mouthSmile=0.05)
_ROUNDED_TEETH: _Shape = dict(jawOpen=0.05, mouthFunnel=0.26, mouthPucker=0.14, mouthLowerDown=0.06)
_TONGUE: _Shape = dict(jawOpen=0.09, mouthLowerDown=0.08, mouthUpperUp=0.03)
_BACK: _Shape = dict(jawOpen=0.10, mouthLowerDown=0.05)


class Phone(NamedTuple):
    """`shapes` in their order over the phone's time (two of a diphthong), `dominance` of them over the neighbours."""

    shapes: tuple[_Shape, ...]
    dominance: float


PHONES: dict[str, Phone] = {
    SILENCE: Phone(({},), 0.7),
    **{k: Phone((_LIPS_SHUT,), 6.0) for k in CLOSED},
    **{k: Phone((_LIP_TEETH,), 3.0) for k in ("f", "v")},
    **{k: Phone((_TEETH,), 1.0) for k in ("s", "z")},
    **{k: Phone((_ROUNDED_TEETH,), 1.5) for k in ("sh", "zh", "ch", "jh")},
    **{k: Phone((_TONGUE,), 0.6) for k in ("t", "d", "n", "dx", "en", "nx")},
    **{k: Phone((_TONGUE,), 0.8) for k in ("th", "dh", "l", "el")},
    **{k: Phone((_BACK,), 0.3) for k in ("k", "g", "ng")},
    "hh": Phone((_AH,), 0.15),
    "hv": Phone((_AH,), 0.15),
    "y": Phone((_IY,), 0.7),
    "r": Phone((_ER,), 1.0),
    "w": Phone((_UW,), 2.5),
    "em": Phone((_LIPS_SHUT,), 6.0),
    "aa": Phone((_AA,), 1.0), "ae": Phone((_AE,), 1.0), "ah": Phone((_AH,), 1.0), "ao": Phone((_AO,), 1.2),
    "ax": Phone((_AH,), 0.6), "axr": Phone((_ER,), 0.8), "eh": Phone((_EH,), 1.0), "er": Phone((_ER,), 1.0),
    "ih": Phone((_IH,), 0.9), "ix": Phone((_IH,), 0.7), "iy": Phone((_IY,), 1.0), "uh": Phone((_UH,), 1.2),
    "uw": Phone((_UW,), 1.6), "ux": Phone((_UW,), 1.4), "aw": Phone((_AA, _AA, _UH), 1.2),
    "ay": Phone((_AA, _AA, _IH), 1.0), "ey": Phone((_EH, _IY), 1.0), "ow": Phone((_AO, _UW), 1.3),
    "oy": Phone((_AO, _AO, _IY), 1.2),
}  # fmt: skip
PHONE_NAMES = tuple(PHONES)


def unit_indices(names: Sequence[str], unit: str) -> list[int]:
    """Places of a unit in `names`: one, or its left and right."""
    return [names.index(f"{unit}{side}") for side in (("Left", "Right") if unit in PAIRED else ("",))]


def shape_vector(shape: _Shape, names: Sequence[str]) -> np.ndarray:
    """Named weights -> float64 [len(names)]."""
    out = np.zeros(len(names))
    for unit, value in shape.items():
        out[unit_indices(names, unit)] = value
    return out


def _smooth(values: np.ndarray) -> np.ndarray:
    """Weighted mean over time [n, c], half a normal curve toward what comes and half another toward what was."""
    reach = round(3 * max(AHEAD_S, BEHIND_S) / _STEP_S)
    offset = np.arange(-reach, reach + 1) * _STEP_S
    kernel = np.exp(-0.5 * (offset / np.where(offset > 0, AHEAD_S, BEHIND_S)) ** 2)
    padded = np.pad(values, ((reach, reach), (0, 0)), mode="edge")
    # kernel[j] belongs to the value `offset[j]` later
    out = sum(w * padded[j : j + len(values)] for j, w in enumerate(kernel / kernel.sum()))
    return np.asarray(out)


def mouth_track(
    phones: Sequence[str], ends: np.ndarray, frames: int, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Mouth shapes of a sequence of phones.

    Args:
      phones: names as flite prints them; silence before the first and after the last is added.
      ends: [len(phones)] seconds at which each ends, rising; the first begins at 0.
      frames: video frames at 25 Hz wanted.
      names: the expression's unit names.

    Returns:
      Expression float32 [frames, len(names)] at the default mouth amplitude, and int32 [frames] the place in
      `PHONE_NAMES` of the phone that each frame's lips make (which sounds `LEAD_S` later).

    Raises:
      InputError: an unknown phone, or ends that do not rise.
    """
    unknown = sorted(set(phones) - set(PHONES))
    if unknown:
        raise InputError(f"unknown phones {', '.join(unknown)}: expected those of flite's US English voices")
    ends = np.asarray(ends, np.float64)
    if len(ends) != len(phones) or (len(ends) and (ends[0] < 0 or (np.diff(ends) < 0).any())):
        raise InputError(f"{len(phones)} phones with ends {ends[:4]}..: expected one end a phone, rising")
    shapes, weights, pieces, owner = [shape_vector({}, names)], [PHONES[SILENCE].dominance], [0.0], [0]
    start = 0.0
    for phone, end in zip(phones, ends, strict=True):
        entry = PHONES[phone]
        for k, shape in enumerate(entry.shapes):
            shapes.append(shape_vector(shape, names))
            weights.append(entry.dominance)
            pieces.append(start + (end - start) * (k + 1) / len(entry.shapes))
            owner.append(PHONE_NAMES.index(phone))
        start = end
    shapes, weights, owner = [*shapes, shapes[0]], [*weights, weights[0]], [*owner, 0]
    steps = int(np.ceil((frames / FPS + LEAD_S) / _STEP_S)) + 2
    place = np.searchsorted(np.array(pieces), (np.arange(steps) + 0.5) * _STEP_S, side="right")
    dominance = np.array(weights)[place][:, None]
    track = _smooth(dominance * np.array(shapes)[place]) / _smooth(dominance)
    moments = (np.arange(frames) + 0.5) / FPS + LEAD_S
    at = np.minimum((moments / _STEP_S).astype(int), steps - 1)
    return track[at].astype(np.float32), np.array(owner, np.int32)[place[at]]


def scaled_units(names: Sequence[str]) -> np.ndarray:
    """float32 [len(names)]: 1 for the units that grow with the mouth amplitude, else 0."""
    out = np.zeros(len(names), np.float32)
    for unit in SCALED:
        out[unit_indices(names, unit)] = 1
    return out
