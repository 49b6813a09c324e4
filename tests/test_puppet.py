"""The photograph as its own teacher, on the test portrait."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from data_pipelines.head import Head, project
from r3p.camera import from_pose, rotation
from r3p.errors import InputError
from r3p.face import load_face_model
from r3p.fit import fit_image
from r3p.matting import polygon_mask, split_layers
from r3p.photo import crop_portrait, load_image
from r3p.puppet import Puppet
from r3p.puppet_draw import Buffer, Surface, window
from r3p.puppet_sample import LIMIT, MOST_TURN, PIVOT, draw_expression, draw_pose
from r3p.puppet_shape import INNER_LIPS, polygon

DATA = Path(__file__).parent / "data"
SIZE, PNCC = 128, 96


@pytest.fixture(scope="module")
def puppet():
    image = load_image(DATA / "portrait.jpg")
    with np.load(DATA / "portrait_face.npz") as known:
        crop = crop_portrait(image, known["landmarks"], 256)
        layers = split_layers(crop.image, known["person"] / np.float32(255), crop.landmarks)
    fit = fit_image(load_face_model(), crop.landmarks[:, :2] / 256)
    return Puppet(crop.image, crop.landmarks, fit, layers, Head(), size=SIZE, pncc_size=PNCC)


def quiet(puppet, **units):
    """The source's expression with a mouth at rest but for the given units."""
    out = np.array(puppet.fit.expression, np.float32)
    for k, name in enumerate(puppet.head.names):
        if name.startswith(("mouth", "jaw", "cheek", "rest")):
            out[k] = 0
    return out + puppet.head.weights(**units)


def turned(puppet, yaw=0.0, pitch=0.0):
    """The source's pose, turned on the neck by degrees."""
    source = np.array(puppet.fit.euler, float)
    euler = source + np.radians([pitch, yaw, 0])
    return euler, rotation(source) @ PIVOT + puppet.fit.trans - rotation(euler) @ PIVOT


def test_source_gives_the_photograph_back(puppet):
    fit = puppet.fit
    drawn = puppet.render(fit.expression, fit.euler, fit.trans, 256)
    face = polygon_mask(
        np.asarray(puppet.landmarks)[[10, 297, 284, 389, 454, 361, 397, 379, 152, 150, 172, 132, 234, 162, 54, 67], :2],
        (256, 256),
    )
    error = (drawn["image"].astype(float) - puppet.image)[face]
    assert 10 * np.log10(255**2 / (error**2).mean()) >= 35
    agree = (drawn["segmap"] == puppet.layers.segmap).mean()
    assert agree > 0.93


def test_example_has_the_contract_s_arrays(puppet):
    example = puppet.example(np.random.default_rng(1))
    picture, plane, map_ = (SIZE, SIZE, 3), (SIZE, SIZE), (PNCC, PNCC, 3)
    wanted = {
        **dict.fromkeys(("source", "torso", "background", "target", "target_head"), (np.uint8, picture)),
        **dict.fromkeys(("source_segmap", "target_head_mask", "target_mask", "weight"), (np.uint8, plane)),
        **dict.fromkeys(("pncc_canonical", "pncc_source", "pncc_target"), (np.uint8, map_)),
        "identity": (np.float32, (80,)),
    }
    for name in ("source", "target"):
        shapes = {"camera": (25,), "keypoints": (68, 3), "expression": (64,), "euler": (3,), "trans": (3,)}
        wanted |= {f"{name}_{key}": (np.float32, shape) for key, shape in shapes.items()}
    assert {k: (v.dtype, v.shape) for k, v in example.items()} == wanted
    assert not example["target_head"][example["target_head_mask"] == 0].any()
    assert (example["target_mask"] >= example["target_head_mask"]).all()
    assert example["weight"].min() >= 16 and example["weight"].max() > 90
    camera = from_pose(example["target_euler"].astype(float), example["target_trans"].astype(float))
    np.testing.assert_allclose(example["target_camera"], camera, atol=1e-5)


def test_examples_are_a_function_of_the_generator(puppet):
    a, b = (puppet.example(np.random.default_rng(5)) for _ in range(2))
    assert all(np.array_equal(a[k], b[k]) for k in a)
    assert not np.array_equal(a["target"], puppet.example(np.random.default_rng(6))["target"])


def test_lips_open_with_the_jaw_and_meet_without(puppet):
    gaps = [
        puppet.shape.apertures(puppet.shape.vertices(quiet(puppet, jawOpen=j)))[0] for j in (0, 0.1, 0.2, 0.35, 0.5)
    ]
    assert gaps[0] < 0.005 and np.all(np.diff(gaps) > 0.01)
    # The landmarks' gap is shown at the source's own expression.
    loop = puppet.head.arrays["loop_inner_lips"].astype(int)
    shown = project(puppet.shape.pose(puppet.shape.source)[loop])[:, 1]
    seen = puppet.landmarks[polygon(INNER_LIPS), 1] / 256
    assert abs(np.ptp(shown) - np.ptp(seen)) < 0.006


def test_lids_shut_and_stay_shut(puppet):
    eyes = [
        puppet.shape.apertures(puppet.shape.vertices(quiet(puppet, eyeBlinkLeft=b, eyeBlinkRight=b)))[1:]
        for b in (0, 0.3, 0.8, 1.0, 1.3)
    ]
    assert (eyes[0] > eyes[1]).all() and (eyes[1] > eyes[2] + 0.01).all()
    assert (eyes[2] > eyes[3]).all() and (np.array(eyes[3:]) < 0.006).all()
    # Shut, the eye's place is skin: nothing as dark as the iris is left at its middle.
    euler, trans = turned(puppet)
    open_eye, shut = (
        puppet.render(quiet(puppet, eyeBlinkLeft=b, eyeBlinkRight=b), euler, trans, 256)["image"] for b in (0, 1)
    )
    x, y = puppet.landmarks[473, :2].astype(int)
    spot = (slice(y - 2, y + 3), slice(x - 2, x + 3))
    assert shut[spot].mean() > open_eye[spot].mean() + 30


@pytest.mark.parametrize("yaw", [-25, 25])
def test_turned_head_has_no_holes(puppet, yaw):
    drawn = puppet.render(quiet(puppet, jawOpen=0.2), *turned(puppet, yaw), 256)
    solid = drawn["head_mask"] > 127
    labels, count = ndimage.label(solid)
    assert count == 1 or np.bincount(labels.ravel())[1:].max() > 0.995 * solid.sum()
    assert (ndimage.binary_fill_holes(solid) & ~solid).sum() <= 3
    inside = ndimage.binary_erosion(solid, iterations=2)
    mouth = np.zeros_like(solid)
    loop = puppet.head.arrays["loop_outer_lips"].astype(int)
    euler, trans = turned(puppet, yaw)
    flat = project(puppet.shape.vertices(quiet(puppet, jawOpen=0.2))[loop] @ rotation(euler).T + trans) * 256
    mouth[window(flat, 256)] = True
    assert not (drawn["image"][inside & ~mouth].max(-1) < 3).any()


def test_head_follows_the_camera(puppet):
    """The nose's tip is where the projection says, by the head's own outline moving to that side."""
    columns = []
    for yaw in (-20, 0, 20):
        drawn = puppet.render(puppet.fit.expression, *turned(puppet, yaw), SIZE)
        columns.append(np.nonzero(drawn["head_mask"] > 127)[1].mean())
    assert columns[0] < columns[1] < columns[2]


def test_poses_and_expressions_stay_in_their_limits(puppet):
    rng = np.random.default_rng(0)
    source = np.array([0.1, 0.3, 0.0])
    poses = np.stack([draw_pose(rng, source, np.zeros(3))[0] for _ in range(200)])
    assert (np.abs(poses) <= LIMIT + 1e-9).all() and (np.abs(poses - source) <= MOST_TURN + 1e-9).all()
    draws = np.stack([draw_expression(rng, puppet.head.names, puppet.fit.expression) for _ in range(400)])
    blink = draws[:, puppet.head.names.index("eyeBlinkLeft")] > 0.6
    assert 0.18 < blink.mean() < 0.4
    assert draws[:, puppet.head.names.index("jawOpen")].std() > 0.08
    assert draws.min() >= -0.3 and draws.max() <= 1.2 and draws.dtype == np.float32


def test_window_of_a_picture_is_drawn_like_the_whole():
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.6, 0.6, (30, 3))
    surface = Surface(rng.integers(0, 30, (20, 3)), rng.random((30, 3)))
    whole = Buffer(64)
    whole.draw(points, surface, cull=False)
    area = (slice(20, 41), slice(11, 50))
    part = Buffer(64, area)
    part.draw(points, surface, cull=False)
    same = np.isclose(part.at, whole.at[area], atol=1e-3).all(-1)
    assert same.mean() > 0.99 and whole.hit[area].any()


def test_wrong_input_is_named(puppet):
    with pytest.raises(InputError, match="square"):
        Puppet(puppet.image[:200], puppet.landmarks, puppet.fit, puppet.layers, puppet.head)
    with pytest.raises(InputError, match="landmarks"):
        Puppet(puppet.image, puppet.landmarks[:68], puppet.fit, puppet.layers, puppet.head)
