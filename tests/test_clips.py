"""Real files through the preparation: each unusable clip ends with a reason. Talking people with true poses (slow)."""

import cv2
import numpy as np
import pytest

from data_pipelines import clips
from data_pipelines.prepare import Rejected
from data_pipelines.sources import Source
from r3p import video
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
