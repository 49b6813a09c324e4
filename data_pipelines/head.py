"""The parametric head in plain numpy and OpenCV, for data workers that must not import jax.

Same conventions and results as `r3p.face`: head units of 10 cm, x right in the image, y up, z toward the viewer;
euler = (pitch, yaw, roll) in radians, M = Rz Ry Rx, v = M p + t, camera at distance 10 on +z looking to -z.
"""

import math
from pathlib import Path

import cv2
import numpy as np

from r3p.camera import CAMERA_DISTANCE, FOCAL, WORLD_OFFSET, WORLD_SCALE
from r3p.errors import InputError

HEAD_FILE = Path(__file__).resolve().parent.parent / "r3p" / "assets" / "head.npz"
SKIN, LEFT_EYE, RIGHT_EYE, UPPER_TEETH, LOWER_TEETH, TONGUE = range(6)


def project(points: np.ndarray, focal: float = FOCAL) -> np.ndarray:
    """Posed points [n, 3] -> [n, 2] in image widths, (0, 0) the top left corner, y down."""
    depth = CAMERA_DISTANCE - points[:, 2]
    return np.stack([focal * points[:, 0] / depth + 0.5, 0.5 - focal * points[:, 1] / depth], 1)


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals [v, 3] float32."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    face = np.cross(b - a, c - a)
    index = triangles.ravel()
    spread = np.repeat(face, 3, axis=0)
    out = np.stack([np.bincount(index, spread[:, k], len(vertices)) for k in range(3)], 1)
    return (out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def rasterize(
    vertices: np.ndarray,
    triangles: np.ndarray,
    attributes: list[np.ndarray],
    size: int,
    focal: float = FOCAL,
    depth_range: tuple[float, float] = (2.0, 30.0),
    box: tuple[slice, slice] | None = None,
    cull: bool = False,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Z-buffered, perspective-correct drawing of posed vertices.

    vertices [v, 3]; triangles [t, 3]; each attribute [v, 3] (any range) gives an image [size, size, 3] float32, 0 where
    nothing is drawn. The second result is the distance from the camera [size, size], `depth_range[1]` where empty.
    `box` (rows, columns) draws only that part of the image; `cull` leaves out what faces away (closed meshes only).
    """
    settings = cv2.TriangleRasterizeSettings()
    settings.setShadingType(cv2.RASTERIZE_SHADING_SHADED)
    settings.setCullingMode(cv2.RASTERIZE_CULLING_NONE)
    near, far = depth_range
    rows, columns = box or (slice(0, size), slice(0, size))
    height, width = rows.stop - rows.start, columns.stop - columns.start
    world = np.eye(4, dtype=np.float32)
    world[2, 3] = -CAMERA_DISTANCE
    # a part of the image is seen by a camera whose axis is sheared toward the middle of that part
    shear_x = (0.5 * (size - width) - columns.start) / (size * focal)
    shear_y = (0.5 * (size - height) - rows.start) / (size * focal)
    points = np.array(vertices, np.float32)
    if box is not None:
        depth_of = CAMERA_DISTANCE - points[:, 2]
        points[:, 0] += shear_x * depth_of
        points[:, 1] -= shear_y * depth_of
    fov = 2 * math.atan(0.5 * height / (size * focal))
    flat = points[:, :2] / (CAMERA_DISTANCE - points[:, 2:])
    faces = np.ascontiguousarray(
        visible(flat, triangles, 0.5 * np.array([width, height]) / (size * focal), cull), np.int32
    )
    images = []
    depth = np.full((height, width), far, np.float32)
    for attribute in attributes:
        image = np.zeros((height, width, 3), np.float32)
        depth = np.full((height, width), far, np.float32)
        if len(faces):
            colours = np.ascontiguousarray(attribute, np.float32)
            cv2.triangleRasterize(points, faces, colours, image, depth, world, fov, near, far, settings)
        images.append(image)
    if not attributes and len(faces):
        cv2.triangleRasterizeDepth(points, faces, depth, world, fov, near, far, settings)
    depth[depth > far - 1e-3] = far
    return images, depth


def visible(flat: np.ndarray, triangles: np.ndarray, half: np.ndarray, cull: bool) -> np.ndarray:
    """Triangles [t, 3] that touch the window of half sizes [2] round the axis and, with `cull`, face the camera.

    The rasteriser's time goes by triangles, so it pays to sort them out first. flat [v, 2] is x/depth, y/depth.
    """
    outside = (flat < -half) | (flat > half)
    if not cull and not outside.any():
        return triangles
    a, b, c = triangles.T
    # left, right, below, above of the window: a triangle with all corners on one side of it is out of sight
    side = np.packbits(np.concatenate([flat < -half, flat > half], 1), axis=1)[:, 0]
    keep = (side[a] & side[b] & side[c]) == 0
    if cull:
        edge, other = flat[b] - flat[a], flat[c] - flat[a]
        keep &= edge[:, 0] * other[:, 1] > edge[:, 1] * other[:, 0]
    return triangles[keep]


def bounds(points: np.ndarray, size: int) -> tuple[slice, slice] | None:
    """The part (rows, columns) of an image of `size` that posed points [n, 3] may cover; None if none."""
    p = project(points) * size
    low = np.clip(np.floor(p.min(0)).astype(int) - 1, 0, size)
    high = np.clip(np.ceil(p.max(0)).astype(int) + 1, 0, size)
    if (high - low < 2).any():
        return None
    return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))


class Head:
    """The arrays of head.npz with the few operations data workers need."""

    def __init__(self, path: Path = HEAD_FILE):
        if not Path(path).exists():
            raise InputError(f"{path} is missing: build it with python -m data_pipelines.build_head")
        with np.load(path, allow_pickle=False) as data:
            self.arrays = {k: data[k] for k in data.files}
        self.mean = self.arrays["mean"].astype(np.float32)
        self.identity = self.arrays["identity"].astype(np.float32)
        self.expression = self.arrays["expression"].astype(np.float32)
        self.triangles = self.arrays["triangles"].astype(np.int32)
        self.part = self.arrays["part"]
        self.names = [str(n) for n in self.arrays["expression_names"]]
        self._flat_identity = self.identity.reshape(len(self.identity), -1)
        self._flat_expression = self.expression.reshape(len(self.expression), -1)

    def vertices(self, identity: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """identity [80] in standard deviations, expression [64] in units -> [v, 3] float32, head units."""
        flat = identity.astype(np.float32) @ self._flat_identity
        return self.express(self.mean + flat.reshape(-1, 3), expression)

    def express(self, neutral: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """Neutral vertices [v, 3] moved by expression [64]; only the units in use cost time."""
        used = np.flatnonzero(expression)
        return neutral + (expression[used].astype(np.float32) @ self._flat_expression[used]).reshape(-1, 3)

    def weights(self, **units: float) -> np.ndarray:
        """Named expression units -> float32 [64]; an unknown name is a KeyError."""
        out = np.zeros(len(self.names), np.float32)
        for name, value in units.items():
            if name not in self.names:
                raise KeyError(f"unknown expression unit {name!r}; known: {', '.join(self.names)}")
            out[self.names.index(name)] = value
        return out

    def landmarks(self, vertices: np.ndarray) -> np.ndarray:
        """MediaPipe's 468 points [468, 3] on the given vertices."""
        corner = vertices[self.triangles[self.arrays["landmarks_mp_triangle"]]]
        return np.einsum("nk,nkc->nc", self.arrays["landmarks_mp_bary"].astype(np.float32), corner)


def draw_pncc(head: Head, vertices: np.ndarray, size: int) -> np.ndarray:
    """Unposed vertices [v, 3] -> PNCC uint8 [size, size, 3] framing the tri-plane's box orthographically; 0 background.

    Columns are world x from -0.5 to 0.5, rows world y from +0.5 down; skin of head and neck only, eyes are holes.
    """
    world = vertices * WORLD_SCALE + np.array(WORLD_OFFSET)
    depth = 1000.0 - world[:, 2]  # so far away that the perspective rasteriser is orthographic to 1e-3
    flat = np.stack([world[:, 0] * depth, world[:, 1] * depth, CAMERA_DISTANCE - depth], 1)
    triangles = head.triangles[head.arrays["pncc_triangles"]]
    (image,), buffer = rasterize(flat, triangles, [head.arrays["ncc"]], size, focal=1.0, depth_range=(998, 1002))
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8) * (buffer < 1001.9)[..., None]
