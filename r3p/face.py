"""The parametric face: shape from identity and expression, pose, projection, landmarks, PNCC.

Notation: S(i, e) = mean + identity . i + expression . e, head units of 10 cm, x right in the image, y up, z toward the
viewer. Pose: v = M p + t with M = Rz Ry Rx (`camera.rotation`), seen by a camera at distance 10 on +z. Functions take
NumPy or JAX coefficients and give back the same kind, except `pncc`, which is always JAX.

Two models share the code: the built-in head (`load_face_model`; identity 80, expression 64 of which the first 52 are
ARKit's units, 1 = full) and the BFM 2009 with FaceWarehouse expressions (`from_bfm`), for which the official
weights were trained.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.io
from flax import struct

from r3p import camera
from r3p.errors import InputError
from r3p.raster import interpolate, rasterize

Array = Any  # numpy.ndarray or jax.Array

HEAD_FILE = Path(__file__).parent / "assets" / "head.npz"
BFM_FILES = {
    "shape": "BFM_model_front.mat",
    "ncc": "ncc_code.npy",
    "left eye": "bfm_left_eye_faces.npy",
    "right eye": "bfm_right_eye_faces.npy",
    "mediapipe": "index_mp468_from_mesh35709.npy",
}
BFM_SPREAD = 0.02  # the built-in head's median
OFFICIAL_FOCAL = 1015 / 224  # image widths; the camera of the official fits and PNCC maps
# MediaPipe's points: inner lips' middle, outer and inner corners of the eyes (image left first), lids' middles.
UPPER_LIP, LOWER_LIP = 13, 14
EYE_CORNERS = ((33, 133), (263, 362))
EYE_LIDS = ((159, 145), (386, 374))
_FAR_PLANE = 1.0  # world z of the orthographic camera of frame="box"


@struct.dataclass
class FaceModel:
    """Arrays of a parametric face; a pytree, so it can be an argument of jitted functions.

    mean [v, 3]; identity [i, v, 3] and expression [e, v, 3] per coefficient; triangles [t, 3]; ncc [v, 3] in 0..1.
    pncc_vertices [m] are the vertices that PNCC needs and pncc_triangles [p, 3] index into those (eye openings and the
    mouth are holes). mp_corners [468, 3] and mp_weights [468, 3] place MediaPipe's landmarks: weights sum to 1, or to 0
    where a landmark has no place on the mesh; mp_spread [468] is how far (head units) the landmark model strays from
    that place. lm68_corners, lm68_weights [68, ..]: likewise iBUG's 68.
    iris_corners, iris_weights [10, 3] (built-in head only, else empty): MediaPipe's points 468 to 477.
    part [v] uint8: 0 skin, 1 left eye, 2 right eye, 3 upper teeth, 4 lower teeth, 5 tongue. static [v]: 0 moves with
    the head, 1 is held by the torso. expression_names: e names.
    """

    mean: Array
    identity: Array
    expression: Array
    triangles: Array
    ncc: Array
    pncc_vertices: Array
    pncc_triangles: Array
    mp_corners: Array
    mp_weights: Array
    mp_spread: Array
    lm68_corners: Array
    lm68_weights: Array
    iris_corners: Array
    iris_weights: Array
    part: Array
    static: Array
    expression_names: tuple[str, ...] = struct.field(pytree_node=False)

    def unit(self, name: str) -> int:
        """Index of a named expression; InputError names the known ones."""
        if name not in self.expression_names:
            raise InputError(f"unknown expression {name!r}: known are {', '.join(self.expression_names)}")
        return self.expression_names.index(name)


def load_face_model(path: str | Path = HEAD_FILE) -> FaceModel:
    """The built-in head as NumPy arrays (float32, int32). On an accelerator, `jax.device_put` it once."""
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path} does not exist: the head model belongs to the package; "
            "build it with python -m data_pipelines.build_head"
        )
    with np.load(path, allow_pickle=False) as data:
        a = {k: data[k] for k in data.files}
    triangles = a["triangles"].astype(np.int32)
    pncc_vertices, pncc_triangles = compact(triangles[a["pncc_triangles"]])
    mp_corners, mp_weights = triangles[a["landmarks_mp_triangle"]], a["landmarks_mp_bary"]
    return FaceModel(
        mean=a["mean"], identity=a["identity"].astype(np.float32), expression=a["expression"].astype(np.float32),
        triangles=triangles, ncc=a["ncc"], pncc_vertices=pncc_vertices, pncc_triangles=pncc_triangles,
        mp_corners=mp_corners, mp_weights=mp_weights, mp_spread=a["landmarks_mp_spread"],
        lm68_corners=mp_corners[a["landmarks_68"]], lm68_weights=mp_weights[a["landmarks_68"]],
        iris_corners=triangles[a["landmarks_iris_triangle"]], iris_weights=a["landmarks_iris_bary"],
        part=a["part"], static=a["static"].astype(np.float32),
        expression_names=tuple(str(n) for n in a["expression_names"]),
    )  # fmt: skip


def from_bfm(folder: str | Path, *, landmarks_of_release: bool = True) -> FaceModel:
    """The BFM 2009 front face with 80 identity and 64 expression axes, from the files of the official code.

    Args:
      folder: holds BFM_model_front.mat (Deep3DFaceRecon's format) and index_mp468_from_mesh35709.npy, and it or its
        parent ncc_code.npy and bfm_{left,right}_eye_faces.npy. The BFM's licence allows research only.
      landmarks_of_release: the released weights were trained with 68 landmarks whose 1-based indices were read as
        0-based, so that each is the vertex after the meant one. True reproduces that; False gives the meant vertices.

    Raises:
      InputError: names files and fields that are missing.
    """
    folder = Path(folder)
    places = {
        k: next((d / n for d in (folder, folder.parent) if (d / n).is_file()), None) for k, n in BFM_FILES.items()
    }
    found = {k: p for k, p in places.items() if p is not None}
    missing = [n for k, n in BFM_FILES.items() if k not in found]
    if missing:
        raise InputError(
            f"{folder} lacks {', '.join(missing)}: they come with Real3D-Portrait's deep_3drecon folder and "
            "the BFM download its README describes"
        )
    mat = scipy.io.loadmat(found["shape"])
    fields = ("meanshape", "idBase", "exBase", "tri", "keypoints")
    absent = [k for k in fields if k not in mat]
    if absent:
        raise InputError(
            f"{found['shape']} has no field {', '.join(absent)}: expected the BFM_model_front.mat that "
            "Deep3DFaceRecon's transferBFM09 writes"
        )
    mean = np.asarray(mat["meanshape"], np.float64).reshape(-1, 3)
    count = len(mean)
    identity, expression = (np.asarray(mat[k], np.float32).T.reshape(-1, count, 3) for k in ("idBase", "exBase"))
    triangles = np.asarray(mat["tri"], np.int64) - 1
    keypoints = np.asarray(mat["keypoints"], np.int64).ravel() - (0 if landmarks_of_release else 1)
    ncc = np.load(found["ncc"])
    mp = np.load(found["mediapipe"]).ravel()
    for name, index in ((BFM_FILES["mediapipe"], mp), ("keypoints", keypoints), ("tri", triangles)):
        if index.max() >= count:
            raise InputError(
                f"{name} points to vertex {index.max()} but {found['shape']} has {count}: the files do not "
                "belong together"
            )
    if ncc.shape != (3, count):
        raise InputError(f"{found['ncc']} has shape {ncc.shape}: expected (3, {count})")
    eyes = np.concatenate([np.load(found[k]).ravel() for k in ("left eye", "right eye")]).astype(np.int64) - 1
    pncc_vertices, pncc_triangles = compact(np.delete(triangles, eyes, axis=0))
    mp_corners, lm68_corners = (np.repeat(i.clip(0)[:, None], 3, 1).astype(np.int32) for i in (mp, keypoints))
    first = np.array([1, 0, 0], np.float32)
    return FaceModel(
        mean=(mean - mean.mean(0)).astype(np.float32), identity=identity, expression=expression,
        triangles=triangles.astype(np.int32), ncc=np.asarray(ncc.T, np.float32), pncc_vertices=pncc_vertices,
        pncc_triangles=pncc_triangles, mp_corners=mp_corners, mp_weights=first * (mp >= 0)[:, None],
        mp_spread=np.full(len(mp), BFM_SPREAD, np.float32),
        lm68_corners=lm68_corners, lm68_weights=np.tile(first, (len(keypoints), 1)),
        iris_corners=np.zeros((0, 3), np.int32), iris_weights=np.zeros((0, 3), np.float32),
        part=np.zeros(count, np.uint8), static=np.zeros(count, np.float32),
        expression_names=tuple(f"bfm{k:02d}" for k in range(len(expression))),
    )  # fmt: skip


def compact(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices in use [m] and the triangles [p, 3] renumbered to them, both int32."""
    used, index = np.unique(triangles, return_inverse=True)
    return used.astype(np.int32), index.reshape(-1, 3).astype(np.int32)


def _namespace(x: Array) -> Any:
    return jnp if isinstance(x, jax.Array) else np


def _combine(weights: Array, basis: Array) -> Array:
    """[.., k] times [k, v, 3] -> [.., v, 3] in full float32."""
    flat = basis.reshape(basis.shape[0], -1)
    if isinstance(weights, jax.Array) or isinstance(basis, jax.Array):
        out = jnp.matmul(weights, flat, precision=jax.lax.Precision.HIGHEST)
    else:
        out = np.asarray(weights, np.float32) @ flat
    return out.reshape(*out.shape[:-1], *basis.shape[1:])


def vertices(model: FaceModel, identity: Array, expression: Array) -> Array:
    """S(i, e): identity [.., i] in standard deviations, expression [.., e] -> [.., v, 3] head units."""
    return model.mean + _combine(identity, model.identity) + _combine(expression, model.expression)


def pose(points: Array, euler: Array, trans: Array) -> Array:
    """v = M p + t: points [.., n, 3], euler [.., 3] (pitch, yaw, roll; radians), trans [.., 3] -> [.., n, 3]."""
    m = camera.rotation(euler)
    return (m[..., None, :, :] * points[..., None, :]).sum(-1) + trans[..., None, :]


def project(points: Array, focal: Array | float = camera.FOCAL) -> Array:
    """Posed points [.., n, 3] -> [.., n, 2] in image widths: (0, 0) top left, (1, 1) bottom right, y down.

    u = f x / (10 - z) + 0.5, v = 0.5 - f y / (10 - z); the picture of `camera.from_pose` with the same focal.
    """
    xp = _namespace(points)
    depth = camera.CAMERA_DISTANCE - points[..., 2]
    return xp.stack([0.5 + focal * points[..., 0] / depth, 0.5 - focal * points[..., 1] / depth], axis=-1)


def gather(mesh: Array, corners: Array, weights: Array) -> Array:
    """Points [.., n, 3] at barycentric weights [n, 3] of corners [n, 3] on vertices [.., v, 3]."""
    return (mesh[..., corners, :] * weights[..., None]).sum(-2)


def landmarks(model: FaceModel, mesh: Array) -> Array:
    """MediaPipe's 468 landmarks [.., 468, 3] on vertices [.., v, 3]."""
    return gather(mesh, model.mp_corners, model.mp_weights)


def keypoints68(
    model: FaceModel,
    identity: Array,
    expression: Array,
    euler: Array,
    trans: Array,
    focal: Array | float = camera.FOCAL,
) -> Array:
    """iBUG's 68 points [.., 68, 3] as the networks take them: x right, y down in [-1, 1] image coordinates, z = 0."""
    # The points are linear in the coefficients: with bases of the points alone memory is that of the points.
    mean, shapes, moves = (
        gather(field, model.lm68_corners, model.lm68_weights)
        for field in (model.mean, model.identity, model.expression)
    )
    points = mean + _combine(identity, shapes) + _combine(expression, moves)
    flat = 2 * project(pose(points, euler, trans), focal) - 1
    xp = _namespace(flat)
    return xp.concatenate([flat, xp.zeros_like(flat[..., :1])], axis=-1)


def _distance(points: Array, a: int, b: int) -> Array:
    xp = _namespace(points)
    return xp.sqrt(((points[..., a, :] - points[..., b, :]) ** 2).sum(-1) + 1e-12)


def lip_gap(points: Array) -> Array:
    """Inner lips' gap in eye distances [..] of MediaPipe landmarks [.., 468 or more, 2 or 3], pixels or head units."""
    xp = _namespace(points)
    middles = xp.stack([(points[..., a, :] + points[..., b, :]) / 2 for a, b in EYE_CORNERS], axis=-2)
    return _distance(points, UPPER_LIP, LOWER_LIP) / _distance(middles, 0, 1)


def eye_gap(points: Array) -> Array:
    """Lids' gap over the eye's width [.., 2], image left then right, of MediaPipe's landmarks [.., 468.., 2 or 3]."""
    xp = _namespace(points)
    pairs = zip(EYE_LIDS, EYE_CORNERS, strict=True)
    return xp.stack([_distance(points, *lids) / _distance(points, *corners) for lids, corners in pairs], axis=-1)


@partial(jax.jit, static_argnames=("size", "frame"))
def pncc(
    model: FaceModel, identity: Array, expression: Array, *, size: int = 192, frame: str = "official"
) -> jax.Array:
    """Projected normalised coordinate code of the unposed face: [.., size, size, 3] float32 in [-1, 1], background -1.

    PNCC = Z-Buffer(S(i, e), NCC) with NCC the mean's coordinates scaled to 0..1; holes at the eyes and in the mouth.
    frame "official": perspective from distance 10 with focal 1015/224 (Real3D-Portrait's secc maps).
    frame "box": orthographic, exactly the tri-plane's box: world x from -.5 to .5 left to right, y from .5 to -.5 down,
    so that pixels lie on those of the frontal plane. identity [.., i], expression [.., e].
    """
    identity, expression = jnp.asarray(identity, jnp.float32), jnp.asarray(expression, jnp.float32)
    return pncc_of_vertices(model, vertices(model, identity, expression), size=size, frame=frame)


@partial(jax.jit, static_argnames=("size", "frame"))
def pncc_of_vertices(model: FaceModel, mesh: Array, *, size: int = 192, frame: str = "official") -> jax.Array:
    """`pncc` of given unposed vertices [.., v, 3]."""
    mesh = jnp.asarray(mesh, jnp.float32)
    if mesh.ndim > 2:
        flat = mesh.reshape(-1, *mesh.shape[-2:])
        maps = jax.lax.map(lambda v: pncc_of_vertices(model, v, size=size, frame=frame), flat)
        return maps.reshape(*mesh.shape[:-2], size, size, 3)
    points = mesh[jnp.asarray(model.pncc_vertices)]
    if frame == "official":
        depth = camera.CAMERA_DISTANCE - points[:, 2:]
        screen = jnp.concatenate([project(points, OFFICIAL_FOCAL) * size, depth], -1)
    elif frame == "box":
        x, y, z = jnp.moveaxis(camera.WORLD_SCALE * points + jnp.asarray(camera.WORLD_OFFSET), -1, 0)
        screen = jnp.stack([(x + 0.5) * size, (0.5 - y) * size, _FAR_PLANE - z], -1)
    else:
        raise ValueError(f"frame {frame!r}: expected 'official' or 'box'")
    raster = rasterize(screen, model.pncc_triangles, size=(size, size), perspective=frame == "official")
    code = jnp.asarray(model.ncc)[jnp.asarray(model.pncc_vertices)]
    return interpolate(raster, model.pncc_triangles, 2 * code - 1, -1.0)
