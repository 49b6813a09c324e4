"""Fits the parametric face to landmarks: identity, expression and pose of an image or a video.

Levenberg-Marquardt on the reprojection of MediaPipe's points with priors on the coefficients, in NumPy and float64: the
problems are small (a few hundred points, 150 unknowns), so nothing is compiled. Points are in image widths, (0, 0) top
left and (1, 1) bottom right of a square picture; residuals are measured in head units (10 cm) at the face's depth.

A video shares one identity, found on a subset of its frames; then expression and pose of each frame are solved alone,
from the frame before, and chunks of frames are smoothed by the exact maximum of their Gaussian approximation with
random-walk priors over time (a block-tridiagonal system), which has no lag.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from r3p import camera
from r3p.errors import InputError
from r3p.face import FaceModel, eye_gap

ARKIT_UNITS = 52
IRIS = 468  # first of the irises' points
OPEN_EYE = 0.2  # the lids' gap over the eye's width above which an iris counts fully
# Contours of MediaPipe's points (see also data_pipelines.head_landmarks).
OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
LIPS = (
    61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 146, 91, 181, 84, 17, 314, 405, 321, 375,
    78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 95, 88, 178, 87, 14, 317, 402, 318, 324,
)  # fmt: skip
LIDS = (
    33, 246, 161, 160, 159, 158, 157, 173, 133, 7, 163, 144, 145, 153, 154, 155, 362, 398, 384, 385, 386, 387, 388, 466,
    263, 382, 381, 380, 374, 373, 390, 249,
)  # fmt: skip
# Upper and lower edges: right one, left in the image, first.
BROWS = (
    70, 63, 105, 66, 107, 46, 53, 52, 65, 55, 300, 293, 334, 296, 336, 276, 283, 282, 295, 285,
)  # fmt: skip
# Opposite points of lips and lids: their distances say whether mouth and eyes are closed, better than their places do.
OPPOSITE = np.array([
    (13, 14), (82, 87), (312, 317), (81, 178), (311, 402), (80, 88), (310, 318),
    (159, 145), (158, 153), (160, 144), (386, 374), (385, 380), (387, 373),
])  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Weights of the fit. Standard deviations: identity in its own units, expression in units, motion per frame."""

    focal: float = camera.FOCAL
    identity: float = 1.0
    expression: float = 1.0
    unnamed: float = 0.3  # of expressions that are no ARKit units, where the model has those
    sparse: float = 2.0  # per unit of any expression
    round: float = 0.05
    outside: float = 0.06  # of an ARKit unit below -low or above high
    low: float = 0.03
    high: float = 1.1
    evidence: float = 1.0  # weight of all landmarks against the priors
    lips: float = 3.0  # weights against an ordinary landmark
    lids: float = 3.0
    brows: float = 1.0
    gap: float = 0.008  # standard deviation (head units) of the distances between opposite lips and lids
    iris: float = 2.0  # of an open eye; it fades as the lids close over it
    oval: float = 0.2  # outline points slide over the face as it turns
    cut: float = 0.15  # head units; points further off lose influence (a closing lid moves 0.1 in two frames)
    expression_step: float = 0.25
    euler_step: float = 0.03
    trans_step: float = 0.05


DEFAULT = Settings()


@dataclass(frozen=True)
class Fit:
    """identity [i]; expression [.., e]; euler and trans [.., 3]; error [..]: mean distance of fitted and given points
    in image widths (NaN where a frame has no points). No leading axis for an image, frames for a video. float32."""

    identity: np.ndarray
    expression: np.ndarray
    euler: np.ndarray
    trans: np.ndarray
    error: np.ndarray

    def frame(self, index: int) -> "Fit":
        """One frame of a video."""
        return replace(
            self,
            expression=self.expression[index],
            euler=self.euler[index],
            trans=self.trans[index],
            error=self.error[index],
        )


@dataclass(frozen=True)
class _Points:
    """The model restricted to the landmarks: mean [n, 3], axes [n, 3, k] (identity, then expression), weight [n] = 1 /
    variance in head units, normal [n, 3]."""

    mean: np.ndarray
    axes: np.ndarray
    weight: np.ndarray
    normal: np.ndarray
    identities: int
    arkit: np.ndarray  # [e] True where the expression is an ARKit unit
    settings: Settings


@dataclass
class _State:
    identity: np.ndarray
    frames: np.ndarray  # [t, e + 6]: expression, euler, trans


def _restrict(model: FaceModel, count: int, settings: Settings) -> _Points:
    if count not in (468, 478):
        raise InputError(f"{count} landmarks: expected MediaPipe's 468, or 478 with the irises")
    corners, weights = np.asarray(model.mp_corners), np.asarray(model.mp_weights, np.float64)
    known = weights.sum(1) > 0
    strength = settings.evidence / np.asarray(model.mp_spread, np.float64) ** 2
    strength[list(LIPS)] *= settings.lips
    strength[list(LIDS)] *= settings.lids
    strength[list(BROWS)] *= settings.brows
    strength[list(OVAL)] *= settings.oval
    strength[~known] = 0
    if count == 478 and len(model.iris_corners):
        corners = np.concatenate([corners, np.asarray(model.iris_corners)])
        weights = np.concatenate([weights, np.asarray(model.iris_weights, np.float64)])
        strength = np.concatenate([strength, np.full(10, settings.iris * settings.evidence / 0.02**2)])
    elif count == 478:  # a model without eyeballs
        corners = np.concatenate([corners, np.zeros((10, 3), corners.dtype)])
        weights = np.concatenate([weights, np.zeros((10, 3))])
        strength = np.concatenate([strength, np.zeros(10)])

    def gather(field: np.ndarray) -> np.ndarray:
        return np.einsum("nk,...nkc->...nc", weights, np.asarray(field, np.float64)[..., corners, :])

    axes = np.concatenate([gather(model.identity), gather(model.expression)])
    names = model.expression_names
    triangles = np.asarray(model.triangles)
    mean = np.asarray(model.mean, np.float64)
    side = np.cross(mean[triangles[:, 1]] - mean[triangles[:, 0]], mean[triangles[:, 2]] - mean[triangles[:, 0]])
    normals = np.zeros_like(mean)
    for k in range(3):
        np.add.at(normals, triangles[:, k], side)
    normal = gather(normals)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12
    arkit = np.arange(len(names)) < ARKIT_UNITS if "jawOpen" in names else np.zeros(len(names), bool)
    return _Points(
        gather(mean), np.moveaxis(axes, 0, -1), strength, normal, len(model.identity), arkit, settings
    )  # fmt: skip


def euler_of(matrix: np.ndarray) -> np.ndarray:
    """Euler angles (pitch, yaw, roll) of a rotation [3, 3] = Rz Ry Rx."""
    yaw = np.arcsin(np.clip(-matrix[2, 0], -1, 1))
    return np.array([np.arctan2(matrix[2, 1], matrix[2, 2]), yaw, np.arctan2(matrix[1, 0], matrix[0, 0])])


def start_pose(points: np.ndarray, shape: np.ndarray, weight: np.ndarray, focal: float) -> np.ndarray:
    """Pose [6] (euler, trans) by scaled orthography: points [n, 2] in image widths of shape [n, 3] head units."""
    w = np.sqrt(weight / weight.sum())[:, None]
    plane = (points - 0.5) * [1, -1]
    design = np.concatenate([shape, np.ones((len(shape), 1))], 1)
    affine = np.linalg.lstsq(design * w, plane * w, rcond=None)[0]
    a, b = affine[:3].T
    scale = (np.linalg.norm(a) + np.linalg.norm(b)) / 2
    u, _, vt = np.linalg.svd(np.stack([a, b]))
    rows = u @ vt[:2]
    euler = euler_of(np.stack([rows[0], rows[1], np.cross(rows[0], rows[1])]))
    depth = focal / scale
    return np.concatenate([euler, affine[3] * depth / focal, [camera.CAMERA_DISTANCE - depth]])


def _turn_derivatives(euler: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """M [3, 3] and its derivatives [3 angles, 3, 3]."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(euler), np.sin(euler)
    rx, dx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]]), np.array([[0, 0, 0], [0, -sx, -cx], [0, cx, -sx]])
    ry, dy = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]), np.array([[-sy, 0, cy], [0, 0, 0], [-cy, 0, -sy]])
    rz, dz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]), np.array([[-sz, -cz, 0], [cz, -sz, 0], [0, 0, 0]])
    return rz @ ry @ rx, np.stack([rz @ ry @ dx, rz @ dy @ rx, dz @ ry @ rx])


@dataclass
class _System:
    """Normal equations of one frame: gradient g and Hessian h over [identity, expression, euler, trans]; the cost."""

    cost: float
    g: np.ndarray
    h: np.ndarray
    error: float


def _seen(points: _Points, identity: np.ndarray, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points on the unposed face [n, 3] and posed [n, 3]."""
    place = points.mean + points.axes @ np.concatenate([identity, frame[:-6]])
    turn, _ = _turn_derivatives(frame[-6:-3])
    return place, place @ turn.T + frame[-3:]


# BLAS spreads larger products over threads, and waking and joining those costs hundreds of times the work when other
# programs keep the cores busy: an identity took 43 s so, and 0.2 s by what follows. `np.einsum` never calls BLAS.
def _gram(rows: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """rows^T diag(strength) rows, in blocks that are too small for threads."""
    n, k = rows.shape
    block = max(min(24, 200_000 // k**2), 1)  # OpenBLAS multiplies alone below 262,144 multiplications
    pad = -n % block
    rows = np.concatenate([rows, np.zeros((pad, k))]).reshape(-1, block, k)
    weighted = rows * np.concatenate([strength, np.zeros(pad)]).reshape(-1, block, 1)
    return (rows.swapaxes(1, 2) @ weighted).sum(0)


def _linearise(
    points: _Points,
    target: np.ndarray,
    identity: np.ndarray,
    frame: np.ndarray,
    free: slice,
    *,
    derivatives: bool = True,
) -> _System:
    """The frame's robust data term and the expression's priors. `free` selects the shape axes that may change."""
    s = points.settings
    place, posed = _seen(points, identity, frame)
    turn, turned = _turn_derivatives(frame[-6:-3])
    upper, lower = OPPOSITE.T
    depth = camera.CAMERA_DISTANCE - posed[:, 2]
    u, v = s.focal * posed[:, 0] / depth, -s.focal * posed[:, 1] / depth
    residual = np.stack([u + 0.5, v + 0.5], 1) - target
    unit = (camera.CAMERA_DISTANCE - frame[-1]) / s.focal  # head units per image width at the face
    # What faces away from the camera is guessed by the landmark model, and outlines slide.
    facing = np.clip((points.normal @ turn[2]) * 1.2 + 0.1, 0.05, 1)
    weight = points.weight * facing
    if len(weight) > IRIS:
        weight[IRIS:] *= np.repeat(np.clip(eye_gap(target) / OPEN_EYE, 0, 1), 5)
    gap_weight = np.minimum(facing[upper], facing[lower]) / s.gap**2
    gap_residual = (residual[upper] - residual[lower]) * unit
    squared = (residual**2).sum(1) * unit**2
    robust = s.cut**2 / (s.cut**2 + squared)  # Geman-McClure
    cost = float((weight * squared * robust).sum() + (gap_weight[:, None] * gap_residual**2).sum())
    pull = weight * robust**2
    error = float(np.linalg.norm(residual, axis=1)[points.weight > 0].mean())

    expression = frame[:-6]
    # |e| rounded off at 0: few strong units explain a face better than many weak ones. Its quadratic bound is used.
    length = np.sqrt(expression**2 + s.round**2)
    wide = np.where(points.arkit | ~points.arkit.any(), s.expression, s.unnamed)
    spread = s.sparse / length + 1 / wide**2
    over = np.where(points.arkit, np.minimum(expression + s.low, 0) + np.maximum(expression - s.high, 0), 0)
    bound = (over != 0) / s.outside**2
    cost += float((2 * s.sparse * length + expression**2 / wide**2).sum() + (bound * over**2).sum())
    if not derivatives:
        return _System(cost, np.zeros(0), np.zeros((0, 0)), error)

    zero = np.zeros_like(depth)
    lens = np.stack(
        [np.stack([s.focal / depth, zero, u / depth], 1), np.stack([zero, -s.focal / depth, v / depth], 1)], 1
    )  # [n, 2, 3]
    shape = (lens @ turn) @ points.axes[..., free]
    angles = lens @ np.einsum("aij,nj->nia", turned, place)
    jacobian = np.concatenate([shape, angles, lens], 2) * unit
    rows = np.concatenate([jacobian, jacobian[upper] - jacobian[lower]]).reshape(-1, jacobian.shape[2])
    strength = np.repeat(np.concatenate([pull, gap_weight]), 2)
    h = _gram(rows, strength)
    g = np.einsum("nk,n->k", rows, strength * np.concatenate([residual * unit, gap_residual]).ravel())
    at = np.arange(len(expression)) + h.shape[0] - 6 - len(expression)
    h[at, at] += spread + bound
    g[at] += spread * expression + bound * over
    return _System(cost, g, h, error)


def _fit_shared(points: _Points, target: np.ndarray, state: _State, steps: int) -> _State:
    """One identity for frames target [t, n, 2], each with its own expression and pose (by their Schur complements)."""
    n, s = points.identities, points.settings
    # The landmark model's errors on a face partly repeat from frame to frame, so t frames tell less than t times one.
    prior = np.sqrt(len(target)) / s.identity**2
    everything = slice(None)

    def total(trial: _State) -> float:
        parts = (_linearise(points, y, trial.identity, f, everything, derivatives=False).cost
                 for y, f in zip(target, trial.frames, strict=True))  # fmt: skip
        return float(sum(parts) + prior * (trial.identity**2).sum())

    damping, cost = 1e-2, total(state)
    for _ in range(steps):
        systems = [
            _linearise(points, y, state.identity, f, everything) for y, f in zip(target, state.frames, strict=True)
        ]
        for _attempt in range(6):
            reduced = np.diag(np.full(n, prior * (1 + damping)))
            right = -prior * state.identity
            solved = []
            for q in systems:
                own = q.h[n:, n:] + damping * np.diag(np.diag(q.h[n:, n:]))
                back = np.linalg.solve(own, np.concatenate([q.h[n:, :n], q.g[n:, None]], 1))
                solved.append(back)
                through = np.einsum("ij,jk->ik", q.h[:n, n:], back)
                reduced += q.h[:n, :n] + damping * np.diag(np.diag(q.h[:n, :n])) - through[:, :n]
                right += through[:, n] - q.g[:n]
            step = np.linalg.solve(reduced, right)
            moves = [-(b[:, n] + b[:, :n] @ step) for b in solved]
            trial = _State(state.identity + step, state.frames + np.stack(moves))
            trial_cost = total(trial)
            if trial_cost < cost:
                break
            damping *= 6
        else:
            return state
        done = cost - trial_cost < 1e-4 * cost
        state, cost, damping = trial, trial_cost, damping / 4
        if done:
            break
    return state


def _fit_frame(points: _Points, target: np.ndarray, identity: np.ndarray, frame: np.ndarray, steps: int) -> np.ndarray:
    """Expression and pose [e + 6] of one frame under a known identity."""
    free = slice(points.identities, None)
    damping = 1e-3
    here = _linearise(points, target, identity, frame, free)
    for _ in range(steps):
        for _attempt in range(5):
            move = -np.linalg.solve(here.h + damping * np.diag(np.diag(here.h)), here.g)
            there = _linearise(points, target, identity, frame + move, free)
            if there.cost < here.cost:
                break
            damping *= 8
        else:
            return frame
        done = here.cost - there.cost < 1e-3 * here.cost
        frame, here, damping = frame + move, there, damping / 4
        if done:
            break
    return frame


def _checked(points: np.ndarray, axes: int) -> np.ndarray:
    out = np.asarray(points, np.float64)
    if out.ndim != axes or out.shape[-1] not in (2, 3):
        raise InputError(f"landmarks of shape {out.shape}: expected {'[t, ' if axes == 3 else '['}468 or 478, 2]")
    return out[..., :2]


def _blank(points: _Points, target: np.ndarray) -> np.ndarray:
    expression = np.zeros(points.axes.shape[2] - points.identities)
    return np.concatenate([expression, start_pose(target, points.mean, points.weight, points.settings.focal)])


def fit_image(model: FaceModel, points: np.ndarray, settings: Settings = DEFAULT) -> Fit:
    """Identity, expression and pose of one picture.

    points [468 or 478, 2] (or 3, z ignored) in image widths. InputError for other counts or missing (NaN) points.
    """
    target = _checked(points, 2)
    if not np.isfinite(target).all():
        raise InputError("landmarks contain NaN: give a picture in which a face was found")
    restricted = _restrict(model, len(target), settings)
    state = _State(np.zeros(restricted.identities), _blank(restricted, target)[None])
    state = _fit_shared(restricted, target[None], state, 40)
    return _result(restricted, target[None], state).frame(0)


def fit_identity(model: FaceModel, points: np.ndarray, settings: Settings = DEFAULT, frames: int = 16) -> np.ndarray:
    """One identity [i] for a video, from frames spread over it: points [t, n, 2], NaN where no face was found."""
    target = _checked(points, 3)
    found = np.flatnonzero(np.isfinite(target).all((1, 2)))
    if not len(found):
        raise InputError("no frame of the video has landmarks: give a video in which a face is visible")
    chosen = target[found[np.unique(np.linspace(0, len(found) - 1, frames).round().astype(int))]]
    restricted = _restrict(model, chosen.shape[1], settings)
    state = _State(np.zeros(restricted.identities), np.stack([_blank(restricted, y) for y in chosen]))
    return _fit_shared(restricted, chosen, state, 30).identity.astype(np.float32)


def fit_frames(
    model: FaceModel,
    identity: np.ndarray,
    points: Iterable[np.ndarray],
    settings: Settings = DEFAULT,
    chunk: int = 250,
    overlap: int = 12,
) -> Iterator[Fit]:
    """Expression and pose of each frame of a stream, smoothed over time: yields a Fit per chunk of frames.

    points: [n, 2] per frame, with NaN where no face was found (those frames are bridged). A chunk is given out when
    `overlap` frames after it are known, so that it does not depend on where chunks end.
    """
    who = np.asarray(identity, np.float64)
    restricted: _Points | None = None
    pending: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] = []  # target, solution, information
    last: np.ndarray | None = None
    before: np.ndarray | None = None
    for target in points:
        target = _checked(target, 2)
        restricted = restricted or _restrict(model, len(target), settings)
        if np.isfinite(target).all():
            first = last is None
            last = _fit_frame(
                restricted, target, who, _blank(restricted, target) if last is None else last, 30 if first else 4
            )
            free = slice(restricted.identities, None)
            pending.append((target, last, _linearise(restricted, target, who, last, free).h))
        else:
            pending.append((target, last if last is not None else np.zeros(0), None))
        if len(pending) == chunk + overlap:
            smooth = _smooth(pending, settings, before)
            yield _chunk(restricted, pending[:chunk], who, smooth[:chunk])
            before, pending = smooth[chunk - 1], pending[chunk:]
    if restricted is not None and pending:
        yield _chunk(restricted, pending, who, _smooth(pending, settings, before))


def fit_video(model: FaceModel, points: np.ndarray, settings: Settings = DEFAULT) -> Fit:
    """One identity, and expression and pose per frame: points [t, 468 or 478, 2] in image widths, NaN where no face."""
    target = _checked(points, 3)
    identity = fit_identity(model, target, settings)
    parts = list(fit_frames(model, identity, target, settings))
    names = ("expression", "euler", "trans", "error")
    return Fit(identity, *(np.concatenate([getattr(p, n) for p in parts]) for n in names))


def _smooth(pending: list, settings: Settings, before: np.ndarray | None) -> np.ndarray:
    """Most probable series [t, e + 6] given each frame's solution with its information matrix, and how far expression
    and pose move from frame to frame. Forward elimination and back substitution of a block-tridiagonal system."""
    known = [p for p in pending if p[2] is not None]
    if not known:
        raise InputError("no face was found in a whole stretch of the video: cut it there")
    size = len(known[0][1])
    step = np.concatenate([np.full(size - 6, settings.expression_step), np.full(3, settings.euler_step),
                           np.full(3, settings.trans_step)])  # fmt: skip
    tie = 1 / step**2
    diagonal, right = [], []
    for k, (_, solution, information) in enumerate(pending):
        neighbours = (k > 0 or before is not None) + (k < len(pending) - 1)
        if information is None:
            diagonal.append(np.diag(tie * neighbours))
            right.append(np.zeros(size))
        else:
            diagonal.append(information + np.diag(tie * neighbours))
            right.append(information @ solution)
    if before is not None:
        right[0] = right[0] + tie * before
    gains: list[np.ndarray] = []
    for k in range(len(pending)):
        if k:
            diagonal[k] = diagonal[k] - tie[:, None] * gains[-1]
            right[k] = right[k] + tie * right[k - 1]
        both = np.linalg.solve(diagonal[k], np.concatenate([np.diag(tie), right[k][:, None]], 1))
        gains.append(both[:, :-1])
        right[k] = both[:, -1]
    for k in range(len(pending) - 2, -1, -1):
        right[k] = right[k] + gains[k] @ right[k + 1]
    return np.stack(right)


def _chunk(points: _Points, pending: list, identity: np.ndarray, frames: np.ndarray) -> Fit:
    return _result(points, np.stack([p[0] for p in pending]), _State(identity, frames))


def _result(points: _Points, target: np.ndarray, state: _State) -> Fit:
    error = []
    for y, frame in zip(target, state.frames, strict=True):
        _, posed = _seen(points, state.identity, frame)
        flat = points.settings.focal * posed[:, :2] / (camera.CAMERA_DISTANCE - posed[:, 2:]) * [1, -1] + 0.5
        error.append(np.linalg.norm(flat - y, axis=1)[points.weight > 0].mean())
    f = state.frames
    parts = (state.identity, f[:, :-6], f[:, -6:-3], f[:, -3:], np.array(error))
    return Fit(*(np.asarray(p, np.float32) for p in parts))
