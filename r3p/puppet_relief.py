"""Hair, ears and all of the head that the face's mesh does not cover, as a relief that goes on from the face.

In the photograph's camera the head's depth is known where the face's mesh is seen. From there to the outline of the
head's mask the height over the plane of the outline, squared, is a membrane: harmonic, 0 at the outline. Its root is
an ellipse's profile, so the relief leaves the mesh without a step and turns away from the camera at the outline, as
round things do. A second sheet, the same relief mirrored at that plane, closes the back.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve
from scipy.spatial import cKDTree

from r3p.camera import CAMERA_DISTANCE, FOCAL
from r3p.puppet_draw import halves, quads
from r3p.puppet_shape import Shape, unproject

_CELLS = 110  # grid cells across the head's mask
_UNDER = 0.012  # head units by which the relief's rim lies behind the mesh
_BAND = 3  # cells of the relief that lie under the mesh and outside the mask
_REACH = 0.5  # head units over which the face's movement fades out in the relief
_BACK = 0.9  # depth of the back over the front's
_FALL, _LEAST = 1.1, 0.10  # slope and start (head units) of the outline's depth behind the face beside it


@dataclass
class Relief:
    """vertices [n, 3] head frame, in the photograph; pixels [n, 2] continuous places in it; triangles [m, 3].

    back_vertices [n, 3], back_triangles [k, 3]: the closing sheet, same pixels. follow: sparse [n, v], how the head's
    vertices take the relief along.
    """

    vertices: np.ndarray
    pixels: np.ndarray
    triangles: np.ndarray
    back_vertices: np.ndarray
    back_triangles: np.ndarray
    follow: sparse.csr_matrix

    def moved(self, change: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Front and back vertices [n, 3] for a displacement [v, 3] of the head's vertices."""
        shift = (self.follow @ change).astype(np.float32)
        return self.vertices + shift, self.back_vertices + shift


def _membrane(free: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """values [h, w] with its `free` nodes harmonic; neighbours neither free nor known do not pull (a free border)."""
    index = np.full(free.shape, -1)
    index[free] = np.arange(free.sum())
    rows, columns, data, right = [], [], [], np.zeros(int(free.sum()))
    degree = np.full(int(free.sum()), 1e-6)
    y, x = np.nonzero(free)
    for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        ny, nx = y + dy, x + dx
        ok = (ny >= 0) & (nx >= 0) & (ny < free.shape[0]) & (nx < free.shape[1])
        ny, nx = np.where(ok, ny, y), np.where(ok, nx, x)
        other = ok & free[ny, nx]
        fixed = ok & known[ny, nx] & ~free[ny, nx]
        here = index[y, x]
        rows.append(here[other])
        columns.append(index[ny, nx][other])
        data.append(-np.ones(int(other.sum())))
        degree += other + fixed
        right += np.where(fixed, values[ny, nx], 0)
    n = len(right)
    matrix = sparse.coo_matrix((np.concatenate(data), (np.concatenate(rows), np.concatenate(columns))), (n, n)).tocsr()
    out = values.copy()
    if n:
        out[free] = spsolve((matrix + sparse.diags(degree)).tocsc(), right)
    return out


def build_relief(shape: Shape, mask: np.ndarray, depth: np.ndarray, face: np.ndarray, centre: np.ndarray) -> Relief:
    """The relief of a photograph.

    mask [s, s] bool: the head's classes; depth [s, s] distance from the camera of the face's mesh, inf where it is not
    seen; face [v] bool: the vertices of that mesh; centre [3] head frame, the middle of the skull.
    """
    size = mask.shape[0]
    seen = np.isfinite(depth)
    ys, xs = np.nonzero(mask | seen)
    step = max(xs.max() - xs.min(), ys.max() - ys.min()) / _CELLS
    lo = np.array([xs.min(), ys.min()]) - (_BAND + 1) * step
    count = np.ceil((np.array([xs.max(), ys.max()]) - lo) / step).astype(int) + _BAND + 2
    gx, gy = np.meshgrid(lo[0] + step * np.arange(count[0]), lo[1] + step * np.arange(count[1]))
    ix, iy = np.clip(gx.astype(int), 0, size - 1), np.clip(gy.astype(int), 0, size - 1)
    inside_image = (gx > -step) & (gy > -step) & (gx < size + step) & (gy < size + step)

    on_face = seen[iy, ix]
    # Seen from inside the mesh's outline, where its depth is still moderate, the membrane starts.
    deep = ndimage.distance_transform_edt(on_face)
    free = mask[iy, ix] & ~on_face & inside_image
    middle = CAMERA_DISTANCE - shape.pose(centre[None])[0, 2]
    away, nearest = ndimage.distance_transform_edt(~on_face, return_indices=True)
    face_depth = np.where(seen, depth, 0)[iy, ix][tuple(nearest)]
    # The outline lies in the plane of the skull's middle, but no strip beside the face falls off steeper than _FALL.
    unit = step / size * middle / FOCAL
    plane = np.minimum(middle, face_depth + _LEAST + _FALL * away * unit)
    plane = np.where(on_face, np.minimum(middle, face_depth + _LEAST), cv2.GaussianBlur(plane, (0, 0), 2.0))
    values = np.where(on_face, np.maximum(plane - face_depth, 0.5 * _LEAST) ** 2, 0.0)
    beyond = ~on_face & ~free & inside_image
    square = _membrane(free, on_face | beyond, values)
    height = np.sqrt(np.maximum(square, 0))
    height = np.where(free, cv2.GaussianBlur(height, (0, 0), 1.0), height)
    front = np.where(on_face, face_depth + _UNDER + 0.01 * np.minimum(deep, 4), plane - height)
    back = plane + _BACK * np.where(on_face, 0.3, height)

    keep = ndimage.binary_dilation(free, iterations=2) & (deep <= _BAND)
    rim = ndimage.distance_transform_edt(free) <= 0.09 * _CELLS
    pixels = np.stack([gx, gy], -1).reshape(-1, 2)
    vertices = shape.unpose(unproject(pixels / size, front.ravel()))
    back_vertices = shape.unpose(unproject(pixels / size, back.ravel()))
    cells = quads(*gx.shape)
    touch = ndimage.binary_dilation(free, iterations=1)
    front_quads = cells[keep.ravel()[cells].all(1) & touch.ravel()[cells].any(1)]
    chosen = (keep & (rim | ~free)).ravel()[cells].all(1) & touch.ravel()[cells].any(1) & ~on_face.ravel()[cells].any(1)
    back_quads = cells[chosen]

    used = np.unique(np.concatenate([front_quads.ravel(), back_quads.ravel()]))
    where = np.zeros(gx.size, int)
    where[used] = np.arange(len(used))

    vertices, back_vertices = vertices[used].astype(np.float32), back_vertices[used].astype(np.float32)
    return Relief(
        vertices,
        pixels[used].astype(np.float32),
        halves(where[front_quads]).astype(np.int32),
        back_vertices,
        halves(where[back_quads])[:, ::-1].astype(np.int32),
        _follow(shape.source, face, vertices),
    )


def _follow(source: np.ndarray, face: np.ndarray, points: np.ndarray) -> sparse.csr_matrix:
    """[n, v]: weights of the four nearest face vertices, fading with the distance."""
    ids = np.flatnonzero(face)
    distance, nearest = cKDTree(source[ids]).query(points, 4)
    weight = 1 / (distance + 0.02) ** 2
    weight *= (np.exp(-((distance.min(1) / _REACH) ** 2)) / weight.sum(1))[:, None]
    rows = np.repeat(np.arange(len(points)), 4)
    return sparse.csr_matrix((weight.ravel(), (rows, ids[nearest].ravel())), (len(points), len(source)))
