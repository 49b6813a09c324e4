"""Scores one clip of one method: what its protocol allows, from the references that its row names."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from r3p import audio, speech_motion, video
from r3p.errors import InputError
from r3p.evaluate import batching, frechet, series, sync
from r3p.evaluate.manifest import Row
from r3p.evaluate.networks import Networks, arcface_crops, five_points
from r3p.evaluate.observe import Observation, batches, frames_of, is_picture, observe
from r3p.evaluate.pixels import PixelTotals
from r3p.evaluate.regions import RegionTotals

GROUPS = ("pixels", "regions", "lpips", "lpips_vgg", "features", "face", "sync")
SLACK_FRAMES, SLACK = 2, 0.02  # how much shorter or longer than its reference a clip may be
_ASPECT = 0.02  # how much its aspect may differ from its truth's
_SYNC_LAG, _LIP_LAG = 5, 2
Watched = tuple[Path, Observation]


@dataclass
class Score:
    """Of one clip of one method: figures (NaN where a figure does not apply), frames, notes; features by network."""

    figures: dict[str, float]
    frames: int
    notes: list[str] = field(default_factory=list)
    features: dict[str, frechet.Features] = field(default_factory=dict)
    reference_features: dict[str, frechet.Features] = field(default_factory=dict)


class References:
    """Observations of sources, drivers and truths; the newest few are kept, since neighbouring rows share them.

    every: networks that compare pictures (LPIPS, features, identity) look at each so manieth frame only.
    """

    def __init__(self, networks: Networks, size: int, keep: int = 6, every: int = 1) -> None:
        self.networks, self.size, self.keep, self.every = networks, size, keep, every
        self._kept: dict[Path, Observation] = {}
        self._features: dict[Path, dict[str, frechet.Features]] = {}

    def frames(self, path: Path) -> Iterator[np.ndarray]:
        """Batches of the frames that networks look at."""
        return batches(itertools.islice(frames_of(path, self.size), 0, None, self.every), batching.size())

    def features(self, path: Path) -> dict[str, frechet.Features]:
        """Of all networks that there are for it, kept as observations are."""
        if path not in self._features:
            while len(self._features) >= self.keep:
                del self._features[next(iter(self._features))]
            self._features[path] = features(path, self)
        return self._features[path]

    def kept(self, path: Path) -> Observation | None:
        """What is known already."""
        return self._kept.get(path)

    def __call__(self, path: Path) -> Observation:
        if path not in self._kept:
            while len(self._kept) >= self.keep:
                del self._kept[next(iter(self._kept))]
            self._kept[path] = observe(path, self.networks.finder(), self.size)
        return self._kept[path]


def check_clip(path: Path, row: Row) -> list[str]:
    """Notes on a method's clip. Raises InputError for one that cannot be scored."""
    if not path.exists():
        raise InputError("there is no output")
    if path.is_dir() or is_picture(path):
        return []
    info = video.probe(path)
    if row.protocol != "novel_view" and len(list(itertools.islice(video.read_frames(path), 2))) < 2:
        raise InputError("the output is only one frame long: expected a video")
    return [] if abs(info.fps - series.FPS) < 0.01 else [f"resampled from {info.fps:.4g} frames a second"]


def check_length(frames: int, wanted: int, what: str) -> None:
    """Raises InputError when a clip is much shorter or longer than its reference."""
    if abs(frames - wanted) > max(SLACK_FRAMES, SLACK * wanted):
        raise InputError(f"the output is {frames} frames long at 25 a second, its {what} {wanted}")


def score(
    row: Row, output: Path, networks: Networks, references: References, groups: tuple[str, ...] = GROUPS
) -> Score:
    """One method's clip. Raises InputError with the reason when it is a failure."""
    notes = check_clip(output, row)
    size = references.size
    seen = references.kept(output) or observe(output, networks.finder(), size)
    moving = row.protocol != "novel_view" or len(seen) > 1
    if moving and len(seen) < 2:
        raise InputError("the output is only one frame long: expected a video")
    if not seen.found:
        raise InputError("no face is found in any frame of the output")
    result = Score({"face_found": seen.found}, len(seen), notes)
    sound = audio.load(row.audio) if row.audio is not None and moving else None
    if sound is not None and row.protocol == "audio":
        check_length(len(seen), audio.video_frames(len(sound)), "sound")
    truth = row.truth or (row.driver if row.protocol == "same" else None)
    if truth is not None and row.protocol in ("same", "novel_view"):
        _pixels(result, output, truth, references, groups)
        if "regions" in groups:
            _regions(result, output, truth, references)
    motion = row.truth or row.driver
    target = truth or motion
    if "features" in groups and moving and target is not None:
        _features(result, output, target, references)
    if "face" in groups:
        _face(result, row, seen, networks, references, output, motion)
    if "sync" in groups and sound is not None:
        loud = speech_motion.loudness(sound, len(seen)).reshape(-1, 2).mean(1)
        value, lag = series.correlation(series.lips_and_yaw(seen.points)[0], loud, _SYNC_LAG)
        result.figures |= {"sync_proxy": value, "sync_proxy_lag": lag}
        _lips_and_sound(result, sound, seen, output, references)
    return result


def _lips_and_sound(result: Score, sound: np.ndarray, seen: Observation, output: Path, references: References) -> None:
    """LSE where SyncNet's weights are there; its script drops short clips."""
    brought = references.networks.brought("syncnet") if "syncnet" in references.networks else None
    if brought is None or brought.judge is None:
        return
    if len(seen) <= sync.LEAST:
        result.notes.append(f"no LSE of {len(seen)} frames: SyncNet's script wants more than {sync.LEAST}")
        return
    result.figures |= brought.judge(frames_of(output, references.size), seen.points, sound)


def _pairs(output: Path, truth: Path, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of both clips, the output in the truth's shape. A truth that is one picture serves every frame."""
    theirs = itertools.repeat(next(frames_of(truth, size))) if is_picture(truth) else frames_of(truth, size)

    def both() -> Iterator[np.ndarray]:
        for ours, other in zip(frames_of(output, size), theirs, strict=False):
            (h, w), (th, tw) = ours.shape[:2], other.shape[:2]
            if abs(w / h - tw / th) > _ASPECT * tw / th:
                raise InputError(f"the output is {w}x{h} pixels, its truth {tw}x{th}: another aspect")
            if (h, w) != (th, tw):
                ours = cv2.resize(ours, (tw, th), interpolation=cv2.INTER_CUBIC)
            yield np.stack([ours, other])

    for chunk in batches(both(), batching.size()):
        yield chunk[:, 0], chunk[:, 1]


def _pixels(result: Score, output: Path, truth: Path, references: References, groups: tuple[str, ...]) -> None:
    networks, size = references.networks, references.size
    totals = PixelTotals()
    nets = {"lpips": ("lpips_alex_a", "alexnet"), "lpips_vgg": ("lpips_vgg", "vgg16")}
    chosen = [nets[g] for g in groups if g in nets and "lpips" in networks]
    perceptual: dict[str, list[np.ndarray]] = {name: [] for name, _ in chosen}
    waiting: list[np.ndarray] = []

    def look() -> None:
        if waiting:
            a, b = np.stack(waiting).swapaxes(0, 1)
            for name, net in chosen:
                perceptual[name].append(networks.lpips(net, a, b))
            waiting.clear()

    if not is_picture(truth):
        check_length(result.frames, sum(1 for _ in frames_of(truth, size)), "truth")
    at = 0
    for ours, theirs in _pairs(output, truth, size):
        if "pixels" in groups:
            totals.add(ours, theirs)
        if chosen:
            for k in range(-at % references.every, len(ours), references.every):
                waiting.append(np.stack([ours[k], theirs[k]]))
            if len(waiting) >= batching.size():
                look()
        at += len(ours)
    look()
    if "pixels" in groups:
        result.figures |= totals.figures()
    result.figures |= {k: float(np.concatenate(v).mean()) for k, v in perceptual.items() if v}


def _regions(result: Score, output: Path, truth: Path, references: References) -> None:
    seen = references(truth)
    if not seen.found:
        result.notes.append(f"no face is found in {truth.name}: no regions")
        return
    totals = RegionTotals(references.networks.finder())
    before: tuple[np.ndarray, np.ndarray] | None = None
    at = 0
    for chunk in _pairs(output, truth, references.size):
        for pair in zip(*chunk, strict=True):
            if at % references.every == 0:
                totals.add(*pair, seen.points[min(at, len(seen) - 1)], before)
            before, at = pair, at + 1
    result.figures |= totals.figures()


def features(path: Path, references: References) -> dict[str, frechet.Features]:
    """Of VGG16 and Inception, as far as they are there."""
    networks = references.networks
    out = {k: frechet.Features() for k, need in (("vgg", "lpips"), ("inception", "inception")) if need in networks}
    for chunk in references.frames(path) if out else ():
        for k, found in out.items():
            found.add(networks.vgg(chunk) if k == "vgg" else networks.user(k, chunk))
    return out


def _features(result: Score, output: Path, target: Path, references: References) -> None:
    result.reference_features = references.features(target)
    result.features = result.reference_features if output == target else features(output, references)
    for k, name in (("vgg", "vgg_fd_a"), ("inception", "fid_a")):
        if k in result.features:
            ours, theirs = result.features[k].moments, result.reference_features[k].moments
            if ours is not None and theirs is not None and min(ours.count, theirs.count) > 1:
                result.figures[name] = frechet.frechet(ours, theirs)


def _face(
    result: Score,
    row: Row,
    seen: Observation,
    networks: Networks,
    references: References,
    output: Path,
    motion: Path | None,
) -> None:
    figures = result.figures
    # Whom the output is to show: the truth frame by frame where there is one, else the source photograph.
    who = row.truth or (row.driver if row.protocol == "same" else row.source)
    if who is not None:
        person = references(who)
        if person.found:
            figures["shape_similarity"] = series.cosine(seen.fitted.identity, person.fitted.identity)
        else:
            result.notes.append(f"no face is found in {who.name}")
        if "arcface" in networks:
            figures |= _identity(output, seen, who, person, references)
    if len(seen) > 1:
        figures |= series.blinks(seen.points)
        figures["jitter"] = series.jitter(seen.points)
        figures["background_change"] = seen.background
    if motion is None or is_picture(motion) or len(seen) < 2:
        return
    theirs = references(motion)
    if not theirs.found:
        result.notes.append(f"no face is found in {motion.name}")
        return
    check_length(len(seen), len(theirs), "driver" if motion == row.driver else "truth")
    n = min(len(seen), len(theirs))
    a, b = seen.points[:n], theirs.points[:n]
    (lips, yaw), (their_lips, their_yaw) = series.lips_and_yaw(a), series.lips_and_yaw(b)
    value, lag = series.correlation(lips, their_lips, _LIP_LAG)
    figures |= {"lip_correlation": value, "lip_lag": lag}
    figures["yaw_correlation"] = series.correlation(yaw, their_yaw)[0]
    p, q = seen.fitted, theirs.fitted
    pose = [np.concatenate([f.euler[:n], f.trans[:n]], -1) for f in (p, q)]
    figures |= {
        "aed_fit": series.mean_difference(p.expression[:n], q.expression[:n]),
        "apd_fit_a1": series.mean_difference(*pose),
        "apd_fit_a2": series.mean_difference(p.euler[:n], q.euler[:n]),
    }
    if row.protocol == "same" and seen.shape == theirs.shape:
        figures["akd_mediapipe"] = series.keypoint_distance(a, b)
        figures |= series.landmark_distances(a, b)
    if "deep3d" in networks:
        figures |= _deep3d((output, seen), (motion, theirs), references)


def _identity(
    output: Path, seen: Observation, who: Path, person: Observation, references: References
) -> dict[str, float]:
    """CSIM in both variants: frame by frame, or every frame against the one picture."""
    networks = references.networks
    sides: dict[str, list[list[np.ndarray]]] = {"csim_a": [], "csim_s": []}
    for path, observed in ((output, seen), (who, person)):
        whole: list[np.ndarray] = []
        aligned: list[np.ndarray] = []
        at = 0
        all_points = observed.points[:: references.every]
        for chunk in references.frames(path):
            points, at = all_points[at : at + len(chunk)], at + len(chunk)
            small = np.stack([cv2.resize(f, (112, 112), interpolation=cv2.INTER_NEAREST) for f in chunk])
            good = series.known(points)
            found = networks.user("arcface", small)
            rows = np.full_like(found, np.nan)
            if good.any():
                rows[good] = networks.user("arcface", arcface_crops(chunk[good], points[good]))
            whole.extend(found)
            aligned.extend(rows)
        sides["csim_a"].append(whole)
        sides["csim_s"].append(aligned)
    out = {}
    for name, (ours, theirs) in sides.items():
        n = len(ours) if len(theirs) == 1 else min(len(ours), len(theirs))
        a, b = np.stack(ours[:n]), np.stack(theirs[:n])
        both = np.isfinite(a).all(-1) & np.isfinite(b).all(-1)
        out[name] = series.cosine(a[both], np.broadcast_to(b, a.shape)[both]) if both.any() else float("nan")
    return out


def _coefficients(path: Path, seen: Observation, references: References) -> np.ndarray:
    """[t, 257]; NaN where no face was found, for weights that want the face cut out."""
    brought = references.networks.brought("deep3d")
    points, at, out = seen.points[:: references.every], 0, []
    for chunk in references.frames(path):
        if brought is None:
            out.append(references.networks.user("deep3d", chunk))
            continue
        here, at = points[at : at + len(chunk)], at + len(chunk)
        good = series.known(here)
        rows = np.full((len(chunk), 257), np.nan)
        if good.any():
            crops = [brought.crop(f, five_points(p)) for f, p in zip(chunk[good], here[good], strict=True)]
            rows[good] = references.networks.user("deep3d", np.stack(crops))
        out.append(rows)
    return np.concatenate(out)


def _deep3d(ours: Watched, theirs: Watched, references: References) -> dict[str, float]:
    a, b = (_coefficients(path, seen, references) for path, seen in (ours, theirs))
    n = min(len(a), len(b))
    if a.shape[1] != 257 or b.shape[1] != 257:
        raise InputError(f"--network deep3d gave {a.shape[1]} coefficients: expected 257")
    difference = np.abs(a[:n] - b[:n])
    pose = difference[:, [224, 225, 226, 254, 255, 256]]
    return {
        "aed_a": series.mean_or_nan(difference[:, 80:144]),
        "apd_a1": series.mean_or_nan(pose),
        "apd_a2": series.mean_or_nan(pose[:, :3]),
    }
