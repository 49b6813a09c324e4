"""Brows that move in pictures but not in the landmarks."""

import cv2
import films
import numpy as np
import pytest

from data_pipelines import brows
from data_pipelines.brows import UNITS, BrowTracker
from data_pipelines.head import Head, project
from r3p.camera import rotation
from r3p.fit import BROWS

FRAMES, SIZE = 14, 256


@pytest.fixture(scope="module")
def seen():
    """The tracker; a drawn person's landmarks; the same as if the brows stood still, and straight pictures by these."""
    head, truth = Head(), films.film(19, FRAMES, SIZE)
    units = [head.names.index(u) for u in UNITS]
    moved = np.einsum("tu,uvc->tvc", truth.expression[:, units], head.expression[units])
    moved = np.stack([head.landmarks(m) @ rotation(e).T for m, e in zip(moved, truth.euler, strict=True)])
    there = np.stack([head.landmarks(v) for v in truth.vertices])
    true, still = (np.pad([project(q) for q in p], ((0, 0), (0, 0), (0, 1))) * SIZE for p in (there, there - moved))
    tracker = BrowTracker(head)
    return tracker, true, still, [tracker.straighten(f, p) for f, p in zip(truth.frames, still, strict=True)]


def test_landmarks_follow_the_pictures(seen):
    tracker, true, still, pictures = seen
    found, trust = tracker.correct(still, pictures)
    assert trust == 1.0
    np.testing.assert_allclose(found.mean(0), still.mean(0), atol=0.2)  # where they are on average is not changed

    def motion(points):
        away = (points - still)[:, list(BROWS), 1]
        return away - away.mean(0)

    wanted, got = motion(true), motion(found)
    print("pixels", wanted.std(), (got - wanted).std())
    assert (got - wanted).std() < 0.3 * wanted.std()
    for brow in np.split(np.arange(20), 2):
        assert np.corrcoef(wanted[:, brow].mean(1), got[:, brow].mean(1))[0, 1] > 0.97
    below = np.flatnonzero(tracker.place[:, 1] > tracker.place[list(BROWS), 1].max() + 40)
    assert len(below) > 100
    np.testing.assert_array_equal(found[:, below], still[:, below])


def test_what_cannot_be_seen_changes_nothing(seen):
    tracker, _, still, clear = seen
    rng = np.random.default_rng(0)
    noise = list(rng.integers(0, 256, (FRAMES, tracker.height, tracker.width)).astype(np.uint8))
    blank = [np.full((tracker.height, tracker.width), 128, np.uint8)] * FRAMES
    glasses = [cv2.rectangle(p.copy(), (15, 20), (p.shape[1] - 15, 50), 20, 3) for p in clear]
    for p in glasses:
        cv2.line(p, (p.shape[1] // 2,) * 2, (p.shape[1] // 2, 20), 20, 5)
    for pictures in (noise, blank, glasses):
        found, trust = tracker.correct(still, pictures)
        assert trust == 0.0 and found is still


def test_covered_for_a_moment(seen):
    """A hand before the face: that frame's landmarks stay, the others' hardly change."""
    tracker, _, still, pictures = seen
    whole, _ = tracker.correct(still, pictures)
    covered = [p.copy() for p in pictures]
    covered[5][:] = np.random.default_rng(0).integers(0, 256, covered[5].shape)
    found, trust = tracker.correct(still, covered)
    assert 0.9 < trust < 1
    shift = found - still
    assert np.abs(shift[5] - shift[5].mean(0)).max() < 1
    others = np.arange(FRAMES) != 5
    change = (found - whole)[others]
    assert (change - change.mean(0)).std() < 0.1


def test_long_clips_are_cut_into_stretches(seen, monkeypatch):
    tracker, _, still, pictures = seen
    monkeypatch.setattr(brows, "LONGEST", 10)
    found, trust = tracker.correct(still, pictures)
    assert trust == 1.0
    for half in (slice(0, 7), slice(7, 14)):
        np.testing.assert_array_equal(found[half], tracker.correct(still[half], pictures[half])[0])
