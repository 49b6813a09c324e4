"""How sure a difference is: bootstrap over identities, paired differences, Wilcoxon's test with Holm's correction.

The unit is the clip, and clips of one identity are drawn together: frames of a clip, and clips of a person, are no
independent evidence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its interval of 95 %; bounds are NaN with fewer than two identities."""

    mean: float
    low: float
    high: float
    clips: int
    identities: int


def draws(identities: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """How often each cluster is drawn [resamples, clusters], and each clip's cluster [clips]."""
    _, cluster = np.unique(np.asarray(identities, dtype=object).astype(str), return_inverse=True)
    count = int(cluster.max()) + 1
    drawn = np.random.default_rng(seed).integers(0, count, (resamples, count))
    times = np.zeros((resamples, count), np.int32)
    np.add.at(times, (np.arange(resamples)[:, None], drawn), 1)
    return times, cluster


def bootstrap_mean(
    values: Sequence[float] | np.ndarray, identities: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean over clips and its percentile interval; values that are NaN do not count."""
    x = np.asarray(values, np.float64)
    good = np.isfinite(x)
    x, who = x[good], [i for i, g in zip(identities, good, strict=True) if g]
    if not len(x):
        return Interval(float("nan"), float("nan"), float("nan"), 0, 0)
    times, cluster = draws(who, resamples, seed)
    count = times.shape[1]
    low = high = float("nan")
    if count > 1:
        sums, sizes = np.bincount(cluster, x, count), np.bincount(cluster, minlength=count)
        means = (times @ sums) / (times @ sizes)
        low, high = (float(v) for v in np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return Interval(float(x.mean()), low, high, len(x), count)


def bootstrap(
    statistic: Callable[[np.ndarray], float], identities: Sequence[str], *, resamples: int = 200, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of a statistic of clips' indices [n], for what is no mean (a pooled Fréchet distance)."""
    times, cluster = draws(identities, resamples, seed)
    if times.shape[1] < 2:
        return float("nan"), float("nan")
    found = [statistic(np.repeat(np.arange(len(cluster)), row[cluster])) for row in times]
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Paired:
    """Mean difference of two methods on the same clips, its interval, and the p value (NaN when none can be had)."""

    difference: Interval
    p: float


def paired(
    ours: Sequence[float] | np.ndarray,
    theirs: Sequence[float] | np.ndarray,
    identities: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Paired:
    """ours - theirs. Wilcoxon's signed-rank test on the identities' mean differences."""
    d = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    interval = bootstrap_mean(d, identities, resamples=resamples, seed=seed)
    good = np.isfinite(d)
    who = np.asarray(identities, dtype=object).astype(str)[good]
    means = np.array([d[good][who == i].mean() for i in np.unique(who)])
    if len(means) < 2 or not np.any(means):
        return Paired(interval, float("nan"))
    return Paired(interval, float(stats.wilcoxon(means).pvalue))


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's step-down adjustment of p values; NaN stays NaN and does not count."""
    p = np.asarray(p, np.float64)
    out = np.full(len(p), np.nan)
    order = [k for k in np.argsort(p) if np.isfinite(p[k])]
    largest = 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p[k]))
        out[k] = largest
    return out
