"""Hair styles and beards as layers."""

import numpy as np

from data_pipelines.head import SKIN, Head
from data_pipelines.people_canvas import FACE, Canvas, smooth_noise
from data_pipelines.people_layers import RINGS, Cut, Layer, Scalp, grid_layer, hair_grid, strand_texture

HAIR_KIND = 1
STYLES = ("bald", "buzz", "short", "side", "medium", "long", "tied", "curly", "afro", "fringe", "scarf", "cap")
STYLE_MALE = np.array([0.10, 0.16, 0.26, 0.16, 0.06, 0.04, 0.02, 0.07, 0.04, 0.03, 0.0, 0.06])
STYLE_FEMALE = np.array([0.01, 0.02, 0.07, 0.05, 0.15, 0.26, 0.13, 0.08, 0.05, 0.09, 0.07, 0.02])


def draw_cut(rng: np.random.Generator, style: str) -> tuple[Cut, dict]:
    """Random shape of a style -> (cut, texture settings)."""
    look = {
        "curly": rng.uniform(0, 0.25),
        "streak": rng.uniform(0.08, 0.3),
        "gloss": rng.uniform(0.1, 0.5),
        "thin": 0.0,
    }
    u = rng.uniform
    short_fringe = u(0.1, 0.2) * (u() < 0.4)
    if style == "buzz":
        return Cut(u(0.02, 0.05), 0.02, 0.03, rough=0.003, recede=u(0, 0.25)), look | {
            "gloss": 0.05,
            "thin": 0.2,
            "fuzz": True,
        }
    if style == "cap":
        return Cut(
            0.03, u(0.03, 0.06), u(0.04, 0.08), rough=0.01, hang_back=u(0, 0.5), hang_side=u(0, 0.3) * (u() < 0.3)
        ), look
    if style == "short":
        return Cut(
            u(0.07, 0.2),
            u(0.02, 0.09),
            u(0.05, 0.12),
            fringe=short_fringe,
            fringe_side=u(-0.5, 0.5),
            rough=u(0.01, 0.04),
            cells=(int(rng.integers(3, 9)), int(rng.integers(8, 30))),
            recede=u(0, 0.2),
            lift=u(0, 0.12),
        ), look
    if style == "side":
        return Cut(
            u(0.12, 0.24), u(0.03, 0.1), u(0.06, 0.14), rough=u(0.01, 0.035), recede=u(0, 0.15), lift=u(0.05, 0.22)
        ), look
    if style == "fringe":
        return Cut(
            u(0.1, 0.2),
            u(0.12, 0.2),
            u(0.12, 0.2),
            fringe=u(0.2, 0.42),
            fringe_side=u(-0.2, 0.2),
            hang_side=u(0.3, 1.2),
            hang_back=u(0.3, 1.4),
            hang_from=u(0.95, 1.2),
            rough=0.02,
            flare=u(0.0, 0.15),
        ), look
    if style == "medium":
        return Cut(
            u(0.1, 0.22),
            u(0.1, 0.2),
            u(0.12, 0.24),
            fringe=short_fringe,
            fringe_side=u(-0.5, 0.5),
            hang_side=u(0.25, 0.95),
            hang_back=u(0.2, 1.0),
            hang_from=u(0.85, 1.2),
            rough=u(0.01, 0.05),
            flare=u(-0.05, 0.25),
        ), look
    if style == "long":
        return Cut(
            u(0.08, 0.2),
            u(0.08, 0.18),
            u(0.1, 0.2),
            fringe=short_fringe,
            fringe_side=u(-0.5, 0.5),
            hang_side=u(1.0, 2.2),
            hang_back=u(1.2, 2.2),
            hang_from=u(0.8, 1.25),
            rough=u(0.02, 0.06),
            cells=(int(rng.integers(3, 8)), int(rng.integers(10, 30))),
            flare=u(-0.05, 0.12),
        ), look
    if style == "tied":
        return Cut(
            u(0.05, 0.1), u(0.03, 0.07), u(0.05, 0.09), rough=0.008, fringe=short_fringe, fringe_side=u(-0.4, 0.4)
        ), look
    if style == "curly":
        return Cut(
            u(0.15, 0.35),
            u(0.1, 0.28),
            u(0.15, 0.35),
            fringe=short_fringe,
            fringe_side=u(-0.3, 0.3),
            hang_side=u(0, 1.2) * (u() < 0.6),
            hang_back=u(0.2, 1.2),
            hang_from=u(0.95, 1.3),
            rough=u(0.05, 0.1),
            cells=(int(rng.integers(12, 22)), int(rng.integers(30, 48))),
            flare=u(0.05, 0.3),
        ), look | {"curly": u(0.6, 1), "streak": u(0.2, 0.45), "gloss": u(0.05, 0.2)}
    if style == "afro":
        return Cut(
            u(0.3, 0.65), u(0.25, 0.6), u(0.3, 0.65), rough=u(0.03, 0.07), cells=(24, 48), lift=u(0, 0.1)
        ), look | {"curly": 1.0, "streak": u(0.2, 0.5), "gloss": 0.05}
    raise ValueError(f"no such hair style: {style!r}; known: {', '.join(STYLES)}")


def hair_layers(
    rng: np.random.Generator, scalp: Scalp, neutral: np.ndarray, style: str, colour: np.ndarray
) -> list[Layer]:
    """Nested sheets of hair, the inner one closed, the outer ones open."""
    if style == "bald":
        return []
    cut, look = draw_cut(rng, style)
    cut.line = float(np.clip(rng.normal(0.03, 0.06), -0.06, 0.18))
    outer = hair_grid(rng, scalp, neutral, cut)
    base = scalp.follow(scalp.base.reshape(-1, 3), neutral).reshape(outer.shape)
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
        texture = strand_texture(
            rng, np.clip(colour * dark, 0, 1), look["streak"], look["curly"], thin, ends, tips, look.get("fuzz", False)
        )
        layer = grid_layer(grid, texture, HAIR_KIND, look["gloss"] * (0.4 + 0.3 * k))
        depth = np.linalg.norm(outer - base, axis=-1)
        shade = np.clip(0.5 + 0.5 * down / 0.4, 0.5, 1)[:, None] * np.clip(0.6 + depth * 2, 0.6, 1)
        shade = np.concatenate([shade, shade[:, :1]], 1) * (1 - 0.25 * np.clip(down - 0.64, 0, 1))[:, None]
        layer.shade = shade.reshape(-1).astype(np.float32)
        layer.casts = k == 0
        layers.append(layer)
    if style == "tied":
        at = scalp.follow(np.array([[rng.normal(0, 0.05), rng.choice([0.35, 0.75, 1.15]), -1.63]]), neutral)[0]
        if at[1] > 1.0:
            at[2] += 0.5
        layers.append(ball_layer(rng, at, rng.uniform(0.22, 0.4), colour, look))
        if rng.random() < 0.5:
            layers.append(tail_layer(rng, at, colour, look))
    return layers


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


def beard_layers(
    rng: np.random.Generator, head: Head, canvas: Canvas, colour: np.ndarray, shade: np.ndarray
) -> list[Layer]:
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
        alpha = np.clip((shape - 0.12) * 1.7 * (1 + 0.5 * fine) - 0.1 * k, 0, 1) * np.clip(
            0.95 - 0.3 * k + 0.3 * fine, 0, 1
        )
        rgb = np.clip(colour * (0.7 + 0.25 * k) * (1 + 0.14 * fine[..., None]), 0.01, 1) ** 2
        texture = np.concatenate([rgb, alpha[..., None]], 2).astype(np.float32)
        layer = Layer(
            head.mean[index],
            inverse.reshape(-1, 3).astype(np.int32),
            canvas.uv[index],
            texture,
            HAIR_KIND,
            canvas.static[index],
            bind=index,
            shade=np.maximum(shade[index], 0.35),
        )
        layer.length = (length * share * np.clip(weight[index] * 1.4, 0, 1) + 0.004).astype(np.float32)
        out.append(layer)
    return out
