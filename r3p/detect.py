"""Faces in photographs and frames: detection, 478 landmarks, tracking, person mask.

The networks are MediaPipe's TFLite files (see r3p.assets). Pixel coordinates are continuous: the centre of the first
pixel is (0.5, 0.5). Images are RGB uint8 [h, w, 3].
"""

import math
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from r3p.assets import asset_path
from r3p.errors import InputError
from r3p.facemesh import FaceMesh, interpreter

_DETECTOR, _INPUT = "face_detection_short_range.tflite", 128
_SCORE, _OVERLAP = 0.5, 0.3  # a detection's least score; boxes that overlap more than this are one face
_ROI_SCALE = 1.5  # the landmark network wants this much room around the face
_LOOKS = (0.85, 1.0, 1.15)  # of that room
_DOMINANT = 2.25  # the largest face must have this many times the second's area
EYE_CORNERS = (33, 263)  # outer corners: image left, image right
SEGMENT_CLASSES = 6


@dataclass(frozen=True)
class Detection:
    """box (x0, y0, x1, y1) and points [6, 2] (eye, eye, nose, mouth, ear, ear; image left first) in pixels."""

    box: np.ndarray
    points: np.ndarray
    score: float


@dataclass(frozen=True)
class Face:
    """landmarks [n, 3] float32: x, y in pixels, z away from the viewer in the same unit; n = 478 (468: plain model)."""

    landmarks: np.ndarray
    score: float

    @property
    def box(self) -> np.ndarray:
        """(x0, y0, x1, y1) around the 468 points of the skin."""
        p = self.landmarks[:468, :2]
        return np.concatenate([p.min(0), p.max(0)])

    @property
    def size(self) -> float:
        """Square root of the box's area, pixels."""
        x0, y0, x1, y1 = self.box
        return math.sqrt((x1 - x0) * (y1 - y0))


@dataclass(frozen=True)
class _Roi:
    """A square turned by `angle` (radians, clockwise in the image)."""

    centre: np.ndarray
    side: float
    angle: float

    def to_crop(self, size: int) -> np.ndarray:
        """[2, 3] from image pixels to the crop's."""
        c, s = math.cos(self.angle), math.sin(self.angle)
        linear = np.array([[c, s], [-s, c]]) * (size / self.side)
        return np.concatenate([linear, (size / 2 - linear @ self.centre)[:, None]], 1)


def _angle(left: np.ndarray, right: np.ndarray) -> float:
    return math.atan2(float(right[1] - left[1]), float(right[0] - left[0]))


def _roi_of_detection(d: Detection) -> _Roi:
    side = float(max(d.box[2] - d.box[0], d.box[3] - d.box[1]))
    return _Roi((d.box[:2] + d.box[2:]) / 2, _ROI_SCALE * side, _angle(d.points[0], d.points[1]))


def _roi_of_landmarks(points: np.ndarray) -> _Roi:
    angle = _angle(points[EYE_CORNERS[0]], points[EYE_CORNERS[1]])
    c, s = math.cos(angle), math.sin(angle)
    upright = points[:468, :2] @ np.array([[c, -s], [s, c]])
    lo, hi = upright.min(0), upright.max(0)
    return _Roi(np.array([[c, -s], [s, c]]) @ ((lo + hi) / 2), _ROI_SCALE * float((hi - lo).max()), angle)


def sample(image: np.ndarray, to_crop: np.ndarray, size: int) -> np.ndarray:
    """[size, size, c] of an image under a [2, 3] map of continuous pixel coordinates; black outside, antialiased."""
    shrink = 1 / math.sqrt(abs(np.linalg.det(to_crop[:, :2])))
    if shrink >= 2:  # bilinear reads alone would skip pixels
        k = int(shrink)
        h, w = image.shape[:2]
        small = cv2.resize(image, (max(1, w // k), max(1, h // k)), interpolation=cv2.INTER_AREA)
        scale = np.diag([w / small.shape[1], h / small.shape[0], 1.0])
        image, to_crop = small, to_crop @ scale
    m = to_crop.copy()
    m[:, 2] += m[:, :2] @ (0.5, 0.5) - 0.5  # OpenCV counts from pixel centres
    return cv2.warpAffine(image, m, (size, size), flags=cv2.INTER_LINEAR)


def _anchors() -> np.ndarray:
    """[896, 2] in 0..1: 16x16 cells twice, 8x8 cells six times."""
    return np.array(
        [
            ((x + 0.5) / n, (y + 0.5) / n)
            for n, repeat in ((16, 2), (8, 6))
            for y in range(n)
            for x in range(n)
            for _ in range(repeat)
        ],
        np.float32,
    )


def _merge(boxes: np.ndarray, points: np.ndarray, scores: np.ndarray) -> list[Detection]:
    """Non-maximum suppression that averages the boxes it merges by their scores: steadier over frames than the best."""
    left, out = np.argsort(-scores), []
    while left.size:
        b = boxes[left]
        lo, hi = np.maximum(b[0, :2], b[:, :2]), np.minimum(b[0, 2:], b[:, 2:])
        area = (b[:, 2:] - b[:, :2]).prod(1)
        common = np.maximum(hi - lo, 0).prod(1)
        # A small box wholly inside a large one is the same face seen at another scale.
        same = common > np.maximum(_OVERLAP * (area[0] + area - common), 1e-9)
        same |= common > 0.7 * np.minimum(area[0], area)
        same[0] = True
        k, w = left[same], scores[left[same]]
        out.append(
            Detection(
                (boxes[k] * w[:, None]).sum(0) / w.sum(),
                (points[k] * w[:, None, None]).sum(0) / w.sum(),
                float(scores[k[0]]),
            )
        )
        left = left[~same]
    return out


class FaceFinder:
    """Detects, landmarks and segments.

    folder: where the TFLite files lie (default: the cache of `r3p assets`). landmarker: a `face_landmarker.task` file
    to use for the landmarks; multiclass: a `selfie_multiclass` TFLite file for `segment`. attention=False takes the
    plain 468-point model. Raises InputError when a file is absent or is not what it should be.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        landmarker: str | Path | None = None,
        multiclass: str | Path | None = None,
        attention: bool = True,
        threads: int = 2,
    ) -> None:
        self._anchors = _anchors()
        self._detector = interpreter(path=str(asset_path(_DETECTOR, folder)), threads=threads)
        if landmarker is not None:
            self._mesh = FaceMesh(_task_member(Path(landmarker)), attention=False, threads=threads)
        else:
            name = "face_landmark_with_attention.tflite" if attention else "face_landmark.tflite"
            self._mesh = FaceMesh(asset_path(name, folder).read_bytes(), attention=attention, threads=threads)
        self._person = interpreter(path=str(asset_path("selfie_segmentation.tflite", folder)), threads=threads)
        self._multiclass = None
        if multiclass is not None:
            if not Path(multiclass).is_file():
                raise InputError(f"{multiclass} does not exist: give the path of a selfie_multiclass TFLite file")
            self._multiclass = interpreter(path=str(multiclass), threads=threads)
            shape = list(self._multiclass.get_output_details()[0]["shape"])
            if len(shape) != 4 or shape[-1] != SEGMENT_CLASSES:
                raise InputError(f"{multiclass} gives {shape}: expected a segmentation into {SEGMENT_CLASSES} classes")

    @property
    def has_classes(self) -> bool:
        """Whether `segment` can tell six classes."""
        return self._multiclass is not None

    def _detect_in(self, rgb: np.ndarray, centre: np.ndarray, side: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        net = self._detector
        crop = sample(rgb, _Roi(centre, side, 0.0).to_crop(_INPUT), _INPUT)
        net.set_tensor(net.get_input_details()[0]["index"], (crop[None] / 127.5 - 1).astype(np.float32))
        net.invoke()
        outputs = sorted((net.get_tensor(o["index"])[0] for o in net.get_output_details()), key=lambda a: -a.shape[-1])
        score = 1 / (1 + np.exp(-np.clip(outputs[1][:, 0], -50, 50)))
        keep = score > _SCORE
        raw, anchors = outputs[0][keep] / _INPUT, self._anchors[keep]
        origin = centre - side / 2
        middle = (raw[:, :2] + anchors) * side + origin
        half = raw[:, 2:4] * side / 2
        points = (raw[:, 4:16].reshape(-1, 6, 2) + anchors[:, None]) * side + origin
        return np.concatenate([middle - half, middle + half], 1), points, score[keep]

    def detect(self, rgb: np.ndarray, *, thorough: bool = True) -> list[Detection]:
        """Faces, largest first. Very large and small ones are looked for when the whole image shows none; `thorough`
        goes down to a fiftieth of the image (a second of work on an image without a face)."""
        h, w = rgb.shape[:2]
        middle, whole = np.array([w / 2, h / 2]), float(max(h, w))
        rounds: list[list[tuple[np.ndarray, float]]] = [[(middle, whole)], [(middle, 1.6 * whole)]]
        for parts in (2, 4, 8) if thorough else (2,):
            side = whole / parts
            steps = [np.arange(0.0, max(n - side, 0) + side / 4, side / 2) + side / 2 for n in (w, h)]
            rounds.append([(np.array([x, y]), side) for y in steps[1] for x in steps[0]])
        for windows in rounds:
            found = [self._detect_in(rgb, c, s) for c, s in windows]
            boxes, points, scores = (np.concatenate(a) for a in zip(*found, strict=True))
            if len(scores):
                return sorted(_merge(boxes, points, scores), key=lambda d: -float((d.box[2:] - d.box[:2]).prod()))
        return []

    def _landmarks_in(self, rgb: np.ndarray, roi: _Roi, partner: np.ndarray | None = None) -> Face:
        """partner [n]: each point's place in a mirrored face; the network then looks at the mirrored region."""
        size = self._mesh.size
        m = roi.to_crop(size)
        crop = sample(rgb, m, size)
        if partner is None:
            points, score = self._mesh(crop)
        else:
            points, score = self._mesh(np.ascontiguousarray(crop[:, ::-1]))
            points = points[partner] * [-1, 1, 1] + [size, 0, 0]
        back = np.linalg.inv(m[:, :2])
        xy = (points[:, :2] - m[:, 2]) @ back.T
        return Face(np.concatenate([xy, points[:, 2:] * roi.side / size], 1).astype(np.float32), score)

    def landmarks(self, rgb: np.ndarray, detection: Detection, passes: int = 3) -> Face:
        """Landmarks of a detected face. More passes centre the crop on the landmarks themselves: steadier on stills."""
        face = self._landmarks_in(rgb, _roi_of_detection(detection))
        for _ in range(passes - 1):
            face = self._landmarks_in(rgb, _roi_of_landmarks(face.landmarks))
        return face

    def steadied(self, rgb: np.ndarray, face: Face, partner: np.ndarray) -> Face:
        """The mean of six looks at a face: regions of three sizes, as they are and mirrored. What the network sees
        otherwise in each of them cancels; what is left moves less from frame to frame and is as good on both sides.

        partner [n]: the index of each point's partner on the other side of a face.
        """
        roi = _roi_of_landmarks(face.landmarks)
        looks = [
            self._landmarks_in(rgb, _Roi(roi.centre, scale * roi.side, roi.angle), side).landmarks
            for scale in _LOOKS
            for side in (None, partner)
        ]
        return Face(np.mean(looks, 0), face.score)

    def faces(self, rgb: np.ndarray) -> list[Face]:
        """All faces that the landmark network confirms, from left to right."""
        found = [self.landmarks(rgb, d) for d in self.detect(rgb)]
        return sorted((f for f in found if f.score > 0.5), key=lambda f: float(f.box[0]))

    def find(
        self, rgb: np.ndarray, *, name: str = "the image", face_index: int | None = None, min_size: float = 64.0
    ) -> Face:
        """The one face of a portrait.

        face_index counts from the left when there are several. Raises InputError when there is none, when several are
        about equally large and no index is given, or when the face is smaller than min_size pixels.
        """
        faces = self.faces(rgb)
        if not faces:
            raise InputError(
                f"no face found in {name}: give a photograph of one person who looks roughly at the "
                "camera, upright, the face not covered"
            )
        if face_index is not None:
            if not 0 <= face_index < len(faces):
                raise InputError(
                    f"--face-index {face_index}: {name} shows {len(faces)} face(s), "
                    f"counted from the left from 0 to {len(faces) - 1}"
                )
            face = faces[face_index]
        else:
            by_size = sorted(faces, key=lambda f: -f.size)
            face = by_size[0]
            if len(faces) > 1 and face.size**2 < _DOMINANT * by_size[1].size ** 2:
                at = ", ".join(f"{i} at x {f.box[[0, 2]].mean():.0f}" for i, f in enumerate(faces))
                raise InputError(
                    f"{name} shows {len(faces)} faces ({at}): crop it to one person, "
                    f"or pass --face-index 0..{len(faces) - 1}, counted from the left"
                )
        if face.size < min_size:
            raise InputError(
                f"the face in {name} is only {face.size:.0f} pixels large: at least {min_size:.0f} are "
                "needed, 200 are good; use a larger photograph or a closer one"
            )
        return face

    def track(self, frames: Iterable[np.ndarray]) -> Iterator[Face | None]:
        """One face through a video, None where it is not seen.

        The region follows the landmarks; when they are lost, the face nearest to the last place is taken.
        """
        last: Face | None = None
        seen = False
        for rgb in frames:
            face = self._landmarks_in(rgb, _roi_of_landmarks(last.landmarks)) if last is not None and seen else None
            if face is None or face.score < 0.5 or face.size < 8:
                candidates = (self.landmarks(rgb, d, 2) for d in self.detect(rgb, thorough=False))
                found = [f for f in candidates if f.score > 0.5]
                face = min(found, key=lambda f: _distance(f, last)) if found else None
            seen = face is not None
            last = face or last
            yield face

    def _segmentation(self, net, rgb: np.ndarray) -> np.ndarray:
        """[h, w, k] float32: what a segmentation network gives, resized to the image."""
        h, w = rgb.shape[:2]
        nw = int(net.get_input_details()[0]["shape"][2])
        side = float(max(h, w))
        m = _Roi(np.array([w / 2, h / 2]), side, 0.0).to_crop(nw)
        net.set_tensor(net.get_input_details()[0]["index"], (sample(rgb, m, nw)[None] / 255).astype(np.float32))
        net.invoke()
        out = net.get_tensor(net.get_output_details()[0]["index"])[0]
        inverse = np.linalg.inv(np.vstack([m, [0, 0, 1]]))[:2]
        inverse[:, 2] += inverse[:, :2] @ (0.5, 0.5) - 0.5
        return np.asarray(
            cv2.warpAffine(out, inverse, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        ).reshape(h, w, -1)

    def person_mask(self, rgb: np.ndarray) -> np.ndarray:
        """[h, w] float32 in 0..1: how much a pixel belongs to a person. 256 pixels across, so soft: see r3p.matting."""
        return np.clip(self._segmentation(self._person, rgb)[..., 0], 0, 1)

    def segment(self, rgb: np.ndarray) -> np.ndarray:
        """[h, w, 6] float32 class probabilities: background, hair, body skin, face skin, clothes, others.

        Raises InputError when no multiclass model was given.
        """
        if self._multiclass is None:
            raise InputError("six-class segmentation needs a selfie_multiclass TFLite file: pass its path")
        out = self._segmentation(self._multiclass, rgb)
        out = np.exp(out - out.max(-1, keepdims=True))
        return out / out.sum(-1, keepdims=True)


def _distance(face: Face, last: Face | None) -> float:
    """From the last place, in the last face's sizes; without one, the larger the nearer."""
    if last is None:
        return -face.size
    return float(np.linalg.norm(face.landmarks[1, :2] - last.landmarks[1, :2])) / last.size + abs(
        math.log(face.size / last.size)
    )


def _task_member(path: Path) -> bytes:
    """The landmark network inside a `face_landmarker.task` file, which is a zip."""
    member = "face_landmarks_detector.tflite"
    try:
        with zipfile.ZipFile(path) as z:
            return z.read(member)
    except OSError as e:
        raise InputError(f"{path} cannot be read ({e.strerror}): give a face_landmarker.task file") from e
    except (zipfile.BadZipFile, KeyError) as e:
        raise InputError(f"{path} is not a face_landmarker.task file: expected a zip with {member} inside") from e


class OneEuro:
    """One-euro filter (Casiez et al. 2012) on arrays: steady at rest, quick in motion.

    min_cutoff (Hz) sets the smoothing at rest, beta how fast the cutoff rises with speed; values should be scaled so
    that a face is about 1 wide (`scale` divides the speed).
    """

    def __init__(self, fps: float = 25.0, min_cutoff: float = 3.0, beta: float = 10.0, scale: float = 1.0) -> None:
        self.fps, self.min_cutoff, self.beta, self.scale = fps, min_cutoff, beta, scale
        self._value: np.ndarray | None = None
        self._speed: np.ndarray | None = None

    def _weight(self, cutoff: np.ndarray | float) -> np.ndarray | float:
        rate = 2 * math.pi * cutoff / self.fps
        return rate / (rate + 1)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        if self._value is None or self._speed is None:
            self._value, self._speed = x, np.zeros_like(x)
            return x
        speed = (x - self._value) * self.fps
        self._speed = self._speed + self._weight(1.0) * (speed - self._speed)
        # One cutoff a point, from its speed in all its coordinates.
        pace = np.linalg.norm(self._speed, axis=-1, keepdims=True) / self.scale
        self._value = self._value + self._weight(self.min_cutoff + self.beta * pace) * (x - self._value)
        return self._value
