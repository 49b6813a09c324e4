"""What the stages of images read: keys, determinism, motion about a frame, views with true cameras and depths."""

import itertools

import numpy as np
import pytest

from data_pipelines import frames, people_shards, views
from data_pipelines.head import Head, draw_pncc
from r3p import camera
from r3p.errors import InputError

SIZE, PNCC = 64, 48
EVERYTHING = frames.KEYS + frames.MOTION + frames.PERTURBED + frames.BLINKED


@pytest.fixture(scope="module")
def people():
    return frames.DrawnPeople(3, SIZE, PNCC)


@pytest.fixture(scope="module")
def head():
    return Head()


def test_examples_have_what_is_asked_for_and_are_always_the_same(people):
    data = frames.Frames(people, 3, PNCC, EVERYTHING)
    first, again = data[5], frames.Frames(frames.DrawnPeople(3, SIZE, PNCC), 3, PNCC, EVERYTHING)[5]
    assert set(first) == set(EVERYTHING) and first["example"] == 5
    for key, value in first.items():
        np.testing.assert_array_equal(value, again[key], err_msg=key)
    shapes = {k: np.shape(v) for k, v in first.items()}
    assert shapes["pncc_blink"] == (3, PNCC, PNCC, 3) and shapes["pncc_before"] == (PNCC, PNCC, 3)
    assert set(frames.Frames(people, 3, PNCC, frames.KEYS)[5]) == set(frames.KEYS)


def test_maps_are_those_of_the_coefficients(people, head):
    """So shards and clips need not hold neighbours: identity and expression say all."""
    example = people[4]
    neutral = head.vertices(example["identity"], np.zeros(64, np.float32))
    for name in ("source", "target"):
        drawn = draw_pncc(head, head.express(neutral, example[f"{name}_expression"]), PNCC)
        np.testing.assert_array_equal(drawn, example[f"pncc_{name}"])


def test_neighbours_lie_on_a_smooth_path(head):
    rng = np.random.default_rng(0)
    away, bends = [], []
    for _ in range(50):
        here = rng.uniform(0, 0.5, 64).astype(np.float32)
        before, after = frames.neighbours(rng, head, here)
        away.append(np.abs(after - here).max())
        bends.append(np.abs(here - (before + after) / 2).max())
        before, after = frames.neighbours(rng, head, here, extrapolated=True)
        np.testing.assert_allclose((before + after) / 2, here, atol=1e-6)
    assert 0.02 < np.median(away) < 0.3 and 0 < np.median(bends) < np.median(away)


def test_a_clips_own_neighbours_are_used(people, head):
    example = people[2]
    beside = {f"{k}_expression": np.zeros(64, np.float32) for k in ("before", "after")}
    out = frames.add_motion(example | beside, np.random.default_rng(0), head, PNCC, frames.MOTION)
    for key in frames.MOTION:
        np.testing.assert_array_equal(
            out[key], draw_pncc(head, head.vertices(example["identity"], beside["before_expression"]), PNCC)
        )


def test_lids_shut_in_equal_steps(people, head):
    example = people[0]
    out = frames.add_motion(example, np.random.default_rng(1), head, 192, frames.BLINKED)
    covered = [(m.sum(-1) > 0).sum() for m in out["pncc_blink"]]
    assert covered[0] < covered[1] < covered[2]  # eyes are holes in PNCC


def test_batches_are_a_function_of_the_step(people):
    class Numbers:
        def __init__(self, count):
            self.count = count

        def __len__(self):
            return self.count

        def __getitem__(self, index):
            return {"example": np.uint32(index)}

    def numbers(count, first, process, steps=6):
        data = itertools.islice(frames.batches(Numbers(count), 4, 9, first, process), steps)
        return np.stack([b["example"] for b in data])

    for count in (10, 2**40):
        whole = numbers(count, 0, (0, 1))
        np.testing.assert_array_equal(whole[2:], numbers(count, 2, (0, 1), 4))
        for processes in (2, 4):  # each gives its own run of the batch
            shares = [numbers(count, 0, (k, processes)) for k in range(processes)]
            np.testing.assert_array_equal(whole, np.concatenate(shares, 1))
    epoch = numbers(10, 0, (0, 1)).ravel()[:10]
    assert sorted(epoch) == list(range(10)) and list(epoch) != list(range(10))


def test_nobody_is_trained_on_and_held_out(people, tmp_path):
    rows = frames.Frames(people, 3, PNCC, frames.KEYS)
    trained, held = (frames.part(rows, people, held_out) for held_out in (False, True))
    assert len(trained) == len(held) == 2**39 and held[3]["example"] == 3
    assert (trained[3]["source"] == rows[3]["source"]).all() and (held[3]["source"] != rows[3]["source"]).any()
    whole = [b["example"].tolist() for b in frames.batches(held, 4, 0, 0, steps=3)]
    assert whole == [list(range(4 * k, 4 * k + 4)) for k in range(3)]

    people_shards.write_shards(tmp_path, 33, 3, 32, 16, 0, per_person=2)  # of 17 people
    shards = frames.examples("shards", folder=str(tmp_path), seed=0, size=32, pncc_size=16)
    rows = frames.Frames(shards, 3, 16, frames.KEYS)
    trained, held = (frames.part(rows, shards, held_out) for held_out in (False, True))
    assert held.numbers.tolist() == [30, 31] and sorted([*trained.numbers, *held.numbers]) == list(range(33))
    shards.header["per_person"] = 4
    with pytest.raises(InputError, match="9 people, one in 16 of whom is held out: add more"):
        frames.part(rows, shards, held_out=True)


def test_sources_are_named():
    with pytest.raises(InputError, match="choose people, puppets or shards"):
        frames.examples("clips", folder="", seed=0, size=SIZE, pncc_size=PNCC)


# ------------------------------------------------------------------------------------------------ views
def test_two_views_of_one_head():
    data = views.PeopleViews(5, SIZE, 32)
    example, same = data[9], views.PeopleViews(5, SIZE, 32)[9]
    for key, value in example.items():
        np.testing.assert_array_equal(value, same[key], err_msg=key)
    # A point of the source's depth map, carried to the target's camera, lies at the target's depth: cameras and depths
    # belong together. Median, since some of the head is hidden from the other side.
    origin, along = camera.rays(example["source_camera"][None], 32)
    depth = example["source_depth"].reshape(-1)
    points = (origin[0] + along[0] * depth[:, None])[depth > 0]
    pose, _ = camera.split(example["target_camera"][None])
    local = (points - pose[0, :3, 3]) @ pose[0, :3, :3]
    place = np.floor((camera.FOCAL * local[:, :2] / local[:, 2:] + 0.5) * 32).astype(int)
    ok = ((place >= 0) & (place < 32)).all(1)
    seen = example["target_depth"][place[ok, 1], place[ok, 0]]
    error = np.abs(seen - np.linalg.norm(local[ok], axis=1))[seen > 0]
    assert len(error) > 100 and np.median(error) < 0.02


def test_a_generators_views(tmp_path):
    cameras = np.broadcast_to(np.arange(25, dtype=np.float32), (3, 25))
    np.save(tmp_path / "cameras.npy", cameras)
    data = views.GeneratorViews(0, 8, str(tmp_path / "cameras.npy"))
    rows = [data[k] for k in range(200)]
    real = np.mean([(r["source_camera"] == cameras[0]).all() for r in rows])
    assert 0.35 < real < 0.65
    z = np.stack([r["latent"] for r in rows])
    assert z.shape == (200, 8) and abs(z.mean()) < 0.1 and abs(z.std() - 1) < 0.1
    np.testing.assert_array_equal(data[7]["latent"], rows[7]["latent"])
    np.save(tmp_path / "bad.npy", np.zeros((3, 16)))
    with pytest.raises(InputError, match=r"expected cameras \[n, 25\]"):
        views.GeneratorViews(0, 8, str(tmp_path / "bad.npy"))
