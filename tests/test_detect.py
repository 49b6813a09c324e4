"""Faces in the test portrait (NASA, public domain). The TFLite files come from `r3p assets`."""

import io
import zipfile

import cv2
import numpy as np
import pytest

from data_pipelines.clips import IRIS_PARTNERS
from data_pipelines.head import Head
from r3p.assets import asset_path
from r3p.detect import EYE_CORNERS, FaceFinder, OneEuro, sample
from r3p.errors import InputError
from r3p.facemesh import FaceMesh
from r3p.photo import load_image


@pytest.fixture(scope="module")
def portrait(request):
    return load_image(request.path.parent / "data" / "portrait.jpg")


@pytest.fixture(scope="module")
def finder():
    return FaceFinder()


def test_landmarks_lie_on_the_face(finder, portrait):
    face = finder.find(portrait)
    assert face.landmarks.shape == (478, 3) and face.landmarks.dtype == np.float32 and face.score > 0.99
    # Hand-read from the picture: eye corners, mouth corners, iris centres.
    for index, at in (
        (33, (169, 103)),
        (263, (236, 103)),
        (61, (181, 142)),
        (291, (219, 142)),
        (468, (179, 101)),
        (473, (224, 102)),
    ):
        assert np.linalg.norm(face.landmarks[index, :2] - at) < 5, (index, face.landmarks[index])
    assert face.landmarks[1, 2] < face.landmarks[234, 2]  # the nose is nearer than the cheek
    assert 80 < face.size < 120


def test_attention_model_equals_plain_model_away_from_lips_and_eyes(finder, portrait):
    a, b = finder.find(portrait).landmarks, FaceFinder(attention=False).find(portrait).landmarks
    assert b.shape == (468, 3)
    assert np.abs(a[:468, :2] - b[:, :2]).mean() < 2
    # Without refinement the irises would be absent; with it they lie between the lids.
    for iris, upper, lower in ((468, 159, 145), (473, 386, 374)):
        assert a[upper, 1] < a[iris, 1] < a[lower, 1]


def test_several_looks_are_as_good_on_both_sides(finder, portrait):
    partner = np.concatenate([Head().arrays["landmarks_mp_mirror"], IRIS_PARTNERS])
    one, mirrored = np.ascontiguousarray(portrait), np.ascontiguousarray(portrait[:, ::-1])
    a, b = (finder.steadied(p, finder.find(p), partner).landmarks[:, :2] for p in (one, mirrored))
    back = b[partner] * [-1, 1] + [portrait.shape[1], 0]
    single = finder.find(mirrored).landmarks[partner, :2] * [-1, 1] + [portrait.shape[1], 0]
    assert np.abs(a - back).mean() < 0.5 * np.abs(finder.find(one).landmarks[:, :2] - single).mean()
    assert np.linalg.norm(a - finder.find(one).landmarks[:, :2], axis=1).mean() < 2


@pytest.mark.parametrize("angle", [-90, 35, 60])
def test_turned_heads(finder, portrait, angle):
    upright = finder.find(portrait).landmarks
    h, w = portrait.shape[:2]
    m = cv2.getRotationMatrix2D((w / 2, h / 2 - 60), angle, 1)
    face = finder.find(cv2.warpAffine(portrait, m, (w, h), borderMode=cv2.BORDER_REPLICATE))
    moved = upright[:, :2] @ m[:, :2].T + m[:, 2]
    assert np.linalg.norm(face.landmarks[:, :2] - moved, axis=1).mean() < 5


def test_scale_does_not_matter(finder, portrait):
    small = finder.find(portrait).landmarks[:, :2]
    large = finder.find(cv2.resize(portrait, None, fx=5, fy=5)).landmarks[:, :2]
    assert np.abs(large / 5 - small).max() < 1.5


def test_small_and_filling_faces_are_found(finder, portrait):
    canvas = np.full((1200, 1600, 3), 128, np.uint8)
    canvas[700:900, 1100:1300] = cv2.resize(portrait, (200, 200), interpolation=cv2.INTER_AREA)
    assert len(finder.faces(canvas)) == 1
    with pytest.raises(InputError, match=r"the face in small.png is only \d+ pixels large: at least 64"):
        finder.find(canvas, name="small.png")
    assert len(finder.faces(portrait[55:190, 145:255])) == 1


def test_several_faces(finder, portrait):
    two = np.concatenate([portrait, portrait[:, ::-1]], 1)
    with pytest.raises(InputError, match=r"two.png shows 2 faces .*--face-index 0\.\.1"):
        finder.find(two, name="two.png")
    assert finder.find(two, face_index=0).box[2] < 400 < finder.find(two, face_index=1).box[0]
    with pytest.raises(InputError, match="shows 2 face"):
        finder.find(two, face_index=2)
    dominant = two.copy()
    dominant[:, 400:] = 128
    dominant[:200, 400:600] = cv2.resize(portrait, (200, 200), interpolation=cv2.INTER_AREA)
    assert finder.find(dominant).box[2] < 400


def test_no_face(finder):
    with pytest.raises(InputError, match=r"no face found in empty\.png"):
        finder.find(np.full((200, 300, 3), 90, np.uint8), name="empty.png")


def test_tracking_survives_a_gap_and_follows(finder, portrait):
    frames = [np.roll(portrait, 3 * k, axis=1) for k in range(4)]
    frames.insert(2, np.zeros_like(portrait))
    found = list(finder.track(iter(frames)))
    assert [f is None for f in found] == [False, False, True, False, False]
    x = [f.landmarks[1, 0] for f in found if f is not None]
    np.testing.assert_allclose(np.diff(x), 3, atol=1.5)


def test_person_mask(finder, portrait):
    wide = np.concatenate([portrait, np.repeat(portrait[:, -1:], 100, 1)], 1)
    for image in (portrait, wide):
        mask = finder.person_mask(image)
        assert mask.shape == image.shape[:2] and mask.dtype == np.float32 and 0 <= mask.min() <= mask.max() <= 1
        assert mask[120, 200] > 0.95 and mask[350, 200] > 0.95 and mask[20, 380] < 0.05 and mask[100, 40] < 0.05


def test_sample_antialiases_and_maps_pixel_centres():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    half = sample(stripes, np.array([[0.25, 0, 0], [0, 0.25, 0]]), 16)
    np.testing.assert_allclose(half, 100, atol=2)
    ramp = np.tile(np.arange(40, dtype=np.uint8)[None, :, None], (40, 1, 3))
    np.testing.assert_array_equal(sample(ramp, np.array([[1.0, 0, -7], [0, 1, -7]]), 20)[:, :, 0], ramp[:20, 7:27, 0])


def test_files_of_the_user(portrait, tmp_path):
    task = tmp_path / "face_landmarker.task"
    with pytest.raises(InputError, match="cannot be read"):
        FaceFinder(landmarker=task)
    task.write_bytes(b"no zip")
    with pytest.raises(InputError, match=r"is not a face_landmarker\.task"):
        FaceFinder(landmarker=task)
    # The plain model in the zip's place: the same interface (a square image in, 3 numbers a point and a score out).
    buf = io.BytesIO()
    with zipfile.ZipFile(buf, "w") as z:
        z.writestr("face_landmarks_detector.tflite", asset_path("face_landmark.tflite").read_bytes())
    task.write_bytes(buf.getvalue())
    assert FaceFinder(landmarker=task).find(portrait).landmarks.shape == (468, 3)
    with pytest.raises(InputError, match="does not exist"):
        FaceFinder(multiclass=tmp_path / "absent.tflite")
    with pytest.raises(InputError, match="into 6 classes"):
        FaceFinder(multiclass=asset_path("selfie_segmentation.tflite"))
    with pytest.raises(InputError, match="does not exist"):
        FaceFinder(tmp_path)
    with pytest.raises(InputError, match="468 or 478 points"):
        FaceMesh(asset_path("selfie_segmentation.tflite").read_bytes(), attention=False)
    with pytest.raises(InputError, match="not a TFLite model"):
        FaceMesh(b"rubbish" * 100, attention=False)


def test_segment_needs_a_model(finder, portrait):
    assert not finder.has_classes
    with pytest.raises(InputError, match="selfie_multiclass"):
        finder.segment(portrait)


def test_one_euro_is_steady_at_rest_and_quick_in_motion():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.3, (100, 5, 2))
    rest = OneEuro(min_cutoff=1.5, beta=1.0, scale=100.0)
    out = np.stack([rest(50 + n) for n in noise])
    assert out[20:].std() < 0.6 * noise[20:].std()
    motion = OneEuro(scale=100.0)
    ramp = np.stack([motion(np.full((5, 2), 8.0 * k)) for k in range(40)])
    assert 8 * 39 - ramp[-1].min() < 12  # less than two frames behind


def test_eye_corners_give_the_roll(finder, portrait):
    face = finder.find(portrait)
    left, right = face.landmarks[list(EYE_CORNERS), :2]
    assert left[0] < right[0] and abs(left[1] - right[1]) < 8
