import numpy as np
import pytest

from r3p import avatar, photo
from r3p.evaluate.series import best_correlation
from r3p.report import Report, _hole


def test_correlation_finds_the_lag_and_ignores_gaps():
    rng = np.random.default_rng(0)
    series = rng.normal(size=60)
    later = np.roll(series, 2)
    later[20:25] = np.nan
    correlation, lag = best_correlation(later, series, 3)
    assert lag == 2 and correlation == pytest.approx(1)
    assert best_correlation(later, series, 1)[0] < 0.5
    assert best_correlation(np.ones(60), series, 3) == (0.0, 0)
    assert best_correlation(series[:8], series[:8], 0) == (0.0, 0)


def test_a_hole_in_the_face_is_seen():
    angle = np.linspace(0, 2 * np.pi, 40)
    outline = 32 + 15 * np.stack([np.cos(angle), np.sin(angle)], 1)
    weight = np.ones((64, 64), np.float32)
    assert _hole(weight, outline) == 0
    weight[30:34, 30:34] = 0
    assert _hole(weight, outline) == pytest.approx(16 / (np.pi * 13.5**2), rel=0.15)


def test_a_report_names_what_it_misses(tmp_path):
    row = np.zeros((8, 16, 3), np.uint8)
    figures = {"source_psnr": 30.0, "frames_per_second": 1.0, "video_lip_corr": None}
    Report(figures, [row, row]).write(tmp_path / "r.json")
    text = (tmp_path / "r.json").read_text()
    assert '"missed": [\n  "frames_per_second",\n  "video_lip_corr"\n ]' in text
    assert photo.load_image(tmp_path / "r.png").shape == (24, 16, 3)


def test_motion_needs_matching_lengths():
    with pytest.raises(Exception, match="same t"):
        avatar.Motion(np.zeros((3, 64)), np.zeros((2, 3)), np.zeros((3, 3)))
