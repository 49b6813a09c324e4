"""What `r3p demo --report` measures: where the demo stands against its targets, as JSON and a picture.

Everything is measured on finished frames, as a viewer would: the demo's own video, the photograph's pose, a ride of the
camera from side to side, and the portrait driven by a video whose motion is known (the photograph's own teacher).
"""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np

from data_pipelines.phonemes import CLOSED, PHONE_NAMES, SILENCE, mouth_track
from r3p import avatar, camera, face, fit, lpips, motion, photo, video
from r3p.detect import FaceFinder
from r3p.evaluate import talking
from r3p.puppet import Puppet
from r3p.puppet_sample import turned
from r3p.talk import track_video

Array = np.ndarray

# name: (least or most, what is wanted). Names are those of the figures.
TARGETS = {
    "seconds": (180.0, "most"),
    "frames_per_second": (5.0, "least"),
    "face_found": (1.0, "least"),
    "source_psnr": (25.0, "least"),
    "source_lpips_vgg": (0.20, "most"),
    "speech_lip_corr": (0.8, "least"),
    "video_lip_corr": (0.8, "least"),
    "video_yaw_corr": (0.95, "least"),
    "orbit_face_found": (1.0, "least"),
    "orbit_yaw_corr": (0.95, "least"),
    "orbit_hole": (0.02, "most"),
}
_ORBIT = np.radians(np.linspace(-20, 20, 21))


@dataclasses.dataclass
class Report:
    """Figures by name, and the pictures that go with them (rows of u8 [h, w, 3])."""

    figures: dict[str, Any]
    rows: list[Array]

    def write(self, path: Path) -> None:
        """`path` (JSON) and a PNG of the same name."""
        misses = [
            name
            for name, (bound, kind) in TARGETS.items()
            if name in self.figures and (self.figures[name] < bound if kind == "least" else self.figures[name] > bound)
        ]
        targets = {name: f"at {kind} {bound}" for name, (bound, kind) in TARGETS.items()}
        text = json.dumps({"figures": self.figures, "targets": targets, "missed": misses}, indent=1)
        width = max(row.shape[1] for row in self.rows)
        rows = [np.pad(r, ((0, 4), (0, width - r.shape[1]), (0, 0)), constant_values=255) for r in self.rows]
        photo.save_image(path.with_suffix(".png"), np.concatenate(rows))
        path.write_text(text + "\n")


def make(person: avatar.Avatar, photograph: Path, movie: Path, phones: Path, figures: dict[str, Any]) -> Report:
    """Measures a prepared portrait.

    Args:
      person: prepared from `photograph`.
      movie: the demo's video of it.
      phones: JSON of the sounds that the video says, with their end times.
      figures: what is known already (seconds, frames_per_second); joined to the report's.
    """
    finder = FaceFinder()
    report = Report({**figures, "frame_size": person.size}, [])
    frames = list(video.read_frames(movie))
    seen = talking.track(frames, finder)
    _speech(report, frames, seen, phones)
    image = photo.load_image(photograph)
    crop, layers, fitted = avatar.find_portrait(image, finder, name=str(photograph))
    puppet = Puppet(crop.image, crop.landmarks, fitted, layers, size=person.size)
    _likeness(report, crop, frames, seen)
    _orbit(report, person, finder)
    _driven(report, person, puppet, finder)
    report.figures["weights"] = avatar.load_model()[2].get("provenance", {})
    return report


def _speech(report: Report, frames: list[Array], seen: talking.Track, phones: Path) -> None:
    spoken = json.loads(phones.read_text())["phones"]
    names = list(face.load_face_model().expression_names)
    truth, phone = mouth_track([p for p, _ in spoken], np.array([t for _, t in spoken]), len(frames), names)
    gap = _gap(truth)
    which = [
        np.isin(phone, [PHONE_NAMES.index(p) for p in group]) for group in (CLOSED, (SILENCE,), ("aa", "ay", "ow"))
    ]
    shut, silent, opened = (float(np.nanmedian(seen.lips[w])) for w in which)
    correlation, lag = talking.best_correlation(seen.lips, gap, 3)
    report.figures |= {
        "frames": len(frames), "face_found": seen.found, "speech_lip_corr": correlation, "speech_lip_lag": lag,
        "lip_gap_on_m_b_p": shut, "lip_gap_in_silence": silent, "lip_gap_on_open_vowels": opened,
    }  # fmt: skip
    report.rows.append(_plot([("lips of the video", seen.lips), ("lips of the sounds", gap)]))
    report.rows.append(video.contact_sheet(frames[:: max(1, len(frames) // 14)][:14], columns=7, rows=2, height=192))


def _gap(expression: Array) -> Array:
    """Inner lips' gap of the mean head with expressions [t, 64], in eye distances [t]."""
    head = face.load_face_model()
    neutral = np.zeros(head.identity.shape[0], np.float32)
    meshes = face.vertices(head, neutral, jnp.asarray(expression, jnp.float32))
    return np.asarray(face.lip_gap(np.asarray(face.landmarks(head, meshes))))


def _render(person: avatar.Avatar, expression: Array, poses: motion.Poses) -> list[avatar.Frame]:
    return list(avatar.frames(person, avatar.Motion(expression.astype(np.float32), poses.euler, poses.trans)))


def _likeness(report: Report, crop: photo.Crop, frames: list[Array], seen: talking.Track) -> None:
    """The best aligned of the first 25 frames, which have the photograph's pose, against the photograph."""
    theirs = talking.align(crop.image, crop.landmarks[:, :2])
    known = [(f, p) for f, p in zip(frames[:25], seen.landmarks, strict=False) if p is not None]
    ours = [talking.align(f, p) for f, p in known]
    best = max(ours, key=lambda image: talking.psnr(image, theirs))
    report.figures["source_psnr"] = talking.psnr(best, theirs)
    x, y = (jnp.asarray(v[None], jnp.float32) / 127.5 - 1 for v in (best, theirs))
    report.figures["source_lpips_vgg"] = float(lpips.lpips(lpips.load(), x, y, precision="highest")[0])
    report.rows.append(video.side_by_side([crop.image, frames[0], theirs, best], 256))


def _orbit(report: Report, person: avatar.Avatar, finder: FaceFinder) -> None:
    start = camera.rotation(person.euler)
    euler = np.array([fit.euler_of(camera.rotation(np.array([0, yaw, 0])) @ start) for yaw in _ORBIT])
    trans = np.array([turned(person.euler, person.trans, e) for e in euler])
    shots = _render(person, np.tile(person.expression, (len(euler), 1)), motion.Poses(euler, trans))
    seen = talking.track((f.image for f in shots), finder)
    holes = [
        _hole(f.weight, p * len(f.weight) / person.size)
        for f, p in zip(shots, seen.landmarks, strict=True)
        if p is not None
    ]
    report.figures |= {
        "orbit_face_found": seen.found,
        "orbit_yaw_corr": abs(talking.best_correlation(seen.yaw, np.sin(_ORBIT), 0)[0]),
        "orbit_hole": float(max(holes, default=1.0)),
    }
    report.rows.append(video.side_by_side([f.image for f in shots[::3]], 192))


def _hole(weight: Array, landmarks: Array) -> float:
    """Share of rays inside of the face that go through it; weight [r, r], landmarks [k, 2] in its pixels."""
    side = len(weight)
    outline = cv2.convexHull(landmarks.astype(np.float32))
    outline = outline.mean(0) + 0.9 * (outline - outline.mean(0))  # the edge itself is soft
    inside = cv2.fillConvexPoly(np.zeros((side, side), np.uint8), np.round(outline).astype(np.int32), (1,)) > 0
    return float((weight[inside] < 0.5).mean())


def _driven(report: Report, person: avatar.Avatar, puppet: Puppet, finder: FaceFinder) -> None:
    t = np.arange(75) / 25
    names = puppet.head.names
    expression = np.tile(person.expression, (len(t), 1)) * np.array([not n.startswith(("jaw", "mouth")) for n in names])
    expression[:, names.index("jawOpen")] = 0.17 * (1 - np.cos(2 * np.pi * 1.7 * t)) * (0.6 + 0.4 * np.sin(3.1 * t))
    euler = np.tile(person.euler, (len(t), 1)) + np.outer(np.radians(14) * np.sin(2 * np.pi * t / 3), [0, 1, 0])
    trans = np.array([turned(person.euler, person.trans, e) for e in euler])
    theirs = [puppet.render(e, r, s, segmap=False)["image"] for e, r, s in zip(expression, euler, trans, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "driver.mp4"
        with video.VideoWriter(path, (puppet.size, puppet.size)) as writer:
            for frame in theirs:
                writer.write(frame)
        fitted = track_video(path, finder)
        theirs = list(video.read_frames(path))
    given = motion.Poses(np.asarray(fitted.euler, np.float64), np.asarray(fitted.trans, np.float64))
    poses = motion.map_to_initial(motion.hold_depth(given), person.euler, person.trans)
    ours = [f.image for f in _render(person, fitted.expression, poses)]
    a, b = (talking.track(x, FaceFinder()) for x in (ours, theirs))
    report.figures["video_lip_corr"] = talking.best_correlation(a.lips, b.lips, 2)[0]
    report.figures["video_yaw_corr"] = talking.best_correlation(a.yaw, b.yaw, 2)[0]
    report.rows.append(_plot([("lips of the portrait", a.lips), ("lips of the driving video", b.lips)]))
    chosen = range(4, len(t), 10)
    report.rows += [video.side_by_side([x[k] for k in chosen], 192) for x in (theirs, ours)]


def _plot(series: list[tuple[str, Array]], size: tuple[int, int] = (1344, 220)) -> Array:
    """Series [t] over time, one colour each, u8 [h, w, 3]."""
    width, height = size
    out = np.full((height, width, 3), 255, np.uint8)
    top = max(float(np.nanmax(values)) for _, values in series) * 1.1 + 1e-6
    for k, ((name, values), colour) in enumerate(zip(series, ((200, 60, 40), (40, 90, 200)), strict=False)):
        x = np.linspace(8, width - 8, len(values))
        y = height - 12 - (height - 24) * np.nan_to_num(values) / top
        cv2.polylines(out, [np.round(np.stack([x, y], 1) * 16).astype(np.int32)], False, colour, 2, cv2.LINE_AA, 4)
        cv2.putText(out, name, (16 + 320 * k, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.6, colour, 1, cv2.LINE_AA)
    return out
