"""The part of MakeHuman's mesh that the head model keeps, its labels and its edge loops."""

from dataclasses import dataclass

import numpy as np

from data_pipelines.makehuman import MakeHuman

BODY_BOTTOM, HEAD_BOTTOM = 3.55, 5.28  # MakeHuman's y
ARM_DROP = np.radians(32.0)  # from the A pose to arms that hang
EAR_BACK_Z = 0.30  # MakeHuman's z behind the ears: PNCC ends there
PNCC_BOTTOM = 0.35  # torso weight below which skin counts as face and head


@dataclass
class Mesh:
    """Vertex subset of MakeHuman's mesh.

    ids [v] into the source; base [v, 3]; triangles [t, 3]; part [v] (0 skin, 1 left eye, 2 right eye, 3 upper teeth,
    4 lower teeth, 5 tongue); torso_weight [v]; mirror [v]; masks of the skin by name [v] in 0..1; loops of vertices by
    name; pncc_triangles [p] indices of the triangles that PNCC draws.
    """

    ids: np.ndarray
    base: np.ndarray
    quads: np.ndarray
    triangles: np.ndarray
    part: np.ndarray
    torso_weight: np.ndarray
    mirror: np.ndarray
    uv: np.ndarray
    masks: dict[str, np.ndarray]
    loops: dict[str, np.ndarray]
    pncc_triangles: np.ndarray
    head_vertices: int
    head_triangles: int
    arms: "ArmPose"

    def take(self, field: np.ndarray) -> np.ndarray:
        """Displacements of the source's vertices [n, 3] -> of this mesh's [v, 3], with the arms hanging."""
        return self.arms(field)[self.ids]

    def arrays(self) -> dict[str, np.ndarray]:
        """What the asset stores of it."""
        region = np.where(self.torso_weight > 0.7, 2, np.where(self.torso_weight > 0.05, 1, 0))
        out: dict[str, np.ndarray] = {
            "triangles": self.triangles.astype(np.uint16),
            "part": self.part.astype(np.uint8),
            "region": region.astype(np.uint8),
            "static": self.torso_weight.astype(np.float16),
            "mirror": self.mirror.astype(np.uint16),
            "uv": self.uv.astype(np.float32),
            "pncc_triangles": self.pncc_triangles.astype(np.int32),
            "head_vertices": np.array(self.head_vertices, np.int32),
            "head_triangles": np.array(self.head_triangles, np.int32),
        }
        out |= {f"mask_{k}": v.astype(np.float16) for k, v in self.masks.items()}
        return out | {f"loop_{k}": v.astype(np.uint16) for k, v in self.loops.items()}


class ArmPose:
    """Turns both arms down about the shoulders; linear, so that it serves the base mesh and each target alike."""

    def __init__(self, source: MakeHuman) -> None:
        self._source = source
        left = source.vertices[:, 0] > 0
        weight = source.arm_weight
        self._sides = (("l-shoulder", weight * left, -ARM_DROP), ("r-shoulder", weight * ~left, ARM_DROP))

    def __call__(self, field: np.ndarray) -> np.ndarray:
        out = field.copy()
        for joint, weight, angle in self._sides:
            c, s = np.cos(angle), np.sin(angle)
            turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
            centre = self._source.joint(joint, field)
            out += weight[:, None] * ((field - centre) @ (turn - np.eye(3)).T)
        return out


def cut_mesh(source: MakeHuman) -> Mesh:
    """Keeps head, neck, shoulders, chest, eyeballs, teeth and tongue, ordered as `build_head` says."""
    arms = ArmPose(source)
    posed = arms(source.vertices)
    part_of = np.full(len(posed), -1)
    part_of[source.quads.ravel()] = np.repeat(source.quad_part, 4)
    skin = (part_of == 0) & (posed[:, 1] > BODY_BOTTOM)
    in_head = posed[:, 1] > HEAD_BOTTOM
    groups = [np.flatnonzero(skin & in_head), *(np.flatnonzero(part_of == k) for k in range(1, 6))]
    head_vertices = sum(map(len, groups))
    ids = np.concatenate([*groups, np.flatnonzero(skin & ~in_head)])
    where = np.full(len(posed), -1)
    where[ids] = np.arange(len(ids))

    kept = (where[source.quads] >= 0).all(1)
    quads = where[source.quads[kept]]
    order = np.argsort(~(quads < head_vertices).all(1), kind="stable")
    quads = quads[order]
    head_quads = int((quads < head_vertices).all(1).sum())
    triangles = np.stack([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]], 1).reshape(-1, 3)

    # Smoothing leaves traces everywhere: cut them, so that skull and face are exactly 0 and the shoulders exactly 1.
    weight = ((smooth(source.torso_weight()[ids], quads, 12) - 0.05) / 0.93).clip(0, 1)
    weight[np.isin(part_of[ids], range(1, 6))] = 0
    mirror = where[source.mirror()[ids]]
    if (mirror < 0).any():
        raise ValueError("the cut is not symmetric")
    part = part_of[ids]
    quad_masks = {k: source.mask(k)[kept][order] for k in ("lips", "eyelids", "ears", "face", "inside-mouth")}
    masks = {
        k.replace("-", "_"): spread_to_vertices(v * (part[quads[:, 0]] == 0), quads, len(ids))
        for k, v in quad_masks.items()
    }
    mesh = Mesh(
        ids,
        posed[ids],
        quads,
        triangles,
        part,
        weight,
        mirror,
        source.uv[ids],
        masks,
        {},
        np.zeros(0, int),
        head_vertices,
        2 * head_quads,
        arms,
    )
    mesh.loops = find_loops(mesh)
    mesh.pncc_triangles = pncc_triangles(mesh)
    return mesh


def spread_to_vertices(quad_values: np.ndarray, quads: np.ndarray, count: int) -> np.ndarray:
    """Mean [count] over the quads around each vertex."""
    total, number = np.zeros(count), np.zeros(count)
    for k in range(4):
        np.add.at(total, quads[:, k], quad_values)
        np.add.at(number, quads[:, k], 1)
    return total / np.maximum(number, 1)


def smooth(values: np.ndarray, quads: np.ndarray, steps: int) -> np.ndarray:
    """Repeated averaging of a vertex field [v] with its neighbours along edges."""
    edges = np.unique(np.sort(np.concatenate([quads[:, [k, (k + 1) % 4]] for k in range(4)]), 1), axis=0)
    for _ in range(steps):
        total, number = values.copy(), np.ones(len(values))
        for a, b in (edges.T, edges.T[::-1]):
            np.add.at(total, a, values[b])
            np.add.at(number, a, 1)
        values = total / number
    return values


# Where the loops start in MakeHuman's base mesh: the topmost vertex of each (of the person's left eye).
LOOP_TOPS = {
    "inner_lips": 474,  # the rim at which the lips meet
    "outer_lips": 455,  # the border of the vermilion
    "left_eye": 6785,  # the edge of the lids
    "left_socket": 7747,  # where the lids' thickness ends: the opening itself
    "mouth_inside": 537,
}


def find_loops(mesh: Mesh) -> dict[str, np.ndarray]:
    """Closed edge loops by name, each from its topmost vertex toward the person's left and around."""
    where = {int(source): k for k, source in enumerate(mesh.ids)}
    skin = mesh.quads[mesh.part[mesh.quads[:, 0]] == 0]
    loops = {name: edge_loop(mesh.base, skin, where[top]) for name, top in LOOP_TOPS.items()}
    for name in ("eye", "socket"):
        loops[f"right_{name}"] = mesh.mirror[loops[f"left_{name}"]]
    return loops


def edge_loop(vertices: np.ndarray, quads: np.ndarray, start: int) -> np.ndarray:
    """Walks straight ahead over quads (opposite edges at vertices of valence 4) from `start`, first toward +x."""
    around: dict[int, set[int]] = {}
    near: dict[int, set[int]] = {}
    for number, quad in enumerate(quads):
        for k in range(4):
            around.setdefault(int(quad[k]), set()).add(number)
            near.setdefault(int(quad[k]), set()).update((int(quad[k - 1]), int(quad[(k + 1) % 4])))
    steps = {n: (vertices[n] - vertices[start]) for n in near[start]}
    path = [start, max(steps, key=lambda n: steps[n][0] / np.linalg.norm(steps[n]))]
    while True:
        before, here = path[-2:]
        ahead = [n for n in near[here] - {before} if not around[n] & around[here] & around[before]]
        if len(ahead) != 1:
            raise ValueError(f"the edge loop from vertex {start} ends at vertex {here}")
        if ahead[0] == start:
            return np.array(path)
        path.append(ahead[0])


def inside(quads: np.ndarray, fence: np.ndarray, seed: int) -> np.ndarray:
    """[q] True for the quads that can be reached from a vertex without crossing a closed loop of vertices."""
    reached = np.zeros(quads.max() + 1, bool)
    blocked = np.zeros_like(reached)
    blocked[fence] = True
    reached[seed] = True
    while True:
        touched = quads[(reached & ~blocked)[quads].any(1)]
        grown = reached.copy()
        grown[touched.ravel()] = True
        if (grown == reached).all():
            return (reached & ~blocked)[quads].any(1)
        reached = grown


def pncc_triangles(mesh: Mesh) -> np.ndarray:
    """Triangles of face and head in front of the ears' back, without the mouth's inside, eye sockets and neck."""
    quads = mesh.quads
    keep = (mesh.part[quads] == 0).all(1) & (mesh.torso_weight[quads] < PNCC_BOTTOM).all(1)
    keep &= (mesh.base[quads, 2] > EAR_BACK_Z).all(1)
    skin = np.flatnonzero((mesh.part[quads] == 0).all(1))
    for name in ("mouth_inside", "left_socket", "right_socket"):
        fence = mesh.loops[name]
        beside = np.setdiff1d(quads[skin][np.isin(quads[skin], fence).any(1)], fence)
        sides = {int(hit.sum()): hit for hit in (inside(quads[skin], fence, int(n)) for n in beside)}
        keep[skin[sides[min(sides)]]] = False  # the loop parts a small cavity from the rest
    return np.flatnonzero(np.repeat(keep, 2))
