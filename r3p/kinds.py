"""What a row of `r3p.recognise.KINDS` says of a network, and how its fields are read from shapes and options."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from r3p.convert import Rule
from r3p.errors import InputError

Shapes = Mapping[str, tuple[int, ...]]
Options = Mapping[str, Any]  # of the config.yaml or config.json beside a checkpoint, or of a pickled network
Fields = dict[str, Any]
Meta = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A network that checkpoints hold; a row of `r3p.recognise.KINDS`.

    Attributes:
      name: what the user calls it.
      kind: of the weights that are written, see `r3p.weights.load`.
      marks: names which together only it has.
      table: rules for its fields.
      fields: its model's fields from official shapes and options.
      wanted: its variables' shapes from fields and official shapes.
      meta: what the description says beside its kind.
      back: fields of a description.
      module: the network of these fields, for what `r3p.recognise.load` restores.
    """

    name: str
    kind: str
    marks: tuple[str, ...]
    table: Callable[[Fields], list[Rule]]
    fields: Callable[[Shapes, Options], Fields]
    wanted: Callable[[Fields, Shapes], Any]
    meta: Callable[[Fields], Meta] = lambda fields: {"fields": fields}
    back: Callable[[Meta], Fields] = lambda meta: meta["fields"]
    module: Callable[[Fields], Any] | None = None


def option(options: Options, name: str, convert: Callable[[Any], Any]) -> Any:
    """A number of the options."""
    try:
        return convert(options[name])
    except (ValueError, TypeError):
        raise InputError(f"the config beside the checkpoint says {name}: {options[name]}, which is no number") from None


def need(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    """The shape of an array that must be there."""
    shape = shapes.get(name, ())
    if len(shape) != dimensions:
        raise InputError(f"the checkpoint has {name} of shape {shape}: expected {dimensions} dimensions")
    return shape


def count(shapes: Shapes, pattern: str) -> int:
    """How many different first groups the names have that begin with `pattern`."""
    return len({m[1] for name in shapes if (m := re.match(pattern, name))})
