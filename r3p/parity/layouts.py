"""Moves between our layouts and those in which the official PyTorch code was recorded."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import numpy as np
from flax import traverse_util

from r3p.convert import INVERSES, Rule

Array = np.ndarray


def channels_last(x: Any) -> Array:
    """[b, c, ...] -> [b, ..., c]."""
    return np.moveaxis(np.asarray(x), 1, -1)


def channels_first(x: Any) -> Array:
    """[b, ..., c] -> [b, c, ...]."""
    return np.moveaxis(np.asarray(x), -1, 1)


def planes_first(x: Any) -> Array:
    """Ours [b, 3, (d,) h, w, c] as recorded: [b, 3, c (d), h, w], depth slices the fastest part of their channels."""
    x = np.moveaxis(np.asarray(x), -1, 2)
    return x.reshape(*x.shape[:2], -1, *x.shape[-2:])


def tokens(x: Any) -> Array:
    """[b, h, w, c] -> [b, h w, c]."""
    x = np.asarray(x)
    return x.reshape(len(x), -1, x.shape[-1])


def leaf(variables: Mapping[str, Any], rules: Iterable[Rule], name: str) -> Array:
    """What our `variables` (or their gradients) hold for the official `name`, in its layout. KeyError for none."""
    flat = traverse_util.flatten_dict(dict(variables), sep="/")
    for rule in rules:
        match = re.fullmatch(rule.pattern, name)
        if match and rule.path is not None:
            return np.asarray(INVERSES[rule.kind](np.asarray(flat[match.expand(rule.path)])))
    raise KeyError(name)


def captured(state: Mapping[str, Any], path: str) -> Any:
    """The value of the submodule at `path` during an `apply` with `capture_intermediates=True`."""
    return traverse_util.flatten_dict(dict(state["intermediates"]), sep="/")[f"{path}/__call__"][0]


@contextmanager
def entering(path: str) -> Iterator[list[Any]]:
    """A list that fills with the first argument of each call of the submodule at `path`, within an `apply`."""
    given: list[Any] = []

    def note(call: Any, args: Any, options: Any, context: nn.module.InterceptorContext) -> Any:
        if context.method_name == "__call__" and "/".join(context.module.path) == path:
            given.append(args[0])
        return call(*args, **options)

    with nn.intercept_methods(note):
        yield given
