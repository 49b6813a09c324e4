"""Soft-edged sheets laid over the head: hair, beards, scarves, caps, clothes, glasses.

A `Layer` is a mesh at rest with its own RGBA texture. Sheets of hair start from a scalp grid: rays from inside the
skull, azimuth round a crown and elevation down from it, so that a strand is a column of the grid that follows the skull
to the hairline and may go on over the forehead or hang down from there.
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from scipy.spatial import cKDTree

from data_pipelines.head import SKIN, Head, rasterize, vertex_normals
from data_pipelines.people_canvas import Canvas, smooth_noise

AZIMUTHS, RINGS, TAIL = 80, 20, 12  # columns; rows over the skull; rows beyond the hairline
CENTRE = np.array([0.0, 0.3, -0.83])
# Hairline of the mean head as points from forehead to nape along its left side (mirrored for the right).
HAIRLINE = np.array([
    (0.0, 0.83, 0.08), (0.22, 0.83, 0.02), (0.42, 0.72, -0.10), (0.52, 0.50, -0.22), (0.60, 0.30, -0.40),
    (0.66, 0.02, -0.58), (0.70, 0.10, -0.78), (0.68, -0.10, -1.06), (0.55, -0.40, -1.28), (0.3, -0.62, -1.40),
    (0.0, -0.66, -1.43),
])  # fmt: skip


@dataclass
class Layer:
    """One sheet of cloth, hair or wire.

    rest [v, 3]; triangles [t, 3]; uv [v, 2] in texture pixels; texture [h, w, 4] squared sRGB and coverage; kind is the
    segmentation class; static [v] as in the head; shade [v] share of the sky seen. bind [v], length [v]: the sheet lies
    that far over those vertices of the head instead of at rest. gloss is the strength of highlights; tangent [v, 3] the
    direction of strands. grid (rows, columns): vertices are a regular grid over the texture. casts: throws shadows;
    thin: both sides are seen.
    """

    rest: np.ndarray
    triangles: np.ndarray
    uv: np.ndarray
    texture: np.ndarray
    kind: int
    static: np.ndarray
    shade: np.ndarray
    bind: np.ndarray | None = None
    length: np.ndarray | None = None
    gloss: float = 0.0
    tangent: np.ndarray | None = None
    grid: tuple[int, int] | None = None
    casts: bool = False
    thin: bool = False

    @cached_property
    def normals(self) -> np.ndarray:
        """Unit normals at rest [v, 3]."""
        return vertex_normals(self.rest, self.triangles)

    @cached_property
    def sheen(self) -> np.ndarray:
        """What a highlight is multiplied with [h, w, 3]: half the colour of the strand, half the light's."""
        return np.sqrt(self.texture[..., :3] + 0.02)


def grid_triangles(rows: int, columns: int, wrap: bool) -> np.ndarray:
    """Triangles of a [rows, columns] grid of vertices, row-major; `wrap` joins the last column to the first."""
    index = np.arange(rows * columns).reshape(rows, columns)
    if wrap:
        index = np.concatenate([index, index[:, :1]], 1)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    return np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)]).astype(
        np.int32
    )


def grid_normals(grid: np.ndarray) -> np.ndarray:
    """Outward normals of a wrapped grid [rows, columns, 3] whose rows go down from a crown."""
    down = np.gradient(grid, axis=0)
    across = (np.roll(grid, -1, 1) - np.roll(grid, 1, 1)) / 2
    n = np.cross(down, across)
    return n / np.maximum(np.linalg.norm(n, axis=-1, keepdims=True), 1e-9)


class Scalp:
    """Rays from the middle of the skull: where they leave the mean head, and how that follows a person's vertices."""

    def __init__(self, head: Head, canvas: Canvas, tilt: float, lean: float):
        """tilt, lean: how far (radians) the crown lies behind and to the left of straight up."""
        up = np.array([np.sin(lean), np.cos(lean) * np.cos(tilt), -np.cos(lean) * np.sin(tilt)])
        front = np.array([0, 0, 1.0]) - up[2] * up
        front /= np.linalg.norm(front)
        self.frame = np.stack([np.cross(up, front), up, front])  # rows: side (+x), up, front
        skin = (head.part == SKIN) & ~canvas.ears
        vertices = head.mean
        local = (vertices - CENTRE) @ self.frame.T
        radius = np.linalg.norm(local, axis=1)
        azimuth = np.arctan2(local[:, 0], local[:, 2])
        elevation = np.arcsin(np.clip(local[:, 1] / np.maximum(radius, 1e-6), -1, 1))
        tri = head.triangles[skin[head.triangles].all(1)]
        height, width = 128, 256
        tri = tri[np.ptp(azimuth[tri], axis=1) < 2.0]
        depth = 100 - radius
        flat = np.stack([azimuth / (2 * np.pi) * depth, elevation / np.pi * depth, 10 - depth], 1)
        (image,), buffer = rasterize(
            flat, tri, [np.repeat(radius[:, None], 3, 1)], width, focal=1.0, depth_range=(90, 110)
        )
        del height
        hit = (buffer < 109).astype(np.float32)
        value = image[..., 0] * hit
        for sigma in (2.0, 4.0, 8.0, 24.0):  # close the holes of ears and seam from their surroundings
            pad = lambda a: np.concatenate([a[:, -64:], a, a[:, :64]], 1)  # noqa: E731
            w = cv2.GaussianBlur(pad(hit), (0, 0), sigma)[:, 64:-64]
            v = cv2.GaussianBlur(pad(value), (0, 0), sigma)[:, 64:-64]
            fill = (hit == 0) & (w > 0.2)
            value[fill] = v[fill] / w[fill]
            hit[fill] = 1
        pole = value[:8][hit[:8] > 0].mean() if (hit[:8] > 0).any() else 0.9
        value[hit == 0] = pole
        self.radius = cv2.GaussianBlur(np.concatenate([value[:, -64:], value, value[:, :64]], 1), (0, 0), 2.5)[
            :, 64:-64
        ]
        self.azimuth = (np.arange(AZIMUTHS) / AZIMUTHS - 0.5) * 2 * np.pi
        line = (np.concatenate([HAIRLINE, HAIRLINE[1:-1] * [-1, 1, 1]]) - CENTRE) @ self.frame.T
        line_azimuth = np.arctan2(line[:, 0], line[:, 2])
        line_elevation = np.arcsin(line[:, 1] / np.linalg.norm(line, axis=1))
        order = np.argsort(line_azimuth)
        self.hairline = np.interp(self.azimuth, line_azimuth[order], line_elevation[order], period=2 * np.pi)
        self.skin = np.flatnonzero(skin)
        self.tree = cKDTree(vertices[self.skin])
        self.mean = vertices

        self.position = canvas.position

    @cached_property
    def base(self) -> np.ndarray:
        """The mean's skull under the hair grid [RINGS + TAIL, AZIMUTHS, 3]; the tail rows stay at the hairline."""
        top = np.pi / 2 * 0.995
        elevation = top + (self.hairline - top) * np.linspace(0, 1, RINGS)[:, None]
        elevation = np.concatenate([elevation, np.repeat(self.hairline[None], TAIL, 0)])
        return self.points(np.broadcast_to(self.azimuth, elevation.shape), elevation)

    @cached_property
    def cover(self) -> np.ndarray:
        """Share of each texel of the face square that lies above the hairline [FACE, FACE] float32."""
        local = (self.position - CENTRE) @ self.frame.T
        elevation = np.arcsin(np.clip(local[..., 1] / np.maximum(np.linalg.norm(local, axis=-1), 1e-6), -1, 1))
        line = np.interp(np.arctan2(local[..., 0], local[..., 2]), self.azimuth, self.hairline, period=2 * np.pi)
        cover = np.clip((elevation - line) / 0.08 - 0.2, 0, 1) * (self.position != 0).any(-1)
        return cv2.GaussianBlur(cover.astype(np.float32), (0, 0), 3)

    def points(self, azimuth: np.ndarray, elevation: np.ndarray) -> np.ndarray:
        """Angles (any shape) -> points on the mean skull [.., 3]."""
        x = ((azimuth / (2 * np.pi) + 0.5) * 256).astype(np.float32) % 256
        y = ((0.5 - elevation / np.pi) * 256).astype(np.float32)
        r = cv2.remap(self.radius, x - 0.5, y - 0.5, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        local = np.stack(
            [np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)], -1
        )
        return CENTRE + (local * r[..., None]) @ self.frame

    def follow(self, points: np.ndarray, vertices: np.ndarray) -> np.ndarray:
        """Move points [n, 3] near the mean's skin as a person's neutral vertices [v, 3] differ from the mean's."""
        distance, index = self.tree.query(points, k=6)
        weight = 1 / (distance + 0.05) ** 2
        weight /= weight.sum(1, keepdims=True)
        near = self.skin[index]
        return points + np.einsum("nk,nkc->nc", weight, vertices[near] - self.mean[near])


@dataclass
class Cut:
    """Shape of a head of hair (or cloth): thickness, how far strands go on beyond the hairline, how they hang."""

    top: float = 0.12  # thickness on top, head units
    side: float = 0.08
    back: float = 0.1
    fringe: float = 0.0  # how far (radians) strands run down over the forehead
    fringe_side: float = 0.0  # where (radians) the fringe is centred
    hang_side: float = 0.0  # how far (head units) strands hang below the hairline
    hang_back: float = 0.0
    hang_from: float = 1.1  # azimuth (radians) where the hanging begins
    flare: float = 0.05  # outward per unit of hanging
    rough: float = 0.03  # displacement
    cells: tuple[int, int] = (6, 14)  # bumps of the displacement over rows, columns
    line: float = 0.0  # hairline raised over the whole forehead, radians
    recede: float = 0.0  # hairline raised at the temples, radians
    lift: float = 0.0  # extra thickness at the front of the top


def hair_grid(rng: np.random.Generator, scalp: Scalp, vertices: np.ndarray, cut: Cut) -> np.ndarray:
    """Grid [RINGS + TAIL, AZIMUTHS, 3] of the outer surface of a head of hair on a person's neutral vertices."""
    a = scalp.azimuth
    front = np.exp(-((a / 0.75) ** 2))
    back = 0.5 - 0.5 * np.cos(a)
    side = np.sin(a) ** 2
    line = (
        scalp.hairline
        + cut.line * front
        + cut.recede * np.exp(-(((np.abs(a) - 0.45) / 0.3) ** 2))
        + rng.normal(0, 0.01, AZIMUTHS)
    )
    t = np.linspace(0, 1, RINGS)[:, None]
    elevation = np.pi / 2 * 0.995 + (line - np.pi / 2 * 0.995) * t
    hang = np.interp(
        np.abs(a),
        [cut.hang_from - 0.25, cut.hang_from + 0.1, 2.0, np.pi],
        [0, cut.hang_side, cut.hang_side, cut.hang_back],
    )
    fringe = cut.fringe * np.exp(-(((a - cut.fringe_side) / 0.6) ** 4)) * (hang < 0.3)
    s = np.linspace(0, 1, TAIL + 1)[1:, None]
    over = line - fringe * s - (hang > 0) * 0.12 * s
    grid = scalp.points(
        np.broadcast_to(a, (RINGS + TAIL, AZIMUTHS)), np.concatenate([elevation, over]).astype(np.float64)
    )
    grid = scalp.follow(grid.reshape(-1, 3), vertices).reshape(grid.shape)
    normal = grid_normals(grid)
    normal[:3] = scalp.frame[1]
    thick = cut.side * side + (cut.back * back + cut.lift * front) * (1 - 0.5 * side)
    down = np.concatenate([t, 1 + 0 * s])
    base = cut.top * (1 - down**1.5) + thick * np.clip(down * 1.6, 0, 1)
    ends = np.interp(down[:, 0], [0, 0.72, 1], [1, 1, 0])[:, None]
    stays = np.clip(hang * 4 + fringe * 3, 0, 1)  # strands that go on keep their thickness at the hairline
    base = base * (ends + (1 - ends) * stays) + 0.012
    noise = smooth_noise(rng, (RINGS + TAIL, AZIMUTHS + 16), cut.cells)
    ramp = np.linspace(0, 1, 16)
    noise[:, :16] = noise[:, :16] * ramp + noise[:, AZIMUTHS:] * (1 - ramp)
    noise = noise[:, :AZIMUTHS]
    base = np.maximum(base + cut.rough * noise * np.clip(base / 0.06, 0, 1), 0.022)
    base[RINGS:] = np.maximum(base[RINGS:] * (1 - 0.4 * s * (fringe > 0.02)), 0.035 * np.clip(fringe / 0.05, 0.6, 1))
    out = grid + normal * base[..., None]
    # hanging part: straight down from the hairline with a little flare away from the head's axis
    start = out[RINGS - 1]
    away = start - np.array([0, 0, -0.88])
    away[:, 1] = 0
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    push = np.clip(0.86 - np.abs(start[:, 0]), 0, 0.3) * (np.abs(a) < 2.2) * np.sign(start[:, 0])  # clear of the ears
    fall = start + s[..., None] * hang[:, None] * np.array([0, -1.0, 0])
    fall = fall + away * (cut.flare * s * hang + np.sin(np.clip(s * 2.2, 0, np.pi)) * 0.05)[..., None]
    fall[..., 0] += push * np.clip(s * hang * 3.0, 0, 1)
    fall += normal[RINGS - 1] * (cut.rough * noise[RINGS:] * np.clip(hang, 0, 1))[..., None]
    take = np.clip(hang / 0.2, 0, 1)[:, None]
    out[RINGS:] = out[RINGS:] * (1 - take) + fall * take
    return out


def strand_texture(
    rng: np.random.Generator,
    colour: np.ndarray,
    streak: float,
    curly: float,
    thin: float,
    ends: np.ndarray,
    tips: np.ndarray | None = None,
    fuzz: bool = False,
) -> np.ndarray:
    """RGBA [128, 384, 4] of strands running down the rows. `ends` [384] row share where each column's strands stop."""
    height, width = 128, 384
    cells = (100, 380) if fuzz else (int(3 + 40 * curly), int(150 - 90 * curly))
    fine = smooth_noise(rng, (height, width), cells)
    broad = smooth_noise(rng, (height, width), (int(3 + 12 * curly), 36))
    tone = np.clip(1 + streak * (0.6 * fine + 0.5 * broad), 0.35, 1.9)
    rows = np.linspace(0, 1, height)[:, None]
    body = colour if tips is None else colour + (tips - colour) * np.clip((rows[..., None] - 0.45) * 3, 0, 1)
    rgb = np.clip(body * tone[..., None], 0.01, 1) ** 2
    edge = ends + 0.04 * fine[0]
    alpha = np.clip((edge - rows) * 9, 0, 1)
    if thin > 0:
        alpha = alpha * np.clip(0.5 + (fine + 0.4 * broad + 1.0 - 2.2 * thin) * 1.6, 0, 1)
    return np.concatenate([np.broadcast_to(rgb, (height, width, 3)), alpha[..., None]], 2).astype(np.float32)


def grid_layer(grid: np.ndarray, texture: np.ndarray, kind: int, gloss: float) -> Layer:
    """A wrapped grid [rows, columns, 3] as a layer; strands run along its rows."""
    rows, columns, _ = grid.shape
    closed = np.concatenate([grid, grid[:, :1]], 1)
    v, u = np.mgrid[:rows, : columns + 1].astype(np.float32)
    uv = np.stack([u / columns * (texture.shape[1] - 1), v / (rows - 1) * (texture.shape[0] - 1)], -1).reshape(-1, 2)
    tangent = np.gradient(closed, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=-1, keepdims=True), 1e-9)
    points = closed.reshape(-1, 3).astype(np.float32)
    flat = np.zeros(len(points), np.float32)
    return Layer(
        points, grid_triangles(rows, columns + 1, False), uv, texture, kind, flat, flat + np.float32(0.8), gloss=gloss,
        tangent=tangent.reshape(-1, 3).astype(np.float32), grid=(rows, columns + 1),
    )  # fmt: skip
