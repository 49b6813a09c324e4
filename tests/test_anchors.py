"""Anchors: the truth, the truth a frame late, a face that does not move, another person: in the right order.

Faces are the head model's under known expressions and poses; what the fit makes of landmarks is tested with the fit.
"""

from pathlib import Path

import numpy as np
import pytest

from r3p import face, fit
from r3p.evaluate import clip, networks, series
from r3p.evaluate.manifest import Row
from r3p.evaluate.observe import Observation

SIDE, FRAMES = 64, 24


@pytest.fixture(scope="module")
def head():
    return face.load_face_model()


def _observed(head, identity, times):
    """A mouth that opens and shuts while the head turns: 478 points in pixels, and the fit that made them."""
    names = list(head.expression_names)
    expression = np.zeros((len(times), len(names)))
    expression[:, names.index("jawOpen")] = 0.25 * (1 + np.sin(2.1 * times))
    euler = np.outer(0.25 * np.sin(0.9 * times), [0, 1, 0])
    trans = np.zeros((len(times), 3))
    mesh = np.asarray(face.vertices(head, np.repeat(identity[None], len(times), 0), expression))
    found = SIDE * np.asarray(face.project(face.pose(np.asarray(face.landmarks(head, mesh)), euler, trans)))
    irises = [found[:, list(c)].mean(1, keepdims=True) for c in face.EYE_CORNERS for _ in range(5)]
    seen = Observation("x", np.concatenate([found, *irises], 1).astype(np.float32), (SIDE, SIDE), 0.0)
    seen.__dict__["fitted"] = fit.Fit(identity, expression, euler, trans, np.zeros(len(times)))
    return seen


@pytest.fixture(scope="module")
def figures(head):
    me, other = np.random.default_rng(1).normal(0, 1, (2, head.identity.shape[0]))
    t = np.arange(FRAMES).astype(float)
    truth = _observed(head, me, t)
    outputs = {
        "truth": truth,
        "late": _observed(head, me, t - 1),
        "still": _observed(head, me, np.zeros(FRAMES)),
        "other": _observed(head, other, t),
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


def test_motion_says_truth_then_late_or_still(figures):
    for name in ("aed_fit", "apd_fit_a1", "apd_fit_a2", "akd_mediapipe", "lmd_a", "lmd_lips_a", "lmd_speed_a"):
        assert figures["truth"][name] == pytest.approx(0, abs=1e-6), name
        assert figures["late"][name] > 0 and figures["still"][name] > 0, name
    assert figures["truth"]["yaw_correlation"] == pytest.approx(1)
    assert figures["truth"]["yaw_correlation"] > figures["late"]["yaw_correlation"] > 0
    assert figures["truth"]["lip_correlation"] == pytest.approx(1)
    assert figures["late"]["lip_lag"] == 1 and figures["truth"]["lip_lag"] == 0
    # A face that does not move has no correlation, good or bad, and no jitter.
    assert np.isnan(figures["still"]["lip_correlation"]) and figures["still"]["jitter"] == pytest.approx(0, abs=1e-6)
    assert figures["truth"]["jitter"] > 0.1


def test_identity_says_the_same_person_then_another(figures):
    assert figures["truth"]["shape_similarity"] == figures["late"]["shape_similarity"] == pytest.approx(1)
    assert figures["other"]["shape_similarity"] < 0.5
    assert figures["other"]["akd_mediapipe"] > figures["truth"]["akd_mediapipe"]
    # Another person may move alike.
    assert figures["other"]["yaw_correlation"] > 0.9 and figures["other"]["lip_correlation"] > 0.9


def test_five_points_are_of_the_face(head):
    points = _observed(head, np.zeros(head.identity.shape[0]), np.zeros(1)).points[0]
    five = networks.five_points(points)
    assert five[0, 0] < five[2, 0] < five[1, 0] and five[0, 1] < five[2, 1] < five[3, 1]
    assert series.known(points[None]).all()
