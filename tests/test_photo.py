"""Reading images of every kind, cropping and pasting back."""

import struct

import cv2
import numpy as np
import pytest

from r3p.errors import InputError
from r3p.photo import crop_portrait, exif_orientation, load_image, save_image, to_rgb8


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (6, 9, 3), np.uint8)
    return cv2.resize(small, (90, 60), interpolation=cv2.INTER_NEAREST)


def _exif(orientation: int, order: str = "<") -> bytes:
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    return head + struct.pack(order + "HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)


def _jpeg_with_exif(rgb: np.ndarray, exif: bytes) -> bytes:
    data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    block = b"Exif\0\0" + exif
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]


def test_png_round_trip_with_a_name_outside_ascii(picture, tmp_path):
    path = tmp_path / "porträt 像.png"
    save_image(path, picture)
    np.testing.assert_array_equal(load_image(path), picture)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", "<>")
def test_exif_orientation_is_undone(picture, tmp_path, orientation, order):
    stored = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture, 1),
        7: picture.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(picture, 3),
    }[orientation]
    path = tmp_path / "turned.jpg"
    path.write_bytes(_jpeg_with_exif(np.ascontiguousarray(stored), _exif(orientation, order)))
    read = load_image(path)
    assert read.shape == picture.shape
    assert np.abs(read.astype(int) - picture).mean() < 12


def test_exif_without_or_with_a_broken_tag():
    assert exif_orientation(b"") == exif_orientation(b"II*\0\x08\0\0\0") == exif_orientation(_exif(77)) == 1


def test_grey_16_bit_and_alpha(picture, tmp_path):
    grey = tmp_path / "grey.png"
    cv2.imwrite(str(grey), picture[..., 0])
    np.testing.assert_array_equal(load_image(grey), picture[..., [0, 0, 0]])
    deep = tmp_path / "deep.png"
    cv2.imwrite(str(deep), picture[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(load_image(deep), picture)
    alpha = np.full(picture.shape[:2], 255, np.uint8)
    alpha[:, :45] = 0
    clear = tmp_path / "alpha.png"
    save_image(clear, np.concatenate([picture, alpha[..., None]], -1))
    read = load_image(clear)
    assert (read[:, :45] == 255).all()
    np.testing.assert_array_equal(read[:, 45:], picture[:, 45:])
    np.testing.assert_array_equal(to_rgb8(np.full((2, 2), 0.5, np.float32)), np.full((2, 2, 3), 128))


def test_unreadable_files(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*absent.png \(No such file"):
        load_image(tmp_path / "absent.png")
    for content in (b"", b"not an image"):
        (tmp_path / "bad.png").write_bytes(content)
        with pytest.raises(InputError, match="is not an image that can be read"):
            load_image(tmp_path / "bad.png")
    with pytest.raises(InputError, match=r"ends in .png"):
        save_image(tmp_path / "picture.nothing", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(InputError, match="cannot write"):
        save_image(tmp_path / "no" / "folder.png", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(InputError, match="expected grey"):
        to_rgb8(np.zeros((2, 2, 5), np.uint8))


def _face(x0, y0, x1, y1):
    p = np.zeros((478, 3), np.float32)
    p[:, 0] = np.linspace(x0, x1, 478)
    p[:468, 1] = np.linspace(y0, y1, 468)
    p[468:, 1] = (y0 + y1) / 2
    p[467, 0] = x1
    return p


def _photo(h, w):
    y, x = np.mgrid[:h, :w].astype(np.float32)
    return np.stack([255 * x / w, 255 * y / h, 127 + 80 * np.sin(x / 9)], -1).astype(np.uint8)


@pytest.mark.parametrize("shape", [(600, 900), (900, 600)])
def test_crop_reaches_the_face_area_and_maps_back(shape):
    face = _face(300, 250, 400, 370)
    crop = crop_portrait(_photo(*shape), face, 256, 0.2)
    lo, hi = crop.landmarks[:468, :2].min(0), crop.landmarks[:468, :2].max(0)
    assert np.prod(hi - lo) / 256**2 == pytest.approx(0.2, rel=0.01)
    x0, y0, side = crop.box
    np.testing.assert_allclose(crop.landmarks[:, :2] / 256 * side + (x0, y0), face[:, :2], atol=1e-3)
    assert crop.inside.min() == 255
    # The crop shows what the photograph shows: the red ramp at the crop's middle.
    assert crop.image[128, 128, 0] == pytest.approx(255 * (x0 + side / 2) / shape[1], abs=3)


def test_large_face_keeps_the_whole_square_image():
    crop = crop_portrait(_photo(300, 300), _face(70, 60, 230, 250), 256, 0.2)
    assert crop.box == pytest.approx((0, 0, 300))


def test_crop_is_padded_only_when_the_face_would_be_too_large():
    image = _photo(400, 200)
    crop = crop_portrait(image, _face(20, 100, 180, 300), 256, 0.2)
    assert crop.box[2] > 200 and crop.inside.min() == 0 and (crop.inside[128, 120:136] == 255).all()
    edge = crop.image[128, :, 0].astype(int)
    assert np.abs(np.diff(edge)).max() < 12  # no seam at the photograph's edge


def test_face_area_is_checked():
    with pytest.raises(InputError, match="share of the crop"):
        crop_portrait(_photo(100, 100), _face(20, 20, 60, 60), 64, 0.9)


@pytest.mark.parametrize("size", [128, 512])
def test_paste_returns_the_photograph_and_blends_the_rim(size):
    photo = _photo(400, 600)
    crop = crop_portrait(photo, _face(250, 150, 330, 240), size, 0.2)
    same = crop.paste(crop.image, photo)
    assert same.shape == photo.shape and np.abs(same.astype(int) - photo).mean() < 0.5
    black = crop.paste(np.zeros_like(crop.image), photo)
    x0, y0, side = crop.box
    assert black[int(y0 + side / 2), int(x0 + side / 2)].max() == 0
    outside = np.ones(photo.shape[:2], bool)
    outside[int(y0) : int(y0 + side) + 2, int(x0) : int(x0 + side) + 2] = False
    np.testing.assert_array_equal(black[outside], photo[outside])
