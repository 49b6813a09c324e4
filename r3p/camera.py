"""Cameras: 25 numbers each, and the rays, poses and viewpoints they stand for.

A camera is `[..., 25]`: the camera-to-world matrix, 4x4 row-major in OpenCV's axes (x right, y down, z forward), then
the 3x3 intrinsics in image widths, (f, 0, .5; 0, f, .5; 0, 0, 1). The world is that of the tri-planes: y up, the head
looks along +z, the box reaches from -.5 to .5.

Every function takes NumPy or JAX arrays and gives back the same kind, so that data workers need no JAX. Products are
written out: a 3x3 matrix gains nothing from a matrix unit, and geometry must not be rounded to TF32.
"""

import math
from typing import Any

import numpy as np

from r3p.errors import InputError

Array = Any  # numpy.ndarray or jax.Array

FOCAL = 2985.29 / 700  # image widths; a field of view of 13.4 degrees (EG3D's FFHQ cameras)
WORLD_SCALE = 0.27  # world units per head unit of 10 cm
WORLD_OFFSET = (0.0, 0.006, 0.161)
CAMERA_DISTANCE = 10.0  # of the 3DMM's camera, head units
TARGET = (0.0, 0.0, 0.2)  # what sampled cameras look at: the middle of the face


def _namespace(x: Array) -> Any:
    return x.__array_namespace__() if hasattr(x, "__array_namespace__") else np


def _floats(xp: Any, *values: Any) -> tuple[Array, ...]:
    """As float arrays, broadcast against each other but for their last axis; plain tuples take the arrays' type."""
    kind = xp.result_type(xp.float32, *[v.dtype for v in values if hasattr(v, "dtype")])
    arrays = [xp.asarray(v, kind) for v in values]
    shape = np.broadcast_shapes(*[a.shape[:-1] for a in arrays])
    return tuple(xp.broadcast_to(a, (*shape, a.shape[-1])) for a in arrays)


def _matrix(xp: Any, *rows: tuple[Array, ...]) -> Array:
    return xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)


def _rotate(matrix: Array, vector: Array) -> Array:
    """matrix @ vector on the last axes, in full precision."""
    return (matrix * vector[..., None, :]).sum(-1)


def rotation(euler: Array) -> Array:
    """Rz Ry Rx of Euler angles [..., 3] = (pitch x, yaw y, roll z), radians -> [..., 3, 3]; maps head to camera."""
    xp = _namespace(euler)
    (euler,) = _floats(xp, euler)
    (sx, sy, sz), (cx, cy, cz) = ([fn(euler[..., 0]), fn(euler[..., 1]), fn(euler[..., 2])] for fn in (xp.sin, xp.cos))
    return _matrix(
        xp,
        (cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx),
        (sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx),
        (-sy, cy * sx, cy * cx),
    )


def compose(axes: Array, centre: Array, focal: Array | float = FOCAL) -> Array:
    """Packs axes [..., 3, 3] (columns right, down, forward), centre [..., 3] and focal in image widths -> [..., 25]."""
    xp = _namespace(centre)
    to_world = xp.concatenate([axes, centre[..., None]], axis=-1).reshape(*centre.shape[:-1], 12)
    one = xp.ones_like(centre[..., 0])
    f, zero, half = one * focal, one * 0, one * 0.5
    rest = xp.stack([zero, zero, zero, one, f, zero, half, zero, f, half, zero, zero, one], axis=-1)
    return xp.concatenate([to_world, rest], axis=-1)


def split(camera: Array) -> tuple[Array, Array]:
    """Camera [..., 25] -> camera-to-world [..., 4, 4] and intrinsics [..., 3, 3].

    Raises:
      InputError: when the last axis has not 25 entries.
    """
    if camera.shape[-1] != 25:
        raise InputError(f"a camera has 25 numbers (4x4 pose, then 3x3 intrinsics), but got shape {camera.shape}")
    lead = camera.shape[:-1]
    return camera[..., :16].reshape(*lead, 4, 4), camera[..., 16:].reshape(*lead, 3, 3)


def from_pose(euler: Array, trans: Array, focal: Array | float = FOCAL) -> Array:
    """The camera under which the volume render and the mesh of a posed head coincide.

    Args:
      euler: [..., 3] pitch, yaw, roll in radians.
      trans: [..., 3] in head units of 10 cm.
      focal: in image widths, of the projection `u = focal * v_x / (10 - v_z) + .5` with v = M p + trans.

    Returns:
      [..., 25]. A head point p lies at world `0.27 p + (0, .006, .161)`.
    """
    xp = _namespace(euler)
    euler, trans = _floats(xp, euler, trans)
    inverse = xp.swapaxes(rotation(euler), -1, -2)
    eye = xp.asarray([0.0, 0.0, CAMERA_DISTANCE], trans.dtype)
    centre = WORLD_SCALE * _rotate(inverse, eye - trans) + xp.asarray(WORLD_OFFSET, trans.dtype)
    return compose(inverse * xp.asarray([1.0, -1.0, -1.0], trans.dtype), centre, focal)


def rays(camera: Array, resolution: int) -> tuple[Array, Array]:
    """Rays through the pixel centres of a square image.

    Args:
      camera: [b, 25].
      resolution: side of the image in pixels.

    Returns:
      origins [b, r, 3] and unit directions [b, r, 3] in world units, r = resolution**2 in row-major order.
    """
    xp = _namespace(camera)
    pose, intrinsics = split(camera)
    pixel = (xp.arange(resolution, dtype=camera.dtype) + 0.5) / resolution
    u, v = xp.tile(pixel, resolution), xp.repeat(pixel, resolution)  # the column runs fastest
    fx, fy, skew, cx, cy = (intrinsics[..., i, j, None] for i, j in ((0, 0), (1, 1), (0, 1), (0, 2), (1, 2)))
    y = (v - cy) / fy
    x = (u - cx - skew * y) / fx
    # Component by component: a sum over an axis of three after another one is compiled wrongly by XLA:CPU of jax 0.10.2
    # from 105 pixels a side on.
    # As the original: the pixel's place in the world, less the camera's. What that rounds away moves every sample.
    place = [
        pose[:, k, 0, None] * x + pose[:, k, 1, None] * y + pose[:, k, 2, None] + pose[:, k, 3, None] for k in range(3)
    ]
    toward = [p - pose[:, k, 3, None] for k, p in enumerate(place)]
    length = xp.sqrt(toward[0] * toward[0] + toward[1] * toward[1] + toward[2] * toward[2])
    directions = xp.stack([t / length for t in toward], axis=-1)
    return xp.broadcast_to(pose[:, None, :3, 3], directions.shape), directions


def look_at(centre: Array, target: Array = TARGET, focal: Array | float = FOCAL) -> Array:
    """The upright camera at `centre` [..., 3] that looks at `target` [..., 3] -> [..., 25]; world units, y up."""
    xp = _namespace(centre)
    centre, target = _floats(xp, centre, target)

    def unit(x: Array) -> Array:
        return x / xp.sqrt((x * x).sum(-1, keepdims=True))

    forward = unit(target - centre)
    up = xp.broadcast_to(xp.asarray([0.0, 1.0, 0.0], centre.dtype), centre.shape)
    right = unit(xp.cross(forward, up))
    return compose(xp.stack([right, xp.cross(forward, right), forward], axis=-1), centre, focal)


def from_angles(
    pitch: Array, yaw: Array, distance: Array | float = 2.7, target: Array = TARGET, focal: Array | float = FOCAL
) -> Array:
    """A camera on EG3D's sphere around the world's origin, looking at `target`.

    Args:
      pitch, yaw: [...] radians. Positive pitch lowers the camera, positive yaw moves it to +x. The polar angle is
        acos(1 - 2 v / pi) with v = pitch + pi / 2: equal areas for equally spread v, so not linear in pitch.
      distance: from the origin, world units.

    Returns:
      [..., 25].
    """
    xp = _namespace(yaw)
    tiny = 1e-5
    v = xp.clip(pitch + math.pi / 2, tiny, math.pi - tiny)
    polar = xp.arccos(1 - 2 * v / math.pi)
    turn = math.pi / 2 - yaw
    x, y, z = xp.sin(polar) * xp.cos(turn), xp.cos(polar), xp.sin(polar) * xp.sin(turn)
    centre = xp.stack([x, xp.broadcast_to(y, x.shape), z], axis=-1)
    return look_at(centre * xp.asarray(distance, centre.dtype)[..., None], target, focal)


def sample(
    u: Array,
    pitch: float = math.radians(26),
    yaw: float = math.radians(38),
    distance: tuple[float, float] = (2.7, 4.0),
    target: Array = TARGET,
) -> Array:
    """Random viewpoints from uniform numbers u [..., 3] in [0, 1) -> [..., 25].

    Pitch and yaw spread evenly over plus and minus the given radians, the distance over its range. The defaults are
    those of image-to-plane training; `pitch=radians(10), yaw=radians(16), distance=(2.7, 3.2)` condition its teacher.
    """
    near, far = distance
    return from_angles((2 * u[..., 0] - 1) * pitch, (2 * u[..., 1] - 1) * yaw, near + (far - near) * u[..., 2], target)


def orbit(
    count: int, yaw: float = 0.35, pitch: float = 0.2, distance: float = 2.7, target: Array = TARGET
) -> np.ndarray:
    """A closed round of `count` cameras about the frontal view, for previews -> [count, 25]; radians, world units."""
    phase = np.arange(count, dtype=np.float32) * np.float32(2 * math.pi / max(count, 1))
    return from_angles(pitch * np.cos(phase), yaw * np.sin(phase), distance, target)
