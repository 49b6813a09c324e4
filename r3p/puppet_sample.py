"""What a photograph's head is asked to do: random poses near a camera, random speech, blinks."""

import numpy as np

from r3p.camera import rotation

PIVOT = np.array([0.0, -1.25, -0.75])  # head frame: where the skull turns on the neck
LIMIT = np.radians((15.0, 30.0, 10.0))  # pitch, yaw, roll
MOST_TURN = np.radians(
    (18.0, 38.0, 14.0)
)  # away from the photograph's own pose: beyond it shows little of what is seen
_MOUTH = ("jaw", "mouth", "tongue")
# unit: (probability, least, most); sides of a pair move nearly alike
_SPEECH = {
    "mouthFunnel": (0.3, 0.05, 0.6), "mouthPucker": (0.3, 0.05, 0.75), "mouthSmile": (0.35, -0.15, 0.45),
    "mouthPress": (0.25, 0.0, 0.5), "mouthUpperUp": (0.3, 0.0, 0.35), "mouthLowerDown": (0.35, 0.0, 0.5),
    "mouthStretch": (0.25, 0.0, 0.4), "mouthRollLower": (0.2, 0.0, 0.4), "mouthRollUpper": (0.2, 0.0, 0.3),
    "mouthShrugUpper": (0.15, 0.0, 0.3), "mouthShrugLower": (0.2, 0.0, 0.35), "mouthFrown": (0.15, 0.0, 0.3),
    "mouthDimple": (0.15, 0.0, 0.3), "mouthLeft": (0.07, 0.0, 0.25), "mouthRight": (0.07, 0.0, 0.25),
    "jawForward": (0.1, 0.0, 0.25),
}  # fmt: skip
_OTHERS = {
    "browInnerUp": (0.25, 0.0, 0.7), "browDown": (0.2, 0.0, 0.5), "browOuterUp": (0.2, 0.0, 0.5),
    "cheekSquint": (0.2, 0.0, 0.4), "eyeSquint": (0.2, 0.0, 0.4), "eyeWide": (0.15, 0.0, 0.5),
    "noseSneer": (0.1, 0.0, 0.25),
}  # fmt: skip
STILL, BLINK, HALF_BLINK = 0.12, 0.25, 0.12  # shares of examples
SHUT = 0.25  # of expressions: a mouth at rest, which silence shows; a photograph that smiles does not
FACING = 0.3  # of the rest: the source's pose with another expression, as most videos show it


def _move(out: np.ndarray, names: list[str], unit: str, value: float, rng: np.random.Generator) -> None:
    for name in (unit, unit + "Left", unit + "Right"):
        if name in names:
            out[names.index(name)] += value * (1.0 if name == unit else rng.uniform(0.85, 1.15))


def draw_expression(rng: np.random.Generator, names: list[str], source: np.ndarray, spread: float = 0.0) -> np.ndarray:
    """float32 [64]: speech about a source's expression [64]; the mouth keeps a random share of the source's.

    spread: share of the speaking ones that lie over many units at once, as those fitted to a video do.
    """
    out = source.astype(np.float64).copy()
    mouth = np.array([n.startswith(_MOUTH) for n in names])
    rest = np.array([n.startswith("rest") for n in names])
    shut = rng.random() < SHUT
    if shut or rng.random() < 0.7:
        out[mouth | rest] *= 0.0 if shut else rng.beta(0.7, 0.7)
    if not shut and rng.random() < 0.8:
        out[names.index("jawOpen")] += 0.7 * rng.beta(1.0, 1.5)
    for units in (_OTHERS,) if shut else (_SPEECH, _OTHERS):
        for unit, (chance, least, most) in units.items():
            if rng.random() < chance:
                _move(out, names, unit, rng.uniform(least, most), rng)
    if spread and not shut and rng.random() < spread:
        out[rest] += rng.normal(0, 0.2, int(rest.sum()))
        skin = np.array([n.startswith(("mouth", "cheek", "nose")) for n in names])
        out[skin] += rng.exponential(0.08, int(skin.sum()))
    if rng.random() < 0.2:  # lips that meet while the jaw is down: m, b, p
        out[names.index("mouthClose")] += 0.8 * out[names.index("jawOpen")]
    if rng.random() < 0.3:
        look = rng.uniform(-0.4, 0.4, 2)
        for side, sign in (("Left", 1), ("Right", -1)):
            out[names.index(("eyeLookOut" if sign * look[0] > 0 else "eyeLookIn") + side)] += abs(look[0])
            out[names.index(("eyeLookUp" if look[1] > 0 else "eyeLookDown") + side)] += abs(look[1])
    kind = rng.random()
    if kind < BLINK:
        _move(out, names, "eyeBlink", rng.uniform(0.8, 1.0), rng)
    elif kind < BLINK + HALF_BLINK:
        _move(out, names, "eyeBlink", rng.uniform(0.1, 0.7), rng)
    return np.clip(out, -0.3, 1.2).astype(np.float32)


def turned(euler: np.ndarray, trans: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """trans [3] of a head that turns on its neck from a pose (euler [3], trans [3]) to the angles `turn` [3]."""
    return rotation(euler) @ PIVOT + trans - rotation(turn) @ PIVOT


def draw_pose(rng: np.random.Generator, euler: np.ndarray, trans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """euler [3], trans [3] near a source pose: within LIMIT of the frontal view and MOST_TURN of the source.

    The head turns on its neck, as heads do, so that the torso has little to follow; and moves a little besides.
    """
    low = np.minimum(np.maximum(-LIMIT, euler - MOST_TURN), euler)
    high = np.maximum(np.minimum(LIMIT, euler + MOST_TURN), euler)
    spread = np.clip(rng.normal(euler, 0.45 * LIMIT), low, high) if rng.random() < 0.5 else rng.uniform(low, high)
    shift = rng.normal(0, (0.04, 0.03, 0.08))
    return spread, turned(euler, trans, spread) + shift
