"""Official PyTorch names and layouts to Flax variables and back: one table of rules a network (`r3p.names`).

NCHW exists only here. A rule maps one family of official names to one path of our tree; a name that no rule knows,
or a leaf of ours that nothing fills, is an error that prints both lists. `to_official` reads the same tables backwards.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import traverse_util

from r3p.errors import InputError

Array = np.ndarray

# What happens to an array on its way from PyTorch's layout to ours.
LAYOUTS = {
    "raw": lambda a: a,
    "linear": lambda a: a.T,  # [out, in] -> [in, out]
    "image": lambda a: a.transpose(1, 2, 0),  # [c, h, w] -> [h, w, c]
    "conv1d": lambda a: a.transpose(2, 1, 0),  # [out, in, k] -> [k, in, out]
    "conv2d": lambda a: a.transpose(2, 3, 1, 0),  # [out, in, h, w] -> [h, w, in, out]
    "conv3d": lambda a: a.transpose(2, 3, 4, 1, 0),  # [out, in, d, h, w] -> [d, h, w, in, out]
    "conv1x1": lambda a: a[:, :, 0, 0].T,  # a dense layer written as a convolution: [out, in, 1, 1] -> [in, out]
    # A dense layer over flattened 4x4 or 7x7 images: [out, in * h * w] -> [h * w * in, out].
    "flat4x4": lambda a: a.reshape(len(a), -1, 4, 4).transpose(2, 3, 1, 0).reshape(-1, len(a)),
    "flat7x7": lambda a: a.reshape(len(a), -1, 7, 7).transpose(2, 3, 1, 0).reshape(-1, len(a)),
}

# The way back.
INVERSES = {
    "raw": lambda a: a,
    "linear": lambda a: a.T,
    "image": lambda a: a.transpose(2, 0, 1),
    "conv1d": lambda a: a.transpose(2, 1, 0),
    "conv1x1": lambda a: a.T[:, :, None, None],
    "conv2d": lambda a: a.transpose(3, 2, 0, 1),
    "conv3d": lambda a: a.transpose(4, 3, 0, 1, 2),
    "flat4x4": lambda a: a.reshape(4, 4, -1, a.shape[1]).transpose(3, 2, 0, 1).reshape(a.shape[1], -1),
    "flat7x7": lambda a: a.reshape(7, 7, -1, a.shape[1]).transpose(3, 2, 0, 1).reshape(a.shape[1], -1),
}


@dataclass(frozen=True)
class Rule:
    r"""One family of names: `pattern` (a regex for the whole official name) -> `path` of our tree.

    `path` may use the groups of the pattern (`\1`), is split at `/`, and its first part names the collection
    (`params`, `batch_stats`, `constants`). `kind` names the layout change in `LAYOUTS`; `path=None` says that the
    official array is a bookkeeping value which our tree does not hold.
    """

    pattern: str
    path: str | None
    kind: str = "raw"


Compiled = list[tuple[re.Pattern[str], Rule]]


def _compiled(rules: Iterable[Rule]) -> Compiled:
    return [(re.compile(rule.pattern), rule) for rule in rules]


def _first(compiled: Compiled, name: str) -> tuple[re.Match[str] | None, Rule | None]:
    """The rule that counts for a name: tables are read from the top."""
    return next(((match, rule) for pattern, rule in compiled if (match := pattern.fullmatch(name))), (None, None))


def to_variables(state: Mapping[str, Array], rules: Iterable[Rule]) -> dict[str, Any]:
    """Converts an official state dict to Flax variables `{collection: tree}`.

    Raises:
      InputError: when a name is known to no rule, or two names land on one leaf.
    """
    compiled = _compiled(rules)
    flat: dict[tuple[str, ...], Array] = {}
    unknown = []
    for name, value in state.items():
        match, rule = _first(compiled, name)
        if match is None or rule is None:
            unknown.append(name)
        elif rule.path is not None:
            path = tuple(match.expand(rule.path).split("/"))
            if path in flat:
                raise InputError(f"two official arrays land on {'/'.join(path)}, the second is {name}: mend the table")
            flat[path] = np.asarray(LAYOUTS[rule.kind](np.asarray(value)))
    if unknown:
        raise InputError(f"no rule knows these {len(unknown)} names of the checkpoint: {', '.join(unknown[:20])}")
    return traverse_util.unflatten_dict(flat)


def check_against(variables: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compares converted variables with `wanted` (arrays or shapes from `jax.eval_shape(module.init, ...)`).

    Raises:
      InputError: with the missing leaves, the left-over ones and the shapes that differ.
    """
    have = {k: np.shape(v) for k, v in traverse_util.flatten_dict(dict(variables), sep="/").items()}
    want = {k: tuple(v.shape) for k, v in traverse_util.flatten_dict(dict(wanted), sep="/").items()}
    missing, extra = sorted(want.keys() - have.keys()), sorted(have.keys() - want.keys())
    shapes = [f"{k}: {have[k]} instead of {want[k]}" for k in sorted(have.keys() & want.keys()) if have[k] != want[k]]
    if missing or extra or shapes:
        raise InputError(
            f"the weights do not fit this network: missing {missing[:20]}, left over {extra[:20]}, shapes {shapes[:20]}"
        )


# ------------------------------------------------------------------------------------------------ and back
def to_official(
    variables: Mapping[str, Any],
    rules: Iterable[Rule],
    manifest: Mapping[str, Any] | None = None,
    unused: Mapping[str, Array] | None = None,
) -> dict[str, Array]:
    """The inverse of `to_variables`: Flax variables in official names and layouts.

    Args:
      variables: `{collection: tree}`.
      rules: the table that they were converted with.
      manifest: `{name: (shape, type)}` of the official state dict, in whose order the result is. It also has the
        arrays that our tree does not hold; these come out as `bookkeeping` says. None = without these.
      unused: what `unused_arrays` kept of the official state dict, so that it comes back bit for bit.

    Raises:
      InputError: when a leaf has no official name, or names or shapes are not those of the manifest.
    """
    flat = {k: np.asarray(v) for k, v in traverse_util.flatten_dict(dict(variables), sep="/").items()}
    if manifest is None:
        names = official_names(flat, rules)
        if nameless := [path for path in flat if path not in names]:
            raise InputError(f"no rule gives these {len(nameless)} leaves an official name: {', '.join(nameless[:20])}")
        return {names[path][0]: np.asarray(INVERSES[names[path][1].kind](value)) for path, value in flat.items()}
    compiled = _compiled(rules)
    out, missing, shapes = {}, [], []
    for name, (shape, dtype) in manifest.items():
        match, rule = _first(compiled, name)
        if rule and rule.path is None:
            kept = (unused or {}).get(name)
            out[name] = bookkeeping(name, tuple(shape), np.dtype(dtype)) if kept is None else kept
        elif rule and match and (path := match.expand(str(rule.path))) in flat:
            out[name] = np.asarray(INVERSES[rule.kind](flat.pop(path)))
            if out[name].shape != tuple(shape):
                shapes.append(f"{name}: {out[name].shape} instead of {tuple(shape)}")
        else:
            missing.append(name)
    if missing or flat or shapes:
        raise InputError(
            f"the variables do not fill this manifest: missing {missing[:20]}, left over {sorted(flat)[:20]}, "
            f"shapes {shapes[:20]}"
        )
    return out


def unused_arrays(state: Mapping[str, Array], rules: Iterable[Rule]) -> dict[str, Array]:
    """Official arrays that our tree does not hold, less those that `bookkeeping` makes again to the last bit."""
    compiled, out = _compiled(rules), {}
    for name, value in state.items():
        _, rule = _first(compiled, name)
        if rule and rule.path is None:
            value = np.asarray(value)
            known = name.rsplit(".", 1)[-1] != "resample_filter" or value.shape == (4, 4)
            if not known or bookkeeping(name, value.shape, value.dtype).tobytes() != value.tobytes():
                out[name] = value
    return out


def bookkeeping(name: str, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """What stands for an official array that our trees do not hold.

    The filter of StyleGAN's layers is a constant of the code. All else is zero: counts of batches, noise that is
    switched off, weights of losses at their start, and layers that are never called.
    """
    if name.rsplit(".", 1)[-1] == "resample_filter":
        row = np.array([1, 3, 3, 1]) / 8
        if shape != (4, 4):
            raise InputError(f"{name} is of shape {shape}: expected the filter [1, 3, 3, 1] in both directions, (4, 4)")
        return np.outer(row, row).astype(dtype)
    return np.zeros(shape, dtype)


def official_names(paths: Iterable[str], rules: Iterable[Rule]) -> dict[str, tuple[str, Rule]]:
    """Official name and rule of each path that has one, from the tables read backwards."""
    compiled = _compiled(rules)
    backwards = [_backwards(rule) for _, rule in compiled if rule.path is not None]
    out = {}
    for path in paths:
        for pattern, parts in backwards:
            match = pattern.fullmatch(path)
            if not match:
                continue
            name = "".join(part if isinstance(part, str) else match[f"g{part}"] for part in parts)
            # The name counts when it comes back to this path.
            match, rule = _first(compiled, name)
            if match and rule and rule.path is not None and match.expand(rule.path) == path:
                out[path] = name, rule
                break
    return out


def _backwards(rule: Rule) -> tuple[re.Pattern[str], list[str | int]]:
    """The pattern of the paths that a rule gives, with groups g1, g2 ..., and the parts of the names they come from."""
    assert rule.path is not None
    parts: list[str | int] = []
    groups: list[str] = []
    rest = rule.pattern
    while rest:
        if match := re.match(r"\(([^()?][^()]*)\)(?![*+?{])", rest):
            groups.append(match[1])
            parts.append(len(groups))
        elif match := re.match(r"\\([^\w\s])|([^\\()\[\]{}.*+?|^$])", rest):
            parts.append(match[1] or match[2])
        else:
            raise InputError(f"the pattern {rule.pattern!r} cannot be read backwards at {rest!r}: use groups and text")
        rest = rest[match.end() :]
    seen: set[int] = set()
    path = ""
    for piece in re.split(r"(\\\d+)", rule.path):
        if not re.fullmatch(r"\\\d+", piece):
            path += re.escape(piece)
            continue
        number = int(piece[1:])
        path += f"(?P=g{number})" if number in seen else f"(?P<g{number}>{groups[number - 1]})"
        seen.add(number)
    if len(seen) != len(groups):
        raise InputError(f"the pattern {rule.pattern!r} has a group that its path {rule.path!r} does not use")
    return re.compile(path), parts
