"""Fits against synthetic truth, a real face's landmarks, and over time."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from r3p import face, fit
from r3p.errors import InputError

# Units whose effect the landmarks show (not the tongue, puffed cheeks or a jaw that moves toward the camera).
SHOWN = (
    "jawOpen", "eyeBlinkLeft", "eyeBlinkRight", "mouthSmileLeft", "mouthSmileRight", "mouthPucker", "mouthFunnel",
    "browDownLeft", "browDownRight", "browOuterUpLeft", "browOuterUpRight", "browInnerUp", "jawLeft", "jawRight",
    "mouthLeft", "mouthRight", "mouthUpperUpLeft", "mouthUpperUpRight", "mouthLowerDownLeft", "mouthLowerDownRight",
    "noseSneerLeft", "noseSneerRight", "eyeLookUpLeft", "eyeLookOutLeft", "eyeLookInRight",
)  # fmt: skip
PIXELS = 512
# MediaPipe's 478 points of skimage.data.astronaut()[0:310, 70:380], in image widths (a public domain photograph).
ASTRONAUT = Path(__file__).parent / "data" / "astronaut_landmarks.npy"


@pytest.fixture(scope="module")
def model():
    return face.load_face_model()


def observe(model, identity, expression, euler, trans):
    mesh = face.vertices(model, identity, expression)
    points = [face.landmarks(model, mesh), face.gather(mesh, model.iris_corners, model.iris_weights)]
    return face.project(face.pose(np.concatenate(points, -2), euler, trans))


def random_truth(model, rng):
    expression = np.zeros(len(model.expression))
    shown = [model.unit(n) for n in SHOWN]
    expression[rng.choice(shown, 4, replace=False)] = rng.uniform(0.2, 0.8, 4)
    euler = rng.uniform([-0.3, -0.5, -0.2], [0.3, 0.5, 0.2])
    trans = rng.uniform([-0.3, -0.3, -5], [0.3, 0.3, 0])
    return rng.normal(size=80) * 0.8, expression, euler, trans


def test_recovers_synthetic_faces(model):
    rng = np.random.default_rng(5)
    truths, fits = zip(*((t, fit.fit_image(model, observe(model, *t))) for t in
                         (random_truth(model, rng) for _ in range(10))), strict=True)  # fmt: skip
    assert max(f.error for f in fits) * PIXELS < 1
    yaw = np.degrees([abs(f.euler[1] - t[2][1]) for f, t in zip(fits, truths, strict=True)])
    assert yaw.mean() < 0.6 and yaw.max() < 1.5
    true, found = np.stack([t[1] for t in truths]), np.stack([f.expression for f in fits])
    active = true > 0
    assert np.corrcoef(true[active], found[active])[0, 1] > 0.9
    assert np.sqrt((found[~active] ** 2).mean()) < 0.06


def test_noise_and_plain_468_points(model):
    rng = np.random.default_rng(6)
    truth = random_truth(model, rng)
    points = observe(model, *truth)[:468]
    points = np.concatenate(
        [points + rng.normal(size=points.shape) / PIXELS, np.zeros((468, 1))], 1
    )  # one pixel, and a z
    result = fit.fit_image(model, points)
    assert 0.5 < result.error * PIXELS < 1.6
    assert abs(np.degrees(result.euler - truth[2])).max() < 2.5
    assert result.identity.dtype == np.float32 and result.expression.shape == (64,)


def test_a_real_face(model):
    """The photograph smiles with open lips: the expression must say so, and lips and lids must lie on theirs."""
    points = np.load(ASTRONAUT)
    result = fit.fit_image(model, points)
    mesh = face.vertices(model, result.identity, result.expression)
    flat = face.project(face.pose(face.landmarks(model, mesh), result.euler, result.trans))
    miss = np.linalg.norm(flat - points[:468], axis=1) * PIXELS
    assert miss.mean() < 3
    assert miss[list(fit.LIPS)].mean() < 2 and miss[list(fit.LIDS)].mean() < 2
    np.testing.assert_allclose(face.lip_gap(flat), face.lip_gap(points), atol=0.02)
    np.testing.assert_allclose(face.eye_gap(flat), face.eye_gap(points), atol=0.05)
    assert result.expression[model.unit("mouthSmileLeft")] > 0.2 and np.abs(result.identity).max() < 3
    units = result.expression[:52]
    assert units.min() > -0.1 and units.max() < 1.2


def moving_face(model, frames, rng):
    """A series with two blinks and a talking jaw."""
    t = np.arange(frames)
    expression = np.zeros((frames, 64))
    expression[:, model.unit("jawOpen")] = 0.2 + 0.15 * np.sin(t * 0.9)
    for k in ("Left", "Right"):
        for at in (12, 33):
            expression[at : at + 4, model.unit("eyeBlink" + k)] = (0.5, 1, 0.9, 0.4)
    euler = np.stack([0.05 * np.sin(t / 7), 0.3 * np.sin(t / 11), 0.02 * t / frames], 1)
    trans = np.tile([0.1, 0.05, -2.0], (frames, 1))
    who = rng.normal(size=80) * 0.7
    points = observe(model, np.tile(who, (frames, 1)), expression, euler, trans)
    return who, expression, euler, points + rng.normal(size=points.shape) * 0.5 / PIXELS


def test_video_shares_identity_and_follows_lips_and_lids(model):
    _who, expression, euler, points = moving_face(model, 48, np.random.default_rng(7))
    lost = points.copy()
    lost[[0, 20, 21]] = np.nan
    result = fit.fit_video(model, lost)
    assert result.identity.shape == (80,) and result.expression.shape == (48, 64) and result.euler.shape == (48, 3)
    assert np.isnan(result.error[[0, 20, 21]]).all() and np.nanmean(result.error) * PIXELS < 1.2
    for unit, least in (("jawOpen", 0.97), ("eyeBlinkLeft", 0.95)):
        k = model.unit(unit)
        assert np.corrcoef(result.expression[:, k], expression[:, k])[0, 1] > least, unit
    assert np.degrees(np.abs(result.euler - euler)[:, 1]).max() < 2
    assert np.abs(np.diff(result.expression[19:23], axis=0)).max() < 0.25  # lost frames are bridged
    one = result.frame(5)
    assert one.expression.shape == (64,) and one.identity.shape == (80,)


def test_streaming_does_not_depend_on_chunks(model):
    who, _, _, points = moving_face(model, 40, np.random.default_rng(8))
    whole = next(fit.fit_frames(model, who, points))
    parts = list(fit.fit_frames(model, who, iter(points), chunk=8, overlap=8))
    assert [len(p.euler) for p in parts] == [8, 8, 8, 8, 8]
    np.testing.assert_allclose(np.concatenate([p.expression for p in parts]), whole.expression, atol=0.01)


def test_start_pose_is_close(model):
    points = observe(model, np.zeros(80), np.zeros(64), np.array([0.2, -0.5, 0.3]), np.array([0.2, -0.1, -3.0]))[:468]
    start = fit.start_pose(points, face.landmarks(model, model.mean), np.ones(468), fit.DEFAULT.focal)
    np.testing.assert_allclose(start, [0.2, -0.5, 0.3, 0.2, -0.1, -3.0], atol=0.3)


def test_other_focal_length(model):
    settings = dataclasses.replace(fit.DEFAULT, focal=face.OFFICIAL_FOCAL)
    mesh = face.landmarks(model, model.mean)
    points = face.project(face.pose(mesh, np.array([0, 0.2, 0]), np.array([0, 0, -1.0])), face.OFFICIAL_FOCAL)
    result = fit.fit_image(model, points, settings)
    assert result.error * PIXELS < 0.5 and abs(result.euler[1] - 0.2) < 0.02


def test_bad_input_is_named(model):
    with pytest.raises(InputError, match="468"):
        fit.fit_image(model, np.zeros((68, 2)))
    with pytest.raises(InputError, match="shape"):
        fit.fit_image(model, np.zeros((3, 468, 2)))
    with pytest.raises(InputError, match="NaN"):
        fit.fit_image(model, np.full((468, 2), np.nan))
    with pytest.raises(InputError, match="no frame"):
        fit.fit_video(model, np.full((4, 468, 2), np.nan))
