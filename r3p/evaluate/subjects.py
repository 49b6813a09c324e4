"""People to score a portrait model on: synthetic ones that it never saw, and a clip of a real one.

Each subject is a folder with clips cropped as the model crops a photograph (the paper's data are cropped as well):
`source.png` (the clip's first frame), `truth/` (the clip), for synthetic people `view/` (the first frame with
the head turned aside), and what the methods need of them: `known.npz`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.people import People
from data_pipelines.people_motion import draw_expression
from data_pipelines.people_render import PIVOT, Pose
from data_pipelines.people_scene import draw_background
from r3p import avatar, face, fit, photo, video
from r3p.camera import rotation
from r3p.detect import FaceFinder
from r3p.errors import InputError
from r3p.evaluate import series
from r3p.evaluate.portrait import SEED

SIDE = 256  # of the clips' frames
_DRAWN = 384  # of the synthetic pictures, before they are cropped
_NODS, _TURN = np.radians([3.0, 14.0, 2.0]), 60  # how far a synthetic head turns; frames of a whole turn


@dataclass(frozen=True)
class Subject:
    """photograph u8 [h, w, 3]; the fits of the clip and the view (frames in the crop); None where there is no view."""

    name: str
    folder: Path
    photograph: np.ndarray
    clip: fit.Fit
    view: fit.Fit | None

    @property
    def source(self) -> Path:
        """The photograph, cropped."""
        return self.folder / "source.png"

    @property
    def truth(self) -> Path:
        """The clip's frames."""
        return self.folder / "truth"

    @property
    def view_truth(self) -> Path:
        """One frame, the head turned aside by 11 to 23 degrees."""
        return self.folder / "view"


def _motion(people: People, rng: np.random.Generator, frames: int) -> tuple[np.ndarray, list[Pose], Pose]:
    """Expressions [t, 64] that go from one drawn shape to the next, a turning head, and a pose for the novel view."""
    keys = np.stack([draw_expression(rng, people.head, calm=k == 0) for k in range(2 + frames // 6)])
    at = np.arange(frames) / 6
    weight = (0.5 - 0.5 * np.cos(np.pi * (at % 1)))[:, None]
    low = at.astype(int)
    expression = keys[low] * (1 - weight) + keys[low + 1] * weight
    base = people.pose(rng, False)
    phase = rng.uniform(0, 2 * np.pi, 3)
    angles = np.sin(2 * np.pi * np.arange(frames)[:, None] / _TURN * [1.7, 1, 1.3] + phase)
    neck = rotation(base.euler) @ PIVOT + base.trans

    def turned(euler: np.ndarray) -> Pose:
        return Pose(euler, neck - rotation(euler) @ PIVOT, base.torso_euler, base.torso_trans)

    poses = [turned(base.euler + turn) for turn in (angles - angles[0]) * _NODS]
    view = turned(base.euler + np.array([0.0, rng.choice([-1, 1]) * rng.uniform(0.2, 0.4), 0.0]))
    return expression.astype(np.float32), poses, view


def _synthetic(people: People, index: int, frames: int) -> tuple[list[np.ndarray], np.ndarray]:
    """The clip's frames and the novel view of person `index`."""
    rng = np.random.default_rng([people.seed, index])
    person, background = people.person(rng), draw_background(rng, people.size)
    expression, poses, view = _motion(people, rng, frames)

    def shot(e: np.ndarray, pose: Pose) -> np.ndarray:
        picture = people.render(person, e, pose.euler, pose.trans, pose.torso_euler, pose.torso_trans)
        return people.develop(picture, background)["image"]

    return [shot(e, p) for e, p in zip(expression, poses, strict=True)], shot(expression[0], view)


def _cropped(frame: np.ndarray, crop: photo.Crop) -> np.ndarray:
    """A frame of the same camera in the photograph's crop, `SIDE` pixels a side."""
    again = photo.sample_padded(frame, crop.matrix, len(crop.image))[0]
    return np.asarray(cv2.resize(again, (SIDE, SIDE), interpolation=cv2.INTER_AREA))


def _fitted(frames: list[np.ndarray], finder: FaceFinder, identity: np.ndarray | None = None) -> fit.Fit:
    """The head in cropped frames, smoothed as `r3p talk --video` smooths it. Raises InputError without a face."""
    points = [None if f is None else f.landmarks[:, :2] / SIDE for f in finder.track(iter(frames))]
    known = next((p for p in points if p is not None), None)
    if known is None:
        raise InputError("no face is found in the clip")
    stacked = np.stack([np.full_like(known, np.nan) if p is None else p for p in points])
    model = face.load_face_model()
    if identity is None:
        return fit.fit_video(model, stacked)
    (found,) = fit.fit_frames(model, identity, stacked)
    return found


def _make(name: str, folder: Path, frames: list[np.ndarray], view: np.ndarray | None, finder: FaceFinder) -> Subject:
    crop, _, _ = avatar.find_portrait(frames[0], finder, name=name)
    small = [_cropped(f, crop) for f in frames]
    clip = _fitted(small, finder)
    turned = None if view is None else _cropped(view, crop)
    fitted = None if turned is None else _fitted([turned], finder, clip.identity)
    subject = Subject(name, folder, frames[0], clip, fitted)
    subject.truth.mkdir(parents=True, exist_ok=True)
    for k, frame in enumerate(small):
        photo.save_image(subject.truth / f"{k:04d}.png", frame)
    if turned is not None:
        subject.view_truth.mkdir(exist_ok=True)
        photo.save_image(subject.view_truth / "0000.png", turned)
    photo.save_image(subject.source, crop.image)
    arrays = {f"clip_{k}": getattr(clip, k) for k in _FIT}
    if fitted is not None:
        arrays |= {f"view_{k}": getattr(fitted, k) for k in _FIT}
    # The last to be written: a folder with it is whole.
    np.savez_compressed(folder / "known.npz", photograph=frames[0], **arrays)
    return subject


_FIT = ("identity", "expression", "euler", "trans", "error")


def load(folder: Path) -> Subject:
    """A subject that was made before."""
    with np.load(folder / "known.npz") as f:
        view = fit.Fit(*(f[f"view_{k}"] for k in _FIT)) if "view_error" in f else None
        return Subject(folder.name, folder, f["photograph"], fit.Fit(*(f[f"clip_{k}"] for k in _FIT)), view)


def synthetic(out: Path, count: int, frames: int, finder: FaceFinder, seed: int = SEED) -> Iterator[Subject]:
    """`count` people in whose pictures a face is found (a cap over the eyes, say, hides it), made once."""
    people = People(seed, _DRAWN, 192, per_person=1)
    index = found = 0
    while found < count:
        folder = out / f"person{index:03d}"
        index += 1
        if (folder / "no_face").exists():
            continue
        if not (folder / "known.npz").exists():
            try:
                _make(folder.name, folder, *_synthetic(people, index - 1, frames), finder)
            except InputError:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "no_face").touch()
                continue
        found += 1
        yield load(folder)


def real(out: Path, path: Path, frames: int, finder: FaceFinder) -> Subject:
    """The first `frames` frames of a video. Raises InputError when there is no face in its first one."""
    folder = out / f"real_{path.stem}"
    if not (folder / "known.npz").exists():
        _make(folder.name, folder, list(video.read_frames(path, series.FPS, frames)), None, finder)
    return load(folder)
