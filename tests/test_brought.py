"""Networks that a user brings as converted weights, and LSE of them."""

import jax
import numpy as np
import pytest
from quick import drawn
from scipy.io import savemat

from r3p import audio, weights
from r3p.errors import InputError
from r3p.evaluate import brought, sync
from r3p.evaluate.networks import Networks
from r3p.models.arcface import ArcFace
from r3p.models.deep3d import Deep3D
from r3p.models.inception import Inception
from r3p.models.lipsync import LipSync

ARC = {"depths": [1, 1, 1, 1], "stem": 4, "widths": [4, 4, 4, 8], "embedding": 6}
LIPS = {"sound_widths": [4, 4, 4, 4, 4, 8], "lip_widths": [4, 4, 4, 4, 4, 8], "width": 8, "embedding": 16}


@pytest.fixture(autouse=True)
def no_lpips(monkeypatch):
    def absent(*args, **kwargs):
        raise InputError("absent")

    monkeypatch.setattr("r3p.lpips.load", absent)


def _save(path, module, kind, fields, *shapes):
    variables = drawn(module, *(np.zeros(s, np.float32) for s in shapes))
    weights.save(path, variables, {"kind": kind, "fields": fields})
    return variables


def _tuples(fields):
    return {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}


def test_arcface_sees_faces_from_minus_one_to_one(tmp_path):
    module = ArcFace(**_tuples(ARC))
    variables = _save(tmp_path / "a.npz", module, "arcface", ARC, (1, 112, 112, 3))
    nets = Networks({"arcface": str(tmp_path / "a.npz")})
    assert "arcface" in nets and "sha256" in nets.origin["arcface"]
    faces = np.random.default_rng(0).integers(0, 256, (5, 112, 112, 3), np.uint8)
    wanted = jax.jit(module.apply)(variables, faces.astype(np.float32) / 127.5 - 1)
    np.testing.assert_allclose(nets.user("arcface", faces), wanted, rtol=2e-3, atol=2e-4)


def test_weights_that_do_not_serve(tmp_path):
    with pytest.raises(InputError, match="no such weights"):
        Networks({"arcface": "nowhere"})
    fields = {"fid": False, "divide": 16}
    _save(tmp_path / "i.npz", Inception(**fields), "inception", fields, (1, 75, 75, 3))
    with pytest.raises(InputError, match="are not FID"):
        Networks({"inception": str(tmp_path / "i.npz")})
    with pytest.raises(InputError, match="expected 'arcface'"):
        Networks({"arcface": str(tmp_path / "i.npz")})


def test_deep3d_wants_the_standard_face(tmp_path):
    fields = {"depths": [1, 1, 1, 1], "stem": 4, "widths": [4, 4, 4, 4], "heads": [80, 64, 80, 3, 27, 2, 1]}
    _save(tmp_path / "d.npz", Deep3D(**_tuples(fields)), "deep3d", fields, (1, 224, 224, 3))
    with pytest.raises(InputError, match="similarity_Lm3D_all"):
        Networks({"deep3d": str(tmp_path / "d.npz")})
    standard = np.random.default_rng(1).normal(0, 0.4, (68, 3))
    savemat(tmp_path / "similarity_Lm3D_all.mat", {"lm": standard})
    network = Networks({"deep3d": str(tmp_path / "d.npz")}).brought("deep3d")
    # A face seen straight on, 50 pixels a unit: its origin comes to the crop's middle, its unit to 102 pixels.
    five = network.standard[:, :2] * [50, -50] + [130, 90]
    shift, scale = brought.orthographic(five, network.standard)
    np.testing.assert_allclose([*shift, scale], [130, 90, 50], atol=1e-6)
    frame = np.zeros((200, 260, 3), np.uint8)
    at = np.round(five[2]).astype(int)
    frame[at[1] - 2 : at[1] + 3, at[0] - 2 : at[0] + 3] = 255
    crop = network.crop(frame, five)
    y, x = (np.average(np.arange(224) + 0.5, weights=crop[..., 0].sum(k).astype(float)) for k in (1, 0))
    wanted = network.standard[2, :2] * [102, -102] + 112
    np.testing.assert_allclose([x, y], wanted, atol=2.5)
    assert network(np.stack([crop] * 3)).shape == (3, 257)


def _slow_cepstra(wav):
    """The definition, sum by sum."""
    x = np.round(wav * 32768)
    x = np.array([x[0], *(x[1:] - 0.97 * x[:-1])])
    mel = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 28)
    edges = [int(513 * 700 * (10 ** (m / 2595) - 1) / 16000) for m in mel]
    rows = []
    for start in range(0, len(x) - 399, 160):
        power = np.abs(np.fft.rfft(x[start : start + 400], 512)) ** 2 / 512
        bands = []
        for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
            total = sum(power[k] * (k - low) / (middle - low) for k in range(low, middle))
            bands.append(np.log(total + sum(power[k] * (high - k) / (high - middle) for k in range(middle, high))))
        row = [np.log(power.sum())]
        for k in range(1, 13):
            cosines = np.cos(np.pi * k * (np.arange(26) + 0.5) / 26)
            row.append(np.sqrt(2 / 26) * (cosines @ bands) * (1 + 11 * np.sin(np.pi * k / 22)))
        rows.append(row)
    return np.array(rows)


def test_cepstra_are_their_definition():
    wav = 0.2 * np.random.default_rng(2).normal(0, 1, 400 + 160 * 7).clip(-3, 3)
    np.testing.assert_allclose(sync.cepstra(wav), _slow_cepstra(wav), rtol=1e-8)
    assert len(sync.cepstra(wav[:-100])) == 8  # the last step is filled up
    assert np.isfinite(sync.cepstra(np.zeros(800))).all()


def test_the_lag_of_the_sound_is_found():
    rng = np.random.default_rng(3)
    lips = rng.normal(0, 1, (60, 8))
    for lag in (-4, 0, 7):
        sound = np.roll(lips, -lag, 0) + 0.1 * rng.normal(0, 1, lips.shape)
        got = sync.scores(sync.distances(lips, sound))
        assert got["lse_lag"] == lag and got["lse_c"] > 1 and got["lse_d"] < 1.2
    unrelated = sync.scores(sync.distances(lips, rng.normal(0, 1, lips.shape)))
    assert unrelated["lse_c"] < 0.5


def test_distances_are_the_scripts():
    rng = np.random.default_rng(4)
    lips, sound = rng.normal(0, 1, (2, 9, 3))
    got = sync.distances(lips, sound, 2)
    for k in range(5):
        rows = [sound[i + k - 2] if 0 <= i + k - 2 < 9 else np.zeros(3) for i in range(9)]
        wanted = np.mean([np.sqrt(((a - b + 1e-6) ** 2).sum()) for a, b in zip(lips, rows, strict=True)])
        assert got[k] == pytest.approx(wanted)


def test_a_judge_looks_at_every_clip_of_five_frames(tmp_path):
    _save(tmp_path / "s.npz", LipSync(**_tuples(LIPS)), "lipsync", LIPS, (1, 5, 224, 224, 3), (1, 13, 20, 1))
    judge = Networks({"syncnet": str(tmp_path / "s.npz")}).brought("syncnet").judge
    rng = np.random.default_rng(5)
    points = rng.uniform(20, 60, (12, 478, 2)).astype(np.float32)
    points[3] = np.nan
    frames = iter(rng.integers(0, 256, (12, 80, 80, 3), np.uint8))
    got = judge(frames, points, 0.1 * rng.normal(0, 1, 12 * audio.RATE // 25).astype(np.float32))
    assert set(got) == {"lse_c", "lse_d", "lse_lag"} and np.isfinite(list(got.values())).all() and got["lse_c"] >= 0


def test_crops_of_faces_reach_beyond_the_picture():
    frame = np.full((60, 60, 3), 200, np.uint8)
    frame[..., 2] = 10
    crop = sync.face_crop(frame, np.array([30.0, 30.0, 25.0]))
    assert crop.shape == (224, 224, 3)
    # BGR; grey 110 below the picture.
    assert crop[20, 112].tolist() == [10, 200, 200] and crop[-5, 112].tolist() == [110, 110, 110]
