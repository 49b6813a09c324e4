"""What `r3p demo --report` measures: where the demo stands against its targets, as JSON and a picture.

Clips are made here, figures by `r3p eval`'s harness and by nothing else: the demo's own video, a frame at the
photograph's pose, a ride of the camera from side to side, and the portrait driven by a video whose motion is known (the
photograph's own teacher). Beside them stands the floor: what the photograph itself and a perfect copy score.
"""

import dataclasses
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_pipelines.phonemes import CLOSED, PHONE_NAMES, SILENCE, mouth_track
from r3p import avatar, camera, face, fit, motion, photo, video
from r3p.detect import FaceFinder
from r3p.evaluate import harness, series
from r3p.evaluate.clip import GROUPS, References
from r3p.evaluate.manifest import Row
from r3p.evaluate.networks import Networks
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


def _missed(name: str, value: float | None) -> bool:
    """A figure that could not be had, such as the lips of a face that is not found, is missed as well."""
    bound, kind = TARGETS[name]
    return value is None or (value < bound if kind == "least" else value > bound)


@dataclasses.dataclass
class Report:
    """Figures by name, and the pictures that go with them (rows of u8 [h, w, 3])."""

    figures: dict[str, Any]
    rows: list[Array]

    def write(self, path: Path) -> None:
        """`path` (JSON) and a PNG of the same name."""
        misses = [name for name in TARGETS if name in self.figures and _missed(name, self.figures[name])]
        targets = {name: f"at {kind} {bound}" for name, (bound, kind) in TARGETS.items()}
        text = json.dumps({"figures": self.figures, "targets": targets, "missed": misses}, indent=1)
        width = max(row.shape[1] for row in self.rows)
        rows = [np.pad(r, ((0, 4), (0, width - r.shape[1]), (0, 0)), constant_values=255) for r in self.rows]
        photo.save_image(path.with_suffix(".png"), np.concatenate(rows))
        path.write_text(text + "\n")


OURS = "ours"
_EVERY = 15  # networks look at 1 frame of so many: the report stays short
# Figures of the report: from which clip, and the harness's names for them.
_FROM = {
    "face_found": ("speech", "face_found"),
    "speech_lip_corr": ("speech", "lip_correlation"),
    "speech_lip_lag": ("speech", "lip_lag"),
    "source_psnr": ("likeness", "psnr_s"),
    "source_lpips_vgg": ("likeness", "lpips_vgg"),
    "video_lip_corr": ("driven", "lip_correlation"),
    "video_yaw_corr": ("driven", "yaw_correlation"),
    "orbit_face_found": ("orbit", "face_found"),
    "orbit_yaw_corr": ("orbit", "yaw_correlation"),
}


@dataclasses.dataclass
class Clips:
    """The folder of all clips: a truth and each method's output by name, frames as PNG files."""

    folder: Path

    def write(self, method: str, name: str, frames: Iterable[Array]) -> Path:
        """[h, w, 3] each."""
        target = self.folder / method / name
        target.mkdir(parents=True)
        for k, frame in enumerate(frames):
            photo.save_image(target / f"{k:04d}.png", frame)
        return target


def make(person: avatar.Avatar, photograph: Path, movie: Path, phones: Path, figures: dict[str, Any]) -> Report:
    """Measures a prepared portrait.

    Args:
      person: prepared from `photograph`.
      movie: the demo's video of it.
      phones: JSON of the sounds that the video says, with their end times; the sound lies beside it.
      figures: what is known already (seconds, frames_per_second); joined to the report's.
    """
    networks = Networks()
    finder = networks.finder()
    references = References(networks, person.size, keep=12, every=_EVERY)
    report = Report({**figures, "frame_size": person.size}, [])
    crop, layers, fitted = avatar.find_portrait(photo.load_image(photograph), finder, name=str(photograph))
    puppet = Puppet(crop.image, crop.landmarks, fitted, layers, size=person.size)
    small = cv2.resize(crop.image, (person.size, person.size), interpolation=cv2.INTER_AREA)
    with tempfile.TemporaryDirectory() as folder:
        clips = Clips(Path(folder))
        source = clips.write("truth", "source", [crop.image]) / "0000.png"
        rows, spoken = [], _speech(clips, puppet, movie, phones)
        rows.append(_row("speech", "audio", source, driver=spoken[0], audio=phones.with_suffix(".wav")))
        clips.write(OURS, "likeness", [f.image for f in _render(person, person.expression[None], _held(person))])
        rows.append(_row("likeness", "novel_view", source, truth=source))
        report.rows += _orbit(report, clips, person, puppet, references) + _driven(clips, person, puppet, finder)
        rows += [_row(name, "same", source, truth=clips.folder / "truth" / name) for name in ("driven", "orbit")]
        lips = _lips(clips.folder / OURS / "speech", references)
        _score(report, rows, clips, references, lips, spoken[1])
        frames = list(video.read_frames(movie))
        report.rows.insert(0, video.side_by_side([crop.image, *frames[:1], small], 256))
        chosen = frames[:: max(1, len(frames) // 14)][:14]
        report.rows.insert(1, video.contact_sheet(chosen, columns=7, rows=2, height=192))
        wanted = _lips(spoken[0], references)
        report.rows.insert(1, _plot([("lips of the video", lips), ("lips of the sounds", wanted)]))
    report.figures["weights"] = avatar.load_model()[2].get("provenance", {})
    return report


def _row(name: str, protocol: str, source: Path, **more: Path) -> Row:
    paths: dict[str, Path | None] = dict.fromkeys(("source", "driver", "audio", "truth"))
    return Row(name, protocol, **{**paths, "source": source, **more}, identity="demo", output=name)


def _held(person: avatar.Avatar) -> motion.Poses:
    return motion.static(person.euler, person.trans, 1)


def _render(person: avatar.Avatar, expression: Array, poses: motion.Poses) -> list[avatar.Frame]:
    return list(avatar.frames(person, avatar.Motion(expression.astype(np.float32), poses.euler, poses.trans)))


def _score(report: Report, rows: list[Row], clips: Clips, references: References, lips: Array, phone: Array) -> None:
    networks = references.networks
    # The anchors are the floor: the photograph, still, and the truth itself.
    folders = {OURS: clips.folder / OURS}
    results = harness.run(
        rows, folders, networks, size=references.size, every=_EVERY, anchors=True, references=references
    )
    table = {row.id: {name: of[row.id].figures for name, of in results.scores.items() if row.id in of} for row in rows}
    for name, (clip, figure) in _FROM.items():
        value = table[clip].get(OURS, {}).get(figure)
        report.figures[name] = None if value is None or not np.isfinite(value) else float(value)
    report.figures["frames"] = len(phone)
    report.figures["failures"] = {m: f for m, f in results.failures.items() if f}
    lips = lips[: len(phone)]
    for name, group in (("m_b_p", CLOSED), ("silence", (SILENCE,)), ("open_vowels", ("aa", "ay", "ow"))):
        chosen = lips[np.isin(phone[: len(lips)], [PHONE_NAMES.index(p) for p in group])]
        preposition = "in" if name == "silence" else "on"
        report.figures[f"lip_gap_{preposition}_{name}"] = float(np.nanmedian(chosen)) if chosen.size else None
    report.figures["clips"] = {
        clip: {m: {k: round(float(v), 4) for k, v in of.items() if np.isfinite(v)} for m, of in methods.items()}
        for clip, methods in table.items()
    }
    report.figures["harness"] = harness.provenance(networks, references.size, _EVERY, GROUPS)


def _lips(path: Path, references: References) -> Array:
    """Inner lips' gap in eye distances [t], as the harness sees it."""
    return series.lips_and_yaw(references(path).points)[0]


def _speech(clips: Clips, puppet: Puppet, movie: Path, phones: Path) -> tuple[Path, Array]:
    """The teacher saying the known sounds, as a clip; and which sound each frame has [t]."""
    frames = clips.write(OURS, "speech", video.read_frames(movie))
    count = len(list(frames.glob("*.png")))
    spoken = json.loads(phones.read_text())["phones"]
    names = list(face.load_face_model().expression_names)
    truth, phone = mouth_track([p for p, _ in spoken], np.array([t for _, t in spoken]), count, names)
    fit_of = puppet.fit
    shown = (puppet.render(e, fit_of.euler, fit_of.trans, segmap=False)["image"] for e in truth)
    return clips.write("truth", "speech", shown), np.asarray(phone)


def _orbit(report: Report, clips: Clips, person: avatar.Avatar, puppet: Puppet, references: References) -> list[Array]:
    start = camera.rotation(person.euler)
    euler = np.array([fit.euler_of(camera.rotation(np.array([0, yaw, 0])) @ start) for yaw in _ORBIT])
    trans = np.array([turned(person.euler, person.trans, e) for e in euler])
    shots = _render(person, np.tile(person.expression, (len(euler), 1)), motion.Poses(euler, trans))
    theirs = [puppet.render(person.expression, r, s, segmap=False)["image"] for r, s in zip(euler, trans, strict=True)]
    clips.write("truth", "orbit", theirs)
    ours = clips.write(OURS, "orbit", [f.image for f in shots])
    points = references(ours).points
    # How many rays go through the face: of the renderer's opacity, which no finished frame shows.
    holes = [
        _hole(f.weight, p * len(f.weight) / person.size)
        for f, p in zip(shots, points, strict=True)
        if np.isfinite(p).all()
    ]
    report.figures["orbit_hole"] = float(max(holes, default=1.0))
    return [video.side_by_side([f.image for f in shots[::3]], 192)]


def _hole(weight: Array, landmarks: Array) -> float:
    """Share of rays inside of the face that go through it; weight [r, r], landmarks [k, 2] in its pixels."""
    side = len(weight)
    outline = cv2.convexHull(landmarks.astype(np.float32))
    outline = outline.mean(0) + 0.9 * (outline - outline.mean(0))  # the edge itself is soft
    inside = cv2.fillConvexPoly(np.zeros((side, side), np.uint8), np.round(outline).astype(np.int32), (1,)) > 0
    return float((weight[inside] < 0.5).mean())


def _driven(clips: Clips, person: avatar.Avatar, puppet: Puppet, finder: FaceFinder) -> list[Array]:
    t = np.arange(75) / 25
    names = puppet.head.names
    expression = np.tile(person.expression, (len(t), 1)) * np.array([not n.startswith(("jaw", "mouth")) for n in names])
    expression[:, names.index("jawOpen")] = 0.17 * (1 - np.cos(2 * np.pi * 1.7 * t)) * (0.6 + 0.4 * np.sin(3.1 * t))
    euler = np.tile(person.euler, (len(t), 1)) + np.outer(np.radians(14) * np.sin(2 * np.pi * t / 3), [0, 1, 0])
    trans = np.array([turned(person.euler, person.trans, e) for e in euler])
    theirs = [puppet.render(e, r, s, segmap=False)["image"] for e, r, s in zip(expression, euler, trans, strict=True)]
    path = clips.folder / "driver.mp4"
    with video.VideoWriter(path, (puppet.size, puppet.size)) as writer:
        for frame in theirs:
            writer.write(frame)
    fitted = track_video(path, finder)
    theirs = list(video.read_frames(path))
    given = motion.Poses(np.asarray(fitted.euler, np.float64), np.asarray(fitted.trans, np.float64))
    poses = motion.map_to_initial(motion.hold_depth(given), person.euler, person.trans)
    ours = [f.image for f in _render(person, fitted.expression, poses)]
    clips.write("truth", "driven", theirs)
    clips.write(OURS, "driven", ours)
    seen = range(4, len(t), 10)
    return [video.side_by_side([x[k] for k in seen], 192) for x in (theirs, ours)]


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
