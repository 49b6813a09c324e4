"""Reads clips for measuring: frames in batches, and what the face does in them. Frames are never all in memory.

A clip is a video file, a folder of PNG files (25 a second) or one picture. Frames are scaled so that the longer side
has `size` pixels, aspect kept. Only landmarks stay for every frame: 4 kB each.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from r3p import face, fit, photo, video
from r3p.detect import FaceFinder
from r3p.errors import InputError
from r3p.evaluate import series

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_PERSON = 0.1  # a pixel more probably a person's than this is not background
_POINTS = 478


def scaled(frame: np.ndarray, size: int) -> np.ndarray:
    """u8 [h, w, 3] with `size` pixels on its longer side."""
    h, w = frame.shape[:2]
    if max(h, w) == size:
        return frame
    k = size / max(h, w)
    shape = (max(1, round(w * k)), max(1, round(h * k)))
    return cv2.resize(frame, shape, interpolation=cv2.INTER_AREA if k < 1 else cv2.INTER_CUBIC)


def is_picture(path: Path) -> bool:
    """Whether the path names one picture."""
    return path.suffix.lower() in _PICTURES and not path.is_dir()


def frames_of(path: Path, size: int) -> Iterator[np.ndarray]:
    """Frames u8 [h, w, 3] at 25 a second. Raises InputError when there is none to read."""
    if path.is_dir():
        files = sorted(path.glob("*.png"))
        if not files:
            raise InputError(f"{path} holds no PNG file: expected a video or a folder of frames")
        yield from (scaled(photo.load_image(f), size) for f in files)
    elif is_picture(path):
        yield scaled(photo.load_image(path), size)
    else:
        yield from (scaled(f, size) for f in video.read_frames(path, series.FPS))


def batches(frames: Iterator[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """Frames [at most count, h, w, 3]."""
    while chunk := list(itertools.islice(frames, count)):
        yield np.stack(chunk)


@dataclass
class Observation:
    """What is known of a clip: points [t, 478, 2] (NaN where no face was found), shape (h, w) of its frames.

    background: mean |difference| from frame to frame outside of the person on [0, 1]; NaN for less than two frames.
    """

    name: str
    points: np.ndarray
    shape: tuple[int, int]
    background: float

    def __len__(self) -> int:
        return len(self.points)

    @property
    def found(self) -> float:
        """Share of frames in which a face was found."""
        return float(series.known(self.points).mean())

    @cached_property
    def fitted(self) -> fit.Fit:
        """The head model in every frame. Frames without a face have NaN. Raises InputError when there is no face."""
        side = float(max(self.shape))
        offset = (side - np.array([self.shape[1], self.shape[0]])) / 2
        points = (self.points + offset) / side
        # Without smoothing over time: it would hide what is to be measured.
        got = fit.fit_identity(face.load_face_model(), points)
        steady = fit.Settings(expression_step=1e3, euler_step=1e3, trans_step=1e3)
        parts = list(fit.fit_frames(face.load_face_model(), got, points, steady))
        lost = ~series.known(self.points)
        names = ("expression", "euler", "trans", "error")
        fields = {n: np.concatenate([getattr(p, n) for p in parts]).astype(np.float64) for n in names}
        for values in fields.values():
            values[lost] = np.nan
        return fit.Fit(got, **fields)


def observe(path: Path, finder: FaceFinder, size: int) -> Observation:
    """Follows the face through a clip and watches the background. Raises InputError when the clip cannot be read."""
    kept: list[np.ndarray] = []
    shape, changes = (0, 0), []
    before: tuple[np.ndarray, np.ndarray] | None = None

    def watched() -> Iterator[np.ndarray]:
        nonlocal shape, before
        for frame in frames_of(path, size):
            shape = frame.shape[:2]
            person = cv2.dilate(finder.person_mask(frame), np.ones((9, 9), np.uint8)) > _PERSON
            if before is not None and before[0].shape == frame.shape:
                outside = ~(person | before[1])
                if outside.mean() > 0.01:
                    changes.append(float(cv2.absdiff(frame, before[0])[outside].mean()) / 255)
            before = frame, person
            yield frame

    for found in finder.track(watched()):
        blank = np.full((_POINTS, 2), np.nan, np.float32)
        kept.append(blank if found is None else found.landmarks[:, :2].astype(np.float32))
    return Observation(path.name, np.stack(kept), shape, float(np.mean(changes)) if changes else float("nan"))
