"""One clip to packed records: crop, landmarks, segments, background, torso, head fit, camera, sound and its features.

Frames are read three times instead of being held: to find the face, to see what is behind the person, to cut the
layers. Nothing is random and everything runs in one thread, so a clip gives the same bytes wherever it is prepared.
t frames at 25 Hz, s side of the crop.
"""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from scipy import ndimage

from data_pipelines.brows import BrowTracker
from data_pipelines.head import Head, project
from data_pipelines.prepare import Prepared, Rejected
from data_pipelines.shards import fields_of, pack
from data_pipelines.sources import Source
from data_pipelines.utterances import SHORTEST
from r3p import audio, backdrop, camera, face, fit, matting, mesh_motion, photo, video
from r3p.detect import FaceFinder
from r3p.errors import InputError

FPS = audio.FPS
CUT_WIDTH = 256  # pixels, what the person's mask is made of too
FIT = fit.Settings(expression_step=0.1)  # landmarks of several looks jump less than those of one
TRACKED_BROWS = 6.0  # weight in the fit of brows that were tracked in the pictures
# The irises' points in a mirrored face, centre and ring.
IRIS_PARTNERS = (473, 476, 475, 474, 477, 468, 471, 470, 469, 472)
PROBE_EVERY = 12  # frames; the search for more faces is slow


@dataclass(frozen=True)
class Limits:
    """What a clip must be: unseen is the share of frames without a face; second that of probed frames with another
    face of at least 0.44 of the first one's area; smallest in pixels of the video; sharp the variance of the
    Laplacian of the face at 128 pixels; away in seconds between the sound's and the pictures' starts or ends; error of
    the fit in image widths."""

    shortest: int = SHORTEST
    unseen: float = 0.1
    second: float = 0.2
    smallest: float = 48.0
    sharp: float = 8.0
    away: float = 0.5
    error: float = 0.03


@dataclass(frozen=True)
class Settings:
    """Of a run. multiclass: a selfie_multiclass TFLite file, for six classes by network instead of by colour and
    place. hubert: folder of a checkpoint. motion_only: utterances without pictures, which take most of the time."""

    size: int = 512
    quality: int = 95
    face_area: float = 0.2
    multiclass: str | None = None
    hubert: str | None = None
    motion_only: bool = False
    limits: Limits = field(default_factory=Limits)


@dataclass
class Track:
    """points [t, 478, 3] in pixels of the video, NaN where there is no face; what the limits are compared with; how far
    the brows' motion is trusted."""

    points: np.ndarray
    face_size: float
    sharpness: float
    brows: float


class Preparer:
    """Prepares clip after clip with networks that are loaded once. seconds: processor time of each step so far."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self._finder = FaceFinder(multiclass=settings.multiclass, threads=1)
        self._model, self._head = face.load_face_model(), Head()
        self._brows = BrowTracker(self._head)
        self._partner = np.concatenate([self._head.arrays["landmarks_mp_mirror"], IRIS_PARTNERS])
        self._hubert: tuple[Any, Any] | None = None
        if settings.hubert:
            from r3p import hubert_features

            self._hubert = hubert_features.load(settings.hubert)
        self.fields = fields_of(settings.size, self.width)
        self.seconds: dict[str, float] = {}

    @property
    def width(self) -> int:
        """Of HuBERT's features, 0 without them."""
        return self._hubert[0].width if self._hubert else 0

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        began = time.process_time()
        try:
            yield
        finally:
            self.seconds[step] = self.seconds.get(step, 0) + time.process_time() - began

    def __call__(self, source: Source) -> Prepared:
        """Raises Rejected for a clip that cannot be used."""
        limits, size = self.settings.limits, self.settings.size
        with self._timed("track"):
            try:
                info = video.probe(source.video)
                track = self._track(source)
            except InputError as error:
                raise Rejected("unreadable", str(error).replace(str(source.video), source.video.name)) from None
        frames, found = len(track.points), np.isfinite(track.points).all((1, 2))
        reference = np.median(track.points[found], 0)
        first = next(_pictures(source, 1))
        matrix = photo.crop_portrait(first, reference, size, self.settings.face_area).matrix
        points = (track.points[..., :2] @ matrix[:, :2].T + matrix[:, 2]) / size
        with self._timed("fit"):
            try:
                fitted = fit.fit_video(self._model, points, replace(FIT, brows=TRACKED_BROWS) if track.brows else FIT)
            except (InputError, np.linalg.LinAlgError) as error:
                raise Rejected("no fit", str(error)) from None
        miss = float(np.nanmean(fitted.error))
        if miss > limits.error:
            raise Rejected("no fit", f"the head misses the landmarks by {miss:.3f} widths, at most {limits.error}")
        sound, notes = self._sound(source, frames)
        if not track.brows:
            notes.append("brows too little seen, or behind glasses: they move as the landmark network says")
        motion = None
        if sound is not None:
            with self._timed("speech"):
                motion = self._motion(sound, fitted)
        if self.settings.motion_only:
            if motion is None:
                raise Rejected("no sound", "; ".join(notes))
            background = np.zeros((size, size, 3), np.uint8)
        else:
            with self._timed("background"):
                background = self._background(source, reference, frames)
        x0, y0, side = photo.Crop(np.zeros((size, size, 3)), matrix, reference, np.zeros(0)).box
        known = {
            "name": source.name, "person": source.person, "split": source.split, **source.known,
            "file": {"bytes": source.video.stat().st_size, "size": [info.width, info.height], "fps": info.fps,
                     "rotation": info.rotation},
            **({"times": source.times, "box": source.box} if source.times else {}),
            "crop": [round(v, 2) for v in (x0, y0, side)], "length": frames, "unseen": int((~found).sum()),
            "fit_error": round(miss, 6), "sharpness": round(track.sharpness, 2), "brows": round(track.brows, 3),
            "notes": notes,
        }  # fmt: skip
        shared = {"background": background, "identity": fitted.identity}
        layers: Iterator[bytes] = iter(())
        if not self.settings.motion_only:
            layers = self._frames(source, track.points, reference, matrix, fitted, background)
        return Prepared(known, layers, pack(shared, self.fields["clips"], self.settings.quality), motion)

    # -------------------------------------------------------------------------------------------- finding
    def _track(self, source: Source) -> Track:
        """Follows the face and applies the limits that need no crop."""
        limits, finder = self.settings.limits, self._finder
        seen: list[np.ndarray] = []
        small: list[np.ndarray] = []
        probes: list[np.ndarray] = []

        straight: list[np.ndarray] = []
        now: list[np.ndarray] = []

        def frames() -> Iterator[np.ndarray]:
            for t, rgb in enumerate(_pictures(source)):
                small.append(cv2.resize(rgb, (24, 24), interpolation=cv2.INTER_AREA).astype(np.float32))
                if t % PROBE_EVERY == 0:
                    probes.append(rgb)
                now[:] = [rgb]
                yield rgb

        several, sharpness = [], []
        for t, found in enumerate(finder.track(frames())):
            found = None if found is None else finder.steadied(now[0], found, self._partner)
            seen.append(np.full((478, 3), np.nan, np.float32) if found is None else found.landmarks)
            if found is not None:
                straight.append(self._brows.straighten(now[0], found.landmarks))
            while probes:
                rgb = probes.pop()
                others = [finder.landmarks(rgb, d, 1) for d in finder.detect(rgb, thorough=False)]
                sizes = sorted((f.size**2 for f in others if f.score > 0.5), reverse=True)
                several.append(len(sizes) > 1 and sizes[1] > 0.44 * sizes[0])
                if found is not None:
                    sharpness.append(_sharpness(rgb, found.box))
            if t and _is_cut(small[-2:], seen[-2:]):
                raise Rejected("cut", f"the picture changes at {t / FPS:.2f} s: cut the clip there")
        points = np.stack(seen)
        if len(points) < limits.shortest:
            raise Rejected("too short", f"{len(points)} frames at {FPS} Hz, at least {limits.shortest} are needed")
        unseen = float(np.isnan(points).any((1, 2)).mean())
        if unseen > limits.unseen:
            raise Rejected("no face", f"none is found in {unseen:.0%} of the frames, at most {limits.unseen:.0%}")
        if np.mean(several) > limits.second:
            raise Rejected("several faces", f"another large face in {np.mean(several):.0%} of the frames looked at")
        found_points = points[np.isfinite(points).all((1, 2))][:, :468, :2]
        face_size = float(np.median(np.sqrt(np.prod(found_points.max(1) - found_points.min(1), axis=1))))
        if face_size < limits.smallest:
            raise Rejected("face too small", f"{face_size:.0f} pixels, at least {limits.smallest:.0f}")
        sharp = float(np.median(sharpness)) if sharpness else 0.0
        if sharp < limits.sharp:
            raise Rejected("too blurred", f"sharpness {sharp:.1f}, at least {limits.sharp}")
        known = np.isfinite(points).all((1, 2))
        points[known], brows = self._brows.correct(points[known], straight)
        return Track(points, face_size, sharp, brows)

    # -------------------------------------------------------------------------------------------- layers
    def _crops(self, source: Source, reference: np.ndarray) -> Iterator[np.ndarray]:
        for rgb in _pictures(source):
            yield photo.crop_portrait(rgb, reference, self.settings.size, self.settings.face_area).image

    def _background(self, source: Source, reference: np.ndarray, frames: int) -> np.ndarray:
        """Each pixel from the key frame in which the person is farthest from it; where it is never more than 10
        pixels (of 512) away, from the nearest pixel where it is."""
        every = 1 if frames <= 5 else 5 if frames < 100 else 20 if frames < 10_000 else frames // 500
        best, out, last = None, np.zeros(0), np.zeros(0)
        for t, crop in enumerate(self._crops(source, reference)):
            if t % every:
                continue
            last = self._finder.person_mask(crop)
            away = ndimage.distance_transform_edt(last < 0.3)
            if best is None:
                best, out = away, crop.copy()
            else:
                nearer = away > best
                best[nearer], out[nearer] = away[nearer], crop[nearer]
        assert best is not None
        known = best > 10 * self.settings.size / 512
        if not known.any():
            return backdrop.remove_person(out, last)
        nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
        return np.ascontiguousarray(out[tuple(nearest)])

    def _frames(
        self, source: Source, points: np.ndarray, reference: np.ndarray, matrix: np.ndarray, fitted: fit.Fit,
        background: np.ndarray,
    ) -> Iterator[bytes]:  # fmt: skip
        size, finder, head = self.settings.size, self._finder, self._head
        in_crop = np.concatenate(
            [points[..., :2] @ matrix[:, :2].T + matrix[:, 2], points[..., 2:] * matrix[0, 0]], -1
        ).astype(np.float32)
        bridged = _bridged(in_crop)
        neutral = head.vertices(fitted.identity, np.zeros(len(head.expression), np.float32))
        last = len(points) - 1
        for t, crop in enumerate(self._crops(source, reference)):
            with self._timed("layers"):
                segmap = finder.segment(crop).argmax(-1).astype(np.uint8) if finder.has_classes else None
                try:
                    layers = matting.split_layers(
                        crop, finder.person_mask(crop), bridged[t], segmap=segmap, background=background,
                        own=background, cut_width=CUT_WIDTH,
                    )  # fmt: skip
                except InputError as error:
                    raise Rejected("no person", f"frame {t}: {error}") from None
            euler, trans = fitted.euler[t], fitted.trans[t]
            posed = head.express(neutral, fitted.expression[t]) @ camera.rotation(euler).T + trans
            keypoints = 2 * project(head.landmarks(posed)[head.arrays["landmarks_68"]]) - 1
            with self._timed("pack"):
                yield pack(
                    {
                        "image": layers.composite(), "torso": layers.torso, "classes": layers.segmap,
                        "head_mask": _u8(layers.head_alpha), "person_mask": _u8(layers.alpha),
                        "expression": fitted.expression[t], "before_expression": fitted.expression[max(t - 1, 0)],
                        "after_expression": fitted.expression[min(t + 1, last)], "euler": euler, "trans": trans,
                        "camera": camera.from_pose(euler, trans), "keypoints": keypoints,
                        "landmarks": in_crop[t, :, :2] / size, "error": np.asarray(fitted.error[t]),
                        "time": np.asarray(t / FPS, np.float32),
                    },
                    self.fields["frames"], self.settings.quality,
                )  # fmt: skip

    # -------------------------------------------------------------------------------------------- sound
    def _sound(self, source: Source, frames: int) -> tuple[np.ndarray | None, list[str]]:
        """The sound from the first frame on, as long as the pictures, or None; and what is to be said of it."""
        limits = self.settings.limits
        own = source.sound is None
        path = source.video if own else source.sound
        assert path is not None
        if own and not video.probe(path).has_audio:
            return None, ["no sound"]
        heard, seen = _starts(path) if own else (0.0, 0.0)
        shift = heard - seen
        part: tuple[float | None, float] = (None, float("inf"))
        if source.times is not None:
            part, shift = (seen + source.times[0], frames / FPS), 0.0
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                wave = audio.load(path, *part)
        except InputError as error:
            return None, [f"no sound: {str(error).replace(str(path), path.name)}"]
        ends = shift + len(wave) / audio.RATE - frames / FPS
        if abs(shift) > limits.away or abs(ends) > limits.away:
            raise Rejected("out of step", f"the sound begins {shift:+.2f} s and ends {ends:+.2f} s from the pictures")
        lead = round(shift * audio.RATE)
        wave = np.pad(wave, (lead, 0)) if lead > 0 else wave[-lead:]
        # The last feature frame's window ends a little after the last picture.
        return audio.fit_length(wave, 2 * frames), [str(w.message).replace(str(path), path.name) for w in caught]

    def _motion(self, sound: np.ndarray, fitted: fit.Fit) -> bytes:
        values = {
            "sound": np.round(np.clip(sound, -1, 1) * 32767).astype(np.int16),
            "mel": audio.normalise(audio.mel(sound)),
            "pitch": audio.pitch(sound),
            "identity": fitted.identity, "expression": fitted.expression, "euler": fitted.euler, "trans": fitted.trans,
            "blink": mesh_motion.blink_code(self._model, fitted.identity, fitted.expression),
            "amplitude": mesh_motion.mouth_amplitude(self._model, fitted.identity, fitted.expression),
        }  # fmt: skip
        if self._hubert:
            from r3p import hubert_features

            values["hubert"] = hubert_features.features(*self._hubert, sound)
        return pack(values, self.fields["motion"])


def _pictures(source: Source, most: int | None = None) -> Iterator[np.ndarray]:
    """The clip's frames at 25 Hz: its part of the video's time and area."""
    begin = 0.0
    if source.times is not None:
        begin, end = source.times
        count = max(1, round((end - begin) * FPS))
        most = count if most is None else min(count, most)
    for rgb in video.read_frames(source.video, FPS, most, begin=begin):
        if source.box is not None:
            h, w = rgb.shape[:2]
            x0, y0, x1, y1 = np.round(np.multiply(source.box, [w, h, w, h])).astype(int)
            rgb = np.ascontiguousarray(rgb[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)])
        yield rgb


def _u8(mask: np.ndarray) -> np.ndarray:
    return np.round(np.clip(mask, 0, 1) * 255).astype(np.uint8)


def _sharpness(rgb: np.ndarray, box: np.ndarray) -> float:
    """Variance of the Laplacian of a face's box [4] at 128 pixels; 0 outside the picture."""
    x0, y0, x1, y1 = np.clip(box.astype(int), 0, [rgb.shape[1], rgb.shape[0]] * 2)
    if x1 - x0 < 8 or y1 - y0 < 8:
        return 0.0
    grey = cv2.cvtColor(cv2.resize(rgb[y0:y1, x0:x1], (128, 128), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


def _is_cut(small: list[np.ndarray], seen: list[np.ndarray]) -> bool:
    """Whether two frames in a row show different scenes: the picture changes and the face jumps or comes or goes."""
    if np.abs(small[1] - small[0]).mean() < 25:
        return False
    a, b = (p[:468, :2] for p in seen)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return True
    size = float(np.sqrt(np.prod(a.max(0) - a.min(0))))
    return bool(np.linalg.norm(a - b, axis=1).mean() > 0.25 * size)


def _bridged(points: np.ndarray) -> np.ndarray:
    """Points [t, n, 3] with frames that have none between their neighbours."""
    found = np.flatnonzero(np.isfinite(points).all((1, 2)))
    at = np.interp(np.arange(len(points)), found, np.arange(len(found)))
    low = np.floor(at).astype(int)
    high, part = np.minimum(low + 1, len(found) - 1), (at - low)[:, None, None].astype(np.float32)
    return points[found][low] * (1 - part) + points[found][high] * part


def _starts(path: Path) -> tuple[float, float]:
    """Seconds on a file's clock of its first sound and its first picture."""
    with av.open(str(path)) as container:
        heard, seen = (
            float(s.start_time * s.time_base) if s.start_time is not None and s.time_base is not None else 0.0
            for s in (container.streams.audio[0], container.streams.video[0])
        )
    return heard, seen
