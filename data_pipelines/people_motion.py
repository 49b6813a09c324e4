"""Random identities and expressions for synthetic people."""

import numpy as np

from data_pipelines.head import Head

# Units that act together, left and right alike up to a little difference; the largest weight that looks natural.
GESTURES = {
    "mouthSmile": 0.9, "mouthFrown": 0.7, "mouthStretch": 0.6, "mouthDimple": 0.6, "mouthPress": 0.7,
    "mouthUpperUp": 0.6, "mouthLowerDown": 0.7, "cheekSquint": 0.7, "noseSneer": 0.6, "browDown": 0.9,
    "browOuterUp": 0.9, "eyeSquint": 0.7, "eyeWide": 0.8,
}  # fmt: skip
SINGLE = {
    "mouthFunnel": 0.8, "mouthPucker": 0.9, "mouthRollLower": 0.7, "mouthRollUpper": 0.7, "mouthShrugLower": 0.6,
    "mouthShrugUpper": 0.6, "mouthLeft": 0.4, "mouthRight": 0.4, "jawForward": 0.4, "jawLeft": 0.3, "jawRight": 0.3,
    "browInnerUp": 0.9, "cheekPuff": 0.4,
}  # fmt: skip
# Mouth shapes of speech: (range of jawOpen, other units)
VISEMES: list[tuple[tuple[float, float], dict[str, float]]] = [
    ((0.15, 0.5), {"mouthLowerDown": 0.3}),
    ((0.05, 0.25), {"mouthSmile": 0.35, "mouthStretch": 0.2}),
    ((0.1, 0.3), {"mouthFunnel": 0.6}),
    ((0.02, 0.15), {"mouthPucker": 0.8}),
    ((0.0, 0.02), {"mouthPress": 0.4}),
    ((0.0, 0.02), {"mouthRollLower": 0.3, "mouthRollUpper": 0.3}),
    ((0.02, 0.1), {"mouthRollLower": 0.5, "mouthUpperUp": 0.3}),
    ((0.04, 0.16), {"mouthLowerDown": 0.5, "mouthUpperUp": 0.2}),
    ((0.08, 0.25), {}),
    ((0.0, 0.0), {}),
]


_PHOTOGRAPHED = {"mouthSmile": 0.85, "mouthUpperUp": 0.5, "mouthLowerDown": 0.5, "cheekSquint": 0.5, "jawOpen": 0.12}


def draw_identity(rng: np.random.Generator, count: int, spread: float = 0.9, limit: float = 2.2) -> np.ndarray:
    """Identity weights float32 [count], normal and clipped, in standard deviations."""
    return np.clip(rng.normal(0, spread, count), -limit, limit).astype(np.float32)


def draw_expression(rng: np.random.Generator, head: Head, calm: bool = False, smile: float = 0.0) -> np.ndarray:
    """Expression weights float32 [64]: a mouth shape of speech, gestures, lids, gaze. `calm` is nearly neutral.

    smile: how broad a smile for the photographer goes on top, 0 to 1; it shows teeth.
    """
    units: dict[str, float] = {}

    def add(name: str, value: float) -> None:
        if f"{name}Left" in head.names:
            tilt = rng.normal(0, 0.12)
            units[f"{name}Left"] = units.get(f"{name}Left", 0) + value * (1 + tilt)
            units[f"{name}Right"] = units.get(f"{name}Right", 0) + value * (1 - tilt)
        else:
            units[name] = units.get(name, 0) + value

    scale = 0.3 if calm else 1.0
    (low, high), others = VISEMES[rng.integers(len(VISEMES))]
    if not calm or rng.random() < 0.4:
        jaw = rng.uniform(low, high) if rng.random() < 0.6 else 0.55 * rng.beta(1.1, 2.5)
        add("jawOpen", jaw * (0.5 if calm else 1.0))
        for name, value in others.items():
            add(name, value * rng.uniform(0.2, 1.2) * scale)
        if jaw > 0.1 and rng.random() < 0.06:
            add("mouthClose", jaw * rng.uniform(0.3, 0.9))
    for name, limit in GESTURES.items():
        if rng.random() < 0.12:
            value = limit * rng.beta(1.2, 1.8) * scale
            if rng.random() < 0.15:  # one side only
                units[f"{name}{rng.choice(['Left', 'Right'])}"] = value
            else:
                add(name, value)
    if rng.random() < 0.2:
        add("mouthSmile", rng.beta(1.5, 1.5) * 0.9 * (0.6 if calm else 1.0))
    if smile:
        for name, value in _PHOTOGRAPHED.items():
            add(name, smile * value * rng.uniform(0.6, 1.0))
    for name, limit in SINGLE.items():
        if rng.random() < 0.08:
            add(name, limit * rng.beta(1.2, 2.0) * scale)
    lids = rng.random()
    if lids < (0.02 if calm else 0.13):
        add("eyeBlink", rng.uniform(0.85, 1.0))
    elif lids < 0.32:
        add("eyeBlink", rng.uniform(0.05, 0.8) * (0.3 if calm else 1))
    across, up = rng.normal(0, 0.22), rng.normal(0.03, 0.17)
    for side in ("Left", "Right"):
        turned = across if side == "Left" else -across  # toward the left is out for the left eye
        units[f"eyeLookOut{side}"] = max(turned, 0.0)
        units[f"eyeLookIn{side}"] = max(-turned, 0.0)
        units[f"eyeLookUp{side}"] = max(up, 0.0)
        units[f"eyeLookDown{side}"] = max(-up, 0.0)
    out = head.weights(**{k: float(np.clip(v, 0, 1.1)) for k, v in units.items()})
    if rng.random() < 0.3:
        out[52:] = rng.normal(0, 0.15 * scale, len(out) - 52)
    return out
