"""Measures of what a face does over time, from its landmarks and its fitted head; NumPy.

Letters: t frames, n points. Landmarks are MediaPipe's 478 in pixels, NaN where no face was found; those frames do not
count. Variant `a` is what the paper's laboratory computes.
"""

import numpy as np

from data_pipelines.head_landmarks import IBUG_68
from r3p import face

FPS = 25.0
LIPS = slice(48, 68)  # of iBUG's 68
CLOSED = 0.5  # of the median gap between the lids: below it an eye counts as closed
SHORTEST_BLINK, LONGEST_BLINK = 2, 20  # frames


def known(points: np.ndarray) -> np.ndarray:
    """[t] whether a face was found: points [t, n, 2]."""
    return np.isfinite(points).all((1, 2))


def mean_or_nan(values: np.ndarray) -> float:
    """Mean of what is finite; NaN when nothing is."""
    good = np.asarray(values)[np.isfinite(values)]
    return float(good.mean()) if good.size else float("nan")


def keypoint_distance(a: np.ndarray, b: np.ndarray) -> float:
    """AKD, variant a: mean |difference| of 68 points over points and both axes, pixels. a, b [t, 478, 2]."""
    return mean_or_nan(np.abs(a - b)[:, list(IBUG_68)].mean((1, 2)))


def landmark_distances(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """LMD, variant a, pixels: all 68 points and the lips, with each point's mean over time taken away, and of their
    differences from frame to frame. a, b [t, 478, 2]."""
    both = known(a) & known(b)
    x, y = (p[both][:, list(IBUG_68)] for p in (a, b))
    pairs = both[1:] & both[:-1]
    names = ("lmd_a", "lmd_lips_a", "lmd_speed_a", "lmd_lips_speed_a")
    if not pairs.any():
        return dict.fromkeys(names, float("nan"))
    still = np.abs((x - x.mean(0)) - (y - y.mean(0)))
    steps = [(p[1:] - p[:-1])[pairs][:, list(IBUG_68)] for p in (a, b)]
    moved = np.abs(steps[0] - steps[1])
    values = (still.mean(), still[:, LIPS].mean(), moved.mean(), moved[:, LIPS].mean())
    return dict(zip(names, map(float, values), strict=True))


def lips_and_yaw(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inner lips' gap in eye distances [t] and turn of the nose [t] (about sin(yaw)) of points [t, 478, 2]."""
    left, right = (np.linalg.norm(points[:, 1] - points[:, k], axis=-1) for k in (234, 454))
    return np.asarray(face.lip_gap(points)), (left - right) / (left + right)


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


def correlation(a: np.ndarray, b: np.ndarray, lag: int = 0) -> tuple[float, float]:
    """Pearson's correlation of two series [t] where both are known, best within `lag` frames -> (it, its lag).

    NaN when fewer than 10 frames are left or one of them never moves: nothing can be said then, not even 0.
    """
    n = min(len(a), len(b))
    both = np.isfinite(a[:n]) & np.isfinite(b[:n])
    if both.sum() < 10 or min(np.std(a[:n][both]), np.std(b[:n][both])) < 1e-6:
        return float("nan"), float("nan")
    if lag == 0:
        return float(np.corrcoef(a[:n][both], b[:n][both])[0, 1]), 0
    return best_correlation(a, b, lag)


def jitter(points: np.ndarray) -> float:
    """Mean squared second difference of the landmarks, in squared hundredths of the distance between the eyes.

    points [t, 478, 2]. Includes what a lively face does: compare with the driver's own.
    """
    eyes = [points[:, list(corners)].mean(1) for corners in face.EYE_CORNERS]
    unit = np.linalg.norm(eyes[0] - eyes[1], axis=-1)[:, None, None]
    bend = (points[2:] - 2 * points[1:-1] + points[:-2]) / (unit[1:-1] / 100)
    return mean_or_nan(np.square(bend).sum(-1).mean(-1))


def blinks(points: np.ndarray) -> dict[str, float]:
    """Blinks per minute, their mean duration (s) and how far lids close (1: entirely), of points [t, 478, 2].

    An eye is closed while its gap over its width is below half of the clip's median; the official code's threshold (eye
    area of the unposed 68 points) belongs to its own face model. Duration and depth are NaN without a blink.
    """
    gap = np.full(len(points), np.nan)
    good = known(points)
    names = ("blinks_per_minute", "blink_seconds", "blink_depth")
    if not good.any():
        return dict.fromkeys(names, float("nan"))
    gap[good] = np.asarray(face.eye_gap(points[good])).mean(-1)
    usual = np.median(gap[good])
    shut = np.concatenate([[False], np.where(good, gap < CLOSED * usual, False), [False]])
    edges = np.flatnonzero(shut[1:] != shut[:-1]).reshape(-1, 2)
    runs = [(i, j) for i, j in edges if SHORTEST_BLINK <= j - i <= LONGEST_BLINK]
    rate = 60 * len(runs) / (good.sum() / FPS)
    if not runs:
        return {names[0]: 0.0, names[1]: float("nan"), names[2]: float("nan")}
    depth = [1 - np.nanmin(gap[i:j]) / usual for i, j in runs]
    return {
        names[0]: float(rate),
        names[1]: float(np.mean([j - i for i, j in runs]) / FPS),
        names[2]: float(np.mean(depth)),
    }


def mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean |difference| over values and frames: of expressions it is AED, of head angles APD. a, b [t, k]."""
    return mean_or_nan(np.abs(a - b).mean(-1))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Mean cosine of vectors [.., k] of two faces."""
    top = (a * b).sum(-1)
    return float(np.mean(top / np.maximum(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-12)))
