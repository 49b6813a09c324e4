"""The photograph on the head's mesh: which parts of it are drawn, and where each vertex finds its colour.

A vertex that the photograph shows reads it there; one that it does not show reads the unwrapped face, a map of
directions from the head's middle, completed from the other side and from what is near (`puppet_texture.unwrap`).
"""

import cv2
import numpy as np
from scipy import ndimage
from scipy.sparse.csgraph import dijkstra

from data_pipelines.head import Head, project, vertex_normals
from r3p.camera import CAMERA_DISTANCE, FOCAL
from r3p.matting import BODY_SKIN, FACE_OVAL, HAIR, HEAD, Layers
from r3p.puppet_draw import FAR, Buffer, Surface, sample
from r3p.puppet_shape import Shape
from r3p.puppet_texture import ATLAS, SCALE, unwrap

_WRAP = np.radians((118.0, 78.0))  # half the angles that the unwrapped face covers: around, up and down
_FACING = 0.35  # cosine to the viewer at which the mesh of cheeks and temples gives way to the relief
NECK_SLIM = np.array([0.92, 1.0, 1.0])  # the mesh's neck stays inside the photograph's
_CHIN_FADE = (0.10, 0.42)  # head units below the jaw over which the head's layer ends


class Parts:
    """The mesh by what it is to a portrait.

    Vertices: face [v] bool, opacity [v] of the head's layer (1 on the face, fading under the chin and behind the jaw).
    Triangles: face, side (behind the face's outline), neck, cavity (the mouth's walls). centre [3]: the skull's middle.
    """

    def __init__(self, head: Head, shape: Shape) -> None:
        mean, marks = head.mean, head.landmarks(head.mean)
        number = head.arrays["pncc_triangles"]
        triangles = head.triangles[number]
        shown = np.zeros(len(mean), bool)
        shown[triangles] = True
        oval = (marks[list(FACE_OVAL), :2] * 1000).astype(np.float32)
        inside = (
            np.array([cv2.pointPolygonTest(oval, (float(x), float(y)), True) for x, y in mean[:, :2] * 1000]) / 1000
        )
        ears = head.arrays["mask_ears"].astype(np.float32) > 0.2
        # At temples and cheeks the relief takes over while the mesh still faces the viewer, about the jaw it does not.
        facing = vertex_normals(mean, shape.skin_triangles)[:, 2] > _FACING
        jaw = mean[:, 1] < marks[[61, 291], 1].mean()
        ear, angle = marks[[234, 454], 2].min(), marks[[58, 288], 1].mean()
        face = shown & ~ears & (inside > -0.015) & (mean[:, 2] > ear - 0.05) & (facing | jaw | (inside > 0.15))
        # Behind the face's outline lies skin that is soon seen when the head turns; it fades out toward ear and neck.
        side = shown & ~ears & ~face & (mean[:, 1] < marks[[33, 263], 1].mean()) & (mean[:, 2] > ear - 0.3)
        below = shown & ~ears & (mean[:, 1] < marks[[132, 361], 1].mean())
        away = dijkstra(
            shape.graph, indices=np.flatnonzero(face | side & (mean[:, 1] > angle)), min_only=True, limit=1.0
        )
        low, high = _CHIN_FADE
        fade = np.clip((high - away) / (high - low), 0, 1)
        lateral = np.clip((mean[:, 2] - ear + 0.3) / 0.25, 0, 1) * np.clip((mean[:, 1] - angle + 0.35) / 0.3, 0, 1)
        fade = np.where(side, lateral, fade * fade * (3 - 2 * fade) * below)
        self.opacity = np.where(face, 1.0, fade).astype(np.float32)
        self.face = face
        drawn = triangles[(self.opacity[triangles] > 0).any(1) & (face | side | below)[triangles].all(1)]
        lateral_triangle = side[drawn].any(1)
        self.face_triangles, self.side_triangles = drawn[~lateral_triangle], drawn[lateral_triangle]
        self.drawn = np.unique(drawn)
        skin = shape.skin_triangles
        mouth = (
            dijkstra(shape.graph, indices=head.arrays["loop_inner_lips"].astype(int), min_only=True, limit=0.4) < 0.4
        )
        neck = (shown & ~mouth | (head.arrays["static"] > 0.02)) & ~ears & (mean[:, 1] < angle + 0.35)
        self.neck_triangles = skin[neck[skin].all(1)]
        self.neck_opacity = np.clip((mean[:, 1] - angle + 0.8) / 0.35, 0, 1)
        walls = head.arrays["mask_inside_mouth"].astype(np.float32) > 0.5
        rest = np.ones(len(head.triangles), bool)
        rest[number] = False
        self.cavity_triangles = head.triangles[
            rest & walls[head.triangles].any(1) & (head.part[head.triangles] == 0).all(1)
        ]
        self.centre = np.array([0.0, 0.3, np.median(mean[ears, 2])])


class Skin:
    """Where the mesh's vertices find their colours in one photograph.

    pixels [v, 2]: the vertices in the photograph; depth [s, s]: distance of the face's mesh from the camera, inf where
    it is not seen; sheet [h, w, 4]: photograph (SCALE texels a pixel) with the unwrapped face beside it. The surfaces
    take each vertex twice: first as the photograph shows it, then as the unwrapped face does.
    """

    def __init__(
        self, head: Head, shape: Shape, parts: Parts, layers: Layers, photograph: np.ndarray, large: np.ndarray
    ) -> None:
        self.head, self.shape, self.parts, self.layers = head, shape, parts, layers
        self.side = len(photograph)
        self.posed = shape.pose(shape.source)
        self.pixels = project(self.posed) * self.side
        self.depth = self._depth()
        self.clear = self._clear()
        width = SCALE * self.side
        self.sheet = np.zeros((max(width, ATLAS), width + ATLAS, 4), np.uint8)
        self.sheet[:width, :width] = large
        wrapped = self._wrap(shape.source)
        self.sheet[:ATLAS, width:, :3] = self._unwrapped(wrapped, photograph)
        self.sheet[:ATLAS, width:, 3] = 255
        direct = np.clip(self.pixels, 1, self.side - 1) * SCALE
        places = np.concatenate([direct, wrapped[:, :2] + [width, 0]])
        good = self._readable()

        def dress(triangles: np.ndarray, opacity: np.ndarray) -> Surface:
            chosen = np.where(good[triangles].all(1)[:, None], triangles, triangles + len(good))
            return Surface(chosen, np.concatenate([places, np.tile(opacity, 2)[:, None]], 1))

        self.face = dress(parts.face_triangles, parts.opacity)
        self.behind = dress(parts.side_triangles, parts.opacity)
        self.neck = dress(parts.neck_triangles, self._neck_opacity())

    def _pixel(self) -> tuple[np.ndarray, np.ndarray]:
        ix, iy = (np.clip(self.pixels[:, k].astype(int), 0, self.side - 1) for k in (0, 1))
        return iy, ix

    def _depth(self) -> np.ndarray:
        """The mesh's depth with eyes and mouth filled in: the relief belongs outside of the face only."""
        parts = self.parts
        buffer = Buffer(self.side)
        solid = parts.face_triangles[(parts.opacity[parts.face_triangles] > 0.5).all(1)]
        buffer.draw(self.posed, Surface(solid, np.zeros((len(self.posed), 3))), cull=True)
        holes = ndimage.binary_fill_holes(buffer.hit) & ~buffer.hit
        nearest = ndimage.distance_transform_edt(~buffer.hit, return_distances=False, return_indices=True)
        return np.where(buffer.hit, buffer.depth, np.where(holes, buffer.depth[tuple(nearest)], np.inf))

    def _clear(self) -> np.ndarray:
        """[v] 0..1: how well the photograph shows each vertex."""
        buffer = Buffer(self.side)
        triangles = np.concatenate([self.parts.face_triangles, self.parts.side_triangles, self.parts.neck_triangles])
        buffer.draw(self.posed, Surface(triangles, np.zeros((len(self.posed), 3))), cull=True)
        depth = cv2.dilate(buffer.depth, np.ones((3, 3)))
        toward = np.array([0, 0, CAMERA_DISTANCE]) - self.posed
        facing = (vertex_normals(self.posed.astype(np.float32), self.shape.skin_triangles) * toward).sum(1)
        facing /= np.linalg.norm(toward, axis=1)
        inside = ((self.pixels > 0) & (self.pixels < self.side)).all(1)
        front = CAMERA_DISTANCE - self.posed[:, 2] < depth[self._pixel()] + 0.05
        person = np.isin(self.layers.segmap, (*HEAD, BODY_SKIN)) & (self.layers.alpha > 0.5)
        return np.clip((facing - 0.12) / 0.23, 0, 1) * (front & inside & person[self._pixel()])

    def _readable(self) -> np.ndarray:
        """[v] bool: the photograph is the best source, or must be: folds of lips and lids wear what is in front."""
        arrays = self.head.arrays
        folds = np.zeros(len(self.pixels), bool)
        for reach, names in (
            (0.12, ("inner_lips", "mouth_inside")),
            (0.22, ("left_eye", "right_eye", "left_socket", "right_socket")),
        ):
            rims = np.concatenate([arrays[f"loop_{n}"].astype(int) for n in names])
            folds |= dijkstra(self.shape.graph, indices=rims, min_only=True, limit=reach) < reach
        other = self.clear[arrays["mirror"].astype(int)]
        return (self.clear > 0.3) | ((self.clear > 0.02) & (self.clear > 0.5 * other)) | folds

    def _bare(self) -> np.ndarray:
        """[v] False where the photograph shows hair over cheeks and jaw: that is not to be mirrored."""
        low = self.head.mean[:, 1] < self.head.landmarks(self.head.mean)[[70, 300], 1].mean()
        hair = cv2.dilate((self.layers.segmap == HAIR).astype(np.uint8), np.ones((5, 5))) > 0
        return ~(hair[self._pixel()] & low)

    def _neck_opacity(self) -> np.ndarray:
        """[v] 0..1: the mesh's neck is drawn where the photograph has a person before or about it."""
        person = cv2.GaussianBlur(self.layers.alpha, (0, 0), 1.5)
        pixels = project(self.shape.pose(self.shape.source * NECK_SLIM)) * self.side
        ix, iy = (np.clip(pixels[:, k].astype(int), 0, self.side - 1) for k in (0, 1))
        inside = ((pixels > 0) & (pixels < self.side)).all(1)
        return np.clip(2 * person[iy, ix] - 0.5, 0, 1) * inside * self.parts.neck_opacity

    def _wrap(self, vertices: np.ndarray) -> np.ndarray:
        """Head-frame points [v, 3] -> places [v, 3] in the unwrapped face: x, y texels, distance from the middle."""
        p = vertices - np.array([0.0, -0.25, self.parts.centre[2] - 0.25])
        around = np.arctan2(p[:, 0], p[:, 2]) / _WRAP[0]
        up = np.arctan2(p[:, 1], np.hypot(p[:, 0], p[:, 2])) / _WRAP[1]
        flat = np.clip(np.stack([0.5 + 0.5 * around, 0.5 - 0.5 * up], 1), 0.004, 0.996) * ATLAS
        return np.concatenate([flat, np.linalg.norm(p, axis=1, keepdims=True)], 1)

    def _unwrapped(self, wrapped: np.ndarray, photograph: np.ndarray) -> np.ndarray:
        buffer = Buffer(ATLAS)
        z = FAR / 3 - wrapped[:, 2]  # the outermost surface wins
        flat = np.stack(
            [(wrapped[:, 0] / ATLAS - 0.5) * z / FOCAL, (0.5 - wrapped[:, 1] / ATLAS) * z / FOCAL, CAMERA_DISTANCE - z],
            1,
        )
        triangles = np.concatenate([self.parts.face_triangles, self.parts.side_triangles])
        buffer.draw(
            flat, Surface(triangles, np.concatenate([self.pixels, (self.clear * self._bare())[:, None]], 1)), cull=False
        )
        # What is not seen lies under the chin and beside the neck, out of the light.
        down, aside = (np.degrees(np.linspace(-1, 1, ATLAS) * half) for half in _WRAP[::-1])
        shade = (1 - 0.12 * np.clip((down - 35) / 30, 0, 1))[:, None] * (
            1 - 0.25 * np.clip((np.abs(aside) - 40) / 45, 0, 1)
        )[None]
        shade = shade.astype(np.float32)
        return unwrap(
            sample(np.ascontiguousarray(photograph[..., :3]), buffer.at), buffer.at[..., 2] * buffer.hit, shade
        )
