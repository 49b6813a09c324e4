"""Measures against independent implementations and closed forms."""

import numpy as np
import pytest
from scipy import linalg
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from r3p.errors import InputError
from r3p.evaluate import frechet, networks, pixels, series
from r3p.photo import load_image


@pytest.fixture(scope="module")
def pair(request):
    image = load_image(request.path.parent / "data" / "portrait.jpg")[60:124, 140:220]
    noisy = np.clip(image.astype(int) + np.random.default_rng(0).integers(-20, 20, image.shape), 0, 255)
    return image, noisy.astype(np.uint8)


def scikit_image(a, b):
    """What `pixels.compare` and `pixels.psnr` give, of frames u8 [h, w, 3], by scikit-image."""
    options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=2, win_size=11)

    def cropped(x, y, span):  # scikit-image fills up the border, the metric does not
        _, full = structural_similarity(x, y, data_range=span, full=True, **options)
        return full[5:-5, 5:-5].mean()

    x, y = (v.astype(np.float64) / 255 for v in (a, b))
    return {
        "psnr": peak_signal_noise_ratio(a, b),
        "l1": np.abs(x - y).mean(),
        "ssim": cropped(x, y, 1),
        "ssim_lab": cropped(2 * x - 1, 2 * y - 1, 2),
        "ssim_half": cropped(2 * x - 1, 2 * y - 1, 1),
    }


def ours(a, b):
    """The same by r3p."""
    got = {k: float(v[0]) for k, v in pixels.compare(b[None], a[None])._asdict().items()}
    return {"psnr": float(pixels.psnr(got.pop("mse"))), **got}


def test_pixels_equal_scikit_image(pair):
    assert ours(*pair) == pytest.approx(scikit_image(*pair), rel=1e-4)


def test_totals_over_batches_and_the_laboratorys_variants(pair):
    a, b = pair
    totals = pixels.PixelTotals()
    totals.add(a[None], a[None])
    totals.add(np.stack([b, b]), np.stack([a, a]))
    figures = totals.figures()
    one = {k: float(np.asarray(v)[0]) for k, v in pixels.compare(b[None], a[None])._asdict().items()}
    assert figures["l1_a"] == pytest.approx(2 * figures["l1_s"]) == pytest.approx(4 / 3 * one["l1"])
    # The mean before the logarithm, and pixels of twice the range against the same peak.
    assert figures["psnr_a"] == pytest.approx(-10 * np.log10(4 * one["mse"] * 2 / 3), rel=1e-6)
    assert figures["psnr_s"] == pytest.approx((100 + 2 * -10 * np.log10(one["mse"])) / 3, rel=1e-6)
    assert figures["ssim_a"] == pytest.approx((1 + 2 * one["ssim_lab"]) / 3, rel=1e-5)
    bright = pixels.PixelTotals()
    bright.add(a[None] // 2 + 100, a[None] // 2 + 110)
    assert not bright.dark
    with pytest.raises(InputError, match="no frame was compared"):
        pixels.PixelTotals().figures()
    with pytest.raises(InputError, match="at least 11"):
        pixels.compare(a[None, :8], b[None, :8])


def scipy_frechet(a, b):
    """The formula with scipy's matrix root, of vectors [n, d], n > d."""
    cov = [np.cov(x, rowvar=False) for x in (a, b)]
    root = linalg.sqrtm(cov[0] @ cov[1]).real
    return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov[0] + cov[1] - 2 * root)


def test_frechet_equals_the_formula():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(60, 5)), rng.normal(size=(50, 5)) @ rng.normal(size=(5, 5)) + 0.3
    want = scipy_frechet(a, b)
    parts = frechet.Moments.of(a[:20]) + frechet.Moments.of(a[20:])
    assert frechet.frechet(parts, frechet.Moments.of(b)) == pytest.approx(want, rel=1e-8)
    assert frechet.frechet(parts, parts) == pytest.approx(0, abs=1e-9)
    # Closed form: one Gaussian moved; and fewer vectors than dimensions, where the covariance is singular.
    few = rng.normal(size=(4, 9))
    moved = frechet.frechet(frechet.Moments.of(few), frechet.Moments.of(few + 2))
    assert moved == pytest.approx(9 * 4, rel=1e-6)
    with pytest.raises(InputError, match="at least 2"):
        frechet.frechet(parts, frechet.Moments.of(a[:1]))


def test_kernel_distance_equals_its_sums():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(6, 3)), rng.normal(size=(5, 3)) + 1

    def k(x, y):
        return (x @ y / 3 + 1) ** 3

    within = [np.mean([k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]) for x in (a, b)]
    want = sum(within) - 2 * np.mean([k(x, y) for x in a for y in b])
    assert frechet.kernel_distance(a, b) == pytest.approx(want, rel=1e-9)


def test_the_kept_sample_is_bounded_and_fair():
    features = frechet.Features(keep=50)
    for first in range(0, 1000, 100):
        features.add(np.arange(first, first + 100)[:, None].astype(float))
    assert features.sample.shape == (50, 1) and features.moments.count == 1000
    assert 300 < features.sample.mean() < 700


def _face(frames):
    """A face of 478 points that looks about, blinks twice and speaks."""
    points = np.random.default_rng(0).uniform(100, 200, (478, 2))
    corners = {33: (110, 120), 133: (130, 120), 362: (170, 120), 263: (190, 120)}
    lids = {159: (120, 117), 145: (120, 123), 386: (180, 117), 374: (180, 123)}
    mouth = {13: (150, 170), 14: (150, 172), 1: (150, 150), 234: (100, 150), 454: (200, 150)}
    for k, at in (corners | lids | mouth).items():
        points[k] = at
    out = np.repeat(points[None], frames, 0)
    out[:, 14, 1] += 5 * (1 + np.sin(np.arange(frames) / 2))
    out[:, 1, 0] += 10 * np.sin(np.arange(frames) / 7)
    for start in (20, 70):
        out[start : start + 4, [159, 145, 386, 374], 1] = 120.3
    return out


def test_blinks_are_counted():
    got = series.blinks(_face(150))  # six seconds
    assert got["blinks_per_minute"] == pytest.approx(20)
    assert got["blink_seconds"] == pytest.approx(4 / 25)
    assert got["blink_depth"] == pytest.approx(1, abs=0.01)
    assert series.blinks(_face(20))["blinks_per_minute"] == 0
    assert np.isnan(series.blinks(np.full((5, 478, 2), np.nan))["blinks_per_minute"])


def test_landmark_distances_in_closed_form():
    a = _face(30)
    assert series.keypoint_distance(a, a + np.array([2, 0])) == pytest.approx(1)
    still = series.landmark_distances(a, a + np.array([2, 0]))  # a constant shift is taken away
    assert all(v == pytest.approx(0, abs=1e-9) for v in still.values())
    shaken = a + np.where(np.arange(30) % 2, 1.0, -1.0)[:, None, None]
    assert series.landmark_distances(a, shaken)["lmd_a"] == pytest.approx(1)
    assert series.landmark_distances(a, shaken)["lmd_speed_a"] == pytest.approx(2)
    # A gap of one frame: neither that frame nor the steps into and out of it count.
    shaken[7] = np.nan
    assert series.landmark_distances(a, shaken)["lmd_speed_a"] == pytest.approx(2)
    assert np.isnan(series.landmark_distances(a, a * np.nan)["lmd_a"])


def test_jitter_of_a_zigzag_and_of_steady_motion():
    still = np.repeat(_face(1), 20, 0)
    assert series.jitter(still + np.arange(20)[:, None, None]) == pytest.approx(0, abs=1e-9)
    unit = 60 / 100  # the eyes' middles are 60 pixels apart
    zigzag = still + np.where(np.arange(20) % 2, 0.5, -0.5)[:, None, None] * [1, 0]
    assert series.jitter(zigzag) == pytest.approx((2 / unit) ** 2)


def test_correlation_says_nothing_of_what_does_not_move():
    moving = np.sin(np.arange(40.0))
    assert series.correlation(moving, moving)[0] == pytest.approx(1)
    assert series.correlation(moving[2:], moving, 2) == (pytest.approx(1), -2)
    assert np.isnan(series.correlation(moving, np.ones(40))[0])
    assert np.isnan(series.correlation(moving[:5], moving[:5])[0])


def test_the_five_points_reach_their_places():
    angle, k = 0.4, 1.7
    turn = k * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    source = np.random.default_rng(0).uniform(0, 100, (5, 2))
    matrix = networks.similarity(source, source @ turn.T + [3, -4])
    np.testing.assert_allclose(matrix, np.concatenate([turn, [[3], [-4]]], 1), atol=1e-9)
    assert networks.five_points(_face(1)[0]).shape == (5, 2)


def test_weights_are_copies():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 1, (9, 5)), rng.normal(0.5, 1, (11, 5))
    wa, wb = rng.integers(0, 4, 9).astype(float), rng.integers(0, 4, 11).astype(float)
    copies = [np.repeat(x, w.astype(int), 0) for x, w in ((a, wa), (b, wb))]
    wanted = frechet.frechet(*(frechet.Moments.of(x) for x in copies))
    assert frechet.frechet_of(a, b, wa, wb) == pytest.approx(wanted, rel=1e-6)
    one = frechet.kernel_distance_of(frechet.kernels(a, b), np.ones(9), np.ones(11))
    assert one == pytest.approx(frechet.kernel_distance(a, b), rel=1e-9)


def test_pooled_intervals_hold_the_value_and_shrink_with_people():
    def width(people, seed=0):
        rng, clips = np.random.default_rng(seed), frechet.Clips()
        for k in range(people):
            centre = rng.normal(0, 1, 6)
            clips.add(f"p{k}", centre + rng.normal(0, 0.3, (8, 6)), centre + 0.5 + rng.normal(0, 0.3, (8, 6)))
        (low, high), (k_low, k_high) = clips.intervals((2.0, 0.1))
        assert low < 2 < high and k_low < 0.1 < k_high
        return high - low

    assert width(40) < width(5)
    alone = frechet.Clips()
    alone.add("p", np.ones((3, 2)), np.ones((3, 2)))
    assert np.isnan(alone.intervals((1.0, 1.0))).all()
