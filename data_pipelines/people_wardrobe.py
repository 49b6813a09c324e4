"""What a person wears: hair styles, beards, clothes, collars, glasses, caps and scarves, as layers."""

import cv2
import numpy as np

from data_pipelines.head import LEFT_EYE, RIGHT_EYE, SKIN, Head
from data_pipelines.people_canvas import FACE, Canvas, smooth_noise
from data_pipelines.people_layers import RINGS, TAIL, Cut, Layer, Scalp, grid_layer, grid_triangles, hair_grid, strand_texture
from data_pipelines.people_scene import any_colour

HAIR_KIND, CLOTHES_KIND, OTHERS_KIND = 1, 4, 5
CLOTH = 384  # pixels of a clothes texture
CLOTH_X, CLOTH_Y = 1.9, (-2.3, -0.75)  # what it spans, head units; beyond, its border is repeated
STYLES = ("bald", "buzz", "short", "side", "medium", "long", "tied", "curly", "afro", "fringe", "scarf", "cap")
STYLE_MALE = np.array([0.10, 0.16, 0.26, 0.16, 0.06, 0.04, 0.02, 0.07, 0.04, 0.03, 0.0, 0.06])
STYLE_FEMALE = np.array([0.01, 0.02, 0.07, 0.05, 0.15, 0.26, 0.13, 0.08, 0.05, 0.09, 0.07, 0.02])


def draw_cut(rng: np.random.Generator, style: str) -> tuple[Cut, dict]:
    """Random shape of a style -> (cut, texture settings)."""
    look = {"curly": rng.uniform(0, 0.25), "streak": rng.uniform(0.08, 0.3), "gloss": rng.uniform(0.1, 0.5), "thin": 0.0}
    u = rng.uniform
    short_fringe = u(0.1, 0.2) * (u() < 0.4)
    if style == "buzz":
        return Cut(u(0.02, 0.05), 0.02, 0.03, rough=0.003, recede=u(0, 0.25)), look | {"gloss": 0.05, "thin": 0.2, "fuzz": True}
    if style in ("short", "cap"):
        return Cut(u(0.07, 0.2), u(0.02, 0.09), u(0.05, 0.12), fringe=short_fringe, fringe_side=u(-0.5, 0.5), rough=u(0.01, 0.04),
                   cells=(int(rng.integers(3, 9)), int(rng.integers(8, 30))), recede=u(0, 0.2), lift=u(0, 0.12)), look
    if style == "side":
        return Cut(u(0.12, 0.24), u(0.03, 0.1), u(0.06, 0.14), rough=u(0.01, 0.035), recede=u(0, 0.15), lift=u(0.05, 0.22)), look
    if style == "fringe":
        return Cut(u(0.1, 0.2), u(0.12, 0.2), u(0.12, 0.2), fringe=u(0.2, 0.42), fringe_side=u(-0.2, 0.2), hang_side=u(0.3, 1.2), hang_back=u(0.3, 1.4),
                   hang_from=u(0.95, 1.2), rough=0.02, flare=u(0.0, 0.15)), look
    if style == "medium":
        return Cut(u(0.1, 0.22), u(0.1, 0.2), u(0.12, 0.24), fringe=short_fringe, fringe_side=u(-0.5, 0.5), hang_side=u(0.25, 0.95),
                   hang_back=u(0.2, 1.0), hang_from=u(0.85, 1.2), rough=u(0.01, 0.05), flare=u(-0.05, 0.25)), look
    if style == "long":
        return Cut(u(0.08, 0.2), u(0.08, 0.18), u(0.1, 0.2), fringe=short_fringe, fringe_side=u(-0.5, 0.5), hang_side=u(1.0, 2.2),
                   hang_back=u(1.2, 2.2), hang_from=u(0.8, 1.25), rough=u(0.02, 0.06), cells=(int(rng.integers(3, 8)), int(rng.integers(10, 30))),
                   flare=u(-0.05, 0.12)), look
    if style == "tied":
        return Cut(u(0.05, 0.1), u(0.03, 0.07), u(0.05, 0.09), rough=0.008, fringe=short_fringe, fringe_side=u(-0.4, 0.4)), look
    if style == "curly":
        return Cut(u(0.15, 0.35), u(0.1, 0.28), u(0.15, 0.35), fringe=short_fringe, fringe_side=u(-0.3, 0.3), hang_side=u(0, 1.2) * (u() < 0.6), hang_back=u(0.2, 1.2),
                   hang_from=u(0.95, 1.3), rough=u(0.05, 0.1), cells=(int(rng.integers(12, 22)), int(rng.integers(30, 48))),
                   flare=u(0.05, 0.3)), look | {"curly": u(0.6, 1), "streak": u(0.2, 0.45), "gloss": u(0.05, 0.2)}
    if style == "afro":
        return Cut(u(0.3, 0.65), u(0.25, 0.6), u(0.3, 0.65), rough=u(0.03, 0.07), cells=(24, 48), lift=u(0, 0.1)), look | {
            "curly": 1.0, "streak": u(0.2, 0.5), "gloss": 0.05}
    raise ValueError(f"no such hair style: {style!r}; known: {', '.join(STYLES)}")


def hair_layers(rng: np.random.Generator, scalp: Scalp, neutral: np.ndarray, style: str, colour: np.ndarray) -> list[Layer]:
    """Nested sheets of hair, the inner one closed, the outer ones open."""
    if style == "bald":
        return []
    cut, look = draw_cut(rng, style)
    cut.line = float(np.clip(rng.normal(0.03, 0.06), -0.06, 0.18))
    outer = hair_grid(rng, scalp, neutral, cut)
    base = scalp.follow(scalp_base(scalp).reshape(-1, 3), neutral).reshape(outer.shape)
    rows = outer.shape[0]
    tips = None
    if rng.random() < 0.12:
        tips = np.clip(colour + rng.uniform(0.05, 0.4, 3), 0, 0.95)
    layers = []
    down = np.linspace(0, 1, rows)
    shares = (0.75, 0.9, 1.0) if style != "buzz" else (0.6, 1.0)
    hangs = max(cut.hang_side, cut.hang_back, cut.fringe * 2) > 0.1
    for k, share in enumerate(shares):
        grid = outer.copy()
        grid[:RINGS] = base[:RINGS] + (outer[:RINGS] - base[:RINGS]) * share
        centre = np.array([0, 0, -0.88])
        pull = (1 - share) * 0.25
        grid[RINGS:, :, 0] += (centre[0] - grid[RINGS:, :, 0]) * pull
        grid[RINGS:, :, 2] += (centre[2] - grid[RINGS:, :, 2]) * pull
        ends = 1.04 - np.abs(smooth_noise(rng, (2, 384), (2, 90))[0]) * (0.05 + 0.03 * k) - (0.0 if hangs else 0.36)
        thin = look["thin"] + 0.12 + (0.0, 0.16, 0.3)[k] if style != "bald" else 0
        thin = 0.0 if k == 0 and style != "buzz" else thin
        dark = (0.72, 0.88, 1.0)[k]
        texture = strand_texture(rng, np.clip(colour * dark, 0, 1), look["streak"], look["curly"], thin, ends, tips, look.get("fuzz", False))
        layer = grid_layer(grid, texture, HAIR_KIND, look["gloss"] * (0.4 + 0.3 * k))
        depth = np.linalg.norm(outer - base, axis=-1)
        shade = np.clip(0.5 + 0.5 * down / 0.4, 0.5, 1)[:, None] * np.clip(0.6 + depth * 2, 0.6, 1)
        shade = np.concatenate([shade, shade[:, :1]], 1) * (1 - 0.25 * np.clip(down - 0.64, 0, 1))[:, None]
        layer.shade = shade.reshape(-1).astype(np.float32)
        layer.extra["casts"] = k == 0
        layers.append(layer)
    if style == "tied":
        at = scalp.follow(np.array([[rng.normal(0, 0.05), rng.choice([0.35, 0.75, 1.15]), -1.63]]), neutral)[0]
        if at[1] > 1.0:
            at[2] += 0.5
        layers.append(ball_layer(rng, at, rng.uniform(0.22, 0.4), colour, look))
        if rng.random() < 0.5:
            layers.append(tail_layer(rng, at, colour, look))
    return layers


def scalp_base(scalp: Scalp) -> np.ndarray:
    """The mean's skull under the hair grid [rows, columns, 3] (kept by the scalp)."""
    if not hasattr(scalp, "base"):
        t = np.linspace(0, 1, RINGS)[:, None]
        top = np.pi / 2 * 0.995
        elevation = top + (scalp.hairline - top) * t
        elevation = np.concatenate([elevation, np.repeat(scalp.hairline[None], TAIL, 0)])
        scalp.base = scalp.points(np.broadcast_to(scalp.azimuth, elevation.shape), elevation)
    return scalp.base


def ball_layer(rng: np.random.Generator, centre: np.ndarray, radius: float, colour: np.ndarray, look: dict) -> Layer:
    """A bun."""
    rows, columns = 14, 32
    e = np.linspace(np.pi / 2, -np.pi / 2, rows)[:, None]
    a = (np.arange(columns) / columns - 0.5) * 2 * np.pi
    grid = np.stack([np.sin(a) * np.cos(e), np.sin(e) + 0 * a, np.cos(a) * np.cos(e)], -1)
    r = radius * (1 + 0.08 * smooth_noise(rng, (rows, columns), (6, 10)))
    texture = strand_texture(rng, colour * 0.9, look["streak"], look["curly"], 0.0, np.full(384, 1.2))
    return grid_layer(centre + grid * r[..., None], texture, HAIR_KIND, look["gloss"])


def tail_layer(rng: np.random.Generator, start: np.ndarray, colour: np.ndarray, look: dict) -> Layer:
    """A pony tail behind the neck, sometimes over a shoulder."""
    rows, columns = 24, 16
    t = np.linspace(0, 1, rows)[:, None]
    sway = rng.normal(0, 0.35)
    a = (np.arange(columns) / columns - 0.5) * 2 * np.pi
    radius = 0.2 * np.interp(t, [0, 0.15, 0.7, 1], [0.5, 1, 0.9, 0.1]) * rng.uniform(0.7, 1.4)
    length = start[1] + rng.uniform(1.0, 2.0)
    x = start[0] + sway * t**2 + radius * np.sin(a)
    y = start[1] - t * length + 0 * a
    z = start[2] - 0.25 * np.sin(np.pi * np.clip(t * 1.5, 0, 1)) + 0.1 * t + radius * np.cos(a)
    texture = strand_texture(rng, colour, look["streak"], look["curly"], 0.1, np.full(384, 1.2))
    return grid_layer(np.stack([x, y, z], -1), texture, HAIR_KIND, look["gloss"])


def beard_layers(rng: np.random.Generator, head: Head, canvas: Canvas, colour: np.ndarray, shade: np.ndarray) -> list[Layer]:
    """A beard and moustache that follow jaw and lips: shells over the skin."""
    columns, rows = canvas.uv[:, 0].astype(int).clip(0, FACE - 1), canvas.uv[:, 1].astype(int).clip(0, FACE - 1)
    shape = canvas.beard.copy()
    kind = rng.choice(["full", "goatee", "moustache"], p=[0.6, 0.22, 0.18])
    mouth = canvas.points[[61, 291]].mean(0)
    width = canvas.points[291, 0] - canvas.points[61, 0]
    yy, xx = np.mgrid[:FACE, :FACE].astype(np.float32)
    if kind == "goatee":
        shape *= np.clip(1.5 - np.abs(xx - mouth[0]) / (0.5 * width), 0, 1)
    elif kind == "moustache":
        shape *= np.clip((mouth[1] + 6 - yy) / 6, 0, 1) * np.clip(2.0 - np.abs(xx - mouth[0]) / (0.45 * width), 0, 1)
    inside = head.arrays["mask_inside_mouth"].astype(np.float32)
    weight = np.where((head.part == SKIN) & (inside < 0.3) & ~canvas.ears, shape[rows, columns], 0)
    lips = canvas.lips[rows, columns]
    weight = weight * np.clip(1 - 2 * lips, 0, 1)
    chosen = head.triangles[(weight[head.triangles].max(1) > 0.05) & (head.part[head.triangles[:, 0]] == SKIN)]
    chosen = chosen[np.ptp(canvas.uv[chosen][:, :, 0], axis=1) < FACE / 2]
    index, inverse = np.unique(chosen, return_inverse=True)
    length = rng.choice([0.02, 0.05, 0.12], p=[0.4, 0.4, 0.2]) * rng.uniform(0.7, 1.5)
    out = []
    for k, share in enumerate((0.4, 1.0)):
        fine = smooth_noise(rng, (FACE, FACE), (110, 260))
        alpha = np.clip((shape - 0.12) * 1.7 * (1 + 0.5 * fine) - 0.1 * k, 0, 1) * np.clip(0.95 - 0.3 * k + 0.3 * fine, 0, 1)
        rgb = np.clip(colour * (0.7 + 0.25 * k) * (1 + 0.14 * fine[..., None]), 0.01, 1) ** 2
        texture = np.concatenate([rgb, alpha[..., None]], 2).astype(np.float32)
        layer = Layer(head.mean[index], inverse.reshape(-1, 3).astype(np.int32), canvas.uv[index], texture, HAIR_KIND,
                      canvas.static[index], bind=index, shade=np.maximum(shade[index], 0.35))
        layer.extra["length"] = (length * share * np.clip(weight[index] * 1.4, 0, 1) + 0.004).astype(np.float32)
        out.append(layer)
    return out


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
        wave = np.clip(np.sin(xx * 2 * np.pi / period) * 4, 0, 1) * 0.5 + np.clip(np.sin(yy * 2 * np.pi / period) * 4, 0, 1) * 0.5
        out += (second - colour) * wave[..., None]
    elif kind == "mottled":
        cells = int(rng.integers(6, 40))
        out += (second - colour) * np.clip(smooth_noise(rng, (CLOTH, CLOTH), (cells, cells)) * 2, 0, 1)[..., None]
    folds = 1 + 0.08 * smooth_noise(rng, (CLOTH, CLOTH), (4, 9)) + 0.03 * rng.standard_normal((CLOTH, CLOTH)).astype(np.float32)
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
    depth = {"crew": 0.18, "vee": rng.uniform(0.4, 0.8), "shirt": rng.uniform(0.2, 0.5), "turtle": -0.2, "scoop": rng.uniform(0.3, 0.55)}[kind]
    width = {"crew": 1.15, "vee": 1.2, "shirt": 1.0, "turtle": 1.0, "scoop": rng.uniform(1.2, 1.7)}[kind] * half
    out = []

    def garment(texture: np.ndarray, alpha: np.ndarray, thickness: float) -> None:
        rgba = np.concatenate([np.clip(texture, 0.01, 1) ** 2, alpha[..., None]], 2).astype(np.float32)
        out.append(Layer((neutral[index] + normals * thickness).astype(np.float32), faces, pixels, rgba, CLOTHES_KIND,
                         np.maximum(canvas.static[index], 0.6), shade=shade))

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
    near = (head.part == SKIN) & (np.abs(head.mean[:, 1] + 1.15) < 0.15) & (np.abs(head.mean[:, 0]) < 0.8)
    ring = neutral[near]
    centre = 0.5 * (ring.max(0) + ring.min(0))
    rx, rz = 0.5 * np.ptp(ring[:, 0]) * 0.95, 0.5 * np.ptp(ring[:, 2])
    columns = 48
    gap = 0.0 if kind == "turtle" else rng.uniform(0.12, 0.5)
    a = np.linspace(gap, 2 * np.pi - gap, columns)
    if kind == "turtle":
        profile = [(1.05, -0.5), (1.02, -0.2), (0.98, 0.12), (1.05, 0.16), (1.1, 0.0), (1.14, -0.25)]
    else:
        high = rng.uniform(0.02, 0.14)
        profile = [(1.0, -0.35), (1.02, high), (1.1, high + 0.03), (1.3, -0.22 - rng.uniform(0, 0.15))]
    grid = np.stack([np.stack([centre[0] + s * rx * np.sin(a), -1.15 + h + 0.12 * (1 - np.cos(a)) / 2 + 0 * a - 0.1,
                               centre[2] + s * rz * np.cos(a)], -1) for s, h in profile])
    if kind == "shirt":
        point = np.exp(-((np.minimum(a - gap, 2 * np.pi - gap - a) / 0.35) ** 2))
        grid[-1, :, 1] -= 0.18 * point
    points = grid.reshape(-1, 3).astype(np.float32)
    v, u = np.mgrid[: len(profile), :columns].astype(np.float32)
    uv = np.stack([u / columns * CLOTH, v * 14 + 8], -1).reshape(-1, 2)
    rgba = np.concatenate([cloth**2, np.ones((CLOTH, CLOTH, 1))], 2).astype(np.float32)
    shade = np.repeat(np.linspace(0.5, 1, len(profile)), columns).astype(np.float32)
    layer = Layer(points, grid_triangles(len(profile), columns, False), uv, rgba, CLOTHES_KIND, np.full(len(points), 0.95, np.float32), shade=shade)
    layer.extra["thin"] = True
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
        parts.append(tube(np.linspace(outer + [0, 0.05, 0], ear, 10), thick, False))
    inner = [r[np.argmin(np.abs(r[:, 0]))] for r in rims]
    t = np.linspace(0, 1, 8)[:, None]
    bridge = inner[0] + (inner[1] - inner[0]) * t + np.array([0, 0.03, 0.0]) * np.sin(np.pi * t) + np.array([0, 0.06, 0.02])
    bridge[:, 2] = np.minimum(bridge[:, 2], front)
    parts.append(tube(bridge, thick, False))
    points, faces = [], []
    for p, f in parts:
        faces.append(f + sum(map(len, points)))
        points.append(p)
    stacked = np.concatenate(points).astype(np.float32)
    texture = np.empty((4, 4, 4), np.float32)
    texture[..., :3] = colour**2
    texture[..., 3] = 1
    frame = Layer(stacked, np.concatenate(faces), np.full((len(stacked), 2), 1.5, np.float32), texture, OTHERS_KIND,
                  np.zeros(len(stacked), np.float32), gloss=rng.uniform(0.1, 0.6), shade=np.ones(len(stacked), np.float32))
    out = [frame]
    glass = np.concatenate([np.concatenate([r.mean(0)[None], r]) for r in rims]).astype(np.float32)
    fan = np.concatenate([np.stack([np.zeros(32, int), 1 + np.arange(32), 1 + (np.arange(32) + 1) % 32], 1) + 33 * k for k in (0, 1)])
    lens = np.empty((4, 4, 4), np.float32)
    lens[..., :3] = rng.uniform(0.2, 0.8)
    lens[..., 3] = rng.uniform(0.0, 0.12)
    out.insert(0, Layer(glass, fan.astype(np.int32), np.full((len(glass), 2), 1.5, np.float32), lens, OTHERS_KIND,
                        np.zeros(len(glass), np.float32), gloss=0.3, shade=np.ones(len(glass), np.float32)))
    return out


def cap_layers(rng: np.random.Generator, scalp: Scalp, neutral: np.ndarray) -> list[Layer]:
    """A knitted cap, or a cap with a peak."""
    colour = any_colour(rng)
    base = scalp.follow(scalp_base(scalp).reshape(-1, 3), neutral).reshape(RINGS + TAIL, -1, 3)[: RINGS - 1]
    away = base - np.array([0, 0.3, -0.83])
    away /= np.linalg.norm(away, axis=-1, keepdims=True)
    grid = base + away * rng.uniform(0.1, 0.2)
    grid[-1] = base[-1] + away[-1] * 0.05
    cells = cv2.resize(rng.standard_normal((2, 2)).astype(np.float32), (384, 128))
    knit = 1 + rng.uniform(0, 0.2) * np.sin(np.arange(384) * 0.8)[None, :, None] + 0.05 * cells[..., None]
    rgb = np.clip(colour * knit, 0.01, 1) ** 2
    texture = np.concatenate([np.broadcast_to(rgb, (128, 384, 3)), np.ones((128, 384, 1))], 2).astype(np.float32)
    cap = grid_layer(grid, texture, OTHERS_KIND, 0.0)
    cap.extra["casts"] = True
    out = [cap]
    if rng.random() < 0.5:
        columns = np.flatnonzero(np.abs(scalp.azimuth) < 0.85)
        edge = grid[-2, columns]
        t = np.linspace(0, 1, 6)[:, None, None]
        length = 0.75 * np.cos(scalp.azimuth[columns] * 1.5).clip(0.05)[:, None]
        peak = edge + t * length * np.array([0, -0.25, 1.0])
        points = peak.reshape(-1, 3).astype(np.float32)
        brim = Layer(points, grid_triangles(6, len(columns), False), np.full((len(points), 2), 20, np.float32), texture * np.float32(0.8), OTHERS_KIND,
                     np.zeros(len(points), np.float32), shade=np.full(len(points), 0.7, np.float32))
        brim.texture[..., 3] = 1
        brim.extra |= {"casts": True, "thin": True}
        out.append(brim)
    return out


def scarf_layers(rng: np.random.Generator, scalp: Scalp, neutral: np.ndarray) -> list[Layer]:
    """A headscarf: cloth over the hair, round the face, down over the neck."""
    cut = Cut(rng.uniform(0.06, 0.14), 0.1, 0.15, hang_side=1.7, hang_back=1.9, hang_from=rng.uniform(0.75, 0.95), flare=rng.uniform(0.05, 0.25), rough=0.02,
              cells=(4, 9))
    grid = hair_grid(rng, scalp, neutral, cut)
    pattern = cv2.resize(cloth_pattern(rng), (384, 128))
    texture = np.concatenate([pattern**2, np.ones((128, 384, 1))], 2).astype(np.float32)
    hood = grid_layer(grid, texture, OTHERS_KIND, 0.03)
    hood.extra |= {"casts": True, "thin": True}
    a = np.linspace(-np.pi / 1.6, np.pi / 1.6, 40)
    rows = [(0.52, -0.78), (0.6, -0.95), (0.72, -1.3), (0.95, -1.9), (1.2, -2.4)]
    wrap = np.stack([np.stack([r * np.sin(a), h + 0.25 * (1 - np.cos(a)), -0.78 + (r + 0.02) * np.cos(a)], -1) for r, h in rows])
    wrap += 0.02 * smooth_noise(rng, (len(rows), 40), (4, 8))[..., None]
    points = wrap.reshape(-1, 3).astype(np.float32)
    v, u = np.mgrid[: len(rows), :40].astype(np.float32)
    uv = np.stack([u / 40 * 383, v / len(rows) * 127], -1).reshape(-1, 2)
    static = np.repeat([0.1, 0.25, 0.6, 1, 1], 40).astype(np.float32)
    front = Layer(points, grid_triangles(len(rows), 40, False), uv, texture, OTHERS_KIND, static, shade=np.repeat([0.6, 0.7, 0.9, 1, 1], 40).astype(np.float32))
    return [hood, front]
