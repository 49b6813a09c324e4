"""`r3p convert`: official checkpoints to folders of weights that `r3p talk --weights` reads, and back."""

import argparse
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from r3p import checkpoint_files, recognise, weights
from r3p.checkpoint import is_weights, save_weights
from r3p.checkpoint_files.write import write_torch
from r3p.convert import check_against, to_official, to_variables, unused_arrays
from r3p.errors import InputError
from r3p.kinds import Fields, Kind, Shapes

_DESCRIPTION = "r3p"  # the entry of our .pt files that holds their description
_PREFIX = "state_dict.model."  # of the original's training checkpoints
EXAMPLES = """examples:
  r3p convert --from secc2plane_torso_orig/model_ckpt_steps_100000.ckpt --to weights/
  r3p talk --weights weights/ --image me.jpg --audio speech.wav --out me.mp4
  r3p convert --from weights/ --to-torch model.ckpt
"""


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="r3p convert",
        description="An official checkpoint (.ckpt, .pt, .pth, .safetensors, EG3D's .pkl) to a folder of weights, and "
        "back. Nothing in a file is run: whatever is not an array or a plain container is refused by name.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--from",
        dest="source",
        type=Path,
        required=True,
        metavar="CKPT",
        help="checkpoint, or a folder of model_ckpt_steps_N.ckpt (a config.yaml beside it is read); with --to-torch "
        "weights of r3p",
    )
    where = p.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", type=Path, metavar="DIR", help="the folder to write, with the model's config inside")
    where.add_argument("--to-torch", type=Path, metavar="FILE", help="the checkpoint of PyTorch to write (.ckpt, .pt)")
    p.add_argument("--network", help="which of a checkpoint's networks, when it holds several")
    return p


def main(argv: Sequence[str]) -> int:
    """`r3p convert`. Raises InputError for input that cannot be used; then nothing was written."""
    args = _parser().parse_args(argv)
    if args.to_torch:
        if args.network:
            raise InputError("--network chooses from a checkpoint that is read: leave it out with --to-torch")
        print(export(args.source, args.to_torch))
    else:
        print(load(args.source, args.to, args.network))
    return 0


# ------------------------------------------------------------------------------------------------ to ours
def _checkpoint(source: Path) -> Path:
    """The file, or the newest of a folder as the original names them."""
    if source.suffix == ".npz" or (source.is_dir() and is_weights(source)):
        raise InputError(f"{source} holds weights of r3p already: r3p talk --weights reads them as they are")
    if not source.is_dir():
        return source
    found = {int(m[1]): p for p in source.iterdir() if (m := re.fullmatch(r"model_ckpt_steps_(\d+)\.ckpt", p.name))}
    if not found:
        raise InputError(f"the folder {source} holds no model_ckpt_steps_N.ckpt: give the checkpoint's file")
    return found[max(found)]


def _choose(found: list[recognise.Found], network: str | None, path: Path) -> recognise.Found:
    if not found:
        known = ", ".join(kind.name for kind in recognise.KINDS)
        raise InputError(f"{path} holds none of the networks that are known by their names: {known}")
    held = ", ".join(f"{f.kind.name} ({f.prefix.rstrip('.') or 'its root'})" for f in found)
    chosen = next((f for f in found if network in (None, f.kind.name)), None)
    if chosen is None:
        raise InputError(f"{path} holds no network {network!r}, it holds: {held}")
    if network is None and len(found) > 1:
        print(f"{path.name} holds several networks: {held}; taken is {chosen.kind.name}, --network chooses another")
    return chosen


def _describe(
    kind: Kind, shapes: Shapes, path: Path, options: Mapping[str, Any], description: Any
) -> tuple[Fields, dict[str, Any], Any]:
    """Fields, description and wanted shapes: from what r3p wrote into the file, or else from its shapes."""
    if not isinstance(description, str):
        fields = kind.fields(shapes, options)
        return fields, kind.meta(fields), kind.wanted(fields, shapes)
    try:
        meta = json.loads(description)
        named, fields = recognise.of_description(meta)
        if named != kind:
            raise InputError(f"{path} describes its network as {named.name}, its names say {kind.name}")
        return fields, meta, kind.wanted(fields, shapes)
    except InputError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path} was described by another version of r3p ({str(error)[:200]}): write it again"
        ) from None


def load(source: Path, to: Path, network: str | None = None) -> str:
    """Converts an official checkpoint to a folder of weights; returns what was done.

    Raises:
      InputError: for a file that cannot be read, or that holds no network which fits. Nothing is written then.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"{to} exists already: choose another name, or remove it")
    path = _checkpoint(source)
    with checkpoint_files.opened(path) as file:
        chosen = _choose(recognise.find(file.arrays), network, path)
        kind, prefix = chosen.kind, chosen.prefix
        stored = {n.removeprefix(prefix): a for n, a in file.arrays.items() if n.startswith(prefix)}
        root = file.tree if isinstance(file.tree, Mapping) else {}
        shapes = {name: array.shape for name, array in stored.items()}
        options = recognise.options_inside(file.tree, prefix) | recognise.options_beside(path)
        fields, meta, wanted = _describe(kind, shapes, path, options, root.get(_DESCRIPTION))
        state = {name: array.read() for name, array in stored.items()}
        variables = to_variables(state, kind.table(fields))
        check_against(variables, wanted)
        bad = [n for n, a in traverse_util.flatten_dict(variables, sep="/").items() if not np.isfinite(a).all()]
        if bad:
            raise InputError(f"{len(bad)} arrays hold values that are not finite, such as {bad[0]}: use another one")
        official = {name: [list(array.shape), str(array.dtype)] for name, array in stored.items()}
        with path.open("rb") as again:
            provenance: dict[str, Any] = {"file": path.name, "sha256": hashlib.file_digest(again, "sha256").hexdigest()}
        if isinstance(step := root.get("global_step"), int):
            provenance["step"] = step
        described = {
            "provenance": provenance,
            **meta,
            "kind": kind.kind,
            "network": kind.name,
            "official": {"prefix": prefix, "names": official},
        }
        # What no network here reads is kept for the way back.
        unused = unused_arrays(state, kind.table(fields))
        save_weights(to, {**variables, **({weights.UNUSED: unused} if unused else {})}, described)
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    return f"{to}: the {kind.name} network of {path.name}, {len(official)} arrays, {count / 1e6:.2f} million values"


# ------------------------------------------------------------------------------------------------ and back
def export(source: Path, to: Path) -> str:
    """Writes weights of r3p as a checkpoint of PyTorch with the official names; returns what was done.

    Weights that came from such a checkpoint get all of its names back, bookkeeping included. Weights of r3p's own have
    the names of what they hold.

    Raises:
      InputError: when `source` holds no weights of r3p, or `to` cannot be written. Nothing is written then.
    """
    if to.suffix not in (".ckpt", ".pt", ".pth"):
        raise InputError(f"--to-torch is {to}: expected a name that ends in .ckpt, .pt or .pth")
    if to.exists():
        raise InputError(f"{to} exists already: choose another name, or remove it")
    flat, meta = weights.read(source)
    kind, fields = recognise.of_description(meta)
    official = meta.pop("official", None)
    prefix, manifest, unused = _PREFIX, None, None
    if official is None:
        variables, _ = weights.load(source, kind.kind)
    else:
        prefix, manifest = official["prefix"], official["names"]
        variables = traverse_util.unflatten_dict(flat, sep="/")
        unused = variables.pop(weights.UNUSED, None)
    tree: Any = to_official(variables, kind.table(fields), manifest, unused)
    count = len(tree)
    for part in reversed(prefix.removesuffix(".").split(".") if prefix else []):
        tree = {part: tree}
    meta["network"] = kind.name
    write_torch(to, {**tree, _DESCRIPTION: json.dumps(meta)})
    note = "" if manifest else "; bookkeeping arrays, which r3p's own models do not have, are not in it"
    return f"{to}: the {kind.name} network, {count} arrays under {prefix.removesuffix('.') or 'its root'}{note}"
