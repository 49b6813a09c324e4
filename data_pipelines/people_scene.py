"""What is round a person: lights, backgrounds, and the faults of the camera that took the source photograph."""

from dataclasses import dataclass

import cv2
import numpy as np

from data_pipelines.people_canvas import smooth_noise


@dataclass
class Lights:
    """Lights fixed to the camera's room. Colours are linear [3]; directions unit [3], toward the light."""

    sky: np.ndarray
    ground: np.ndarray
    side: np.ndarray  # ambient difference between right and left, linear [3]
    key: np.ndarray
    key_from: np.ndarray
    fill: np.ndarray
    fill_from: np.ndarray
    rim: float
    shine: float
    penumbra: float


def direction(azimuth: float, elevation: float) -> np.ndarray:
    """Unit vector; azimuth 0 is the camera, positive to the right of the image."""
    return np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])


def draw_lights(rng: np.random.Generator) -> Lights:
    """Random indoor or outdoor light of about unit exposure."""
    warm = rng.normal(0, 0.12)
    tint = np.array([1 + warm, 1.0, 1 - warm])
    ambient = rng.uniform(0.3, 0.75)
    key = rng.uniform(0.35, 1.0) * (1.15 - ambient) * 1.6
    cool = np.array([1 - warm * 0.7, 1.0, 1 + warm * 0.7]) * rng.normal(1, 0.03, 3)
    if rng.random() < 0.05:
        tint, cool = tint * rng.uniform(0.75, 1.2, 3), cool * rng.uniform(0.75, 1.2, 3)
    bias = rng.normal(0, 0.5)
    lights = Lights(
        sky=ambient * cool * rng.uniform(1.0, 1.35),
        ground=ambient * cool * rng.uniform(0.45, 0.8) * np.array([1.05, 0.97, 0.9]),
        side=ambient * 0.4 * bias * tint,
        key=key * tint,
        key_from=direction(rng.normal(0, 0.7), rng.uniform(0.05, 0.95)),
        fill=rng.uniform(0.0, 0.35) * cool,
        fill_from=direction(rng.uniform(-1.6, 1.6), rng.uniform(-0.2, 0.5)),
        rim=rng.uniform(0.0, 0.35) * (rng.random() < 0.5),
        shine=rng.uniform(0.01, 0.16),
        penumbra=rng.uniform(0.03, 0.12),
    )
    one = np.ones(1)
    seen = illuminate(lights, np.array([[0.0, 0.25, 0.97]]), one, one).mean()
    exposure = rng.uniform(0.6, 1.15) / float(seen)
    for name in ("sky", "ground", "side", "key", "fill"):
        setattr(lights, name, getattr(lights, name) * exposure)
    return lights


def illuminate(
    lights: Lights, normals: np.ndarray, shade: np.ndarray, lit: np.ndarray, wrap: float = 0.15
) -> np.ndarray:
    """Light [n, 3] on unit normals [n, 3]; shade [n] share of the sky seen, lit [n] share of the key light."""
    up = 0.5 + 0.5 * normals[:, 1:2]
    ambient = lights.ground + (lights.sky - lights.ground) * up + lights.side * normals[:, :1]
    key = np.clip((normals @ lights.key_from + wrap) / (1 + wrap), 0, None) * lit
    fill = np.clip((normals @ lights.fill_from + 0.3) / 1.3, 0, None) * (0.4 + 0.6 * shade)
    grazing = np.clip(1 - np.abs(normals[:, 2]), 0, 1) ** 3 * np.clip(0.4 - normals[:, 2], 0, 1) * lights.rim * 4
    out = np.clip(ambient, 0.02, None) * shade[:, None] + key[:, None] * lights.key + fill[:, None] * lights.fill
    return (out + grazing[:, None]).astype(np.float32)


def any_colour(rng: np.random.Generator, low: float = 0.04, high: float = 0.95) -> np.ndarray:
    """A colour as rooms and clothes have it: mostly muted, sometimes strong. sRGB [3]."""
    hue = rng.normal(0, 1, 3)
    hue -= hue.mean()
    hue /= np.abs(hue).max() + 1e-6
    value = rng.uniform(low, high)
    return np.clip(value + hue * min(value, 1.1 - value) * rng.beta(1.0, 2.2), low / 2, 0.98)


def _boxes(rng: np.random.Generator, size: int) -> np.ndarray:
    """A wall, a floor line and some furniture-like rectangles."""
    wall = any_colour(rng, 0.15)
    out = np.empty((size, size, 3), np.float32)
    out[:] = wall
    for _ in range(int(rng.integers(2, 9))):
        x, y = rng.integers(-size // 4, size, 2)
        w, h = rng.integers(size // 12, int(size / 1.3), 2)
        cv2.rectangle(
            out, (int(x), int(y)), (int(x + w), int(y + h)), (0.5 * wall + 0.5 * any_colour(rng)).tolist(), -1
        )
    return out * np.linspace(rng.uniform(0.7, 1.2), rng.uniform(0.6, 1.2), size, dtype=np.float32)[:, None, None]


def _shelf(rng: np.random.Generator, size: int) -> np.ndarray:
    """Rows of books."""
    out = np.empty((size, size, 3), np.float32)
    wood = np.array([0.35, 0.24, 0.15]) * rng.uniform(0.4, 1.8)
    out[:] = wood * 0.5
    rows = int(rng.integers(3, 6))
    for r in range(rows):
        bottom = int((r + 1) * size / rows)
        x = 0.0
        while x < size:
            w = rng.uniform(0.012, 0.045) * size
            h = rng.uniform(0.55, 0.85) * size / rows
            if rng.random() < 0.88:
                colour = any_colour(rng)
                cv2.rectangle(out, (int(x), int(bottom - h)), (int(x + w), bottom), colour.tolist(), -1)
            x += w
        cv2.rectangle(out, (0, bottom - max(2, size // 60)), (size, bottom), wood.tolist(), -1)
    return out


def _bokeh(rng: np.random.Generator, size: int) -> np.ndarray:
    """Out-of-focus lamps on a dark gradient."""
    out = np.empty((size, size, 3), np.float32)
    out[:] = any_colour(rng, 0.02, 0.3)
    for _ in range(int(rng.integers(10, 50))):
        centre = (int(rng.integers(0, size)), int(rng.integers(0, size)))
        lamp = out[centre[1], centre[0]] + any_colour(rng, 0.05, 0.6)
        cv2.circle(out, centre, int(rng.uniform(0.01, 0.06) * size), lamp.tolist(), -1, cv2.LINE_AA)
    return cv2.GaussianBlur(out, (0, 0), size / 128)


def _noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """Coloured clouds of several scales: foliage, sky, curtains."""
    out = np.empty((size, size, 3), np.float32)
    out[:] = any_colour(rng, 0.1)
    for cells in (2, 5, 12, 30):
        stretch = rng.choice([0.4, 1, 1, 2.5])
        shape = (max(2, int(cells * stretch)), max(2, int(cells / stretch)))
        out += smooth_noise(rng, (size, size), shape)[..., None] * (rng.normal(0, 0.03, 3) + rng.normal(0, 0.08))
    return out


def draw_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """uint8 [size, size, 3]: plain, gradient, clouds, room, bookshelf or bokeh, more or less out of focus."""
    kind = rng.choice(6, p=[0.14, 0.16, 0.26, 0.2, 0.12, 0.12])
    if kind <= 1:
        a, b = any_colour(rng), any_colour(rng)
        if rng.random() < 0.5:
            a = np.full(3, a.mean()) + rng.normal(0, 0.03, 3)
        b = a if kind == 0 else a + (b - a) * rng.uniform(0.2, 1)
        yy, xx = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
        angle = rng.uniform(0, 2 * np.pi)
        t = np.hypot(xx, yy) * 1.4 if rng.random() < 0.4 else 0.5 + xx * np.cos(angle) + yy * np.sin(angle)
        out = (a + (b - a) * np.clip(t, 0, 1)[..., None]).astype(np.float32)
    else:
        out = {2: _noise, 3: _boxes, 4: _shelf, 5: _bokeh}[int(kind)](rng, size)
        blur = rng.choice([0.0, 0.8, 2.0, 5.0], p=[0.15, 0.25, 0.35, 0.25]) * size / 256
        if blur:
            out = cv2.GaussianBlur(out, (0, 0), blur)
    out = out + rng.normal(0, rng.uniform(0, 0.015), out.shape)
    return np.round(np.clip(out, 0, 1) * 255).astype(np.uint8)


def photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A camera's faults on uint8 [h, w, 3]: blur, noise, white balance, JPEG."""
    out = image.astype(np.float32)
    if rng.random() < 0.4:
        out = np.asarray(cv2.GaussianBlur(out, (0, 0), rng.uniform(0.3, 0.9)))
    if rng.random() < 0.6:
        grain = rng.standard_normal((*out.shape[:2], 1)) * 0.7 + rng.standard_normal(out.shape) * 0.5
        out += (grain * rng.uniform(0.5, 6)).astype(np.float32)
    photo = np.clip(out, 0, 255).astype(np.uint8)
    if rng.random() < 0.6:
        _, code = cv2.imencode(".jpg", photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(55, 96))])
        photo = np.ascontiguousarray(np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))[..., ::-1])
    return photo
