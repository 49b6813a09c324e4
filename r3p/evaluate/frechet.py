"""Distances between two sets of feature vectors: Fréchet (the formula of FID) and kernel (that of KID).

What network the features come from decides what the number may be called: with the Inception network of December 2015
it is FID, with VGG16 of LPIPS it is `VGG-FD`. float64 throughout; memory does not grow with the number of vectors.
"""

from dataclasses import dataclass

import numpy as np

from r3p.errors import InputError
from r3p.evaluate import uncertainty

RESAMPLES, SPREAD = 200, 200  # of the intervals of pooled distances; frames a side that they are made of


@dataclass(frozen=True)
class Moments:
    """Count, sum [d] and sum of outer products [d, d] of vectors; they add up, over batches and over clips."""

    count: int
    total: np.ndarray
    outer: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Moments":
        """features [n, d]."""
        x = np.asarray(features, np.float64)
        return cls(len(x), x.sum(0), x.T @ x)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean [d] and unbiased covariance [d, d]. Raises InputError with fewer than two vectors."""
        if self.count < 2:
            raise InputError(f"statistics of {self.count} feature vector(s): expected at least 2 frames")
        mean = self.total / self.count
        return mean, (self.outer - self.count * np.outer(mean, mean)) / (self.count - 1)


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def frechet(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) (Heusel et al. 2017, arXiv:1706.08500, eq. 6).

    The trace of the root is taken from the symmetric A^(1/2) B A^(1/2), which has the same eigenvalues: no complex
    numbers and no regularisation, also where there are fewer vectors than dimensions. Fewer vectors read higher.
    """
    (mean_a, cov_a), (mean_b, cov_b) = a.statistics(), b.statistics()
    root = _root(cov_a)
    middle = root @ cov_b @ root
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh((middle + middle.T) / 2), 0)).sum()
    return float(max(np.square(mean_a - mean_b).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * shared, 0.0))


def frechet_of(a: np.ndarray, b: np.ndarray, weight_a: np.ndarray, weight_b: np.ndarray) -> float:
    """`frechet` of vectors [n, d] and [m, d] that count so many times each: weights [n] and [m].

    The root's trace is the nuclear norm of centred A B^T, an [n, m] matrix: resampling hundreds of vectors of 2,048
    numbers hundreds of times is affordable.
    """
    centred, means, traces = [], [], []
    for x, w in ((np.asarray(a, np.float64), weight_a), (np.asarray(b, np.float64), weight_b)):
        mean = w @ x / w.sum()
        rows = (x - mean)[w > 0] * np.sqrt(w[w > 0] / (w.sum() - 1))[:, None]
        centred.append(rows)
        means.append(mean)
        traces.append(np.square(rows).sum())
    shared = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    return float(max(np.square(means[0] - means[1]).sum() + sum(traces) - 2 * shared, 0.0))


def kernels(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kernel matrices of (a, a), (b, b), (a, b), see `kernel_distance`."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    d = a.shape[1]
    return (a @ a.T / d + 1) ** 3, (b @ b.T / d + 1) ** 3, (a @ b.T / d + 1) ** 3


def kernel_distance_of(
    matrices: tuple[np.ndarray, np.ndarray, np.ndarray], weight_a: np.ndarray, weight_b: np.ndarray
) -> float:
    """`kernel_distance` of vectors that count so many times each; a vector is not compared with its own copies."""

    def within(k: np.ndarray, w: np.ndarray) -> float:
        pairs = w.sum() ** 2 - np.square(w).sum()
        return float((w @ k @ w - np.square(w) @ np.diag(k)) / pairs)

    aa, bb, ab = matrices
    return (
        within(aa, weight_a)
        + within(bb, weight_b)
        - 2 * float(weight_a @ ab @ weight_b) / (weight_a.sum() * weight_b.sum())
    )


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared MMD with the kernel (x.y/d + 1)^3 (Binkowski et al. 2018, arXiv:1801.01401, section 4).

    a [n, d], b [m, d]. Can be below 0 for equal distributions. Raises InputError with fewer than two vectors.
    """
    n, m = len(a), len(b)
    if min(n, m) < 2:
        raise InputError(f"kernel distance of {n} and {m} feature vectors: expected at least 2 each")
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    aa, bb = kernel(a, a), kernel(b, b)
    within = (aa.sum() - np.trace(aa)) / (n * (n - 1)) + (bb.sum() - np.trace(bb)) / (m * (m - 1))
    return float(within - 2 * kernel(a, b).mean())


class Features:
    """Moments of a stream of vectors, and a fair sample of at most `keep` of them."""

    def __init__(self, keep: int = 1000, seed: int = 0) -> None:
        self.moments: Moments | None = None
        self.keep, self._rng = keep, np.random.default_rng(seed)
        self._sample: list[np.ndarray] = []
        self._seen = 0

    def add(self, features: np.ndarray) -> None:
        """features [n, d]."""
        features = np.asarray(features, np.float32)  # as the sample keeps them
        moments = Moments.of(features)
        self.moments = moments if self.moments is None else self.moments + moments
        for row in features:
            self._seen += 1
            if len(self._sample) < self.keep:
                self._sample.append(row)
            elif (k := int(self._rng.integers(self._seen))) < self.keep:
                self._sample[k] = row

    @classmethod
    def of(cls, features: np.ndarray) -> "Features":
        """Of vectors [n, d]."""
        out = cls(max(len(features), cls().keep))
        if len(features):
            out.add(features)
        return out

    @property
    def whole(self) -> bool:
        """Whether the sample is everything."""
        return self._seen == len(self._sample)

    @property
    def sample(self) -> np.ndarray:
        """[at most keep, d]."""
        return np.array(self._sample)

    def merge(self, other: "Features") -> None:
        """Takes in another stream's. Its kept sample stands for it: fair as long as neither had more than `keep`."""
        if other.moments is None:
            return
        together = other.moments if self.moments is None else self.moments + other.moments
        self.add(other.sample)
        self.moments = together


class Clips:
    """What intervals of pooled distances need: some vectors of every clip, and whose it is."""

    def __init__(self) -> None:
        self._identities: list[str] = []
        self._sides: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])

    def add(self, identity: str, ours: np.ndarray, theirs: np.ndarray) -> None:
        """A clip's vectors [n, d] and its reference's [m, d]."""
        self._identities.append(identity)
        for kept, rows in zip(self._sides, (ours, theirs), strict=True):
            kept.append(rows[:SPREAD])

    def intervals(self, values: tuple[float, float]) -> list[tuple[float, float]]:
        """Of the Fréchet and of the kernel distance, whose `values` are of all frames: NaN with one identity.

        Identities are drawn with all their clips. A resample has fewer different frames than the clips, which alone
        raises a Fréchet distance: the resamples' median is put on the value.
        """
        times, cluster = uncertainty.draws(self._identities, RESAMPLES)
        if times.shape[1] < 2:
            return [(float("nan"), float("nan"))] * 2
        each = max(2, SPREAD // len(cluster))
        rows, owners = [], []
        for side in self._sides:
            some = [x[np.linspace(0, len(x) - 1, min(each, len(x))).round().astype(int)] for x in side]
            rows.append(np.concatenate(some))
            owners.append(np.repeat(cluster, [len(x) for x in some]))
        matrices = kernels(*rows)
        found: list[list[float]] = [[], []]
        for drawn in times.astype(np.float64):
            weights = [drawn[owner] for owner in owners]
            if min(np.count_nonzero(w) for w in weights) < 2:
                continue
            found[0].append(frechet_of(*rows, *weights))
            found[1].append(kernel_distance_of(matrices, *weights))
        out = []
        for value, of in zip(values, found, strict=True):
            low, middle, high = np.quantile(of, [(1 - uncertainty.LEVEL) / 2, 0.5, (1 + uncertainty.LEVEL) / 2])
            out.append((float(value + low - middle), float(value + high - middle)))
        return out
