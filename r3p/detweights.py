"""Deterministic weights and inputs from names alone: what golden cases are recorded with. NumPy only.

Every array is a pure function of (seed, key, shape):

    rng = numpy.random.Generator(numpy.random.Philox(
        key=int.from_bytes(sha256(f"{seed}:{key}".encode()).digest()[:16], "little")))
    array = rng.standard_normal(shape, dtype=float32)  # normal()
    array = rng.random(shape, dtype=float32)           # uniform()

A manifest maps every name of a state dict to
    {"shape": [...], "dtype": "float32", "kind": "param"|"buffer", "init": RULE}
or  {"shape": [...], "dtype": "float32", "buffer": true, "value": nested list}.
RULE is one of
    {"mean": m, "std": s}          m + s * normal(seed, key, shape)
    {"mean": m, "std": s, "center": true}
        as above, after subtracting from the draw its mean over all axes but the first (float64 mean, rounded to
        float32): output rows that ignore a common offset of their positive inputs, so no seed gives an empty density
        or a constant mask
    {"const": v}                   filled with v
    {"spectral": {"of": KEY, "side": "u"|"v", "iters": n}}
        the left or right singular vector of the largest singular value of the drawn tensor KEY, reshaped to
        (shape[0], -1): float64 power iteration from normal(seed, KEY + ":power", (columns,)), so that u^T W v is the
        spectral norm, as many training steps leave it
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray
Shape = Sequence[int]


def make_rng(seed: str, key: str) -> np.random.Generator:
    digest = hashlib.sha256((seed + ":" + key).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def normal(seed: str, key: str, shape: Shape) -> Array:
    return make_rng(seed, key).standard_normal(tuple(shape), dtype=np.float32)


def uniform(seed: str, key: str, shape: Shape) -> Array:
    return make_rng(seed, key).random(tuple(shape), dtype=np.float32)


# ---------------------------------------------------------------- weights
def _spectral_pair(seed: str, key: str, w: Array, iters: int) -> tuple[Array, Array]:
    m = np.asarray(w, np.float64).reshape(w.shape[0], -1)
    v = normal(seed, key + ":power", (m.shape[1],)).astype(np.float64)
    v /= np.linalg.norm(v)
    for _ in range(iters):
        u = m @ v
        u /= np.linalg.norm(u)
        v = m.T @ u
        v /= np.linalg.norm(v)
    u = m @ v
    u /= np.linalg.norm(u)
    return u.astype(np.float32), v.astype(np.float32)


def weights(manifest: Mapping[str, Any], seed: str) -> dict[str, Array]:
    """The state dict that a manifest describes, in its order."""
    out: dict[str, Array] = {}
    later: list[tuple[str, Mapping[str, Any], np.dtype]] = []
    pairs: dict[str, tuple[Array, Array]] = {}
    for key, spec in manifest.items():
        shape, dtype = tuple(spec["shape"]), np.dtype(spec["dtype"])
        if spec.get("buffer"):
            out[key] = np.asarray(spec["value"], dtype).reshape(shape)
            continue
        rule = spec["init"]
        if "const" in rule:
            out[key] = np.full(shape, rule["const"], dtype)
        elif "spectral" in rule:
            out[key] = np.empty(0)  # keeps the manifest's order
            later.append((key, rule["spectral"], dtype))
        else:
            a = normal(seed, key, shape)
            if rule.get("center"):
                axes = tuple(range(1, len(shape)))
                a = a - a.astype(np.float64).mean(axis=axes, keepdims=True).astype(np.float32)
            out[key] = (np.float32(rule["mean"]) + np.float32(rule["std"]) * a).astype(dtype)
    for key, r, dtype in later:
        if r["of"] not in pairs:
            pairs[r["of"]] = _spectral_pair(seed, r["of"], out[r["of"]], r["iters"])
        out[key] = pairs[r["of"]][0 if r["side"] == "u" else 1].astype(dtype)
    return out


# ----------------------------------------------------------------- inputs
def _lerp_matrix(n_out: int, n_in: int) -> Array:
    """[n_out, n_in], linear interpolation, end points on end points."""
    pos = np.linspace(0.0, n_in - 1.0, n_out)
    lo = np.minimum(np.floor(pos).astype(int), n_in - 2)
    frac = pos - lo
    m = np.zeros((n_out, n_in))
    m[np.arange(n_out), lo] = 1.0 - frac
    m[np.arange(n_out), lo + 1] += frac
    return m


def smooth(seed: str, key: str, shape: Shape, octaves: Sequence[int] = (3, 6, 12, 24, 48), fall: float = 0.6) -> Array:
    """Smooth field of roughly unit variance; the last two axes are spatial.

    For octave i with s cells a grid normal(seed, f"{key}:o{s}", (*lead, s + 1, s + 1)) is linearly interpolated to
    [h, w] (corner on corner) and weighted by fall**i.
    """
    lead, (h, w) = tuple(shape[:-2]), tuple(shape[-2:])
    acc, power = np.zeros(tuple(shape)), 0.0
    for i, s in enumerate(octaves):
        g = normal(seed, f"{key}:o{s}", (*lead, s + 1, s + 1)).astype(np.float64)
        wgt = fall**i
        acc += wgt * (_lerp_matrix(h, s + 1) @ g @ _lerp_matrix(w, s + 1).T)
        power += wgt * wgt * (4.0 / 9.0)  # mean power left by linear interpolation
    return (acc / np.sqrt(power)).astype(np.float32)


def image(seed: str, key: str, shape: Shape) -> Array:
    """Like an image, in (-1, 1), [..., h, w]."""
    return np.tanh(0.8 * smooth(seed, key, shape).astype(np.float64)).astype(np.float32)


def segmap(seed: str, key: str, n: int, size: int, classes: int = 6) -> Array:
    """One-hot float32 [n, classes, size, size]: which of as many smooth fields is largest."""
    f = smooth(seed, key, (n, classes, size, size), octaves=(3, 6, 12))
    idx = f.argmax(axis=1)
    return (idx[:, None] == np.arange(classes)[None, :, None, None]).astype(np.float32)


def mask(seed: str, key: str, shape: Shape, threshold: float = 0.0) -> Array:
    """Smooth blobs, boolean [..., h, w]."""
    return smooth(seed, key, shape, octaves=(3, 6)) > threshold


def camera(
    seed: str, key: str, n: int, radius: float = 2.7, focal: float = 2985.29 / 700, spread: float = 0.35
) -> Array:
    """[n, 25], on a sphere, looking near the origin: camera to world (x right, y down, z forward), intrinsics."""
    u = uniform(seed, key, (n, 6)).astype(np.float64) * 2.0 - 1.0
    out = np.zeros((n, 25))
    for i in range(n):
        yaw, pitch, roll = u[i, 0] * spread, u[i, 1] * spread * 0.6, u[i, 2] * spread * 0.3
        pos = radius * np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
        target = 0.05 * u[i, 3:6]
        fwd = target - pos
        fwd /= np.linalg.norm(fwd)
        up = np.array([np.sin(roll), np.cos(roll), 0.0])
        right = np.cross(fwd, up)
        right /= np.linalg.norm(right)
        down = np.cross(fwd, right)
        c2w = np.eye(4)
        c2w[:3, 0], c2w[:3, 1], c2w[:3, 2], c2w[:3, 3] = right, down, fwd, pos
        k = np.array([[focal, 0, 0.5], [0, focal, 0.5], [0, 0, 1.0]])
        out[i] = np.concatenate([c2w.reshape(-1), k.reshape(-1)])
    return out.astype(np.float32)


def keypoints(seed: str, key: str, n: int, k: int = 68, move: float = 0.0, base: Array | None = None) -> Array:
    """Points [n, k, 3] in [-0.9, 0.9], z = 0 as in inference; with `base`, moved from there by `move` at most."""
    a = uniform(seed, key, (n, k, 3)) * np.float32(2) - np.float32(1)
    a = np.float32(0.9) * a if base is None else base + np.float32(move) * a
    a = np.clip(a, -1, 1).astype(np.float32)
    a[..., 2] = 0
    return a


def sample_indices(case: str, out: str, size: int, count: int) -> Array:
    """The flat indices (C order) at which a large output is recorded: sorted, unique, the same for every seed."""
    return np.unique(make_rng("index", f"{case}:{out}").integers(0, size, count))


def inputs(spec: Mapping[str, Mapping[str, Any]], seed: str, case: str) -> dict[str, Array]:
    """Draws `{name: {"kind": ..., ...}}` with the keys f"input:{case}:{name}", or "key" where cases share an input.

    Raises:
      ValueError: a kind that is not known.
    """
    out: dict[str, Array] = {}
    for name, s in spec.items():
        key, kind = s.get("key", f"input:{case}:{name}"), s["kind"]
        if kind == "normal":
            a = np.float32(s.get("mean", 0)) + np.float32(s.get("std", 1)) * normal(seed, key, s["shape"])
        elif kind == "uniform":
            lo, hi = np.float32(s.get("low", 0)), np.float32(s.get("high", 1))
            a = lo + (hi - lo) * uniform(seed, key, s["shape"])
        elif kind == "image":
            a = image(seed, key, s["shape"])
        elif kind == "smooth":
            a = np.float32(s.get("std", 1)) * smooth(seed, key, s["shape"])
            a = a + np.float32(s.get("mean", 0))
        elif kind == "soft_mask":  # smooth field squashed to (0, 1)
            f = smooth(seed, key, s["shape"], octaves=(3, 6, 12)).astype(np.float64)
            a = (1 / (1 + np.exp(-s.get("gain", 3.0) * f))).astype(np.float32)
        elif kind == "segmap":
            a = segmap(seed, key, s["n"], s["size"], s.get("classes", 6))
        elif kind == "mask":
            a = mask(seed, key, s["shape"], s.get("threshold", 0.0))
        elif kind == "camera":
            a = camera(seed, key, s["n"], focal=s.get("focal", 2985.29 / 700), spread=s.get("spread", 0.35))
        elif kind == "keypoints":
            a = keypoints(seed, key, s["n"], s.get("k", 68))
        elif kind == "keypoints_near":
            a = keypoints(seed, key, s["n"], s.get("k", 68), move=s["move"], base=out[s["of"]])
        elif kind == "const":
            a = np.full(tuple(s["shape"]), s["value"], np.dtype(s.get("dtype", "float32")))
        elif kind == "linspace_rows":  # every row is linspace(0, 1, shape[-1])
            a = np.broadcast_to(np.linspace(0, 1, s["shape"][-1], dtype=np.float32), tuple(s["shape"])).copy()
        elif kind == "integers":
            a = np.floor(uniform(seed, key, s["shape"]).astype(np.float64) * s["high"]).astype(np.int64)
        elif kind == "length_mask":  # 1 up to each row's length, then 0
            a = (np.arange(s["t"])[None] < np.asarray(s["lengths"])[:, None]).astype(np.float32)
        elif kind == "f0":  # Hz; a third of the frames unvoiced (0)
            u = uniform(seed, key, (*tuple(s["shape"]), 2))
            a = np.where(u[..., 0] < 1 / 3, 0, 80 + 400 * u[..., 1]).astype(np.float32)
        else:
            raise ValueError(f"inputs of kind {kind!r} are not known")
        out[name] = a
    return out
