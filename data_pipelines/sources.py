"""Which clips a folder holds, who is seen in them, and which split that person belongs to.

Layouts, see `find_clips`:

    celebvhq     DIR/**/CLIP.mp4 for the clips of the published celebvhq_info.json, or DIR/**/YOUTUBE_ID.mp4, from
                 which the clip's time and box are cut. Splits are the list's (`split` of a clip, or `splits` with
                 the clips' names of each) where it has any
    voxceleb2    DIR/{dev,test}/mp4/idNNNNN/VIDEO/NNNNN.mp4, and .../aac/.../NNNNN.m4a where that lies beside mp4
    folder       DIR/**/*.{mp4,mov,...}: a folder in DIR is a person, a clip in DIR itself too
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_pipelines.shards import SPLITS
from r3p.errors import InputError

LAYOUTS = ("folder", "celebvhq", "voxceleb2")
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
SOUNDS = (".m4a", ".wav", ".aac", ".mp3")
HELD_OUT = (0.05, 0.05)  # of the people: validation, test
LISTED = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}


@dataclass(frozen=True)
class Source:
    """A clip to prepare. sound: another file than the video's own; known: what the data set says of the clip.

    times: seconds of the video, from and to, that are the clip; box: of its pictures, left, top, right and bottom as
    shares of width and height.
    """

    name: str
    video: Path
    person: str
    split: str
    sound: Path | None = None
    known: Mapping[str, Any] = field(default_factory=dict)
    times: tuple[float, float] | None = None
    box: tuple[float, float, float, float] | None = None


def split_of(person: str) -> str:
    """The split of a person: a hash of the name, so that it never changes and no one is in two of them."""
    place = int.from_bytes(hashlib.sha256(person.encode()).digest()[:8], "big") / 2**64
    validation, test = HELD_OUT
    return "test" if place < test else "validation" if place < test + validation else "train"


def find_clips(
    folder: Path, layout: str = "folder", listing: Path | None = None, split: str | None = None
) -> tuple[list[Source], list[str]]:
    """Clips in the order of their names, and the names of listed clips that are not there.

    listing: CelebV-HQ's JSON. split: for all clips, instead of one by person.

    Raises:
      InputError: no such folder, no clips in it, a listing that cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: give the folder that holds the clips")
    if split is not None and split not in SPLITS:
        raise InputError(f"--split is {split!r}: choose {', '.join(SPLITS)}")
    if layout not in LAYOUTS:
        raise InputError(f"--layout is {layout!r}: choose {', '.join(LAYOUTS)}")
    if (layout == "celebvhq") != (listing is not None):
        raise InputError("--layout celebvhq and --list celebvhq_info.json go together: give both or none")
    missing: list[str] = []
    if layout == "celebvhq":
        assert listing is not None
        found, missing = _celebvhq(folder, listing)
    else:
        found = (_voxceleb2 if layout == "voxceleb2" else _folder)(folder)
    if not found:
        raise InputError(f"{folder} holds no clips of the layout {layout}: see r3p prepare --help for the layouts")
    if split is not None:
        found = [replace(s, split=split) for s in found]
    return sorted(found, key=lambda s: s.name), sorted(missing)


def _videos(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEOS and p.is_file())


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _folder(folder: Path) -> list[Source]:
    out = []
    for path in _videos(folder):
        parts = path.relative_to(folder).parts
        person = parts[0] if len(parts) > 1 else path.stem
        out.append(Source(_name(path, folder), path, person, split_of(person), _beside(path)))
    return out


def _beside(path: Path) -> Path | None:
    """A sound file of the clip's name."""
    return next((p for s in SOUNDS if (p := path.with_suffix(s)).is_file()), None)


def _voxceleb2(folder: Path) -> list[Source]:
    paths = [p for p in _videos(folder) if len(p.relative_to(folder).parts) >= 3 and p.parts[-3].startswith("id")]
    official = {p.parts[-3] for p in paths if "test" in p.relative_to(folder).parts[:-3]}
    out = []
    for path in paths:
        person, video, _ = path.parts[-3:]
        split = "test" if person in official else split_of(person)
        if split == "test" and official and person not in official:
            split = "validation"  # the published test people are the test split
        parts = list(path.relative_to(folder).parts)
        sound = _beside(path)
        if sound is None and "mp4" in parts[:-3]:
            parts[parts.index("mp4")] = "aac"
            sound = _beside(folder.joinpath(*parts))
        known = {"youtube": video}
        out.append(Source(_name(path, folder), path, person, split, sound, known))
    return out


def _celebvhq(folder: Path, listing: Path) -> tuple[list[Source], list[str]]:
    """The people of CelebV-HQ are not published; clips of one YouTube video stay together."""
    try:
        whole = json.loads(listing.read_text(encoding="utf-8"))
        rows = {str(name): dict(row) for name, row in whole["clips"].items()}
        listed = {name: str(row["split"]) for name, row in rows.items() if "split" in row}
        listed |= {str(name): str(split) for split, names in whole.get("splits", {}).items() for name in names}
    except OSError as e:
        raise InputError(f"cannot read {listing} ({e.strerror}): give celebvhq_info.json") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{listing} is not CelebV-HQ's list: expected JSON with the key clips") from None
    if unknown := set(listed.values()) - set(LISTED):
        raise InputError(f"{listing} has the split {min(unknown)!r}: expected {', '.join(LISTED)}")
    videos = {name: str(row.get("ytb_id", name.rsplit("_", 1)[0])) for name, row in rows.items()}
    splits: dict[str, str] = {}
    for name in rows.keys() & listed.keys():
        # Of a video whose clips the list puts in several splits, the one that is held out most.
        both = (LISTED[listed[name]], splits.get(videos[name], "train"))
        splits[videos[name]] = max(both, key=SPLITS.index)
    held = {p.stem: p for p in _videos(folder)}
    out, missing = [], []
    for name, row in rows.items():
        video = videos[name]
        path = held.get(name, held.get(video))
        if path is None:
            missing.append(name)
            continue
        known = {"youtube": video} | {k: row[k] for k in ("duration", "bbox", "attributes") if k in row}
        source = Source(name, path, video, splits.get(video, split_of(video)), _beside(path), known)
        if name not in held:
            try:
                times = tuple(float(row["duration"][k]) for k in ("start_sec", "end_sec"))
                box = tuple(float(row["bbox"][k]) for k in ("left", "top", "right", "bottom"))
            except (KeyError, TypeError, ValueError):
                times, box = (), ()
            if not (times and 0 <= times[0] < times[1] and 0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
                missing.append(f"{name} (the list has no duration and bbox to cut it from {path.name})")
                continue
            source = replace(source, times=times, box=box)  # type: ignore[arg-type]
        out.append(source)
    return out, missing
