"""How two series go together when one may lag.

Letters: t frames, lag in frames.
"""

import numpy as np


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
