"""What is to be scored: a manifest (CSV or JSONL) and the folders of the methods' videos.

Columns: id, protocol, source, driver, audio, truth, identity, output. Paths are relative to the manifest; `output` is a
file name (or a folder of PNG files) under each method's folder. What a protocol does not need may be empty.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from r3p.errors import InputError

COLUMNS = ("id", "protocol", "source", "driver", "audio", "truth", "identity", "output")
# protocol: what a row must name beside id and output ("a|b": either).
PROTOCOLS = {
    "same": ("driver|truth",),
    "cross": ("source", "driver"),
    "audio": ("source", "audio"),
    "novel_view": ("truth",),
}
_ALIASES = {"same-identity": "same", "cross-identity": "cross", "audio-driven": "audio", "novel-view": "novel_view"}
_PATHS = ("source", "driver", "audio", "truth")


@dataclass(frozen=True)
class Row:
    """One clip of the manifest; a path is None where the manifest has none. identity: clips of one person share it."""

    id: str
    protocol: str
    source: Path | None
    driver: Path | None
    audio: Path | None
    truth: Path | None
    identity: str
    output: str


def read(path: Path) -> list[Row]:
    """The manifest's rows. Raises InputError that names the row for whatever cannot be used."""
    if not path.is_file():
        raise InputError(
            f"there is no manifest {path}: expected a CSV or JSONL file with the columns {','.join(COLUMNS)}"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() in (".jsonl", ".json"):
            records = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            records = list(csv.DictReader(text.splitlines()))
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as e:
        raise InputError(f"the manifest {path} cannot be read ({e}): expected CSV or one JSON object a line") from e
    rows: list[Row] = []
    seen: set[str] = set()
    for k, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise InputError(f"row {k} of {path} is a {type(record).__name__}: expected an object")
        rows.append(_row(record, f"row {k} of {path}", path.parent))
        if rows[-1].id in seen:
            raise InputError(f"row {k} of {path} repeats the id {rows[-1].id!r}: every row needs its own")
        seen.add(rows[-1].id)
    if not rows:
        raise InputError(f"the manifest {path} has no row: expected one a clip")
    return rows


def _row(record: dict, where: str, folder: Path) -> Row:
    unknown = sorted(str(k) for k in record.keys() - set(COLUMNS))
    if unknown:
        raise InputError(f"{where} has {', '.join(unknown)}: expected the columns {','.join(COLUMNS)}")
    given = {name: str(record.get(name) or "").strip() for name in COLUMNS}
    protocol = _ALIASES.get(given["protocol"], given["protocol"])
    if protocol not in PROTOCOLS:
        raise InputError(f"{where} has the protocol {protocol!r}: expected one of {', '.join(PROTOCOLS)}")
    for need in ("id", "output", *PROTOCOLS[protocol]):
        if not any(given[name] for name in need.split("|")):
            raise InputError(f"{where} has no {need.replace('|', ' or ')}: the protocol {protocol} needs it")
    output = Path(given["output"])
    if output.is_absolute() or ".." in output.parts:
        raise InputError(f"{where} has the output {given['output']!r}: expected a name under the methods' folders")
    paths = {name: folder / given[name] if given[name] else None for name in _PATHS}
    for name, found in paths.items():
        if found is not None and not found.exists():
            raise InputError(f"{where} names {name} {found}, which does not exist: correct the manifest")
    return Row(given["id"], protocol, **paths, identity=given["identity"] or given["id"], output=given["output"])


def methods(text: str) -> dict[str, Path]:
    """ "ours=DIR,other=DIR" as folders by name. Raises InputError for anything else or an absent folder."""
    out: dict[str, Path] = {}
    for part in text.split(","):
        name, equal, folder = part.partition("=")
        if not (name and equal and folder) or name in out:
            raise InputError(f"--methods {text!r}: expected NAME=DIR,NAME=DIR with different names")
        out[name] = Path(folder)
        if not out[name].is_dir():
            raise InputError(f"--methods {name}={folder}: there is no such folder")
    return out
