"""Painting a person's skin, eyes, teeth and tongue on the canvas. Colours are sRGB 0..1 while painting."""

import cv2
import numpy as np

from data_pipelines.people_canvas import (
    BROW_LOWER,
    BROW_UPPER,
    EYE_AT,
    EYE_LOWER,
    EYE_UPPER,
    FACE,
    LIPS_INNER,
    PATCH,
    PLAIN_AT,
    TEETH_AT,
    TONGUE_AT,
    WIDTH,
    Canvas,
    fine_noise,
    polygon,
    smooth_noise,
)

# Skin from light to dark, sRGB.
TONES = np.array([
    (240, 206, 184), (230, 190, 162), (218, 170, 138), (200, 146, 110),
    (168, 114, 80), (124, 80, 55), (92, 60, 43), (66, 44, 34),
]).astype(np.float32) / 255  # fmt: skip
HAIRS = (
    np.array(
        [
            (18, 14, 13),
            (38, 26, 20),
            (64, 42, 28),
            (96, 62, 36),
            (140, 98, 56),
            (196, 158, 104),
            (118, 52, 26),
            (150, 146, 142),
            (214, 212, 208),
            (88, 84, 82),
        ],
        np.float32,
    )
    / 255
)
HAIR_WEIGHTS = np.array([0.26, 0.2, 0.14, 0.1, 0.08, 0.07, 0.04, 0.05, 0.03, 0.03])
IRISES = (
    np.array(
        [
            (52, 30, 18),
            (78, 46, 24),
            (104, 68, 36),
            (112, 104, 56),
            (92, 118, 84),
            (96, 132, 158),
            (120, 138, 148),
            (70, 96, 130),
        ],
        np.float32,
    )
    / 255
)


def mix(image: np.ndarray, colour: np.ndarray | float, alpha: np.ndarray) -> None:
    """Lay `colour` [3] or [h, w, 3] over image [h, w, 3] in place with alpha [h, w]; touches only where alpha shows."""
    x, y, w, h = cv2.boundingRect((alpha > 0.002).astype(np.uint8))
    if w == 0:
        return
    part = image[y : y + h, x : x + w]
    paint = np.asarray(colour, np.float32)
    over = paint[y : y + h, x : x + w] if paint.ndim == 3 else paint
    part += (over - part) * alpha[y : y + h, x : x + w, None].astype(np.float32)


def skin_tone(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """-> (sRGB colour [3], darkness 0..1)."""
    darkness = float(rng.beta(0.9, 1.1))
    place = darkness * (len(TONES) - 1)
    colour = np.array([np.interp(place, np.arange(len(TONES)), TONES[:, k]) for k in range(3)])
    colour = colour * rng.normal(1, 0.04) * np.array([1, rng.normal(1, 0.02), rng.normal(1, 0.04)])
    return np.clip(colour, 0.02, 1).astype(np.float32), darkness


def hair_colour(rng: np.random.Generator, darkness: float) -> np.ndarray:
    """Natural hair colours, mostly dark with dark skin; a few dyed. sRGB [3]."""
    if rng.random() < 0.05:
        return rng.uniform(0.05, 0.9, 3).astype(np.float32)
    weights = HAIR_WEIGHTS.copy()
    weights[2:7] *= max(0.05, 1 - 1.2 * darkness)
    colour = HAIRS[rng.choice(len(HAIRS), p=weights / weights.sum())]
    return np.clip(colour * rng.normal(1, 0.12), 0.02, 0.95).astype(np.float32)


def curve(points: np.ndarray, count: int) -> np.ndarray:
    """Resample a polyline [n, 2] to `count` evenly spaced points."""
    step = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.linspace(0, step[-1], count)
    return np.stack([np.interp(at, step, points[:, k]) for k in range(2)], 1)


def draw_brows(rng: np.random.Generator, canvas: Canvas) -> np.ndarray:
    """Two eyebrows as many short strokes: coverage [FACE, FACE] 0..1."""
    thick = rng.uniform(0.45, 1.35)
    arch = rng.normal(0, 1.5)
    drop = rng.normal(-1.0, 1.5)
    density = rng.uniform(0.5, 1.0)
    mask = np.zeros((FACE, FACE), np.uint8)
    for upper, lower in zip(BROW_UPPER, BROW_LOWER, strict=True):
        top, bottom = curve(canvas.points[list(upper)], 40), curve(canvas.points[list(lower)], 40)
        middle, half = (top + bottom) / 2, (bottom - top) / 2 * thick
        t = np.linspace(0, 1, 40)
        middle[:, 1] += drop - arch * np.sin(np.pi * t) * 1.5
        taper = np.interp(t, [0, 0.25, 0.85, 1], [0.25, 0.7, 1.0, 0.75])[:, None]  # thin outside, full by the nose
        half = half * taper
        along = np.gradient(middle, axis=0)
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        count = int(90 + 160 * density)
        at = rng.integers(0, 40, count)
        side = rng.uniform(-1, 1, count)
        start = middle[at] + half[at] * side[:, None]
        lean = np.interp(at / 39, [0, 0.75, 1], [0.1, 0.35, 0.9])[:, None] * np.array([0, -1.0])
        length = rng.uniform(4, 9, count)[:, None]
        end = start + (-along[at] * 0.9 + lean - 0.35 * np.sign(side)[:, None] * half[at] / 8) * length
        strokes = np.round(np.stack([start, end], 1) * 16).astype(np.int32)
        cv2.polylines(mask, list(strokes), False, 255, 1, cv2.LINE_AA, 4)
        body = polygon(np.concatenate([middle - half, (middle + half)[::-1]]), blur=1.5)
        mask = np.maximum(mask, (body * 255 * (0.25 + 0.5 * density)).astype(np.uint8))
    return cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), 0.8)


def draw_lines(points: list[np.ndarray], thickness: int, blur: float) -> np.ndarray:
    """Anti-aliased polylines in the face square, coverage 0..1."""
    every = np.concatenate(points)
    pad = thickness + 3 * blur + 2
    low = np.floor(np.clip(every.min(0) - pad, 0, FACE - 1)).astype(int)
    high = np.ceil(np.clip(every.max(0) + pad, 1, FACE)).astype(int)
    part = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
    for p in points:
        cv2.polylines(part, [np.round((p - low) * 16).astype(np.int32)], False, 255, thickness, cv2.LINE_AA, 4)
    out = np.zeros((FACE, FACE), np.float32)
    out[low[1] : high[1], low[0] : high[0]] = cv2.GaussianBlur(part.astype(np.float32) / 255, (0, 0), blur)
    return out


def paint_skin(rng: np.random.Generator, canvas: Canvas, look: dict) -> np.ndarray:
    """sRGB [FACE, FACE, 3]. look: tone, hair [3]; darkness, age, makeup, stubble 0..1; scalp [FACE, FACE]."""
    tone, darkness, age = look["tone"], look["darkness"], look["age"]
    face = np.empty((FACE, FACE, 3), np.float32)
    low = smooth_noise(rng, (FACE, FACE), (5, 8)) * 0.022 + smooth_noise(rng, (FACE, FACE), (20, 28)) * 0.014
    low += fine_noise(rng, canvas) * np.float32(rng.uniform(0.003, 0.016))
    for k in range(3):
        face[..., k] = tone[k] * (1 + low)
    red = np.clip(canvas.cheeks * rng.uniform(0, 0.9) + canvas.nose * rng.uniform(0, 0.9), 0, 1)
    red *= np.clip(1 + 0.4 * smooth_noise(rng, (FACE, FACE), (40, 40)), 0, 2)
    mix(face, tone * [1.04, 0.78, 0.76], red * (0.55 - 0.3 * darkness))
    mix(face, tone * [0.82, 0.74, 0.76], canvas.lids * rng.uniform(0.0, 0.5 + 0.3 * age))
    blotch = smooth_noise(rng, (FACE, FACE), (14, 20))
    mix(face, tone * [0.9, 0.8, 0.72], np.clip(blotch - 0.9, 0, 1) * rng.uniform(0, 0.5))
    if rng.random() < 0.14:  # freckles
        dots = cv2.GaussianBlur((rng.random((FACE, FACE)) < 0.012).astype(np.float32), (0, 0), 1.0) * 4
        place = np.clip(canvas.cheeks * 1.2 + canvas.nose + 0.2, 0, 1)
        mix(face, tone * [0.72, 0.58, 0.48], np.clip(dots * place, 0, 0.7))
    for _ in range(rng.poisson(0.6)):  # moles
        x, y = rng.uniform(150, 360), rng.uniform(80, 420)
        dot = draw_lines([np.array([[x, y], [x + 0.5, y]])], int(rng.integers(2, 5)), 0.7)
        mix(face, tone * [0.5, 0.4, 0.38], np.clip(dot * 1.2, 0, 0.8))
    p = canvas.points
    lines = [p[[129, 205, 206, 216]] + [0, 3], p[[358, 425, 426, 436]] + [0, 3]]
    mix(face, tone * 0.62, draw_lines(lines, 2, 3.0) * rng.uniform(0.05, 0.2 + 0.9 * age))
    if age > 0.45:
        rows: list[np.ndarray] = []
        for k in range(int(rng.integers(2, 5))):
            across = np.linspace(p[67, 0] - 8, p[297, 0] + 8, 24)
            height = p[10, 1] + (p[9, 1] - p[10, 1]) * (0.3 + 0.17 * k) + 6 * ((across - p[10, 0]) / 80) ** 2
            rows.append(np.stack([across, height + 2 * smooth_noise(rng, (2, 24), (2, 5))[0]], 1))
        eyes = [p[[33]] + np.array([[0, 0], [-9, 2 + d]]) + [-4, d] for d in (-5, 0, 5)]
        eyes += [p[[263]] + np.array([[0, 0], [9, 2 + d]]) + [4, d] for d in (-5, 0, 5)]
        bags = [p[EYE_LOWER[k]][1:-1] + np.array([0, 9]) for k in (0, 1)]
        mix(face, tone * 0.6, draw_lines(rows + eyes + bags, 1, 1.2) * (age - 0.3) * rng.uniform(0.3, 1.2))
    crease = [p[u][1:-1] + np.array([0, -rng.uniform(4, 8)]) for u in EYE_UPPER]
    mix(face, tone * 0.55, draw_lines(crease, 2, 1.4) * rng.uniform(0.1, 0.8))
    if look["makeup"] > 0.5:
        shadow = sum(
            polygon(np.concatenate([p[u], (p[list(b)] + p[u][[0, 2, 4, 6, 8]])[::-1] / 2]), blur=4.0)
            for u, b in zip(EYE_UPPER, BROW_LOWER, strict=True)
        )
        mix(face, rng.uniform(0.1, 0.6, 3).astype(np.float32), np.clip(shadow, 0, 1) * rng.uniform(0.1, 0.6))
    # lips
    colour = tone * np.array([0.86, 0.62, 0.62]) + np.array([0.05, 0.0, 0.01])
    strength = rng.uniform(0.35, 0.95)
    if look["makeup"] > 0.3:
        colour = np.array([rng.uniform(0.45, 0.85), rng.uniform(0.05, 0.4), rng.uniform(0.1, 0.45)]) * (
            1 - 0.35 * darkness
        )
        strength = rng.uniform(0.6, 1.0)
    ridges = 1 + 0.08 * smooth_noise(rng, (128, FACE), (4, 170))  # the lips are no higher than that
    top = int(p[17, 1]) - 100
    place = slice(top, top + 128)
    mix(face[place], (colour * ridges[..., None]).astype(np.float32), canvas.lips[place] * strength)
    seam = draw_lines([p[LIPS_INNER[:11]]], 2, 1.0)
    mix(face, colour * 0.4, seam * 0.6)
    # hair that is only painted: stubble, shaved scalp, brows, lash lines
    grain = np.clip(0.55 + 0.32 * fine_noise(rng, canvas), 0, 1.3)
    hair = look["hair"]
    mix(face, hair * 0.7 + 0.3 * tone, np.clip(canvas.beard * grain * look["stubble"], 0, 0.9))
    mix(face, hair * 0.8 + 0.2 * tone, np.clip(look["scalp"] * (0.6 + 0.4 * grain), 0, 1))
    brow = hair * 0.75 if hair.mean() < 0.6 or rng.random() < 0.5 else hair * 0.5
    mix(face, brow, draw_brows(rng, canvas) * rng.uniform(0.55, 0.95))
    upper = draw_lines([p[u] + [0, -0.5] for u in EYE_UPPER], int(2 + (look["makeup"] > 0.3)), 0.8)
    lower = draw_lines([p[u] + [0, 1.0] for u in EYE_LOWER], 1, 0.9)
    mix(face, 0.06, np.clip(upper * rng.uniform(0.5, 1.0), 0, 1))
    mix(face, tone * 0.45, lower * rng.uniform(0.1, 0.6))
    return face


def paint_eye(rng: np.random.Generator, canvas: Canvas, darkness: float) -> np.ndarray:
    """Front of an eyeball seen along its axis, [PATCH, PATCH, 3] sRGB."""
    big = PATCH
    y, x = (np.mgrid[:big, :big].astype(np.float32) + 0.5 - big / 2) / (big / 2)
    r = np.hypot(x, y)
    angle = np.arctan2(y, x)
    iris = canvas.pupil * rng.uniform(0.95, 1.1)
    pupil = iris * rng.uniform(0.28, 0.5)
    white = np.array([0.93, 0.91, 0.89]) * rng.uniform(0.85, 1.0)
    eye = np.empty((big, big, 3), np.float32)
    eye[:] = white
    veins = np.clip(smooth_noise(rng, (big, big), (20, 20)) - 0.8, 0, 1) * np.clip(r - iris - 0.1, 0, 1)
    mix(eye, np.array([0.8, 0.4, 0.38], np.float32), veins * rng.uniform(0.1, 0.5))
    mix(eye, white * [0.85, 0.72, 0.68], np.clip((np.abs(x) - 0.62) * 2, 0, 0.7))
    weights = np.array([0.26, 0.22, 0.14, 0.09, 0.08, 0.09, 0.07, 0.05])
    weights[3:] *= max(0.03, 1 - 1.8 * darkness)
    colour = IRISES[rng.choice(len(IRISES), p=weights / weights.sum())] * rng.uniform(0.8, 1.25)
    rays = np.interp((angle + np.pi) / (2 * np.pi) * 64, np.arange(65), rng.standard_normal(65)).astype(np.float32)
    body = colour * (1 + 0.2 * rays[..., None] + 0.35 * np.clip(1 - r / iris, 0, 1)[..., None])
    soft = 0.05
    mix(eye, body.astype(np.float32), np.clip((iris - r) / soft + 0.5, 0, 1))
    mix(eye, colour * 0.35, np.exp(-(((r - iris * 0.96) / 0.05) ** 2)) * 0.8)
    mix(eye, 0.02, np.clip((pupil - r) / soft + 0.5, 0, 1))
    return np.clip(eye, 0.01, 1)


def paint_person(rng: np.random.Generator, canvas: Canvas, look: dict) -> np.ndarray:
    """The whole canvas [FACE, WIDTH, 3] float32 of *squared* sRGB values, i.e. approximately linear light."""
    out = np.full((FACE, WIDTH, 3), 0.02, np.float32)
    out[:FACE, :FACE] = paint_skin(rng, canvas, look)

    def place(at: tuple[int, int], image: np.ndarray) -> None:
        out[at[1] : at[1] + PATCH, at[0] : at[0] + PATCH] = image

    place(EYE_AT, paint_eye(rng, canvas, look["darkness"]))
    shade = rng.uniform(0.7, 0.95) * np.array([1.0, rng.uniform(0.93, 0.99), rng.uniform(0.8, 0.96)])
    teeth = np.empty((PATCH, PATCH, 3), np.float32)
    teeth[:] = shade
    gaps = np.abs(((np.arange(PATCH) - PATCH / 2) / 9.0 + 0.5) % 1 - 0.5)
    teeth *= (0.55 + 0.45 * np.clip(gaps * 7, 0, 1))[None, :, None]
    rows = np.linspace(0, 1, PATCH)
    gum = np.clip(np.maximum(0.22 - rows, rows - 0.78) * 14, 0, 1)  # gums above the upper and below the lower teeth
    mix(teeth, np.array([0.72, 0.38, 0.38], np.float32), np.repeat(gum[:, None], PATCH, 1))
    place(TEETH_AT, teeth)
    tongue = np.empty((PATCH, PATCH, 3), np.float32)
    tongue[:] = np.array([0.68, 0.34, 0.34]) * rng.uniform(0.8, 1.1)
    tongue *= 1 + 0.08 * smooth_noise(rng, (PATCH, PATCH), (40, 40))[..., None]
    place(TONGUE_AT, tongue)
    place(PLAIN_AT, np.full((PATCH, PATCH, 3), 0.5, np.float32))
    np.clip(out, 0.01, 1, out=out)
    return np.multiply(out, out, out=out)
