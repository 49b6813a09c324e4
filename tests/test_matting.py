"""Layers of the test portrait, and facts about each step on made-up pictures."""

import numpy as np
import pytest

from r3p.backdrop import fill_holes, fit_background, parse_colour, remove_person
from r3p.detect import FaceFinder
from r3p.errors import InputError
from r3p.matting import (
    BACKGROUND,
    BODY_SKIN,
    CLOTHES,
    FACE_SKIN,
    HAIR,
    HEAD,
    extend_torso,
    foreground_colour,
    guided_filter,
    polygon_mask,
    refine_alpha,
    split_layers,
)
from r3p.photo import crop_portrait, load_image


@pytest.fixture(scope="module")
def case(request):
    finder = FaceFinder()
    image = load_image(request.path.parent / "data" / "portrait.jpg")
    crop = crop_portrait(image, finder.find(image).landmarks, 256)
    return crop, finder.person_mask(crop.image)


@pytest.fixture(scope="module")
def layers(case):
    crop, mask = case
    return split_layers(crop.image, mask, crop.landmarks)


def test_composite_gives_the_photograph_back(case, layers):
    error = (layers.composite().astype(float) - case[0].image) ** 2
    assert 10 * np.log10(255**2 / error.mean()) > 33
    for a in (layers.head, layers.torso, layers.background):
        assert a.dtype == np.uint8 and a.shape == (256, 256, 3)
    for a in (layers.alpha, layers.head_alpha, layers.torso_alpha):
        assert a.dtype == np.float32 and a.shape == (256, 256) and 0 <= a.min() <= a.max() <= 1


def test_classes_lie_where_they_should(layers):
    # Read from the picture at 256: hair top and sides, forehead, cheek, chin, neck, collar, background corners.
    for (x, y), k in (
        ((130, 30), HAIR),
        ((60, 90), HAIR),
        ((200, 100), HAIR),
        ((120, 120), FACE_SKIN),
        ((105, 140), FACE_SKIN),
        ((126, 180), FACE_SKIN),
        ((125, 193), BODY_SKIN),
        ((126, 230), CLOTHES),
        ((40, 180), CLOTHES),
        ((10, 20), BACKGROUND),
        ((245, 30), BACKGROUND),
        ((245, 170), BACKGROUND),
    ):
        assert layers.segmap[y, x] == k, (x, y, layers.segmap[y, x])
    assert layers.segmap.dtype == np.uint8


def test_moved_head_uncovers_no_hole(layers):
    """Behind the jaw and throughout the neck there is torso, and the background is whole."""
    head = np.isin(layers.segmap, HEAD)
    assert layers.torso_alpha[165:200, 105:145].min() > 0.95
    assert (layers.torso_alpha[:100] < 0.02).all()  # not up into the face
    assert layers.torso[170, 125].mean() > 60  # skin, not black
    hidden = layers.background[head]
    seen = layers.background[:40, :40].reshape(-1, 3)
    assert np.abs(hidden.mean(0) - seen.mean(0)).max() < 30
    assert hidden.std(0).max() < 25  # nothing of the person is left in it


def test_given_segmap_and_background_are_used(case, layers):
    crop, mask = case
    behind = np.full_like(crop.image, (0, 90, 200))
    again = split_layers(crop.image, mask, crop.landmarks, segmap=layers.segmap, background=behind)
    np.testing.assert_array_equal(again.segmap, layers.segmap)
    np.testing.assert_array_equal(again.background, behind)
    assert np.abs(again.composite()[10, 10].astype(int) - (0, 90, 200)).max() <= 1
    with pytest.raises(ValueError, match="segmap"):
        split_layers(crop.image, mask, crop.landmarks, segmap=layers.segmap[:100])
    with_mesh = split_layers(crop.image, mask, crop.landmarks, face_mask=layers.segmap == FACE_SKIN)
    assert (with_mesh.segmap == layers.segmap).mean() > 0.98


def test_person_that_fills_the_picture(case):
    crop, _ = case
    everywhere = np.ones((256, 256), np.float32)
    out = split_layers(crop.image, everywhere, crop.landmarks)
    assert np.isfinite(out.head_alpha).all() and out.background.shape == crop.image.shape
    with pytest.raises(InputError, match="no person"):
        split_layers(crop.image, np.zeros((256, 256), np.float32), crop.landmarks)


def _disc(size=128, r=40):
    y, x = np.mgrid[:size, :size]
    return np.hypot(x - size / 2, y - size / 2) < r


def test_alpha_finds_the_edge_that_a_coarse_mask_missed():
    truth = _disc()
    rng = np.random.default_rng(0)
    rgb = np.where(truth[..., None], (200, 60, 50), (40, 120, 160)) + rng.normal(0, 6, (128, 128, 3))
    rgb = np.clip(rgb, 0, 255).astype(np.uint8)
    coarse = _disc(r=37).astype(np.float32)
    alpha = refine_alpha(rgb, coarse, band=0.06)
    assert np.abs(alpha - truth).mean() < 0.4 * np.abs(coarse - truth).mean()
    assert alpha[64, 64] == 1 and alpha[2, 2] == 0


def test_guided_filter_keeps_edges_and_constants():
    guide = np.zeros((40, 40, 3), np.float32)
    guide[:, 20:] = 1
    noisy = guide[..., 0] + np.random.default_rng(0).normal(0, 0.1, (40, 40)).astype(np.float32)
    out = guided_filter(guide, noisy, 4, 1e-4)
    assert np.abs(out - guide[..., 0]).mean() < 0.04
    np.testing.assert_allclose(guided_filter(guide, np.full((40, 40), 0.3), 4, 1e-4), 0.3, atol=1e-4)


def test_fill_holes_keeps_what_is_known_and_interpolates():
    ramp = np.tile(np.linspace(20, 220, 100)[None, :, None], (80, 1, 3)).round().astype(np.uint8)
    known = ~_disc(100, 20)[10:90]
    filled = fill_holes(np.where(known[..., None], ramp, 0).astype(np.uint8), known)
    np.testing.assert_array_equal(filled[known], ramp[known])
    assert np.abs(filled.astype(int) - ramp).max() < 25
    with pytest.raises(InputError, match="nothing to fill"):
        fill_holes(ramp, np.zeros((80, 100), bool))


def test_removed_person_leaves_no_streaks_and_no_colour():
    rng = np.random.default_rng(1)
    wall = np.clip(rng.normal(140, 4, (128, 128, 3)), 0, 255)
    rgb = np.where(_disc()[..., None], (250, 0, 0), wall).astype(np.uint8)
    out = remove_person(rgb, _disc().astype(np.float32)).astype(float)
    inside = out[_disc(r=36)]
    assert abs(inside.mean() - 140) < 3 and inside.std() < 8
    assert inside.std() > 1  # grain goes on
    np.testing.assert_array_equal(remove_person(rgb, np.ones((128, 128))), np.full_like(rgb, 128))


def test_foreground_colour_takes_the_background_out():
    alpha = np.clip((44 - np.hypot(*(np.mgrid[:128, :128] - 64))) / 8, 0, 1).astype(np.float32)
    fore, back = np.array([220.0, 40, 30]), np.array([20.0, 200, 90])
    mixed = alpha[..., None] * fore + (1 - alpha[..., None]) * back
    out = foreground_colour(mixed.round().astype(np.uint8), alpha, np.broadcast_to(back, (128, 128, 3)), 3)
    assert np.abs(out - fore)[alpha > 0.1].max() < 12


def test_torso_extension_needs_a_torso(case):
    crop, _ = case
    none = np.full((256, 256), FACE_SKIN, np.uint8)
    colours, mask = extend_torso(crop.image, none, crop.landmarks)
    assert not mask.any() and not colours.any()


def test_polygon_and_background_helpers():
    square = polygon_mask(np.array([[10, 10], [30, 10], [30, 20], [10, 20]]), (40, 50))
    assert abs(int(square.sum()) - 200) <= 32 and square[15, 20] and not square[25, 20]
    assert parse_colour("#ff8000") == (255, 128, 0) and parse_colour("white") == (255, 255, 255)
    assert parse_colour("wall.png") is None and parse_colour("#12345g") is None
    wide = np.zeros((50, 200, 3), np.uint8)
    wide[:, 75:125] = 200
    fitted = fit_background(wide, (64, 64))
    assert fitted.shape == (64, 64, 3) and fitted.mean() > 190
