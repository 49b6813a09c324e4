"""`r3p data check` and `r3p data show`: whether shards are whole and sound, and what is in them."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.head import Head, draw_pncc
from data_pipelines.shards import KINDS, Clip, Shards, _seen, read_indices, read_metadata, unpack
from r3p.errors import InputError

RANGES = {
    "classes": (0, 5), "expression": (-2, 3), "before_expression": (-2, 3), "after_expression": (-2, 3),
    "euler": (-3.2, 3.2), "trans": (-60, 10), "keypoints": (-20, 20), "error": (0, 1), "time": (0, 1e5),
    "identity": (-30, 30), "mel": (-4.01, 4.01), "pitch": (0, 1000), "blink": (0, 1), "amplitude": (0, 5),
}  # fmt: skip
MISSING = ("landmarks", "error")  # NaN where no face was found
PALETTE = np.array(
    [(0, 0, 0), (150, 90, 40), (240, 200, 170), (220, 150, 120), (70, 100, 200), (90, 190, 90)], np.uint8
)


def _wrong(values: dict[str, np.ndarray], fields: dict) -> Iterator[str]:
    """What is amiss in a record's fields."""
    for name, value in values.items():
        wanted = fields[name]["shape"]
        if value.ndim != len(wanted) or any(w not in (None, n) for w, n in zip(wanted, value.shape, strict=True)):
            yield f"{name} has shape {list(value.shape)}, expected {wanted}"
        elif value.dtype.kind == "f" and not np.isfinite(value).all() and name not in MISSING:
            yield f"{name} is not finite"
        elif name in RANGES and value.size and np.isfinite(value).any():
            low, high = RANGES[name]
            least, most = np.nanmin(value), np.nanmax(value)
            if least < low or most > high:
                yield f"{name} is {least:g} to {most:g}, expected {low} to {high}"
    if "camera" in values:
        turn = values["camera"][:16].reshape(4, 4)[:3, :3]
        if np.abs(turn @ turn.T - np.eye(3)).max() > 1e-4:
            yield "camera holds no rotation"
    if "mel" in values:
        t = len(values["expression"])
        lengths = {k: len(values[k]) for k in ("mel", "pitch", "hubert") if k in values}
        yield from (f"{k} has {n} frames, expected {2 * t}" for k, n in lengths.items() if n != 2 * t)


def check(folder: Path, every: int = 1) -> Iterator[str]:
    """What is wrong with the shards: one sentence each; nothing when all is well.

    every: only each so many-th record is decoded; the files' checksums are always compared.
    """
    metadata, indices = read_metadata(folder), read_indices(folder)
    totals = metadata.get("totals")
    if totals is None:
        yield "metadata.json has no totals: r3p prepare was interrupted, run it again to go on"
    else:
        held = sum(len(index["clips"]) for index in indices), sum(c["frames"] for i in indices for c in i["clips"])
        if held != (totals["clips"], totals["frames"]):
            yield f"the indices hold {held} clips and frames, metadata.json {(totals['clips'], totals['frames'])}"
    for group, index in enumerate(indices):
        whole = True
        for name, known in index["files"].items():
            if not (folder / name).is_file():
                yield f"{name} is missing"
                whole = False
            elif _seen(folder / name) != {k: known[k] for k in ("bytes", "sha256")}:
                yield f"{name} is damaged: its checksum or size is another than when it was written"
                whole = False
        if whole:
            yield from _check_records(folder, metadata["fields"], group, index, every)


def _check_records(folder: Path, fields: dict, group: int, index: dict, every: int) -> Iterator[str]:
    from array_record.python.array_record_module import ArrayRecordReader

    for kind in KINDS:
        name = f"{kind}-{group:05d}.array_record"
        reader = ArrayRecordReader(str(folder / name), "readahead_buffer_size:0")
        if reader.num_records() != index["files"][name]["records"]:
            yield f"{name} has {reader.num_records()} records, expected {index['files'][name]['records']}"
            continue
        for place in range(0, reader.num_records(), every):
            try:
                values = unpack(reader.read([place])[0], fields[kind])
            except (ValueError, IndexError) as error:
                yield f"{name}, record {place}: cannot be decoded ({error})"
                continue
            yield from (f"{name}, record {place}: {text}" for text in _wrong(values, fields[kind]))


def _row(shards: Shards, clip: Clip, head: Head, t: int, height: int) -> np.ndarray:
    """Image, found (green) and fitted (red) points, classes, torso, background, PNCC, waveform."""
    frame, shared = shards.frame(clip, t), shards.shared(clip)
    size = frame["image"].shape[0]
    marked = frame["image"].copy()
    for points, colour in (
        (frame["landmarks"] * size, (0, 255, 0)),
        ((frame["keypoints"] + 1) / 2 * size, (255, 0, 0)),
    ):
        for x, y in points[np.isfinite(points).all(1)]:
            cv2.circle(marked, (int(x), int(y)), max(1, size // 256), colour, -1)
    pncc = draw_pncc(head, head.vertices(shared["identity"], frame["expression"]), size)
    cells = [frame["image"], marked, PALETTE[frame["classes"]], frame["torso"], shared["background"], pncc]
    cells = [cv2.resize(c, (height, height), interpolation=cv2.INTER_AREA) for c in cells]
    return np.concatenate([*cells, _waveform(shards, clip, t, height)], 1)


def _waveform(shards: Shards, clip: Clip, t: int, height: int) -> np.ndarray:
    """Loudest and quietest sample of each column over the clip; a line marks the frame."""
    width = 2 * height
    out = np.full((height, width, 3), 24, np.uint8)
    if clip.motion is None:
        return out
    sound = shards.motion(clip, ("sound",))["sound"].astype(np.float32) / 32768
    for x, part in enumerate(np.array_split(sound, width)):
        if len(part):
            low, high = (int(np.clip((0.5 - 0.5 * v) * height, 0, height - 1)) for v in (part.max(), part.min()))
            out[low : high + 1, x] = (120, 200, 255)
    out[:, int(width * (t + 0.5) / clip.frames)] = (255, 80, 80)
    return out


def show(folder: Path, count: int = 8, height: int = 192) -> np.ndarray:
    """Contact sheet RGB: the middle frame of up to `count` clips spread over the set, a row each."""
    shards, head = Shards(folder, None), Head()
    clips = [c for c in shards.clips if c.frames]
    if not clips:
        raise InputError(f"{folder} holds utterances without pictures: there is nothing to show")
    chosen = np.unique(np.linspace(0, len(clips) - 1, count).round().astype(int))
    rows = [_row(shards, clips[k], head, clips[k].frames // 2, height) for k in chosen]
    return np.concatenate(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """`r3p data`: the exit status is 0, or 1 for shards that are not sound. Raises InputError for no shards."""
    parser = argparse.ArgumentParser(prog="r3p data", description="Look at shards that r3p prepare wrote.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    checker = verbs.add_parser("check", help="checksums, shapes, ranges and finite values")
    checker.add_argument("shards", type=Path)
    checker.add_argument("--every", type=int, default=1, metavar="N", help="decode every N-th record only")
    shower = verbs.add_parser("show", help="a contact sheet: crop, points, segments, torso, background, PNCC, sound")
    shower.add_argument("shards", type=Path)
    shower.add_argument("--out", type=Path, help="picture to write (default: SHARDS/sheet.png)")
    shower.add_argument("--clips", type=int, default=8)
    args = parser.parse_args(argv)
    folder = args.shards.expanduser()
    if args.verb == "show":
        from r3p.photo import save_image

        out = args.out or folder / "sheet.png"
        save_image(out, show(folder, args.clips))
        print(out)
        return 0
    if args.every < 1:
        raise InputError(f"--every is {args.every}: expected 1 or more")
    amiss = 0
    for text in check(folder, args.every):
        print(text)
        amiss += 1
    print(f"{folder}: {amiss} faults" if amiss else f"{folder}: sound, {read_metadata(folder)['totals']}")
    return 1 if amiss else 0
