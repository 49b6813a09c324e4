"""Measures equal independent implementations on the frames of a real clip, to 1e-4: scikit-image's PSNR and SSIM, LPIPS
in NumPy, scipy's matrix root.

R3P_REAL_CLIP: a video of a talking face, at least 2 s.
"""

import os

import numpy as np
import pytest
from test_lpips import plain_lpips
from test_metrics import ours, scikit_image, scipy_frechet

from r3p import lpips, video
from r3p.evaluate import frechet, networks
from r3p.evaluate.observe import scaled

REAL = os.environ.get("R3P_REAL_CLIP", "")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not REAL, reason="R3P_REAL_CLIP names no clip")]
CLOSE = 1e-4


@pytest.fixture(scope="module")
def frames():
    return [scaled(f, 256) for f in video.read_frames(REAL, 25, 48)]


def test_pixels(frames):
    found = {}
    for first in range(0, 40, 5):
        pair = frames[first], frames[first + 5]
        got, want = ours(*pair), scikit_image(*pair)
        for k in want:
            found[k] = max(found.get(k, 0.0), float(abs(got[k] - want[k]) / abs(want[k])))
    print(f"worst relative differences of 8 pairs of frames: {found}")
    assert max(found.values()) < CLOSE


@pytest.mark.parametrize(("net", "side"), [("alexnet", 256), ("vgg16", 64)])
def test_lpips(net, side, frames):
    """As `r3p eval` computes it; VGG16 on the middle of the frame, since NumPy takes its time."""
    low = [(n - side) // 2 if n > side else 0 for n in frames[0].shape[:2]]
    a, b = (frames[k][low[0] : low[0] + side, low[1] : low[1] + side] for k in (0, 20))
    got = float(networks.Networks().lpips(net, a[None], b[None])[0])
    want = plain_lpips(lpips.load(net=net), net, a, b)
    print(f"LPIPS {net}: {got:.6f}, by NumPy {want:.6f}, relative difference {abs(got - want) / want:.1e}")
    assert got == pytest.approx(want, rel=CLOSE)


def test_frechet(frames):
    """Of features of the clip's two halves: of so few numbers each that scipy's root is that of a regular matrix."""
    vectors = networks.Networks().vgg(np.stack(frames[::3]))
    chosen = np.argsort(-vectors.std(0))[:4]
    a, b = vectors[:8, chosen].astype(np.float64), vectors[8:, chosen].astype(np.float64)
    got, want = frechet.frechet(frechet.Moments.of(a), frechet.Moments.of(b)), scipy_frechet(a, b)
    print(f"Frechet distance {got:.6f}, by scipy {want:.6f}, relative difference {abs(got - want) / want:.1e}")
    assert got == pytest.approx(want, rel=CLOSE)
