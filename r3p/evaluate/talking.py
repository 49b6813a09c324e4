"""Measures of a talking face that need its pictures only: lips, head turns, likeness to the photograph.

Letters: t frames, lag in frames. Landmarks are MediaPipe's, pixels.
"""

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np

from r3p import face
from r3p.detect import FaceFinder

_NOSE, _CHEEKS = 1, (234, 454)
_MOUTH = (13, 14)  # middles of the inner lips
_PLACES = np.array([[0.36, 0.40], [0.64, 0.40], [0.50, 0.70]])  # of eyes and mouth in an aligned face


class Track(NamedTuple):
    """Of each frame: inner lips' gap in eye distances [t], turn of the nose [t] (about sin(yaw)), landmarks.

    Frames without a face have NaN and None.
    """

    lips: np.ndarray
    yaw: np.ndarray
    landmarks: list[np.ndarray | None]

    @property
    def found(self) -> float:
        """Share of frames in which a face was found."""
        return float(np.mean([p is not None for p in self.landmarks]))


def track(frames: Iterable[np.ndarray], finder: FaceFinder) -> Track:
    """Follows the face through frames u8 [h, w, 3]."""
    lips: list[float] = []
    yaw: list[float] = []
    landmarks: list[np.ndarray | None] = []
    for found in finder.track(frames):
        points = None if found is None else found.landmarks[:, :2]
        landmarks.append(points)
        if points is None:
            lips.append(np.nan)
            yaw.append(np.nan)
            continue
        left, right = (np.linalg.norm(points[_NOSE] - points[k]) for k in _CHEEKS)
        lips.append(float(face.lip_gap(points)))
        yaw.append(float((left - right) / (left + right)))
    return Track(np.array(lips), np.array(yaw), landmarks)


def best_correlation(a: np.ndarray, b: np.ndarray, lag: int) -> tuple[float, int]:
    """The largest Pearson correlation of two series [t] with `a` up to `lag` frames later or earlier -> (it, lag).

    Frames where either is NaN do not count; 0 when nothing moves or fewer than 10 frames are left.
    """
    n, best = min(len(a), len(b)), (0.0, 0)
    for k in range(-lag, lag + 1):
        x, y = (a[k:n], b[: n - k]) if k >= 0 else (a[: n + k], b[-k:n])
        known = np.isfinite(x) & np.isfinite(y)
        if known.sum() >= 10 and x[known].std() > 1e-9 and y[known].std() > 1e-9:
            best = max(best, (float(np.corrcoef(x[known], y[known])[0, 1]), k))
    return best


def align(image: np.ndarray, landmarks: np.ndarray, size: int = 256) -> np.ndarray:
    """A similarity transform that puts eyes and mouth in fixed places: u8 [h, w, 3] -> u8 [size, size, 3]."""
    eyes = [landmarks[list(corners)].mean(0) for corners in face.EYE_CORNERS]
    source = np.array([*eyes, landmarks[list(_MOUTH)].mean(0)], np.float32)
    matrix, _ = cv2.estimateAffinePartial2D(source, (_PLACES * size).astype(np.float32))
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_AREA)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two u8 images, dB."""
    return float(-10 * np.log10(max(np.mean((a.astype(np.float64) - b) ** 2) / 255**2, 1e-10)))
