"""Synthetic people: seeds, fields, consistency of the layers, agreement with the face model, shards."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from data_pipelines.head import Head, draw_pncc, project
from data_pipelines.people import People
from data_pipelines.people_shards import PeopleShards, decode, encode, write_shards
from r3p import camera, face
from r3p.errors import InputError

SIZE, PNCC = 128, 96
IMAGES = ("source", "torso", "background", "target", "target_head")
MASKS = ("source_segmap", "target_head_mask", "target_mask", "weight")


@pytest.fixture(scope="module")
def people() -> People:
    return People(seed=3, size=SIZE, pncc_size=PNCC)


@pytest.fixture(scope="module")
def examples(people: People) -> list[dict[str, np.ndarray]]:
    return [people[k] for k in range(4)]


def test_same_seed_same_example_whatever_came_before(people, examples):
    again = People(seed=3, size=SIZE, pncc_size=PNCC)[2]
    assert again.keys() == examples[2].keys()
    for key, value in again.items():
        np.testing.assert_array_equal(value, examples[2][key], err_msg=key)
    assert (examples[0]["target"] != examples[1]["target"]).mean() > 0.5


def test_fields(examples):
    shapes = {k: ((SIZE, SIZE, 3), np.uint8) for k in IMAGES} | {k: ((SIZE, SIZE), np.uint8) for k in MASKS}
    shapes |= {f"pncc_{k}": ((PNCC, PNCC, 3), np.uint8) for k in ("canonical", "source", "target")}
    shapes["identity"] = ((80,), np.float32)
    for side in ("source", "target"):
        shapes |= {
            f"{side}_camera": ((25,), np.float32), f"{side}_keypoints": ((68, 3), np.float32),
            f"{side}_expression": ((64,), np.float32), f"{side}_euler": ((3,), np.float32),
            f"{side}_trans": ((3,), np.float32),
        }  # fmt: skip
    for example in examples:
        assert {k: (v.shape, v.dtype.type) for k, v in example.items()} == shapes
        assert all(np.isfinite(v).all() for v in example.values())
        assert set(np.unique(example["source_segmap"])) <= set(range(6))
        assert example["weight"].min() >= 16 and example["weight"].max() > 80
        assert np.abs(example["target_euler"]).max() < np.radians(36)


def test_target_is_head_over_torso_over_background(examples):
    for e in examples:
        head_alpha = e["target_head_mask"][..., None] / 255.0
        seen = e["target"].astype(float)
        behind = (seen - e["target_head"]) / np.maximum(1 - head_alpha, 1e-3)
        clear = (1 - head_alpha[..., 0]) > 0.5
        assert behind[clear].min() > -6 and behind[clear].max() < 261
        empty = e["target_mask"] == 0
        assert empty.mean() > 0.05
        np.testing.assert_array_equal(e["target"][empty], e["background"][empty])
        full = e["target_head_mask"] == 255
        assert 0.1 < full.mean() < 0.8
        assert np.abs(seen[full] - e["target_head"][full]).max() <= 1
        assert (e["target_mask"].astype(int) >= e["target_head_mask"].astype(int) - 1).all()


def test_torso_is_torso_where_the_source_shows_it(people):
    rng = np.random.default_rng(5)
    person = people.person(rng)
    background = np.zeros((SIZE, SIZE, 3), np.uint8)
    picture = people.render(person, np.zeros(64, np.float32), np.zeros(3), np.array([0, 0, -1.5]))
    views = people.develop(picture, background)
    inside = np.isin(views["segmap"], (2, 4)) & (views["head_mask"] == 0)
    assert inside.mean() > 0.03
    assert np.abs(views["image"].astype(int) - views["torso"])[inside].max() <= 1
    neck = views["torso"].max(-1) > 0
    hidden = neck & (views["head_mask"] == 255)
    assert hidden.sum() > 0.01 * SIZE**2  # the neck goes on under the head


def test_key_points_lie_on_the_face(examples):
    for e in examples:
        for side in ("source", "target"):
            points = e[f"{side}_keypoints"]
            assert np.abs(points[:, :2]).max() <= 1 and not points[:, 2].any()
        place = np.round((e["target_keypoints"][30:60, :2] + 1) / 2 * SIZE).astype(int).clip(0, SIZE - 1)
        assert (e["target_head_mask"][place[:, 1], place[:, 0]] > 200).mean() > 0.9


def test_jaw_opens_a_dark_mouth_with_teeth_not_a_hole(people):
    person = people.person(np.random.default_rng(1))
    trans = np.array([0, 0, -0.5])
    shut = people.render(person, np.zeros(64, np.float32), np.zeros(3), trans)
    wide = people.render(person, people.head.weights(jawOpen=0.5), np.zeros(3), trans)
    assert wide.mouth.sum() > shut.mouth.sum() + 40
    points = project(people.head.landmarks(wide.vertices)) * 2 * SIZE
    mask = np.zeros(wide.head_alpha.shape, np.uint8)
    inner = [78, 81, 13, 311, 308, 402, 14, 178]
    cv2.fillPoly(mask, [np.round(points[inner]).astype(np.int32)], 1)
    assert wide.head_alpha[mask > 0].min() > 0.99


def test_blink_hides_the_eyes(people):
    person = people.person(np.random.default_rng(2))
    weights = people.head.weights(eyeBlinkLeft=1, eyeBlinkRight=1)
    holes = [
        (draw_pncc(people.head, people.head.express(person.neutral, w), 192)[80:100, 72:120] == 0).all(-1).sum()
        for w in (np.zeros(64, np.float32), weights)
    ]
    assert holes[1] < 0.35 * holes[0]


def test_agrees_with_the_face_model(people):
    head: Head = people.head
    model = face.load_face_model()
    rng = np.random.default_rng(0)
    identity = rng.normal(size=80).astype(np.float32)
    expression = people.head.weights(jawOpen=0.4, mouthSmileLeft=0.6, eyeBlinkLeft=0.5)
    mine = head.vertices(identity, expression)
    np.testing.assert_allclose(mine, face.vertices(model, identity, expression), atol=2e-5)
    euler, trans = np.array([0.1, -0.3, 0.05]), np.array([0.1, -0.05, -1.5])
    posed = mine @ camera.rotation(euler).T + trans
    np.testing.assert_allclose(
        people.keypoints(posed), face.keypoints68(model, identity, expression, euler, trans), atol=2e-5
    )
    theirs = np.asarray(face.pncc(model, identity, expression, size=PNCC, frame="box"))
    theirs = np.round((theirs + 1) / 2 * 255)
    difference = np.abs(theirs - draw_pncc(head, mine, PNCC)).max(-1)
    assert (difference > 2).mean() < 0.004  # single pixels along silhouettes


def test_shards_give_the_examples_back(tmp_path, examples):
    write_shards(tmp_path, 3, seed=3, size=SIZE, pncc_size=PNCC, workers=1)
    shards = PeopleShards(tmp_path)
    assert len(shards) == 3
    for key, value in shards[2].items():
        if key in IMAGES:
            assert np.abs(value.astype(int) - examples[2][key]).mean() < 3, key
        else:
            np.testing.assert_array_equal(value, examples[2][key], err_msg=key)
    with pytest.raises(IndexError):
        shards[3]
    with pytest.raises(InputError, match="choose another folder"):
        write_shards(tmp_path, 3, seed=4, size=SIZE, pncc_size=PNCC, workers=1)
    with pytest.raises(InputError, match=r"people\.json"):
        PeopleShards(tmp_path / "none")


def test_codes_of_images():
    rng = np.random.default_rng(0)
    exact = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(encode("pncc_source", exact)), exact)
    np.testing.assert_array_equal(decode(encode("weight", exact[..., 0])), exact[..., 0])


def test_unknown_unit_is_named(people):
    with pytest.raises(KeyError, match="smileMouth"):
        people.head.weights(smileMouth=1)


def test_workers_do_not_import_jax():
    code = "import sys, data_pipelines.people, data_pipelines.people_shards; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
