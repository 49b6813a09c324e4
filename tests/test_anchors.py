"""Anchors: the truth, the truth a frame late, a face that does not move, another person: in the right order.

Faces are the head model's landmarks under known expressions and poses, pictures a moving texture.
"""

from pathlib import Path

import numpy as np
import pytest

from r3p import face
from r3p.evaluate import clip, networks, series
from r3p.evaluate.manifest import Row
from r3p.evaluate.observe import Observation

SIDE, FRAMES = 64, 11


@pytest.fixture(scope="module")
def head():
    return face.load_face_model()


def _points(head, identity, times, speaking=True):
    """[t, 478, 2] pixels: a mouth that opens and shuts while the head turns."""
    names = list(head.expression_names)
    expression = np.zeros((len(times), len(names)))
    expression[:, names.index("jawOpen")] = 0.25 * (1 + np.sin(2.1 * times)) * speaking
    euler = np.outer(0.25 * np.sin(0.9 * times), [0, 1, 0])
    mesh = np.asarray(face.vertices(head, np.repeat(identity[None], len(times), 0), expression))
    posed = face.pose(np.asarray(face.landmarks(head, mesh)), euler, np.zeros((len(times), 3)))
    found = SIDE * np.asarray(face.project(posed))
    irises = [found[:, list(c)].mean(1, keepdims=True) for c in face.EYE_CORNERS for _ in range(5)]
    return np.concatenate([found, *irises], 1).astype(np.float32)


def _observed(points):
    return Observation("x", points, (SIDE, SIDE), 0.0)


@pytest.fixture(scope="module")
def figures(head):
    rng = np.random.default_rng(1)
    me, other = rng.normal(0, 1, (2, head.identity.shape[0]))
    t = np.arange(FRAMES).astype(float)
    truth = _observed(_points(head, me, t))
    outputs = {
        "truth": truth,
        "late": _observed(_points(head, me, t - 1)),
        "still": _observed(np.repeat(truth.points[:1], FRAMES, 0)),
        "other": _observed(_points(head, other, t)),
    }
    nets = networks.Networks.__new__(networks.Networks)
    nets.missing = {"arcface": "", "deep3d": ""}
    row = Row("a", "same", None, None, None, Path("truth.mp4"), "p", "x")
    out = {}
    for name, seen in outputs.items():
        result = clip.Score({}, FRAMES)
        clip._face(result, row, seen, nets, lambda _: truth, row.truth, row.truth)
        out[name] = result.figures
    return out


def test_motion_says_truth_then_late_then_still(figures):
    for name in ("aed_fit", "apd_fit_a1", "apd_fit_a2", "akd_mediapipe", "lmd_a", "lmd_lips_a", "lmd_speed_a"):
        truth, late = figures["truth"][name], figures["late"][name]
        assert truth == pytest.approx(0, abs=1e-6) < late, name
    assert figures["truth"]["yaw_correlation"] == pytest.approx(1)
    assert figures["truth"]["yaw_correlation"] > figures["late"]["yaw_correlation"]
    assert figures["truth"]["lip_correlation"] == pytest.approx(1)
    assert figures["late"]["lip_lag"] == 1 and figures["truth"]["lip_lag"] == 0
    # A face that does not move has no correlation, good or bad, and no jitter.
    assert np.isnan(figures["still"]["lip_correlation"]) and figures["still"]["jitter"] == 0
    assert figures["still"]["lmd_lips_a"] > figures["truth"]["lmd_lips_a"]
    assert figures["truth"]["jitter"] > 0


def test_identity_says_the_same_person_then_another(figures):
    assert figures["truth"]["shape_similarity"] == pytest.approx(1)
    assert figures["late"]["shape_similarity"] > figures["other"]["shape_similarity"] + 0.2
    # Another person may move alike.
    assert figures["other"]["yaw_correlation"] > 0.9


def test_five_points_are_of_the_face(head):
    points = _points(head, np.zeros(head.identity.shape[0]), np.zeros(1))[0]
    five = networks.five_points(points)
    assert five[0, 0] < five[2, 0] < five[1, 0] and five[0, 1] < five[2, 1] < five[3, 1]
    assert series.known(points[None]).all()
