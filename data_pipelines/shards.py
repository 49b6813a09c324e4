"""Shards of prepared clips: ArrayRecord files that training reads at random, written clip after clip. No jax.

    DIR/metadata.json                schema, settings (size, quality ..), every field's type, shape and unit, totals
    DIR/index-00000.json             what the files of group 0 hold: clips in their order, records, bytes, checksums
    DIR/frames-00000.array_record    one record a frame, clips in one piece: JPEG, PNG and coefficients
    DIR/clips-00000.array_record     one record a clip: what its frames share
    DIR/motion-00000.array_record    one record an utterance: sound, its features and the face's motion

A group's files appear before its index and count only with it, so an interrupted run leaves nothing half-written. A
record is the little-endian uint32 lengths of its kind's fields, in the order of `metadata.json`, and then these fields.
JPEG on disk compresses no further and frames are read alone: `group_size:1,uncompressed`.
"""

import hashlib
import itertools
import json
import os
import struct
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from array_record.python import array_record_module

from r3p.errors import InputError

SCHEMA = 1
KINDS = ("frames", "clips", "motion")
METADATA = "metadata.json"
GROUP_BYTES = 512 * 2**20  # of frames; then a group is closed
SPLITS = ("train", "validation", "test")
_OPTIONS = "group_size:1,uncompressed"


def fields_of(size: int, hubert: int = 0) -> dict[str, dict[str, dict[str, Any]]]:
    """What the records of each kind hold, in order: {kind: {name: {type, shape, unit}}}. None: any length.

    size: side of the images. hubert: width of HuBERT's features, 0 without them. Pixels are RGB.
    """

    def of(type: str, shape: Sequence[int | None], unit: str) -> dict[str, Any]:
        return {"type": type, "shape": list(shape), "unit": unit}

    pose = {"euler": "pitch, yaw, roll in radians", "trans": "head units of 10 cm"}
    units = "expression units, 1 = full"
    frames = {
        "image": of("jpeg", (size, size, 3), "the person before the clip's background"),
        "torso": of("jpeg", (size, size, 3), "torso on black, extended under the head"),
        "classes": of("png", (size, size), "0 background, 1 hair, 2 body skin, 3 face skin, 4 clothes, 5 others"),
        "head_mask": of("png", (size, size), "255 = head"),
        "person_mask": of("png", (size, size), "255 = person"),
        "expression": of("float32", (64,), units),
        "before_expression": of("float32", (64,), f"{units}: the frame before"),
        "after_expression": of("float32", (64,), f"{units}: the frame after"),
        **{k: of("float32", (3,), unit) for k, unit in pose.items()},
        "camera": of("float32", (25,), "camera to world 4x4, then intrinsics 3x3 in image widths"),
        "keypoints": of("float32", (68, 2), "of the fitted head, -1..1 across the image"),
        "landmarks": of("float32", (478, 2), "found in the image, image widths; NaN where no face was found"),
        "error": of("float32", (), "mean distance of fitted and found landmarks, image widths"),
        "time": of("float32", (), "seconds into the clip"),
    }
    clips = {
        "background": of("jpeg", (size, size, 3), "what stands behind the person"),
        "identity": of("float32", (80,), "standard deviations"),
    }
    motion = {
        "sound": of("int16", (None,), "16 kHz, mono"),
        "mel": of("float16", (None, 80), "bands without colour and level, -4..4, 50 Hz"),
        "pitch": of("float32", (None,), "Hz, 0 = unvoiced, 50 Hz"),
        **({"hubert": of("float16", (None, hubert), "HuBERT features, 50 Hz")} if hubert else {}),
        "identity": clips["identity"],
        "expression": of("float32", (None, 64), f"{units}, 25 Hz"),
        **{k: of("float32", (None, 3), f"{unit}, 25 Hz") for k, unit in pose.items()},
        "blink": of("uint8", (None,), "1 in the middle of a blink, 25 Hz"),
        "amplitude": of("float32", (), "how far the mouth opens, head units"),
    }
    return {"frames": frames, "clips": clips, "motion": motion}


# ------------------------------------------------------------------------------------------------ records
def _encode(value: np.ndarray, spec: Mapping[str, Any], quality: int) -> bytes:
    if spec["type"] == "jpeg":
        return simplejpeg.encode_jpeg(np.ascontiguousarray(value), quality, "RGB", "444")
    if spec["type"] == "png":
        return np.asarray(cv2.imencode(".png", value, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]).tobytes()
    array = np.asarray(value, np.dtype(spec["type"]).newbyteorder("<"))
    wanted = spec["shape"]
    if array.ndim != len(wanted) or any(w not in (None, n) for w, n in zip(wanted, array.shape, strict=True)):
        raise ValueError(f"array {array.shape}: expected {wanted}")
    return np.ascontiguousarray(array).tobytes()


def _decode(data: memoryview, spec: Mapping[str, Any]) -> np.ndarray:
    if spec["type"] == "jpeg":
        return simplejpeg.decode_jpeg(data, "RGB")
    if spec["type"] == "png":
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise ValueError(f"{len(data)} bytes are no PNG")
        return np.asarray(image)
    return np.frombuffer(data, np.dtype(spec["type"]).newbyteorder("<")).reshape(
        [-1 if n is None else n for n in spec["shape"]]
    )


def pack(values: Mapping[str, np.ndarray], fields: Mapping[str, Mapping[str, Any]], quality: int = 95) -> bytes:
    """A record of these fields; more values than fields are left out."""
    parts = [_encode(values[name], spec, quality) for name, spec in fields.items()]
    return struct.pack(f"<{len(parts)}I", *map(len, parts)) + b"".join(parts)


def split_record(record: bytes, fields: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The record's fields as they are stored: images are the bytes of a JPEG or PNG file."""
    images = {k: v for k, v in fields.items() if v["type"] in ("jpeg", "png")}
    out: dict[str, Any] = dict(unpack(record, fields, set(fields) - set(images)))
    ends = np.cumsum([4 * len(fields), *struct.unpack_from(f"<{len(fields)}I", record)])
    places = dict(zip(fields, itertools.pairwise(ends), strict=True))
    return out | {k: record[places[k][0] : places[k][1]] for k in images}


def unpack(
    record: bytes, fields: Mapping[str, Mapping[str, Any]], wanted: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """The record's fields, or only the wanted ones (the others are not decoded)."""
    view, at = memoryview(record), 4 * len(fields)
    out, chosen = {}, None if wanted is None else set(wanted)
    for (name, spec), length in zip(fields.items(), struct.unpack_from(f"<{len(fields)}I", record), strict=True):
        if chosen is None or name in chosen:
            out[name] = _decode(view[at : at + length], spec)
        at += length
    if at != len(record):
        raise ValueError(f"a record of {len(record)} bytes, its fields have {at}")
    return out


# ------------------------------------------------------------------------------------------------ writing
def write_json(path: Path, value: Any) -> None:
    """Writes JSON so that the file is whole whenever it is there."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(part, path)


@dataclass
class _Open:
    """A file being written."""

    path: Path
    part: Path
    writer: Any
    records: int = 0
    size: int = 0

    def write(self, record: bytes) -> None:
        self.writer.write(record)
        self.records += 1
        self.size += len(record)


@dataclass
class ShardWriter:
    """Appends clips to a folder; what earlier runs wrote stays. `close` ends the last group.

    Attributes:
      folder: made when absent.
      settings: of the whole set, among them size, quality and hubert; a folder of other settings is refused.
      group_bytes: of frames, after which a group is closed: where that is depends on the clips alone.
    """

    folder: Path
    settings: Mapping[str, Any]
    group_bytes: int = GROUP_BYTES
    _files: dict[str, _Open] = field(default_factory=dict)
    _clips: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.fields = fields_of(self.settings["size"], self.settings["hubert"])
        path = self.folder / METADATA
        if path.exists():
            held = read_metadata(self.folder)["settings"]
            if held != dict(self.settings):
                raise InputError(
                    f"{self.folder} holds clips made with {held}, not {dict(self.settings)}: choose another"
                )
        else:
            write_json(path, {"schema": SCHEMA, "settings": dict(self.settings), "fields": self.fields})
        for left in self.folder.glob(".*.part"):
            left.unlink()
        self.group = len(read_indices(self.folder))

    def add(
        self, clip: Mapping[str, Any], frames: Iterable[bytes], shared: bytes, motion: bytes | None
    ) -> list[str] | None:
        """Appends packed records of one clip. Returns the group's clips when this one filled it.

        clip: `name`, `person`, `split` and whatever is to be known of its provenance.
        """
        if not self._files:
            self._files = {kind: self._start(kind) for kind in KINDS}
        first = self._files["frames"].records
        for record in frames:
            self._files["frames"].write(record)
        place: dict[str, int | None] = {
            "first": first,
            "frames": self._files["frames"].records - first,
            "clip": len(self._clips),
        }
        self._files["clips"].write(shared)
        place["motion"] = None if motion is None else self._files["motion"].records
        if motion is not None:
            self._files["motion"].write(motion)
        self._clips.append(dict(clip) | place)
        return self.close_group() if self._files["frames"].size >= self.group_bytes else None

    def _start(self, kind: str) -> _Open:
        path = self.folder / f"{kind}-{self.group:05d}.array_record"
        part = path.with_name(f".{path.name}.part")
        return _Open(path, part, array_record_module.ArrayRecordWriter(str(part), _OPTIONS))

    def close_group(self) -> list[str]:
        """Puts the group's files in place, and then its index. Returns the names of its clips."""
        known = {}
        for opened in self._files.values():
            opened.writer.close()
            known[opened.path.name] = {"records": opened.records} | _seen(opened.part)
            os.replace(opened.part, opened.path)
        write_json(self.folder / f"index-{self.group:05d}.json", {"files": known, "clips": self._clips})
        names = [clip["name"] for clip in self._clips]
        self._files, self._clips = {}, []
        self.group += 1
        return names

    def close(self) -> list[str]:
        """Ends the last group and writes the totals; returns that group's clips."""
        names = self.close_group() if self._clips else []
        indices = read_indices(self.folder)
        clips = [c for index in indices for c in index["clips"]]
        totals: dict[str, Any] = {"groups": len(indices), "clips": len(clips)}
        totals |= {"frames": sum(c["frames"] for c in clips), "utterances": sum(c["motion"] is not None for c in clips)}
        totals["splits"] = {s: sum(c["split"] == s for c in clips) for s in SPLITS}
        write_json(self.folder / METADATA, read_metadata(self.folder) | {"totals": totals})
        return names


def _seen(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


# ------------------------------------------------------------------------------------------------ reading
def read_metadata(folder: Path) -> dict[str, Any]:
    """Raises InputError when the folder holds no shards, or those of another schema."""
    path = folder / METADATA
    if not path.is_file():
        raise InputError(f"{path} does not exist: make shards with r3p prepare --input CLIPS --out {folder}")
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        schema = known["schema"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is not the metadata of shards: run r3p prepare again into an empty folder") from None
    if schema != SCHEMA:
        raise InputError(f"{path} is of schema {schema}, this program reads {SCHEMA}: run r3p prepare again")
    return known


def is_shards(folder: str | Path) -> bool:
    """Whether a folder holds shards, of whatever schema."""
    return (Path(folder).expanduser() / METADATA).is_file()


def read_indices(folder: Path) -> list[dict[str, Any]]:
    """The groups' indices in order."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("index-*.json"))]


@dataclass(frozen=True)
class Clip:
    """Where a clip's records lie. `known` is its entry of the index: split, person, provenance."""

    name: str
    group: int
    first: int
    frames: int
    place: int
    motion: int | None
    known: Mapping[str, Any]

    @property
    def length(self) -> int:
        """In frames, whether the shards have them or not."""
        return int(self.known.get("length", self.frames))


class Shards:
    """Random access to a folder of shards; `split` None takes all clips. Threads and copies to workers are fine.

    Raises:
      InputError: no shards there, or none of this split.
    """

    def __init__(self, folder: str | Path, split: str | None = "train"):
        self.folder, self.split = Path(folder).expanduser(), split
        self.metadata = read_metadata(self.folder)
        self.fields, self.settings = self.metadata["fields"], self.metadata["settings"]
        self.clips = [
            Clip(c["name"], group, c["first"], c["frames"], c["clip"], c["motion"], c)
            for group, index in enumerate(read_indices(self.folder))
            for c in index["clips"]
            if split is None or c["split"] == split
        ]
        if not self.clips:
            of = f" of the split {split}" if split else ""
            raise InputError(f"{folder} holds no clips{of}: see its report.json, and give r3p prepare more clips")
        self._start()

    def _start(self) -> None:
        self._readers: dict[tuple[str, int], Any] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:  # open files and locks stay here
        return {k: v for k, v in self.__dict__.items() if k not in ("_readers", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def record(self, kind: str, group: int, place: int) -> bytes:
        """The bytes of a record. Raises InputError when its file is missing."""
        with self._lock:
            if (kind, group) not in self._readers:
                path = self.folder / f"{kind}-{group:05d}.array_record"
                if not path.is_file():
                    raise InputError(f"{path} is missing: copy the whole folder, or run r3p prepare again")
                self._readers[kind, group] = array_record_module.ArrayRecordReader(
                    str(path), "readahead_buffer_size:0,max_parallelism:0"
                )
            return self._readers[kind, group].read([place])[0]

    def frame(self, clip: Clip, t: int, wanted: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """Fields of frame t of a clip."""
        return unpack(self.record("frames", clip.group, clip.first + t), self.fields["frames"], wanted)

    def shared(self, clip: Clip, wanted: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """What the frames of a clip share."""
        return unpack(self.record("clips", clip.group, clip.place), self.fields["clips"], wanted)

    def motion(self, clip: Clip, wanted: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """The utterance of a clip that has one."""
        assert clip.motion is not None
        return unpack(self.record("motion", clip.group, clip.motion), self.fields["motion"], wanted)

    def __repr__(self) -> str:  # grain keys its checkpoints by it
        return f"Shards({self.folder.name}, {self.split}, {self.metadata.get('totals')})"
