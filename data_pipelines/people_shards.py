"""Examples on disk: shards of 64, images as JPEG or PNG bytes, numbers as arrays, and a random-access reader.

    DIR/people-00000.npz    images: `<key>` uint8 [total bytes] with `<key>_ends` int64 [n]; others: `<key>` [n, ...]
    DIR/people.json         {"count": .., "per_shard": 64, "size": .., "pncc_size": .., "seed": .., "per_person": ..}

Photographs and renders are JPEG of quality 95; masks, class maps, weights and PNCC (whose background must stay 0) PNG.
"""

import json
from collections import OrderedDict
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from r3p.errors import InputError

PER_SHARD = 64
JPEG = ("source", "torso", "background", "target", "target_head")
PNG = ("source_segmap", "target_head_mask", "target_mask", "weight", "pncc_canonical", "pncc_source", "pncc_target")


def encode(key: str, image: np.ndarray) -> np.ndarray:
    """uint8 image -> compressed bytes, uint8 [n]."""
    shown = image[..., ::-1] if image.ndim == 3 else image
    if key in JPEG:
        settings = [
            cv2.IMWRITE_JPEG_QUALITY,
            95,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
        ]
        return np.asarray(cv2.imencode(".jpg", shown, settings)[1]).ravel()
    return np.asarray(cv2.imencode(".png", shown, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1]).ravel()


def decode(data: np.ndarray) -> np.ndarray:
    """Compressed bytes -> uint8 image, RGB or one channel."""
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise InputError(f"{len(data)} bytes of a shard are no image: write the shard again")
    return np.ascontiguousarray(image[..., ::-1]) if image.ndim == 3 else image


def pack(examples: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Examples -> arrays of one shard."""
    out = {}
    for key in examples[0]:
        if key in JPEG + PNG:
            codes = [encode(key, e[key]) for e in examples]
            out[key] = np.concatenate(codes)
            out[f"{key}_ends"] = np.cumsum([len(c) for c in codes]).astype(np.int64)
        else:
            out[key] = np.stack([e[key] for e in examples])
    return out


def unpack(shard: dict[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
    """Example `index` of a shard's arrays."""
    out = {}
    for key, value in shard.items():
        if key.endswith("_ends"):
            continue
        if f"{key}_ends" in shard:
            ends = shard[f"{key}_ends"]
            out[key] = decode(value[ends[index - 1] if index else 0 : ends[index]])
        else:
            out[key] = value[index]
    return out


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"people-{number:05d}.npz"


def write_shard(number: int, folder: Path, count: int, seed: int, size: int, pncc_size: int, per_person: int) -> None:
    """Draw and write one shard; a shard that exists is left alone, so that an interrupted run goes on."""
    from data_pipelines.people import People

    path = shard_path(folder, number)
    if path.exists():
        return
    cv2.setNumThreads(1)
    people = People(seed, size, pncc_size, per_person)
    first = number * PER_SHARD
    shard = pack([people[k] for k in range(first, min(first + PER_SHARD, count))])
    part = path.with_suffix(".part.npz")
    with part.open("wb") as file:
        np.savez(file, **shard)  # type: ignore[arg-type]
    part.rename(path)


def write_shards(
    folder: Path, count: int, seed: int, size: int, pncc_size: int, workers: int, per_person: int = 2
) -> None:
    """Write examples 0..count-1 of a seed into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    header = {"count": count, "per_shard": PER_SHARD, "size": size, "pncc_size": pncc_size, "seed": seed}
    header["per_person"] = per_person
    head = folder / "people.json"
    if head.exists() and json.loads(head.read_text()) | {"count": count} != header:
        raise InputError(f"{folder} holds people of {head.read_text()}, not {header}: choose another folder")
    head.write_text(json.dumps(header))
    job = partial(
        write_shard, folder=folder, count=count, seed=seed, size=size, pncc_size=pncc_size, per_person=per_person
    )
    numbers = range(-(-count // PER_SHARD))
    if workers <= 1:
        for number in numbers:
            job(number)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for _ in pool.map(job, numbers):
            pass


class PeopleShards:
    """Random access to a folder written by `write_shards`, as `grain.MapDataset.source` wants it.

    Keeps the compressed arrays of the last `keep` shards in memory (about 10 MB each at 256^2).
    """

    def __init__(self, folder: Path | str, keep: int = 64):
        self.folder, self.keep = Path(folder), keep
        header = self.folder / "people.json"
        if not header.exists():
            raise InputError(
                f"no people.json in {folder}: write it with python -m data_pipelines.people --out {folder} --count N"
            )
        self.header = json.loads(header.read_text())
        self._shards: OrderedDict[int, dict[str, np.ndarray]] = OrderedDict()

    def __len__(self) -> int:
        return self.header["count"]

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        number, place = divmod(int(index), self.header["per_shard"])
        if number not in self._shards:
            path = shard_path(self.folder, number)
            if not path.exists():
                raise InputError(f"{path} is missing: run the same --out command again to finish the set")
            with np.load(path) as data:
                self._shards[number] = {k: data[k] for k in data.files}
            while len(self._shards) > self.keep:
                self._shards.popitem(last=False)
        self._shards.move_to_end(number)
        return unpack(self._shards[number], place)

    def __repr__(self) -> str:  # grain keys its checkpoints by it
        return f"PeopleShards({self.folder.name}, {self.header})"
