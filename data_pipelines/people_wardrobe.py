"""Clothes, collars, glasses, caps and scarves as layers."""

import cv2
import numpy as np

from data_pipelines.head import LEFT_EYE, RIGHT_EYE, SKIN, Head
from data_pipelines.people_canvas import Canvas, smooth_noise
from data_pipelines.people_layers import RINGS, TAIL, Cut, Layer, Scalp, grid_layer, grid_triangles, hair_grid
from data_pipelines.people_scene import any_colour

CLOTHES_KIND, OTHERS_KIND = 4, 5
CLOTH = 384  # pixels of a clothes texture
CLOTH_X, CLOTH_Y = 1.9, (-2.3, -0.75)  # what it spans, head units; beyond, its border is repeated


def cloth_pattern(rng: np.random.Generator) -> np.ndarray:
    """Colour of a cloth [CLOTH, CLOTH, 3] sRGB: plain, striped, checked, mottled."""
    colour, second = any_colour(rng), any_colour(rng)
    yy, xx = np.mgrid[:CLOTH, :CLOTH].astype(np.float32)
    out = np.empty((CLOTH, CLOTH, 3), np.float32)
    out[:] = colour
    kind = rng.choice(["plain", "stripes", "check", "mottled"], p=[0.5, 0.2, 0.14, 0.16])
    period = rng.uniform(6, 30)
    if kind == "stripes":
        angle = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)])
        wave = np.sin((xx * np.cos(angle) + yy * np.sin(angle)) * 2 * np.pi / period)
        out += (second - colour) * np.clip(wave * 3 + rng.uniform(-2, 1), 0, 1)[..., None]
    elif kind == "check":
        wave = (
            np.clip(np.sin(xx * 2 * np.pi / period) * 4, 0, 1) * 0.5
            + np.clip(np.sin(yy * 2 * np.pi / period) * 4, 0, 1) * 0.5
        )
        out += (second - colour) * wave[..., None]
    elif kind == "mottled":
        cells = int(rng.integers(6, 40))
        out += (second - colour) * np.clip(smooth_noise(rng, (CLOTH, CLOTH), (cells, cells)) * 2, 0, 1)[..., None]
    folds = (
        1
        + 0.08 * smooth_noise(rng, (CLOTH, CLOTH), (4, 9))
        + 0.03 * rng.standard_normal((CLOTH, CLOTH)).astype(np.float32)
    )
    return np.clip(out * folds[..., None], 0.01, 1)


def cloth_pixels(points: np.ndarray) -> np.ndarray:
    """Rest points [n, 3] -> pixels of a clothes texture [n, 2], seen from the front."""
    x = (points[:, 0] / (2 * CLOTH_X) + 0.5) * CLOTH
    y = (CLOTH_Y[1] - points[:, 1]) / (CLOTH_Y[1] - CLOTH_Y[0]) * CLOTH
    return np.stack([x, y], 1).astype(np.float32)


def clothes_layers(rng: np.random.Generator, head: Head, canvas: Canvas, neutral: np.ndarray) -> list[Layer]:
    """A garment over the shoulders with a neckline, sometimes a jacket over it, and a collar."""
    low = (head.part == SKIN) & (head.mean[:, 1] < -1.0) & (canvas.static > 0.3)
    triangles = head.triangles[low[head.triangles].all(1)]
    index, inverse = np.unique(triangles, return_inverse=True)
    faces = inverse.reshape(-1, 3).astype(np.int32)
    from_mean = head.mean[index]
    shade = np.clip(0.55 + (-1.0 - from_mean[:, 1]) * 0.6, 0.45, 1.0).astype(np.float32)
    neck = neutral[(head.part == SKIN) & (np.abs(head.mean[:, 1] + 1.15) < 0.12) & (np.abs(head.mean[:, 0]) < 0.9)]
    half = np.abs(neck[:, 0]).max()
    normals = _outward(neutral[index])
    pixels = cloth_pixels(neutral[index])
    kind = rng.choice(["crew", "vee", "shirt", "turtle", "scoop"], p=[0.3, 0.16, 0.3, 0.12, 0.12])
    depth = {
        "crew": 0.18,
        "vee": rng.uniform(0.4, 0.8),
        "shirt": rng.uniform(0.2, 0.5),
        "turtle": -0.2,
        "scoop": rng.uniform(0.3, 0.55),
    }[kind]
    width = {"crew": 1.15, "vee": 1.2, "shirt": 1.0, "turtle": 1.0, "scoop": rng.uniform(1.2, 1.7)}[kind] * half
    out = []

    def garment(texture: np.ndarray, alpha: np.ndarray, thickness: float) -> None:
        rgba = np.concatenate([np.clip(texture, 0.01, 1) ** 2, alpha[..., None]], 2).astype(np.float32)
        out.append(
            Layer(
                (neutral[index] + normals * thickness).astype(np.float32),
                faces,
                pixels,
                rgba,
                CLOTHES_KIND,
                np.maximum(canvas.static[index], 0.6),
                shade=shade,
            )
        )

    yy, xx = np.mgrid[:CLOTH, :CLOTH].astype(np.float32)
    x = (xx / CLOTH - 0.5) * 2 * CLOTH_X
    y = CLOTH_Y[1] - yy / CLOTH * (CLOTH_Y[1] - CLOTH_Y[0])
    top = -1.2 + rng.normal(0, 0.03)
    reach = np.clip(1 - np.abs(x) / width, 0, 1)
    line = top - depth * (reach if kind in ("vee", "shirt") else np.sqrt(np.clip(1 - (x / width) ** 2, 0, 1)))
    cloth = cloth_pattern(rng)
    alpha = np.clip((line - y) * 40, 0, 1)
    band = np.exp(-(((line - y) / 0.05) ** 2)) * (kind in ("crew", "scoop"))
    garment(cloth * (1 - 0.35 * band[..., None]), alpha, 0.035)
    if kind in ("shirt", "crew", "turtle") and rng.random() < 0.4:
        jacket = cloth_pattern(rng) * rng.uniform(0.3, 1)
        opening = rng.uniform(0.25, 0.6) * np.clip((y + 2.6) / 1.4, 0.02, 1)
        edge = np.clip((np.abs(x) - opening) * 40, 0, 1)
        lapel = np.exp(-((np.abs(x) - opening - 0.28 * np.clip((y + 2.3) / 1.1, 0.1, 1)) ** 2) / 0.0005)
        garment(jacket * (1 - 0.4 * lapel[..., None]), edge * np.clip((top + 0.1 - y) * 40, 0, 1), 0.08)
    if kind in ("turtle", "shirt"):
        out.append(_collar(rng, neutral, head, cloth, kind))
    return out


def _outward(points: np.ndarray) -> np.ndarray:
    away = points - np.array([0, 0, -0.88])
    away[:, 1] = 0.5
    return away / np.linalg.norm(away, axis=1, keepdims=True)


def _collar(rng: np.random.Generator, neutral: np.ndarray, head: Head, cloth: np.ndarray, kind: str) -> Layer:
    """A ring of cloth round the neck: a roll neck or the folded collar of a shirt, open in front."""
    near = (head.part == SKIN) & (np.abs(head.mean[:, 1] + 1.15) < 0.2) & (np.abs(head.mean[:, 0]) < 0.7)
    ring = neutral[near]
    centre = 0.5 * (ring.max(0) + ring.min(0))
    columns = 48
    gap = 0.0 if kind == "turtle" else rng.uniform(0.12, 0.5)
    a = np.linspace(gap, 2 * np.pi - gap, columns)
    # the widest skin near each direction, so that the cloth stays outside of it
    turn = np.arctan2(ring[:, 0] - centre[0], ring[:, 2] - centre[2])
    away = np.abs(np.angle(np.exp(1j * (turn[None] - a[:, None])))) < 0.35
    reach = np.where(away, np.hypot(ring[:, 0] - centre[0], ring[:, 2] - centre[2]), 0).max(1)
    reach = np.convolve(np.pad(reach, 3, "edge"), np.ones(7) / 7, "valid")
    if kind == "turtle":
        profile = [(1.12, -0.5), (1.06, -0.2), (1.0, 0.1), (1.04, 0.14), (1.1, 0.0), (1.2, -0.3)]
    else:
        high = rng.uniform(0.0, 0.12)
        profile = [(1.0, -0.35), (1.0, high), (1.08, high + 0.03), (1.32, -0.22 - rng.uniform(0, 0.15))]
    grid = np.stack(
        [
            np.stack(
                [
                    centre[0] + s * reach * np.sin(a),
                    -1.25 + h + 0.06 * (1 - np.cos(a)),
                    centre[2] + s * reach * np.cos(a),
                ],
                -1,
            )
            for s, h in profile
        ]
    )
    if kind == "shirt":
        point = np.exp(-((np.minimum(a - gap, 2 * np.pi - gap - a) / 0.35) ** 2))
        grid[-1, :, 1] -= 0.18 * point
    points = grid.reshape(-1, 3).astype(np.float32)
    v, u = np.mgrid[: len(profile), :columns].astype(np.float32)
    uv = np.stack([u / columns * CLOTH, v * 14 + 8], -1).reshape(-1, 2)
    rgba = np.concatenate([cloth**2, np.ones((CLOTH, CLOTH, 1))], 2).astype(np.float32)
    shade = np.repeat(np.linspace(0.5, 1, len(profile)), columns).astype(np.float32)
    layer = Layer(
        points,
        grid_triangles(len(profile), columns, False),
        uv,
        rgba,
        CLOTHES_KIND,
        np.full(len(points), 0.95, np.float32),
        shade=shade,
    )
    layer.thin = True
    return layer


def tube(path: np.ndarray, radius: float, closed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Square tube along a path [n, 3] -> vertices, triangles."""
    along = np.gradient(path, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    side = np.cross(along, [0.3, 0.2, 1.0])
    side /= np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-9)
    other = np.cross(along, side)
    rings = np.stack([path + radius * (side * c + other * s) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))], 1)
    if closed:
        rings = np.concatenate([rings, rings[:1]])
    return rings.reshape(-1, 3), grid_triangles(len(rings), 4, True)


def glasses_layers(rng: np.random.Generator, head: Head, neutral: np.ndarray) -> list[Layer]:
    """Frames round both eyes, a bridge, temples to the ears; sometimes dark lenses."""
    colour = rng.uniform(0.02, 0.9, 3) if rng.random() < 0.35 else np.full(3, rng.uniform(0.02, 0.25))
    thick = rng.choice([0.010, 0.018, 0.028])
    rx, ry, power = rng.uniform(0.24, 0.31), rng.uniform(0.17, 0.25), rng.choice([2.0, 3.0, 5.0])
    a = np.linspace(-np.pi, np.pi, 32, endpoint=False)
    parts, rims = [], []
    front = neutral[head.part == SKIN][:, 2].max()
    for label in (LEFT_EYE, RIGHT_EYE):
        own = neutral[head.part == label]
        centre = 0.5 * (own.min(0) + own.max(0))
        sign = np.sign(centre[0])
        z = own[:, 2].max() + 0.13
        c, s = np.cos(a), np.sin(a)
        shape = np.stack([np.sign(c) * np.abs(c) ** (2 / power) * rx, np.sign(s) * np.abs(s) ** (2 / power) * ry], 1)
        x = centre[0] + 0.03 * sign + shape[:, 0]
        rim = np.stack([x, centre[1] - 0.02 + shape[:, 1], z - 0.18 * np.clip(np.abs(x) - 0.1, 0, 1) ** 1.5], 1)
        rims.append(rim)
        parts.append(tube(rim, thick, True))
        outer = rim[np.argmax(rim[:, 0] * sign)]
        ear = np.array([sign * 0.74, centre[1] + 0.02, -0.9])
        parts.append(tube(np.linspace(outer + np.array([0, 0.05, 0]), ear, 10), thick, False))
    inner = [r[np.argmin(np.abs(r[:, 0]))] for r in rims]
    t = np.linspace(0, 1, 8)[:, None]
    bridge = (
        inner[0] + (inner[1] - inner[0]) * t + np.array([0, 0.03, 0.0]) * np.sin(np.pi * t) + np.array([0, 0.06, 0.02])
    )
    bridge[:, 2] = np.minimum(bridge[:, 2], front)
    parts.append(tube(bridge, thick, False))
    points: list[np.ndarray] = []
    faces: list[np.ndarray] = []
    for p, f in parts:
        faces.append(f + sum(len(q) for q in points))
        points.append(p)
    stacked = np.concatenate(points).astype(np.float32)
    texture = np.empty((4, 4, 4), np.float32)
    texture[..., :3] = colour**2
    texture[..., 3] = 1
    frame = Layer(
        stacked,
        np.concatenate(faces),
        np.full((len(stacked), 2), 1.5, np.float32),
        texture,
        OTHERS_KIND,
        np.zeros(len(stacked), np.float32),
        gloss=rng.uniform(0.1, 0.6),
        shade=np.ones(len(stacked), np.float32),
    )
    out = [frame]
    glass = np.concatenate([np.concatenate([r.mean(0)[None], r]) for r in rims]).astype(np.float32)
    fan = np.concatenate(
        [np.stack([np.zeros(32, int), 1 + np.arange(32), 1 + (np.arange(32) + 1) % 32], 1) + 33 * k for k in (0, 1)]
    )
    lens = np.empty((4, 4, 4), np.float32)
    lens[..., :3] = rng.uniform(0.2, 0.8)
    lens[..., 3] = rng.uniform(0.0, 0.12)
    out.insert(
        0,
        Layer(
            glass,
            fan.astype(np.int32),
            np.full((len(glass), 2), 1.5, np.float32),
            lens,
            OTHERS_KIND,
            np.zeros(len(glass), np.float32),
            gloss=0.3,
            shade=np.ones(len(glass), np.float32),
        ),
    )
    return out


def cap_layers(rng: np.random.Generator, scalp: Scalp, neutral: np.ndarray) -> list[Layer]:
    """A knitted cap, or a cap with a peak."""
    colour = any_colour(rng)
    base = scalp.follow(scalp.base.reshape(-1, 3), neutral).reshape(RINGS + TAIL, -1, 3)[: RINGS - 1]
    away = base - np.array([0, 0.3, -0.83])
    away /= np.linalg.norm(away, axis=-1, keepdims=True)
    drop = np.linspace(0, 1, len(base))[:, None, None]
    grid = base + away * (rng.uniform(0.1, 0.2) * (1 - drop**6) + 0.075 * drop**6)
    grid[..., 1] -= rng.uniform(0.0, 0.12) * drop[..., 0] ** 4
    cells = cv2.resize(rng.standard_normal((2, 2)).astype(np.float32), (384, 128))
    knit = 1 + rng.uniform(0, 0.2) * np.sin(np.arange(384) * 0.8)[None, :, None] + 0.05 * cells[..., None]
    rgb = np.clip(colour * knit, 0.01, 1) ** 2
    texture = np.concatenate([np.broadcast_to(rgb, (128, 384, 3)), np.ones((128, 384, 1))], 2).astype(np.float32)
    cap = grid_layer(grid, texture, OTHERS_KIND, 0.0)
    cap.casts = True
    out = [cap]
    if rng.random() < 0.5:
        columns = np.flatnonzero(np.abs(scalp.azimuth) < 0.8)
        edge = grid[-1, columns] + np.array([0, 0.03, 0])
        t = np.linspace(0, 1, 6)[:, None, None]
        bend = np.cos(scalp.azimuth[columns] * np.pi / 1.6).clip(0)[:, None]
        peak = edge + t * bend**0.6 * np.array([0, -0.12, 0.6]) + t * (1 - bend) * np.array([0, -0.06, 0.1])
        points = peak.reshape(-1, 3).astype(np.float32)
        brim = Layer(
            points,
            grid_triangles(6, len(columns), False),
            np.full((len(points), 2), 20, np.float32),
            texture * np.float32(0.8),
            OTHERS_KIND,
            np.zeros(len(points), np.float32),
            shade=np.full(len(points), 0.7, np.float32),
        )
        brim.texture[..., 3] = 1
        brim.casts = brim.thin = True
        out.append(brim)
    return out


def scarf_layers(rng: np.random.Generator, scalp: Scalp, neutral: np.ndarray) -> list[Layer]:
    """A headscarf: cloth over the hair, round the face, down over the neck."""
    cut = Cut(
        rng.uniform(0.06, 0.14),
        0.1,
        0.15,
        hang_side=1.7,
        hang_back=1.9,
        hang_from=rng.uniform(0.75, 0.95),
        flare=rng.uniform(0.05, 0.25),
        rough=0.02,
        cells=(4, 9),
    )
    grid = hair_grid(rng, scalp, neutral, cut)
    pattern = cv2.resize(cloth_pattern(rng), (384, 128))
    texture = np.concatenate([pattern**2, np.ones((128, 384, 1))], 2).astype(np.float32)
    hood = grid_layer(grid, texture, OTHERS_KIND, 0.03)
    hood.casts = hood.thin = True
    a = np.linspace(-np.pi / 1.6, np.pi / 1.6, 40)
    rows = [(0.52, -0.78), (0.6, -0.95), (0.72, -1.3), (0.95, -1.9), (1.2, -2.4)]
    wrap = np.stack(
        [np.stack([r * np.sin(a), h + 0.25 * (1 - np.cos(a)), -0.78 + (r + 0.02) * np.cos(a)], -1) for r, h in rows]
    )
    wrap += 0.02 * smooth_noise(rng, (len(rows), 40), (4, 8))[..., None]
    points = wrap.reshape(-1, 3).astype(np.float32)
    v, u = np.mgrid[: len(rows), :40].astype(np.float32)
    uv = np.stack([u / 40 * 383, v / len(rows) * 127], -1).reshape(-1, 2)
    static = np.repeat([0.1, 0.25, 0.6, 1, 1], 40).astype(np.float32)
    front = Layer(
        points,
        grid_triangles(len(rows), 40, False),
        uv,
        texture,
        OTHERS_KIND,
        static,
        shade=np.repeat([0.6, 0.7, 0.9, 1, 1], 40).astype(np.float32),
    )
    return [hood, front]
