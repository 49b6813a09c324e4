"""Head poses and expressions over time: where they come from, how they are laid on a source, how they are smoothed.

Conventions: euler [t, 3] = (pitch x, yaw y, roll z) in radians with M = Rz Ry Rx, trans [t, 3] in units of 10 cm (see
r3p.camera); expression [t, k] in the order of the head's `expression_names`, 1 = a unit's full weight. NumPy only.
"""

import csv
import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from r3p.errors import InputError

_ANGLES, _SHIFTS = ("pitch", "yaw", "roll"), ("x", "y", "z")
_TIME = "time"


@dataclass(frozen=True)
class Poses:
    """euler [t, 3] radians, trans [t, 3] head units."""

    euler: np.ndarray
    trans: np.ndarray

    def __post_init__(self) -> None:
        if self.euler.ndim != 2 or self.euler.shape[1:] != (3,) or self.trans.shape != self.euler.shape:
            raise ValueError(f"euler {self.euler.shape}, trans {self.trans.shape}: expected both [t, 3]")

    def __len__(self) -> int:
        return len(self.euler)

    def take(self, indices: np.ndarray) -> "Poses":
        """The poses at these frame numbers."""
        return Poses(self.euler[indices], self.trans[indices])


def _rotations(euler: np.ndarray) -> Rotation:
    return Rotation.from_euler("xyz", euler)  # extrinsic x, y, z: Rz Ry Rx


def _euler(rotation: Rotation) -> np.ndarray:
    """Euler angles of rotations; at a yaw of +-90 degrees, where they are not unique, some that give it."""
    m = rotation.as_matrix()
    yaw = np.arcsin(np.clip(-m[..., 2, 0], -1, 1))
    locked = np.abs(m[..., 2, 0]) > 1 - 1e-9
    pitch = np.where(locked, 0.0, np.arctan2(m[..., 2, 1], m[..., 2, 2]))
    roll = np.where(locked, np.arctan2(-m[..., 0, 1], m[..., 1, 1]), np.arctan2(m[..., 1, 0], m[..., 0, 0]))
    return np.stack([pitch, yaw, roll], -1)


def static(euler: np.ndarray, trans: np.ndarray, frames: int) -> Poses:
    """The source's pose (euler [3], trans [3]), held."""
    held = [np.tile(np.asarray(v, np.float64), (frames, 1)) for v in (euler, trans)]
    return Poses(*held)


def orbit(
    euler: np.ndarray,
    trans: np.ndarray,
    frames: int,
    *,
    fps: float = 25.0,
    yaw: float = math.radians(20),
    period: float = 4.0,
) -> Poses:
    """The source's head turned as by a camera that swings to one side, to the other and back, again every `period`
    seconds, `yaw` radians far."""
    turn = yaw * np.sin(2 * math.pi * np.arange(frames) / (fps * period))
    swing = Rotation.from_euler("y", turn[:, None])
    return Poses(_euler(swing * _rotations(np.asarray(euler, np.float64))), static(euler, trans, frames).trans)


def ping_pong(count: int, frames: int, *, doubled_ends: bool = False) -> np.ndarray:
    """Indices [frames] that run through 0..count-1 forth and back. The turning frames are shown once; doubled_ends
    shows them twice, as the official code does. Raises InputError without any frame to repeat."""
    if count < 1:
        raise InputError("there is no pose to repeat: the pose file is empty")
    period = 2 * count if doubled_ends else max(2 * count - 2, 1)
    k = np.arange(frames) % period
    return np.where(k < count, k, period - k - (1 if doubled_ends else 0))


def repeat(poses: Poses, frames: int, *, doubled_ends: bool = False) -> Poses:
    """As many poses as frames are wanted: cut, or played forth and back."""
    return poses.take(ping_pong(len(poses), frames, doubled_ends=doubled_ends))


def hold_depth(poses: Poses) -> Poses:
    """Without motion toward the camera, as the official inference does: it looks like breathing of the picture."""
    trans = poses.trans.copy()
    trans[:, 2] = trans[0, 2]
    return Poses(poses.euler, trans)


def map_to_initial(
    poses: Poses, euler: np.ndarray, trans: np.ndarray, *, scale: float = 1.0, componentwise: bool = False
) -> Poses:
    """The motion of `poses` since their first frame, laid on a source's pose (euler [3], trans [3]).

    Turns are composed: R_t R_0^T R_source. componentwise adds differences of Euler angles instead (the official
    inference; the same for small angles). scale shrinks or exaggerates the motion; 0 holds still.
    """
    euler, trans = np.asarray(euler, np.float64), np.asarray(trans, np.float64)
    moved = trans + scale * (poses.trans - poses.trans[0])
    if componentwise:
        return Poses(euler + scale * (poses.euler - poses.euler[0]), moved)
    all_turns = _rotations(poses.euler)
    since = all_turns * all_turns[0].inv()
    return Poses(_euler(Rotation.from_rotvec(scale * since.as_rotvec()) * _rotations(euler)), moved)


def add_offset(poses: Poses, *, pitch: float = 0.0, yaw: float = 0.0, roll: float = 0.0) -> Poses:
    """Turned by further Euler angles, radians: what --pitch, --yaw and --roll ask for."""
    return Poses(poses.euler + np.array([pitch, yaw, roll]), poses.trans)


def smooth_cameras(cameras: np.ndarray, window: int = 7) -> np.ndarray:
    """Cameras [t, 25] averaged over a centred window, cut off at the ends: centres by mean, rotations by the mean
    rotation. Intrinsics stay. The official inference does the same with 7 frames."""
    _check_window(window)
    matrices = cameras[:, :16].reshape(-1, 4, 4).astype(np.float64)
    out, half = matrices.copy(), window // 2
    for t in range(len(cameras)):
        near = matrices[max(0, t - half) : t + half + 1]
        out[t, :3, 3] = near[:, :3, 3].mean(0)
        out[t, :3, :3] = Rotation.from_matrix(near[:, :3, :3]).mean().as_matrix()
    return np.concatenate([out.reshape(-1, 16), cameras[:, 16:]], 1).astype(cameras.dtype)


def box_smooth(values: np.ndarray, window: int = 7) -> np.ndarray:
    """Any series [t, ...] averaged over a centred window; the ends are mirrored with the edge frame shown twice, as
    the official inference smooths key points. Any length will do."""
    _check_window(window)
    half, t = window // 2, len(values)
    if t == 0:
        return values
    indices = ping_pong(t, 2 * t, doubled_ends=True)
    around = np.arange(-half, half + 1)[None] + np.arange(t)[:, None]
    return values[indices[around % (2 * t)]].mean(1, dtype=np.float64).astype(values.dtype)


def _check_window(window: int) -> None:
    if window < 1 or window % 2 == 0:
        raise InputError(f"a smoothing window of {window} frames: expected an odd number of at least 1")


def blink_closure(
    frames: int, *, fps: float = 25.0, interval: float = 5.0, seed: int = 0, from_start: bool = False
) -> np.ndarray:
    """[frames] in 0..1: how far the lids are shut, a blink every `interval` seconds.

    A blink of D frames (8 to 12 at 25 fps, drawn) has closure 4u - 4u^2, u = k/D, as in the official code, which
    blinks on the first frame too (from_start); ours begins half an interval in. interval 0: no blinks.
    """
    out = np.zeros(frames)
    if interval <= 0:
        return out
    rng = np.random.default_rng(seed)
    step = max(1, round(interval * fps))
    for start in range(0 if from_start else step // 2, frames, step):
        length = max(2, round(rng.integers(8, 13) * fps / 25))
        u = np.arange(length)[: max(0, frames - start)] / length
        out[start : start + len(u)] = 4 * u - 4 * u * u
    return out


def _table(path: Path) -> tuple[list[str], np.ndarray]:
    """(column names, numbers [t, columns]) of a CSV file with a header; words (timecodes) become NaN."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as f:
            rows = [r for r in csv.reader(f) if any(c.strip() for c in r)]
    except OSError as e:
        raise InputError(f"cannot read {path} ({e.strerror}): give the path of a CSV or NPY file") from e
    except (UnicodeDecodeError, csv.Error) as e:
        raise InputError(f"{path} is not a CSV text file ({e})") from e
    if len(rows) < 2:
        raise InputError(f"{path} has {len(rows)} line(s): expected a line of column names, then a line a frame")
    names = [c.strip() for c in rows[0]]
    values = np.full((len(rows) - 1, len(names)), np.nan)
    for i, row in enumerate(rows[1:]):
        if len(row) != len(names):
            raise InputError(f"{path}: line {i + 2} has {len(row)} values for {len(names)} columns")
        for j, cell in enumerate(row):
            try:
                values[i, j] = float(cell)
            except ValueError:
                values[i, j] = np.nan
    return names, values


def _array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as e:
        raise InputError(f"cannot read {path} ({e.strerror or e}): give the path of a CSV or NPY file") from e
    except (ValueError, EOFError) as e:
        raise InputError(f"{path} is not an NPY file of numbers ({e})") from e
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or array.ndim != 2 or len(array) == 0:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise InputError(f"{path} holds {found}: expected one array of numbers, a row a frame")
    return array.astype(np.float64)


def _finite(values: np.ndarray, names: Sequence[str], path: Path) -> np.ndarray:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        raise InputError(
            f"{path}: frame {row}, {names[column]} is no finite number ({len(bad)} such values): "
            "fill the gaps or leave the column out"
        )
    return values


def _at_rate(times: np.ndarray, values: np.ndarray, fps: float, path: Path) -> np.ndarray:
    """values [t, c] at rising times (seconds), read off at `fps`."""
    if len(times) > 1 and not (np.diff(times) > 0).all():
        raise InputError(f"{path}: the column {_TIME!r} does not rise from line to line: expected seconds")
    at = times[0] + np.arange(max(1, round((times[-1] - times[0]) * fps) + 1)) / fps
    return np.stack([np.interp(at, times, c) for c in values.T], 1)


def read_poses(path: str | Path, *, degrees: bool = False, fps: float = 25.0) -> Poses:
    """Poses from a file.

    .csv: columns pitch, yaw, roll (radians, or degrees), optionally x, y, z (units of 10 cm; else 0) and time
    (seconds; then the rows are resampled to fps). .npy: [t, 3] or [t, 6] in that order. Raises InputError that names
    the missing columns, the shape, or the first value that is no number.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        values = _array(path)
        if values.shape[1] not in (3, 6):
            raise InputError(f"{path} holds {values.shape}: expected [t, 3] (pitch, yaw, roll) or [t, 6] (and x, y, z)")
        _finite(values, (*_ANGLES, *_SHIFTS), path)
    elif path.suffix.lower() == ".csv":
        names, table = _table(path)
        lower = [n.lower() for n in names]
        missing = [n for n in _ANGLES if n not in lower]
        if missing:
            raise InputError(
                f"{path} lacks the column(s) {', '.join(missing)}: it has {', '.join(names)}; "
                "expected pitch, yaw, roll and optionally x, y, z, time"
            )
        wanted = [n for n in (*_ANGLES, *_SHIFTS) if n in lower]
        values = _finite(table[:, [lower.index(n) for n in wanted]], wanted, path)
        if _TIME in lower:
            times = _finite(table[:, [lower.index(_TIME)]], [_TIME], path)[:, 0]
            values = _at_rate(times, values, fps, path)
        full = np.zeros((len(values), 6))
        full[:, [(*_ANGLES, *_SHIFTS).index(n) for n in wanted]] = values
        values = full
    else:
        raise InputError(f"{path} is no pose file: expected a name that ends in .csv or .npy")
    euler = np.radians(values[:, :3]) if degrees else values[:, :3]
    largest = float(np.abs(euler).max())
    if largest > math.pi:
        raise InputError(
            f"{path} holds an angle of {largest:.3g} radians: expected at most pi; "
            "pass the degrees option if the file is in degrees"
        )
    return Poses(euler, values[:, 3:] if values.shape[1] == 6 else np.zeros_like(euler))


def write_poses(path: str | Path, poses: Poses) -> None:
    """A CSV file that `read_poses` reads, in radians."""
    with open(path, "w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow((*_ANGLES, *_SHIFTS))
        writer.writerows([f"{v:.7g}" for v in row] for row in np.concatenate([poses.euler, poses.trans], 1))


def read_expression(path: str | Path, names: Sequence[str], *, fps: float = 25.0) -> tuple[np.ndarray, list[str]]:
    """(expression [t, k], ignored column names) from a file.

    .csv: columns by the names of ARKit's units (`jawOpen`; `JawOpen` as phones write it is the same), optionally time
    in seconds, then resampled to fps; a unit without a column is 0. .npy: [t, k] in the order of `names`, or [t, 52]
    for the ARKit units alone. Raises InputError when no column is known or a value is no finite number.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        values = _array(path)
        if values.shape[1] not in (len(names), 52) or values.shape[1] > len(names):
            raise InputError(f"{path} holds {values.shape}: expected [t, {len(names)}], or [t, 52] for ARKit's units")
        _finite(values, names, path)
        return np.pad(values, ((0, 0), (0, len(names) - values.shape[1]))).astype(np.float32), []
    if path.suffix.lower() != ".csv":
        raise InputError(f"{path} is no expression file: expected a name that ends in .csv or .npy")
    columns, table = _table(path)
    index = {n.lower(): i for i, n in enumerate(names)}
    known = [j for j, c in enumerate(columns) if c.lower() in index]
    ignored = [c for c in columns if c.lower() not in index and c.lower() != _TIME]
    if not known:
        raise InputError(
            f"{path} has no column that is a unit's name: it has {', '.join(columns[:8])}"
            f"{', ...' if len(columns) > 8 else ''}; expected names such as {', '.join(names[:3])}"
        )
    values = _finite(table[:, known], [columns[j] for j in known], path)
    largest = float(np.abs(values).max())
    if largest > 10:
        raise InputError(f"{path} holds a value of {largest:.3g}: expected about 0 to 1 (divide percentages by 100)")
    lower = [c.lower() for c in columns]
    if _TIME in lower:
        values = _at_rate(_finite(table[:, [lower.index(_TIME)]], [_TIME], path)[:, 0], values, fps, path)
    out = np.zeros((len(values), len(names)), np.float32)
    out[:, [index[columns[j].lower()] for j in known]] = values
    return out, ignored


def edit_expression(expression: np.ndarray, edits: Iterable[str], names: Sequence[str]) -> np.ndarray:
    """expression [t, k] with named units changed in every frame: "jawOpen=0.3" sets, "jawOpen+=0.1" adds,
    "jawOpen*=0.5" scales. Raises InputError on an unknown unit (and says what is near) or a value that is no number."""
    out = expression.copy()
    lower = {n.lower(): i for i, n in enumerate(names)}
    for edit in edits:
        name, sign, text = edit.partition("=")
        how = name[-1:] if name[-1:] in ("+", "*") else ""
        unit = name.removesuffix(how).strip() if how else name.strip()
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not sign or not math.isfinite(value):
            raise InputError(
                f"{edit!r} is no edit: write UNIT=VALUE, UNIT+=VALUE or UNIT*=VALUE with a number, as in {names[0]}=0.3"
            )
        if unit.lower() not in lower:
            near = difflib.get_close_matches(unit, names, 3, 0.4) or list(names[:3])
            raise InputError(f"there is no expression unit {unit!r}: did you mean {' or '.join(near)}?")
        column = lower[unit.lower()]
        out[:, column] = out[:, column] + value if how == "+" else out[:, column] * value if how == "*" else value
    return out
