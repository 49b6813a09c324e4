"""Motion of a face as the speech networks see it: landmark offsets, blinks, how far the mouth opens.

All in head units of 10 cm and without pose. The 68 landmarks are iBUG's, numbered from 0.
Shapes: b utterances, t frames (25 Hz), i identity, e expression.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r3p import face

Array = jax.Array

OFFSET_SCALE = 10.0
LIDS_68 = ((37, 41), (38, 40), (43, 47), (44, 46))  # upper and lower
LIPS_68 = (51, 57)  # middles of the outer lips
BLINK_BELOW = 0.85  # of the upper quartile of the eyes' opening
_AMPLITUDE_QUANTILE = 0.9


class OffsetBases(NamedTuple):
    """What one unit of identity [i, 1404] and of expression [e, 1404] moves the 468 landmarks by, times ten."""

    identity: Array | np.ndarray
    expression: Array | np.ndarray


def offset_bases(model: face.FaceModel) -> OffsetBases:
    """Of a face model, float32."""
    return OffsetBases(*(
        (OFFSET_SCALE * face.landmarks(model, basis)).reshape(len(basis), -1).astype(np.float32)
        for basis in (model.identity, model.expression)
    ))  # fmt: skip


def landmark_offsets(bases: OffsetBases, identity: Array, expression: Array) -> Array:
    """Ten times the landmarks' offsets from the mean face [b, t, 1404], of identity [b, i] and expression [b, t, e].

    This is what SyncNet sees of a mouth and what audio-to-motion's landmark loss compares.
    """
    exact = jax.lax.Precision.HIGHEST
    still = jnp.matmul(identity, bases.identity, precision=exact)
    return still[:, None] + jnp.matmul(expression, bases.expression, precision=exact)


def _points68(model: face.FaceModel, identity: np.ndarray, expression: np.ndarray) -> np.ndarray:
    mean, shape, moves = (
        face.gather(field, model.lm68_corners, model.lm68_weights)
        for field in (model.mean, model.identity, model.expression)
    )
    return np.asarray(mean + np.tensordot(identity, shape, 1) + np.tensordot(expression, moves, 1))


def _apart(points: np.ndarray, a: int, b: int) -> np.ndarray:
    # The original's measure: the sum over the axes, not the length.
    return np.abs(points[:, a] - points[:, b]).sum(-1)


def blink_code(model: face.FaceModel, identity: np.ndarray, expression: np.ndarray) -> np.ndarray:
    """uint8 [t]: 1 in the middle of every blink, of identity [i] and expression [t, e].

    Lids count as shut while their distances are under 0.85 of the clip's upper quartile; the code marks the middle of
    such a run, and none that reaches the clip's end, whose middle is not known (nor, here, its beginning).
    """
    points = _points68(model, identity, expression)
    opening = np.sum([_apart(points, a, b) for a, b in LIDS_68], axis=0)
    shut = np.concatenate([[0], (opening < BLINK_BELOW * np.quantile(opening, 0.75)).astype(int), [0]])
    starts, ends = np.flatnonzero(np.diff(shut) == 1), np.flatnonzero(np.diff(shut) == -1)
    whole = (starts > 0) & (ends < len(opening))
    code = np.zeros(len(opening), np.uint8)
    code[(starts[whole] + ends[whole] - 1) // 2] = 1
    return code


def mouth_amplitude(model: face.FaceModel, identity: np.ndarray, expression: np.ndarray) -> np.float32:
    """How far a speaker opens the mouth: the 90 % quantile of the outer lips' distance over a clip."""
    return np.float32(np.quantile(_apart(_points68(model, identity, expression), *LIPS_68), _AMPLITUDE_QUANTILE))
