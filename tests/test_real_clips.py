"""Talking clips in both data sets' real layouts through the whole preparation: a real one, and a synthetic person whose
pose, expression and camera are known.

R3P_REAL_CLIP: a video of one talking face with sound, at least 4 s at 25 Hz.
R3P_DRAWN_PEOPLE: which people are drawn, by seed; not everyone is found as well as these two.
"""

import json
import os

import films
import numpy as np
import pytest

from data_pipelines.head import Head, project
from data_pipelines.prepare import REPORT
from data_pipelines.shards import Shards
from data_pipelines.shards_check import check
from r3p import audio, camera, face, video
from r3p.cli import main

PIXELS = 512
REAL = os.environ.get("R3P_REAL_CLIP", "")
PEOPLE = [int(seed) for seed in os.environ.get("R3P_DRAWN_PEOPLE", "19,21").split(",")]


def _prepare(folder, out, *more):
    command = ["prepare", "--input", str(folder), "--out", str(out), "--workers", "1", "--size", "256", *more]
    assert main(command) == 0
    assert list(check(out)) == []
    report = json.loads((out / REPORT).read_text(encoding="utf-8"))
    assert report["rejected"] == {}
    return Shards(out, None), report


def _voxceleb2(folder, clip):
    films.part(clip, "video", folder / "dev/mp4/id00001/abc/00001.mp4")
    films.part(clip, "audio", folder / "dev/aac/id00001/abc/00001.m4a")
    return "--layout", "voxceleb2"


def _celebvhq(folder, frames, sound, times):
    """The raw video, in which the clip is a part of the picture and of the time; and a clip that nobody holds."""
    _, h, w, _ = np.shape(frames)
    left, top, width, height = w // 4, h // 8, 2 * w, 3 * h // 2
    raw = np.full((len(frames), height, width, 3), 90, np.uint8)
    raw[:, top : top + h, left : left + w] = frames
    films.write(folder / "raw" / "abc.mp4", raw, sound, preset="fast")
    box = {"left": left / width, "top": top / height, "right": (left + w) / width, "bottom": (top + h) / height}
    row = {"ytb_id": "abc", "duration": dict(zip(("start_sec", "end_sec"), times, strict=True)), "bbox": box,
           "attributes": {"appearance": [0] * 40}, "version": "v0.1"}  # fmt: skip
    listing = folder / "celebvhq_info.json"
    listing.write_text(json.dumps({"meta_info": {}, "clips": {"abc_0": row, "lost_0": row | {"ytb_id": "lost"}}}))
    return "--layout", "celebvhq", "--list", str(listing)


def _series(data, clip, *names):
    frames = [data.frame(clip, t, names) for t in range(clip.frames)]
    return [np.stack([f[name] for f in frames]) for name in names]


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="R3P_REAL_CLIP names no clip")
def test_a_real_clip_in_both_layouts(tmp_path):
    frames = list(video.read_frames(REAL, 25, 80))
    sound = audio.load(REAL)[: 80 * 640]
    clip = films.write(tmp_path / "clip.mp4", frames, sound, preset="fast")
    vox, _ = _prepare(tmp_path / "vox", tmp_path / "a", *_voxceleb2(tmp_path / "vox", clip))
    assert [(c.name, c.known["person"]) for c in vox.clips] == [("dev/mp4/id00001/abc/00001.mp4", "id00001")]
    hq, report = _prepare(tmp_path / "hq", tmp_path / "b", *_celebvhq(tmp_path / "hq", frames, sound, (1.0, 2.6)))
    assert report["missing"] == ["lost_0"] and [c.name for c in hq.clips] == ["abc_0"]
    whole, part = vox.clips[0], hq.clips[0]
    assert (whole.frames, part.frames) == (80, 40) and part.known["youtube"] == "abc"
    (error,) = _series(vox, whole, "error")
    assert np.nanmean(error) * PIXELS < 4
    # The same face says the same at the same time, whichever way it came in.
    a, b = (d.motion(c, ("sound", "expression", "pitch")) for d, c in ((vox, whole), (hq, part)))
    jaw = face.load_face_model().unit("jawOpen")
    assert np.corrcoef(a["expression"][25:65, jaw], b["expression"][:, jaw])[0, 1] > 0.9
    lags = np.arange(-640, 641, 80)
    x = a["sound"].astype(np.float64)[16000 : 16000 + 38 * 640]
    match = [np.corrcoef(x[640:-640], b["sound"][640 + k : len(x) - 640 + k])[0, 1] for k in lags]
    assert lags[np.argmax(match)] == 0 and max(match) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seed", PEOPLE)
def test_a_synthetic_person_is_found_as_drawn(seed, tmp_path):
    """Reprojection within 2 pixels of 512, yaw within 2 degrees, every unit that moves correlates by 0.9."""
    truth = films.film(seed, 50, PIXELS)
    films.write(tmp_path / "in" / "p" / "1.mp4", truth.frames, preset="fast")
    data, _ = _prepare(tmp_path / "in", tmp_path / "out")
    (clip,) = data.clips
    names = ("keypoints", "euler", "trans", "expression", "camera", "error")
    found = dict(zip(names, _series(data, clip, *names), strict=True))
    x0, y0, side = clip.known["crop"]
    head = Head()
    drawn = np.stack([project(head.landmarks(v)[head.arrays["landmarks_68"]]) for v in truth.vertices])
    drawn = (drawn * PIXELS - [x0, y0]) / side * PIXELS
    away = np.linalg.norm((found["keypoints"] + 1) / 2 * PIXELS - drawn, axis=-1)
    yaw = np.degrees(np.abs(found["euler"] - truth.euler)[:, 1])
    depth = (camera.CAMERA_DISTANCE - found["trans"][:, 2]) / (camera.CAMERA_DISTANCE - truth.trans[:, 2])
    units = {
        name: np.corrcoef(found["expression"][:, face.load_face_model().unit(name)], values)[0, 1]
        for name, values in films.moving_units(50).items()
    }
    print(f"seed {seed}: {found['error'].mean() * PIXELS:.2f} px from the landmarks, {away.mean():.2f} from the truth, "
          f"yaw {np.median(yaw):.2f}, depth {np.median(depth) * PIXELS / side:.3f}, {units}")  # fmt: skip
    assert found["error"].mean() * PIXELS <= 2
    assert np.median(yaw) <= 2
    assert abs(np.median(depth) * PIXELS / side - 1) < 0.1
    np.testing.assert_allclose(found["camera"][0], camera.from_pose(found["euler"][0], found["trans"][0]), atol=1e-5)
    assert min(units.values()) >= 0.9, units
