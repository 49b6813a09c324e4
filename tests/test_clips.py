"""Real files through the preparation: each unusable clip ends with a reason. One clip goes the whole way."""

import cv2
import numpy as np
import pytest

from data_pipelines import clips, prepare
from data_pipelines.clip_pairs import ClipPairs
from data_pipelines.prepare import Rejected
from data_pipelines.shards import Shards
from data_pipelines.shards_check import check, show
from data_pipelines.sources import Source, find_clips
from r3p import audio, video
from r3p.errors import InputError
from r3p.photo import load_image


@pytest.fixture(scope="module")
def preparer():
    return clips.Preparer(clips.Settings(size=64))


@pytest.fixture(scope="module")
def portrait(request):
    return cv2.resize(load_image(request.path.parent / "data" / "portrait.jpg"), (192, 192))


def _film(path, frames, audio=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    with video.VideoWriter(path, (width, height), 25, audio=audio, preset="ultrafast") as writer:
        for frame in frames:
            writer.write(frame)
    return path


def _reason(preparer, path):
    with pytest.raises(Rejected) as told:
        preparer(Source(path.name, path, "p", "train"))
    assert str(path.parent) not in told.value.reason and told.value.text
    return told.value.reason


def test_files_that_are_no_clips(preparer, portrait, tmp_path):
    (tmp_path / "empty é.mp4").touch()
    assert _reason(preparer, tmp_path / "empty é.mp4") == "unreadable"
    whole = _film(tmp_path / "two.mp4", [portrait] * 2)
    assert _reason(preparer, whole) == "too short"
    (tmp_path / "cut off.mp4").write_bytes(whole.read_bytes()[:200])
    assert _reason(preparer, tmp_path / "cut off.mp4") == "unreadable"
    (tmp_path / "text.mp4").write_text("no video")
    assert _reason(preparer, tmp_path / "text.mp4") == "unreadable"


def test_a_scene_change_and_a_missing_face(preparer, portrait, tmp_path):
    wall = np.full_like(portrait, 255)
    assert _reason(preparer, _film(tmp_path / "cut.mp4", [portrait, portrait, wall])) == "cut"
    assert _reason(preparer, _film(tmp_path / "wall.mp4", [wall[:48, :48]] * 16)) == "no face"


def test_a_part_of_a_video_is_cut_out(tmp_path):
    """CelebV-HQ's list names a time and a box of a YouTube video."""
    frames = np.full((50, 40, 80, 3), 200, np.uint8)
    frames[:, :20, 40:] = 4 * np.arange(50)[:, None, None, None]
    film = _film(tmp_path / "v.mp4", frames, np.where(np.arange(32000) < 16000, 0, 0.5).astype(np.float32))
    source = Source("v_0", film, "v", "train", times=(0.8, 1.6), box=(0.5, 0.0, 1.0, 0.5))
    cut = list(clips._pictures(source))
    assert len(cut) == 20 and cut[0].shape == (20, 40, 3)
    np.testing.assert_allclose([c[4:16, 4:36].mean() for c in cut], 4 * np.arange(20, 40), atol=6)
    assert len(list(clips._pictures(source, 1))) == 1
    sound = audio.load(film, 0.8, 0.8)
    assert len(sound) == 12800 and np.abs(sound[:3000]).max() < 0.1 and np.abs(sound[4000:] - 0.5).max() < 0.2
    with pytest.raises(InputError, match=r"no readable frame at 60\.00 s"):
        list(clips._pictures(Source("v_1", film, "v", "train", times=(60.0, 61.0), box=(0, 0, 1, 1))))


def test_frames_without_a_face_lie_between_their_neighbours():
    points = np.arange(5, dtype=np.float32)[:, None, None] * np.ones((1, 4, 3), np.float32)
    gaps = points.copy()
    gaps[[0, 2, 3]] = np.nan
    bridged = clips._bridged(gaps)
    np.testing.assert_allclose(bridged[:, 0, 0], [1, 1, 2, 3, 4])


def test_sound_is_brought_to_the_pictures(preparer, portrait, tmp_path):
    tone = np.sin(np.arange(16000 * 2) * 0.3).astype(np.float32) * 0.3
    path = _film(tmp_path / "tone.mp4", [portrait] * 20, tone)
    source = Source("tone.mp4", path, "p", "train")
    sound, notes = preparer._sound(source, 20)
    assert notes == [] and len(sound) == 39 * 320 + 512 and np.abs(sound).max() > 0.2
    with pytest.raises(Rejected, match="out of step"):
        preparer._sound(source, 60)
    mute = _film(tmp_path / "mute.mp4", [portrait] * 2)
    assert preparer._sound(Source("mute.mp4", mute, "p", "train"), 2) == (None, ["no sound"])


def test_a_clip_becomes_shards(portrait, tmp_path):
    """The whole way, as short as sound can be: six frames that move a little, with sound."""
    moved = [np.roll(portrait, k, 1) for k in range(6)]
    tone = np.sin(np.arange(6 * 640) * 0.05).astype(np.float32) * 0.3
    _film(tmp_path / "in" / "nasa" / "é 1.mp4", moved, tone)
    settings = clips.Settings(size=64, limits=clips.Limits(shortest=6))
    sources, missing = find_clips(tmp_path / "in", split="train")
    out = tmp_path / "out"
    of_set, drive = {"size": 64, "hubert": 0}, prepare.by_processes(0)
    counts = prepare.prepare(sources, missing, out, of_set, prepare.make_stager, (settings,), drive=drive)
    assert counts == {"accepted": 1}, (out / prepare.REPORT).read_text()
    assert list(check(out)) == []
    data = Shards(out)
    (clip,) = data.clips
    assert clip.frames == 6 and clip.known["person"] == "nasa" and clip.known["notes"] == []
    first, last = data.frame(clip, 0), data.frame(clip, 5)
    # The head's fit lies on the landmarks, and moves as the picture does: a pixel of 192 to the right a frame.
    assert first["error"] * 512 < 8
    shift = (last["keypoints"] - first["keypoints"])[:, 0].mean() / 2  # image widths
    side = clip.known["crop"][2]
    assert 1.5 < shift * side < 10
    assert set(np.unique(first["classes"])) >= {0, 1, 3} and first["head_mask"].max() == 255
    assert (first["head_mask"][first["classes"] == 0] < 128).mean() > 0.9
    spoken = data.motion(clip)
    assert spoken["mel"].shape == (12, 80) and spoken["expression"].shape == (6, 64)
    np.testing.assert_array_equal(spoken["expression"][1], first["after_expression"])
    assert show(out, count=1, height=32).shape == (32, 256, 3)
    milliseconds = prepare.Report(out).seconds
    assert set(milliseconds) == {"track", "fit", "speech", "background", "layers", "pack"}
    # Without pictures the utterance is the same.
    settings = clips.Settings(size=64, limits=clips.Limits(shortest=6), motion_only=True)
    of_set = {"size": 64, "hubert": 0, "motion_only": True}
    prepare.prepare(sources, missing, tmp_path / "motion", of_set, prepare.make_stager, (settings,), drive=drive)
    alone = Shards(tmp_path / "motion")
    assert list(check(tmp_path / "motion")) == [] and (alone.clips[0].frames, alone.clips[0].length) == (0, 6)
    assert alone.record("motion", 0, 0) == data.record("motion", 0, 0)
    assert set(prepare.Report(tmp_path / "motion").seconds) == {"track", "fit", "speech"}
    for use in (lambda: show(tmp_path / "motion"), lambda: ClipPairs(tmp_path / "motion", 0, 0)):
        with pytest.raises(InputError, match="without pictures"):
            use()
