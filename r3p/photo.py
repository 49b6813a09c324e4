"""Photographs: read any common file as RGB, cut a square portrait out of one, put a frame back."""

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from r3p.errors import InputError

_EXIF_TURNS = {2: (1, 0), 3: (0, 2), 4: (1, 2), 5: (1, 1), 6: (0, 3), 7: (1, 3), 8: (0, 1)}  # mirror, turns left


def exif_orientation(exif: bytes) -> int:
    """The orientation tag (1..8) of an EXIF block; 1 (upright) when it has none."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "little", b"MM": "big"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return 1

    def number(at: int, size: int) -> int:
        return int.from_bytes(exif[at : at + size], "little" if order == "little" else "big")

    start = number(4, 4)
    for k in range(min(number(start, 2), 200)):
        entry = start + 2 + 12 * k
        if number(entry, 2) == 0x0112:
            value = number(entry + 8, 2)
            return value if value in _EXIF_TURNS else 1
    return 1


def _turn(image: np.ndarray, orientation: int) -> np.ndarray:
    mirror, turns = _EXIF_TURNS.get(orientation, (0, 0))
    if mirror:
        image = image[:, ::-1]
    return np.ascontiguousarray(np.rot90(image, turns))


def load_image(path: str | Path) -> np.ndarray:
    """RGB uint8 [h, w, 3] of an image file, upright by its EXIF tag; grey and 16-bit files are converted, transparent
    ones laid on white. Raises InputError when the file is absent or is not an image that can be read."""
    path = Path(path)
    try:
        data = np.fromfile(path, np.uint8)  # not imread: its paths break on names outside ASCII on some systems
    except OSError as e:
        raise InputError(f"cannot read {path} ({e.strerror}): give the path of an image file") from e
    try:
        decoded = cv2.imdecodeWithMetadata(data, cv2.IMREAD_UNCHANGED) if data.size else None
    except cv2.error:
        decoded = None
    if decoded is None or decoded[0] is None:
        raise InputError(f"{path} is not an image that can be read: give a PNG, JPEG, WebP or TIFF file")
    image: np.ndarray = np.asarray(decoded[0])
    kinds, blocks = decoded[1:]
    for kind, block in zip(kinds, blocks, strict=True):
        if kind == cv2.IMAGE_METADATA_EXIF:  # with IMREAD_UNCHANGED (wanted for alpha and 16 bits) OpenCV does not turn
            image = _turn(image, exif_orientation(np.asarray(block).tobytes()))
    return to_rgb8(image, str(path))


def to_rgb8(image: np.ndarray, name: str = "the image") -> np.ndarray:
    """RGB uint8 of an OpenCV image: [h, w] or [h, w, 1 | 2 | 3 | 4] in BGR(A) order, uint8, uint16 or float."""
    if image.dtype == np.uint16:
        image = np.round(image / 257.0).astype(np.uint8)
    elif image.dtype.kind == "f":
        image = np.round(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
    elif image.dtype != np.uint8:
        raise InputError(f"{name} has values of type {image.dtype}: expected an 8-bit or 16-bit image")
    if image.ndim == 2:
        image = image[..., None]
    channels = image.shape[-1]
    if channels not in (1, 2, 3, 4):
        raise InputError(f"{name} has {channels} channels: expected grey, RGB or RGBA")
    colour = image[..., :3] if channels >= 3 else image[..., [0, 0, 0]]
    if channels in (2, 4):
        alpha = image[..., -1:] / 255.0
        colour = np.round(colour * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return np.ascontiguousarray(colour[..., ::-1])


def save_image(path: str | Path, rgb: np.ndarray) -> None:
    """Writes RGB or RGBA uint8 by the name's ending. Raises InputError when the folder or the ending does not serve."""
    path = Path(path)
    order = [2, 1, 0, 3][: rgb.shape[-1]]
    try:
        data = cv2.imencode(path.suffix or ".", np.ascontiguousarray(rgb[..., order]))[1]
    except cv2.error:
        data = None
    if data is None:
        raise InputError(f"cannot write an image as {path.name!r}: use a name that ends in .png or .jpg")
    try:
        path.write_bytes(data.tobytes())
    except OSError as e:
        raise InputError(f"cannot write {path} ({e.strerror}): choose another place") from e


@dataclass(frozen=True)
class Crop:
    """A square cut out of a photograph.

    image [s, s, 3] uint8; matrix [2, 3] from continuous pixels of the photograph to the crop's; landmarks [n, 3] in
    the crop; inside [s, s] uint8 0..255: 255 where the photograph had pixels (the rest is invented).
    """

    image: np.ndarray
    matrix: np.ndarray
    landmarks: np.ndarray
    inside: np.ndarray

    @property
    def box(self) -> tuple[float, float, float]:
        """(x0, y0, side) of the crop in the photograph, pixels; may reach beyond it."""
        side = self.image.shape[0] / self.matrix[0, 0]
        return (-self.matrix[0, 2] / self.matrix[0, 0], -self.matrix[1, 2] / self.matrix[1, 1], side)

    def paste(self, frame: np.ndarray, photograph: np.ndarray, feather: float = 0.06) -> np.ndarray:
        """The photograph [h, w, 3] with a square frame in the crop's place; the rim is blended over `feather` sides."""
        x0, y0, side = self.box
        h, w = photograph.shape[:2]
        if side < frame.shape[0] / 2:
            small = max(1, round(side))
            frame = cv2.resize(frame, (small, small), interpolation=cv2.INTER_AREA)
        scale = side / frame.shape[0]
        m = np.array([[scale, 0, x0 + scale / 2 - 0.5], [0, scale, y0 + scale / 2 - 0.5]])
        laid = cv2.warpAffine(frame, m, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        ramps = []
        for low, n in ((x0, w), (y0, h)):
            p = np.arange(n) + 0.5
            # A crop edge that lies on the photograph's own edge needs no blending.
            before = p - low if low > 0 else np.full(n, np.inf)
            after = low + side - p if low + side < n else np.full(n, np.inf)
            ramps.append(np.clip(np.minimum(before, after) / (feather * side), 0, 1))
        weight = np.minimum(ramps[0][None], ramps[1][:, None])[..., None]
        weight = weight * weight * (3 - 2 * weight)
        return np.round(photograph + (laid.astype(np.float32) - photograph) * weight).astype(np.uint8)


def crop_portrait(
    image: np.ndarray, landmarks: np.ndarray, size: int = 512, face_area: float = 0.2, most_area: float = 0.42
) -> Crop:
    """The square around a face in which the landmarks' box covers at least `face_area` of the area.

    The aspect is kept. The square stays inside the photograph where it can: it is moved first, then made smaller as
    long as the face's box covers no more than `most_area`; what is still missing is filled from the rim, blurred more
    the farther out. image RGB uint8 [h, w, 3], landmarks [n, 3] px. Raises InputError on senseless areas.
    """
    if not 0.02 <= face_area <= most_area < 1:
        raise InputError(f"the face's share of the crop is {face_area}: expected between 0.02 and {most_area}")
    h, w = image.shape[:2]
    skin = landmarks[:468, :2]
    lo, hi = skin.min(0), skin.max(0)
    area = float(np.prod(hi - lo))
    side, least = math.sqrt(area / face_area), math.sqrt(area / most_area)
    side = max(min(side, w, h), least)
    corner = (lo + hi) / 2 - side / 2
    for axis, n in ((0, w), (1, h)):
        corner[axis] = np.clip(corner[axis], 0, n - side) if side <= n else (n - side) / 2
        # Where the square has to reach out, the face stays inside it all the same.
        corner[axis] = np.clip(corner[axis], hi[axis] - 0.97 * side, lo[axis] - 0.03 * side)
    scale = size / side
    matrix = np.array([[scale, 0, -corner[0] * scale], [0, scale, -corner[1] * scale]])
    crop, inside = sample_padded(image, matrix, size)
    points = np.concatenate([landmarks[:, :2] @ matrix[:, :2].T + matrix[:, 2], landmarks[:, 2:] * scale], 1)
    return Crop(crop, matrix, points.astype(np.float32), inside)


def sample_padded(image: np.ndarray, matrix: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """([size, size, 3], [size, size] 255 inside): the crop, filled from its rim where the image ends."""
    shrink = int(1 / matrix[0, 0])
    if shrink >= 2:
        h, w = image.shape[:2]
        image = cv2.resize(image, (w // shrink, h // shrink), interpolation=cv2.INTER_AREA)
        matrix = matrix @ np.diag([w / image.shape[1], h / image.shape[0], 1.0])
    h, w = image.shape[:2]
    m = matrix.copy()
    m[:, 2] += m[:, :2] @ (0.5, 0.5) - 0.5  # OpenCV counts from pixel centres
    flags = cv2.INTER_CUBIC if matrix[0, 0] > 1 else cv2.INTER_LINEAR
    crop = cv2.warpAffine(image, m, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    edge = matrix[:, :2] @ np.array([[0, w], [0, h]]) + matrix[:, 2:]  # where the image begins and ends in the crop
    p = np.arange(size) + 0.5
    beyond = [np.maximum(np.maximum(e[0] - p, p - e[1]), 0) for e in edge]
    distance = np.hypot(beyond[0][None], beyond[1][:, None]).astype(np.float32)
    inside = np.where(distance > 0, 0, 255).astype(np.uint8)
    if distance.max() > 0:
        blurred = crop.astype(np.float32)
        for sigma in (0.01, 0.04):  # the farther out, the softer
            soft = cv2.GaussianBlur(blurred, (0, 0), sigma * size)
            weight = np.clip(distance / (3 * sigma * size), 0, 1)[..., None]
            blurred = blurred * (1 - weight) + soft * weight
        crop = np.where(distance[..., None] > 0, np.round(blurred), crop).astype(np.uint8)
    return crop, inside
