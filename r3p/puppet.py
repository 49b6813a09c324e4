"""A photograph as its own teacher: photo-real examples of one head under nearby cameras, with any expression.

The fitted head wears the photograph by projection; hair and ears are a relief that goes on from the face
(`puppet_relief`); eyes and mouth open and close over eyeballs, teeth and a dark mouth in the photograph's tones
(`puppet_texture`); neck and torso follow in the plane. Light stays the photograph's. Camera and PNCC are exact.

Plain numpy and OpenCV, for the host. Coordinates in the photograph are continuous pixels.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage
from scipy.sparse.csgraph import dijkstra

from data_pipelines.head import Head, draw_pncc, project, vertex_normals
from r3p.camera import CAMERA_DISTANCE, FOCAL, from_pose, rotation
from r3p.errors import InputError
from r3p.matting import BODY_SKIN, FACE_OVAL, HAIR, HEAD, Layers
from r3p.puppet_relief import Relief, build_relief
from r3p.puppet_sample import PIVOT, STILL, draw_expression, draw_pose
from r3p.puppet_shape import EYES, OUTER_LIPS, Fitted, Shape, polygon
from r3p.puppet_texture import (
    ATLAS,
    SCALE,
    Block,
    closed_lids,
    enlarge,
    eye_block,
    mouth_block,
    mouth_tones,
    skin_sheet,
    teeth_sheet,
    unwrap,
)

NEAR, FAR = 2.0, 40.0
_WRAP = np.radians((118.0, 78.0))  # half the angles that the unwrapped face covers: around, up and down
_RELIEF = 2.0  # tag of relief texels over the skin's alpha in the third channel
_FACING = 0.35  # cosine to the viewer at which the mesh of cheeks and temples gives way to the relief
_CHIN_FADE = (0.10, 0.42)  # head units below the jaw over which the head's layer ends


@dataclass
class Surface:
    """Triangles with three attributes a vertex: sheet x, sheet y, tag."""

    triangles: np.ndarray
    attributes: np.ndarray


def draw(posed: np.ndarray, surface: Surface, colour: np.ndarray, depth: np.ndarray, *, cull: bool) -> None:
    """Draws into colour [h, h, 3] and depth [h, h] what is nearer than what is there."""
    if not len(surface.triangles):
        return
    settings = cv2.TriangleRasterizeSettings()
    settings.setShadingType(cv2.RASTERIZE_SHADING_SHADED)
    settings.setCullingMode(cv2.RASTERIZE_CULLING_CW if cull else cv2.RASTERIZE_CULLING_NONE)
    world = np.eye(4, dtype=np.float32)
    world[2, 3] = -CAMERA_DISTANCE
    cv2.triangleRasterize(np.ascontiguousarray(posed, np.float32), surface.triangles, surface.attributes, colour, depth,
                          world, 2 * math.atan(0.5 / FOCAL), NEAR, FAR, settings)


def sample(sheet: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Bilinear texels of a uint8 sheet at continuous coordinates at [h, w, >= 2]."""
    return cv2.remap(sheet, at[..., 0] - np.float32(0.5), at[..., 1] - np.float32(0.5), cv2.INTER_LINEAR,
                     borderMode=cv2.BORDER_REPLICATE)


class Puppet:
    """One portrait as a renderer of itself.

    Args:
      image: uint8 [s, s, 3] RGB, a square portrait (512 is usual).
      landmarks: [468 or 478, >= 2] MediaPipe landmarks in pixels; with 478 the irises are taken from them.
      fit: the head's identity [80], expression [64], euler [3], trans [3] in this photograph.
      layers: `matting.split_layers` of it.
      head: the built-in head.
      size, pncc_size: of the examples, pixels.
    """

    def __init__(self, image: np.ndarray, landmarks: np.ndarray, fit: Fitted, layers: Layers, head: Head | None = None, *,
                 size: int = 256, pncc_size: int = 192) -> None:
        if image.ndim != 3 or image.shape[0] != image.shape[1] or image.shape[2] != 3 or image.dtype != np.uint8:
            raise InputError(f"the portrait is {image.dtype} {image.shape}: expected a square uint8 RGB image; crop it first")
        if len(landmarks) < 468:
            raise InputError(f"{len(landmarks)} landmarks: expected MediaPipe's 468 or 478 points")
        self.head = Head() if head is None else head
        self.image, self.landmarks, self.layers = image, np.asarray(landmarks, np.float64), layers
        self.fit, self.size, self.pncc_size = fit, size, pncc_size
        self.side = image.shape[0]
        self.shape = Shape(self.head, self.landmarks[:, :2] / self.side, fit)
        self._vertices = len(self.head.mean)
        self._split_mesh()
        self._build()
        self._torso: dict[int, np.ndarray] = {}
        self._fixed: dict[str, np.ndarray] | None = None

    # ---- set-up

    def _split_mesh(self) -> None:
        """Which vertices are face, under the chin, mouth's inside."""
        head, mean = self.head, self.head.mean
        marks = head.landmarks(mean)
        oval = marks[list(FACE_OVAL)]
        shown = np.zeros(self._vertices, bool)
        triangles = head.triangles[head.arrays["pncc_triangles"]]
        shown[triangles] = True
        contour = (oval[:, :2] * 1000).astype(np.float32)
        inside = np.array([cv2.pointPolygonTest(contour, (float(x), float(y)), True) for x, y in mean[:, :2] * 1000])
        ears = head.arrays["mask_ears"].astype(np.float32) > 0.2
        front = mean[:, 2] > marks[[234, 454], 2].min() - 0.05
        # At temples and cheeks the relief takes over while the mesh still faces the viewer, about the jaw it does not.
        facing = vertex_normals(mean, self.shape.skin_triangles)[:, 2] > _FACING
        jaw = mean[:, 1] < marks[[61, 291], 1].mean()
        face = shown & (inside > -15) & (mean[:, 2] > marks[[234, 454], 2].min() - 0.05) & ~ears & (facing | jaw | (inside > 150))
        below = mean[:, 1] < marks[[132, 361], 1].mean()
        # Behind the face's outline lies skin that is soon seen when the head turns; it fades out toward ear and neck.
        ear, angle = marks[[234, 454], 2].min(), marks[[58, 288], 1].mean()
        side = shown & ~ears & (mean[:, 1] < marks[[33, 263], 1].mean()) & (mean[:, 2] > ear - 0.3) & ~face
        away = dijkstra(self.shape.graph, indices=np.flatnonzero(face | side & (mean[:, 1] > angle)), min_only=True, limit=1.0)
        low, high = _CHIN_FADE
        fade = np.clip((high - away) / (high - low), 0, 1)
        fade = np.where(below & shown & ~ears, fade * fade * (3 - 2 * fade), 0)
        lateral = np.clip((mean[:, 2] - ear + 0.3) / 0.25, 0, 1) * np.clip((mean[:, 1] - angle + 0.35) / 0.3, 0, 1)
        self.chin = np.where(face, 1.0, np.where(side, lateral, fade)).astype(np.float32)
        self.face = face
        self.face_triangles = triangles[(self.chin[triangles] > 0).any(1) & (face | side | below)[triangles].all(1)]
        lateral = (side & ~face)[self.face_triangles].any(1)
        self.side_triangles, self.face_triangles = self.face_triangles[lateral], self.face_triangles[~lateral]
        cavity = self.head.arrays["mask_inside_mouth"].astype(np.float32) > 0.5
        own = np.zeros(len(head.triangles), bool)
        own[head.arrays["pncc_triangles"]] = True
        self.cavity_triangles = head.triangles[~own & cavity[head.triangles].any(1) & (head.part[head.triangles] == 0).all(1)]
        self.centre = np.array([0.0, 0.3, np.median(mean[ears, 2]) if ears.any() else -0.4])

    def _build(self) -> None:
        """Sheets, relief and surfaces."""
        shape, side = self.shape, self.side
        posed = shape.pose(shape.source)
        pixels = project(posed) * side
        depth = np.full((side, side), FAR, np.float32)
        colour = np.zeros((side, side, 3), np.float32)
        solid = self.face_triangles[(self.chin > 0.5)[self.face_triangles].all(1)]
        attributes = np.zeros((self._vertices, 3), np.float32)
        draw(posed, Surface(np.ascontiguousarray(solid), attributes), colour, depth, cull=True)
        face_depth = np.where(depth < FAR - 1e-3, depth, np.inf)
        face_depth = self._close_openings(face_depth, pixels)
        # Skin about the jaw that the mesh does not reach is neck to us: it goes with the torso.
        rest = np.isin(self.layers.segmap, HEAD) & ~self._relief_mask()
        rest &= ~ndimage.binary_erosion(np.isfinite(face_depth), iterations=2)
        self._left_over = cv2.GaussianBlur(rest.astype(np.float32), (0, 0), 0.7) * self.layers.alpha
        self.relief: Relief = build_relief(shape, self._relief_mask(), face_depth, self.face, self.centre)

        sheet = skin_sheet(self.image, self.layers, self.landmarks)
        self.lids = [((slice(SCALE * r.start, SCALE * r.stop), slice(SCALE * c.start, SCALE * c.stop)),
                      enlarge(colours), enlarge(weight)[..., None])
                     for (r, c), colours, weight in closed_lids(sheet, self.landmarks)]
        width = SCALE * side
        self.sheet = np.zeros((max(width, ATLAS), width + ATLAS, 4), np.uint8)
        self.sheet[:width, :width] = enlarge(sheet)
        clear = self._seen(posed, pixels)
        wrapped = self._wrap(shape.source)
        self.sheet[:ATLAS, width:, :3] = self._unwrapped(wrapped, pixels, clear * self._bare(pixels), sheet)
        self.sheet[:ATLAS, width:, 3] = 255
        self._make_surfaces(pixels, wrapped, clear)
        self._make_inner(pixels)

    def _relief_mask(self) -> np.ndarray:
        """[s, s] bool: the head, but for what of its skin lies about the jaw: there the mesh's own outline holds."""
        chin, brow = self.landmarks[152, :2], self.landmarks[10, :2]
        y, x = np.mgrid[: self.side, : self.side] + 0.5
        up = (x - chin[0]) * (brow - chin)[0] + (y - chin[1]) * (brow - chin)[1]
        mouth = (self.landmarks[[61, 291], :2].mean(0) - chin) @ (brow - chin)
        head = np.isin(self.layers.segmap, HEAD) & (self.layers.alpha > 0.5)
        return head & ((self.layers.segmap == HAIR) | (up > mouth))

    def _close_openings(self, depth: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """The face's depth [s, s] with eyes and mouth filled in: the relief belongs outside of the face only."""
        holes = ndimage.binary_fill_holes(np.isfinite(depth)) & ~np.isfinite(depth)
        if not holes.any():
            return depth
        nearest = ndimage.distance_transform_edt(~np.isfinite(depth), return_distances=False, return_indices=True)
        return np.where(holes, depth[tuple(nearest)], depth)

    def _seen(self, posed: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """[v] 0..1: how well the photograph shows each vertex of the face."""
        side = self.side
        depth = np.full((side, side), FAR, np.float32)
        triangles = np.concatenate([self.face_triangles, self.side_triangles])
        surface = Surface(np.ascontiguousarray(triangles), np.zeros((self._vertices, 3), np.float32))
        draw(posed, surface, np.zeros((side, side, 3), np.float32), depth, cull=True)
        depth = cv2.dilate(depth, np.ones((3, 3)))
        normal = vertex_normals(shape_source := posed.astype(np.float32), self.shape.skin_triangles)
        toward = np.array([0, 0, CAMERA_DISTANCE]) - shape_source
        facing = (normal * toward).sum(1) / np.linalg.norm(toward, axis=1)
        ix, iy = (np.clip(pixels[:, k].astype(int), 0, side - 1) for k in (0, 1))
        inside = ((pixels > 0) & (pixels < side)).all(1)
        front = CAMERA_DISTANCE - posed[:, 2] < depth[iy, ix] + 0.05
        person = np.isin(self.layers.segmap, (*HEAD, BODY_SKIN)) & (self.layers.alpha > 0.5)
        return np.clip((facing - 0.12) / 0.23, 0, 1) * (front & inside & person[iy, ix])

    def _bare(self, pixels: np.ndarray) -> np.ndarray:
        """[v] False where the photograph shows hair over cheeks and jaw: that is not to be mirrored."""
        ix, iy = (np.clip(pixels[:, k].astype(int), 0, self.side - 1) for k in (0, 1))
        low = self.head.mean[:, 1] < self.head.landmarks(self.head.mean)[[70, 300], 1].mean()
        hair = cv2.dilate((self.layers.segmap == HAIR).astype(np.uint8), np.ones((5, 5))) > 0
        return ~(hair[iy, ix] & low)

    def _wrap(self, vertices: np.ndarray) -> np.ndarray:
        """Head-frame points [v, 3] -> places [v, 3] in the unwrapped face: x, y texels, distance from the middle."""
        p = vertices - np.array([0.0, -0.25, self.centre[2] - 0.25])
        around = np.arctan2(p[:, 0], p[:, 2]) / _WRAP[0]
        up = np.arctan2(p[:, 1], np.hypot(p[:, 0], p[:, 2])) / _WRAP[1]
        flat = np.clip(np.stack([0.5 + 0.5 * around, 0.5 - 0.5 * up], 1), 0.004, 0.996) * ATLAS
        return np.concatenate([flat, np.linalg.norm(p, axis=1, keepdims=True)], 1)

    def _unwrapped(self, wrapped: np.ndarray, pixels: np.ndarray, clear: np.ndarray, sheet: np.ndarray) -> np.ndarray:
        depth = np.full((ATLAS, ATLAS), FAR, np.float32)
        colour = np.zeros((ATLAS, ATLAS, 3), np.float32)
        z = 12 - wrapped[:, 2]  # the outermost surface wins
        flat = np.stack([(wrapped[:, 0] / ATLAS - 0.5) * z / FOCAL, (0.5 - wrapped[:, 1] / ATLAS) * z / FOCAL, CAMERA_DISTANCE - z], 1)
        attributes = np.concatenate([pixels, clear[:, None]], 1).astype(np.float32)
        triangles = np.concatenate([self.face_triangles, self.side_triangles])
        draw(flat, Surface(np.ascontiguousarray(triangles), attributes), colour, depth, cull=False)
        hit = depth < FAR - 1e-3
        y = np.linspace(-1, 1, ATLAS)[:, None] * _WRAP[1]
        shade = np.broadcast_to(1 - 0.15 * np.clip((np.degrees(y) - 35) / 30, 0, 1), (ATLAS, ATLAS))
        return unwrap(sample(np.ascontiguousarray(sheet[..., :3]), colour), colour[..., 2] * hit, shade.astype(np.float32))

    def _make_surfaces(self, pixels: np.ndarray, wrapped: np.ndarray, clear: np.ndarray) -> None:
        """The skin (photograph where it shows it, else the unwrapped face) and the relief in one vertex list."""
        width = SCALE * self.side
        arrays = self.head.arrays
        # Lips and lids fold in: what is hidden there wears what is in front of it, made for that by the sheet.
        folds = (arrays["mask_lips"].astype(np.float32) > 0.2) | (arrays["mask_eyelids"].astype(np.float32) > 0.2)
        for name in ("inner_lips", "left_eye", "right_eye", "left_socket", "right_socket", "mouth_inside"):
            folds[arrays[f"loop_{name}"].astype(int)] = True
        other_side = clear[arrays["mirror"].astype(int)]
        good = (clear > 0.3) | ((clear > 0.02) & (clear > 0.5 * other_side)) | folds

        def dress(triangles: np.ndarray) -> np.ndarray:
            out = np.where(good[triangles].all(1)[:, None], triangles, triangles + self._vertices)
            return np.ascontiguousarray(out, np.int32)

        direct = np.concatenate([np.clip(pixels, 1, self.side - 1) * SCALE, self.chin[:, None]], 1)
        other = np.concatenate([wrapped[:, :2] + [width, 0], self.chin[:, None]], 1)
        both = np.concatenate([direct, other]).astype(np.float32)
        self.skin, self.side_skin = Surface(dress(self.face_triangles), both), Surface(dress(self.side_triangles), both)
        flat = np.clip(self.relief.pixels, 1, self.side - 1) * SCALE
        front = np.concatenate([flat, np.full((len(flat), 1), _RELIEF + 1)], 1).astype(np.float32)
        self.front = Surface(self.relief.triangles, front)
        self.back = Surface(self.relief.back_triangles, front)

    def _make_inner(self, pixels: np.ndarray) -> None:
        """Eyeballs, teeth, tongue, the mouth's walls, and what the photograph shows between the lips."""
        head, part = self.head, self.head.part
        blocks, places = [], []
        for eye in (0, 1):
            origin, colours = eye_block(self.image, self.landmarks, eye)
            blocks.append(enlarge(colours))
            places.append(origin)
        whites = [np.quantile(b.reshape(-1, 3), 0.85, axis=0) for b in blocks]
        tones = mouth_tones(self.image, self.landmarks, self.landmarks[polygon(OUTER_LIPS), :2], np.mean(whites, 0).astype(np.float32))
        origin, colours, alpha = mouth_block(self.image, self.landmarks)
        blocks += [enlarge(colours), teeth_sheet(tones.teeth, tones.lips)]
        swatch = np.zeros((16, 48, 3), np.uint8)
        for k, tone in enumerate((tones.tongue, tones.cavity, tones.lips)):
            swatch[:, 16 * k : 16 * k + 16] = np.clip(tone, 0, 255)
        blocks.append(swatch)
        tall, wide = max(len(b) for b in blocks), sum(b.shape[1] + 4 for b in blocks)
        self.inner = np.zeros((tall, wide, 4), np.uint8)
        x, corner = 0, []
        for b in blocks:
            self.inner[: len(b), x : x + b.shape[1]] = np.dstack([b, np.full(b.shape[:2], 255, np.uint8)])
            corner.append(x)
            x += b.shape[1] + 4
        at = np.zeros((self._vertices, 3), np.float32)
        for eye, label in ((0, 2), (1, 1)):
            own = part == label
            block = Block(places[eye], (blocks[eye].shape[1], len(blocks[eye])), (corner[eye], 0))
            at[own] = np.concatenate([block.coordinates(pixels[own]), np.ones((int(own.sum()), 1))], 1)
        mean = head.mean
        upper = mean[part == 3]
        front = upper[:, 2].max()
        for label in (3, 4):
            own = part == label
            p = mean[own]
            along = np.arctan2(p[:, 0], p[:, 2] - (front - 0.28)) / np.radians(105)
            level = (p[:, 1] - p[:, 1].min()) / max(np.ptp(p[:, 1]), 1e-6)
            level = 1 - level if label == 3 else level
            w, h = blocks[3].shape[1], len(blocks[3])
            place = np.stack([np.clip((along + 1) / 2, 0.01, 0.99) * w + corner[3], np.clip(level, 0.02, 0.98) * h], 1)
            at[own] = np.concatenate([place, np.clip(np.exp(-(front - p[:, 2]) / 0.25), 0.2, 1)[:, None] * 0.92], 1)
        lips = mean[head.arrays["loop_inner_lips"].astype(int), 2].max()
        for own, k, reach in ((part == 5, 0, 0.45), (self._cavity_vertices(), 1, 0.3)):
            tag = np.clip(np.exp(-np.maximum(lips - 0.12 - mean[own, 2], 0) / reach), 0.08, 0.9)
            at[own] = np.stack([np.full(len(tag), corner[4] + 16 * k + 8.0), np.full(len(tag), 8.0), tag], 1)
        solid = head.triangles[(part[head.triangles] > 0).all(1)]
        self.inside = Surface(np.ascontiguousarray(np.concatenate([solid, self.cavity_triangles]), np.int32), at)
        self._make_patch(origin, alpha, (corner[2], 0), blocks[2].shape[:2])

    def _cavity_vertices(self) -> np.ndarray:
        own = np.zeros(self._vertices, bool)
        own[self.cavity_triangles] = True
        return own & (self.head.part == 0)

    def _make_patch(self, origin: np.ndarray, alpha: np.ndarray, place: tuple[int, int], size: tuple[int, int]) -> None:
        """The photograph between its lips as a sheet at the teeth, fixed to the skull."""
        rows, columns = size
        self.inner[:rows, place[0] : place[0] + columns, 3] = np.round(enlarge(alpha).clip(0, 1) * 255)
        block = Block(origin, (columns, rows), place)
        nx, ny = 16, 8
        grid = np.stack(np.meshgrid(np.linspace(0, columns, nx), np.linspace(0, rows, ny)), -1).reshape(-1, 2) / SCALE + origin
        loop = self.shape.pose(self.shape.source[self.head.arrays["loop_inner_lips"].astype(int)])
        at = project(loop)[:, 0] * self.side
        order = np.argsort(at)
        fit = np.polynomial.Polynomial.fit(at[order], (CAMERA_DISTANCE - loop[:, 2])[order], 4)
        depth = fit(np.clip(grid[:, 0], at.min(), at.max())) + 0.04
        u, v = (grid / self.side).T
        posed = np.stack([(u - 0.5) * depth / FOCAL, (0.5 - v) * depth / FOCAL, CAMERA_DISTANCE - depth], 1)
        self.patch_vertices = self.shape.unpose(posed).astype(np.float32)
        number = np.arange(nx * ny).reshape(ny, nx)
        quads = np.stack([number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]], -1).reshape(-1, 4)
        attributes = np.concatenate([block.coordinates(grid), np.ones((len(grid), 1))], 1).astype(np.float32)
        self.patch = Surface(np.ascontiguousarray(np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]), np.int32), attributes)

    # ---- rendering

    def head_layer(self, vertices: np.ndarray, euler: np.ndarray, trans: np.ndarray, size: int) -> np.ndarray:
        """The head alone [size, size, 4] float32 in 0..255, premultiplied; vertices [v, 3] of an expression."""
        turn = rotation(np.asarray(euler, np.float64)).astype(np.float32)
        shift = np.asarray(trans, np.float32)

        def pose(points: np.ndarray) -> np.ndarray:
            return points @ turn.T + shift

        def buffers() -> tuple[np.ndarray, np.ndarray]:
            return np.zeros((size, size, 3), np.float32), np.full((size, size), FAR, np.float32)

        front, back = self.relief.moved(vertices - self.shape.source)
        sheet = self._worn(vertices)
        posed = pose(vertices)

        at, depth = buffers()
        draw(pose(back), self.back, at, depth, cull=False)
        draw(np.concatenate([posed, posed]), self.side_skin, at, depth, cull=True)
        out = sample(self.sheet, at).astype(np.float32)
        relief = at[..., 2] > 1.5
        out[..., 3] = np.where(relief, out[..., 3], 255 * at[..., 2]) * (depth < FAR - 1e-3)
        out[..., :3] *= out[..., 3:] * np.where(relief, np.float32(0.9 / 255), np.float32(1 / 255))[..., None]

        at, depth = buffers()
        draw(posed, self.inside, at, depth, cull=False)
        hit = depth < FAR - 1e-3
        open_at = self._openings(posed, size)
        hit &= open_at
        inner = sample(self.inner, at)[..., :3] * at[..., 2:]
        out[hit, :3], out[hit, 3] = inner[hit], 255
        at, depth = buffers()
        draw(pose(self.patch_vertices), self.patch, at, depth, cull=False)
        self._over(out, sample(self.inner, at), ((depth < FAR - 1e-3) & open_at).astype(np.float32))

        at, depth = buffers()
        draw(np.concatenate([posed, posed]), self.skin, at, depth, cull=True)
        draw(pose(front), self.front, at, depth, cull=True)
        worn = sample(sheet, at)
        tag = at[..., 2]
        hit = depth < FAR - 1e-3
        skin_hit = hit & (tag < 1.5)
        out[skin_hit] = 0  # what shines through the fading chin is the neck, not the mouth behind it
        own = np.where(tag > 1.5, worn[..., 3] * np.float32(1 / 255), np.minimum(tag, 1))
        self._over(out, worn, own * hit)
        return out

    def _openings(self, posed: np.ndarray, size: int) -> np.ndarray:
        """[size, size] bool: within the outlines of lips and lids, the only places where the head's inside can be seen."""
        mask = np.zeros((size, size), np.uint8)
        for name in ("outer_lips", "left_eye", "right_eye"):
            outline = project(posed[self.head.arrays[f"loop_{name}"].astype(int)]) * size
            cv2.fillPoly(mask, [np.round(cv2.convexHull(outline.astype(np.float32))).astype(np.int32)], 1)
        return cv2.dilate(mask, np.ones((3, 3))) > 0

    @staticmethod
    def _over(out: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> None:
        """out [h, w, 4] premultiplied, covered by straight colours [h, w, >= 3] where alpha [h, w] in 0..1."""
        if colour.shape[-1] == 4 and alpha.dtype == np.float32 and not np.any((alpha > 0) & (alpha < 1)):
            alpha = alpha * (colour[..., 3] * np.float32(1 / 255))
        a = alpha[..., None]
        out *= 1 - a
        out[..., :3] += colour[..., :3] * a
        out[..., 3] += 255 * alpha

    def _worn(self, vertices: np.ndarray) -> np.ndarray:
        """The sheet with the lids' skin for how far they are shut."""
        shut = 1 - self.shape.apertures(vertices)[1:] / np.maximum(self.shape.apertures(self.shape.source)[1:], 1e-3)
        if (shut < 0.05).all():
            return self.sheet
        sheet = self.sheet.copy()
        for amount, (area, colours, weight) in zip(np.clip(shut, 0, 1), self.lids, strict=True):
            blend = amount * weight
            sheet[area][..., :3] = np.round(np.clip(sheet[area][..., :3] * (1 - blend) + colours * blend, 0, 255))
        return sheet

    def torso_layer(self, euler: np.ndarray, trans: np.ndarray, size: int) -> np.ndarray:
        """Torso [size, size, 4] float32 premultiplied: moved in the plane by what the head does to the neck."""
        if size not in self._torso:
            whole = np.dstack([self.layers.torso, self.layers.torso_alpha * 255]) * self._torso_keep()[..., None]
            own = self._left_over[..., None] * np.dstack([self.image, np.full(self.image.shape[:2], 255, np.uint8)])
            whole = np.round(own + whole * (1 - self._left_over[..., None])).astype(np.uint8)
            self._torso[size] = cv2.resize(whole, (size, size), interpolation=cv2.INTER_AREA)
        flow = self.torso_flow(euler, trans, size)
        y, x = np.mgrid[:size, :size].astype(np.float32)
        return cv2.remap(self._torso[size], x - flow[..., 0], y - flow[..., 1], cv2.INTER_LINEAR,
                         borderMode=cv2.BORDER_REPLICATE).astype(np.float32)

    def _torso_keep(self) -> np.ndarray:
        """[s, s] 0..1: takes from the torso's extension what is neither neck nor close to the torso: a head that turns
        away would leave it standing beside the jaw."""
        torso = np.isin(self.layers.segmap, (2, 4))
        chin, brow = self.landmarks[152, :2], self.landmarks[10, :2]
        axis = (brow - chin) / np.linalg.norm(brow - chin)
        height = float(np.linalg.norm(brow - chin))
        y, x = np.mgrid[: self.side, : self.side] + 0.5
        aside = np.abs(-(x - chin[0]) * axis[1] + (y - chin[1]) * axis[0])
        jaw = 0.5 * float(np.linalg.norm(self.landmarks[172, :2] - self.landmarks[397, :2]))
        near = np.clip(1.5 - ndimage.distance_transform_edt(~torso) / (0.02 * height), 0, 1)
        neck = np.clip((0.92 * jaw - aside) / (0.08 * jaw), 0, 1)
        return np.maximum(near, neck).astype(np.float32)

    def torso_flow(self, euler: np.ndarray, trans: np.ndarray, size: int) -> np.ndarray:
        """[size, size, 2] pixels: where the torso's parts move, all of the skull's way at the jaw, nothing at the shoulders."""
        marks = self.landmarks / self.side
        chin, brow = marks[152, :2], marks[10, :2]
        height = float(np.linalg.norm(chin - brow))
        grid = 33
        u = np.stack(np.meshgrid(np.linspace(0, 1, grid), np.linspace(0, 1, grid)), -1).reshape(-1, 2)
        depth = np.full(len(u), CAMERA_DISTANCE - self.shape.pose(PIVOT[None] + [0, 0, 0.3])[0, 2])
        x, y = (u[:, 0] - 0.5) * depth / FOCAL, (0.5 - u[:, 1]) * depth / FOCAL
        points = self.shape.unpose(np.stack([x, y, CAMERA_DISTANCE - depth], 1))
        moved = project(points @ rotation(np.asarray(euler, np.float64)).T + np.asarray(trans, np.float64)) - u
        down = np.clip((u[:, 1] - chin[1] + 0.12 * height) / (0.75 * height), 0, 1)
        aside = np.clip((np.abs(u[:, 0] - chin[0]) / height - 0.35) / 0.7, 0, 1)
        weight = (1 - down * down * (3 - 2 * down)) * (1 - aside * aside * (3 - 2 * aside))
        flow = (moved * weight[:, None]).reshape(grid, grid, 2).astype(np.float32) * size
        return cv2.resize(flow, (size, size), interpolation=cv2.INTER_CUBIC)

    def render(self, expression: np.ndarray, euler: np.ndarray, trans: np.ndarray, size: int | None = None, *,
               supersample: int = 2, background: np.ndarray | None = None, segmap: bool = True) -> dict[str, np.ndarray]:
        """The portrait with an expression [64] under a head pose.

        Returns uint8 [size, size(, 3)]: image, head (on black), head_mask, mask (the person's), and segmap (class ids) when asked.
        """
        size = self.size if size is None else size
        vertices = self.shape.vertices(expression)
        fine = self.head_layer(vertices, euler, trans, size * supersample)
        head = cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA)
        torso = self.torso_layer(euler, trans, size)
        behind = self._background(size) if background is None else background.astype(np.float32)
        body = torso[..., :3] + (1 - torso[..., 3:] / 255) * behind
        image = head[..., :3] + (1 - head[..., 3:] / 255) * body
        mask = 255 - (255 - head[..., 3]) * (255 - torso[..., 3]) / 255
        out = {"image": image, "head": head[..., :3], "head_mask": head[..., 3], "mask": mask}
        out = {k: np.round(np.clip(v, 0, 255)).astype(np.uint8) for k, v in out.items()}
        if segmap:
            out["segmap"] = self._segmap(head[..., 3], torso[..., 3], euler, trans, size)
        return out

    def _background(self, size: int) -> np.ndarray:
        return cv2.resize(self.layers.background, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)

    def _segmap(self, head: np.ndarray, torso: np.ndarray, euler: np.ndarray, trans: np.ndarray, size: int) -> np.ndarray:
        """uint8 [size, size]: class ids; the head's by a rigid turn of the photograph's classes, nearest texel."""
        at, depth = np.zeros((size, size, 3), np.float32), np.full((size, size), FAR, np.float32)
        turn = rotation(np.asarray(euler, np.float64)).astype(np.float32)
        for vertices, surface in ((self.shape.source, Surface(np.ascontiguousarray(self.face_triangles), self.skin.attributes[: self._vertices])),
                                  (self.relief.vertices, self.front)):
            draw(vertices @ turn.T + np.asarray(trans, np.float32), surface, at, depth, cull=True)
        ix, iy = (np.clip((at[..., k] / SCALE).astype(int), 0, self.side - 1) for k in (0, 1))
        classes = self.layers.segmap[iy, ix]
        classes = np.where(np.isin(classes, HEAD), classes, HEAD[1])
        flow = self.torso_flow(euler, trans, size) * (self.side / size)
        y, x = np.mgrid[:size, :size].astype(np.float32)
        scale = self.side / size
        body = cv2.remap(self.layers.segmap, (x + 0.5) * scale - 0.5 - flow[..., 0], (y + 0.5) * scale - 0.5 - flow[..., 1],
                         cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        body = np.where(np.isin(body, (2, 4)), body, 2)
        return np.where(head > 127, classes, np.where(torso > 127, body, 0)).astype(np.uint8)

    # ---- examples

    def example(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One teacher example; the source is always the photograph, and about one target in seven is it again."""
        fit = self.fit
        source_euler, source_trans = np.asarray(fit.euler, np.float64), np.asarray(fit.trans, np.float64)
        euler, trans, expression = source_euler, source_trans, np.asarray(fit.expression, np.float32)
        if rng.random() >= STILL:
            euler, trans = draw_pose(rng, source_euler, source_trans)
            expression = draw_expression(rng, self.head.names, expression)
        out = dict(self._source())
        drawn = self.render(expression, euler, trans, segmap=False)
        out |= {"target": drawn["image"], "target_head": drawn["head"], "target_head_mask": drawn["head_mask"],
                "target_mask": drawn["mask"]}
        plain = self.head.vertices(fit.identity, expression)
        posed = plain @ rotation(euler).T + trans
        out["target_camera"] = from_pose(euler, trans).astype(np.float32)
        out["target_keypoints"] = self._keypoints(posed)
        out["pncc_target"] = draw_pncc(self.head, plain, self.pncc_size)
        out["target_expression"] = expression
        out["target_euler"], out["target_trans"] = np.float32(euler), np.float32(trans)
        shown = self.shape.vertices(expression) @ rotation(euler).T + trans
        out["weight"] = self._weight(shown, drawn["head_mask"])
        return out

    def _source(self) -> dict[str, np.ndarray]:
        """The part of an example that never changes."""
        if self._fixed is None:
            fit, size = self.fit, (self.size, self.size)
            plain = self.head.vertices(fit.identity, np.asarray(fit.expression, np.float32))
            neutral = self.head.vertices(fit.identity, np.zeros(len(self.head.expression), np.float32))
            euler, trans = np.asarray(fit.euler, np.float64), np.asarray(fit.trans, np.float64)
            self._fixed = {
                "source": cv2.resize(self.image, size, interpolation=cv2.INTER_AREA),
                "source_segmap": cv2.resize(self.layers.segmap, size, interpolation=cv2.INTER_NEAREST),
                "torso": cv2.resize(self.layers.torso, size, interpolation=cv2.INTER_AREA),
                "background": cv2.resize(self.layers.background, size, interpolation=cv2.INTER_AREA),
                "source_camera": from_pose(euler, trans).astype(np.float32),
                "source_keypoints": self._keypoints(plain @ rotation(euler).T + trans),
                "pncc_canonical": draw_pncc(self.head, neutral, self.pncc_size),
                "pncc_source": draw_pncc(self.head, plain, self.pncc_size),
                "identity": np.asarray(fit.identity, np.float32),
                "source_expression": np.asarray(fit.expression, np.float32),
                "source_euler": np.float32(euler), "source_trans": np.float32(trans),
            }  # fmt: skip
        return self._fixed

    def _keypoints(self, posed: np.ndarray) -> np.ndarray:
        """Posed vertices -> the 68 key points [68, 3] in -1..1 image coordinates, z = 0."""
        points = self.head.landmarks(posed)[self.head.arrays["landmarks_68"]]
        flat = np.clip(2 * project(points) - 1, -1, 1)
        return np.concatenate([flat, np.zeros((68, 1))], 1).astype(np.float32)

    def _weight(self, posed: np.ndarray, head_mask: np.ndarray) -> np.ndarray:
        """Loss weights uint8 [size, size], 16 = 1: lips, what is between them and eyes 6.5, other head 1.5."""
        flat = project(self.head.landmarks(posed)) * self.size
        mask = np.zeros((self.size, self.size), np.uint8)
        for contours in (OUTER_LIPS, *EYES):
            hull = cv2.convexHull(flat[polygon(contours)].astype(np.float32))
            cv2.fillPoly(mask, [np.round(hull).astype(np.int32)], 255)
        grow = max(3, self.size // 48) | 1
        mask = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (grow, grow)))
        soft = cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), self.size / 160)
        head = head_mask.astype(np.float32) / 255
        return np.round(16 * (1 + 0.5 * head + 5 * soft * head)).astype(np.uint8)
