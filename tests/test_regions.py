"""Figures of a picture's parts, in closed form on drawn regions."""

import numpy as np
import pytest

from r3p import matting
from r3p.evaluate import regions

SIDE = 100


class Seer:
    def person_mask(self, rgb):
        return np.ones(rgb.shape[:2], np.float32)


@pytest.fixture
def drawn(monkeypatch):
    """Hair over a face over clothes, background beside; the band of a seam is 2 pixels a side."""
    segmap = np.zeros((SIDE, SIDE), np.uint8)
    segmap[10:30, 30:70], segmap[30:60, 30:70] = matting.HAIR, matting.FACE_SKIN
    segmap[60:, 30:70] = matting.CLOTHES
    monkeypatch.setattr("r3p.evaluate.regions.matting.classify", lambda *_: segmap)
    return segmap


def _frame(level=100):
    return np.full((SIDE, SIDE, 3), level, np.uint8)


LANDMARKS = np.zeros((478, 2))


def test_seams_are_where_layers_meet(drawn):
    found = regions.regions(_frame(), np.ones((SIDE, SIDE)), LANDMARKS)
    assert found["hair"].sum() == 20 * 40 and found["torso"].sum() == 40 * 40 and found["person"].sum() == 90 * 40
    assert found["seams"][58:62, 50].all() and found["seams"][50, 28:32].all()
    # Hair and face are one layer: nothing meets between them.
    assert not found["seams"][30, 50] and not found["seams"][57, 50] and not found["seams"][63, 50]


def test_an_error_counts_in_its_own_region(drawn):
    totals = regions.RegionTotals(Seer())
    wrong = _frame()
    wrong[12:28, 32:68] = 151  # 0.2 of 1, inside of the hair
    totals.add(wrong, _frame(), LANDMARKS)
    totals.add(_frame(), _frame(), LANDMARKS, (wrong, _frame()))
    figures = totals.figures()
    share = 16 * 36 / (20 * 40) / 2  # of the hair, and of the two frames
    assert figures["psnr_hair"] == pytest.approx(-10 * np.log10(0.04 * share))
    assert figures["psnr_torso"] == 100 and figures["psnr_seams"] < 100  # the band reaches one pixel farther inside
    assert figures["flicker"] == pytest.approx(0.2 * 16 * 36 / (90 * 40), rel=1e-5)


def test_change_that_the_truth_has_is_no_flicker(drawn):
    totals = regions.RegionTotals(Seer())
    totals.add(_frame(130), _frame(120), LANDMARKS, (_frame(110), _frame(100)))
    assert totals.figures()["flicker"] == pytest.approx(0, abs=1e-7)


def test_without_a_face_or_hair_there_is_no_figure(drawn):
    totals = regions.RegionTotals(Seer())
    totals.add(_frame(), _frame(), LANDMARKS * np.nan)
    assert all(np.isnan(v) for v in totals.figures().values())
    drawn[drawn == matting.HAIR] = matting.FACE_SKIN
    totals.add(_frame(), _frame(), LANDMARKS)
    figures = totals.figures()
    assert np.isnan(figures["psnr_hair"]) and figures["psnr_torso"] == 100
