"""Devices as a mesh, states and batches on it, processes: the only importer of the sharding and multi-process API.

Axes of the mesh: `data` and `fsdp` both split the batch; `fsdp` splits parameters, moments and averages as well (fully
sharded data parallelism: XLA gathers a layer's weights where it needs them); `spatial` splits the rays of an image.
"""

import math
import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from r3p.errors import InputError

Tree = Any
Rule = tuple[str, str | Sequence[Any]]

AXES = ("data", "fsdp", "spatial")
BATCH = PartitionSpec(("data", "fsdp"))
WHOLE, LARGEST = "whole", "fsdp"  # what a rule may say instead of naming an axis of the mesh for each axis of an array

_current: ContextVar[Mesh | None] = ContextVar("mesh", default=None)


def make_mesh(sizes: Mapping[str, int] | None = None, devices: Sequence[Any] | None = None) -> Mesh:
    """The devices of all processes as a mesh of `AXES`.

    Args:
      sizes: of the axes; one of them may be -1, which is then what the others leave. An axis left out has size 1, and
        without sizes all devices lie along `data`.
      devices: others than this machine's, for planning.

    Raises:
      InputError: for another axis, or sizes that do not multiply to the number of devices.
    """
    wanted = {"data": -1} if sizes is None else dict(sizes)
    unknown = sorted(set(wanted) - set(AXES))
    if unknown:
        raise InputError(f"the mesh has no axis {unknown[0]!r}: name its axes {', '.join(AXES)}")
    count, shape = len(devices or jax.devices()), [wanted.get(name, 1) for name in AXES]
    if shape.count(-1) == 1:
        rest = -math.prod(shape)
        shape[shape.index(-1)] = count // rest if rest > 0 and count % rest == 0 else 0
    if min(shape) < 1 or math.prod(shape) != count:
        told = ", ".join(f"{name} {wanted.get(name, 1)}" for name in AXES)
        raise InputError(f"a mesh of {told} does not hold {count} devices: the sizes must multiply to that")
    types = (AxisType.Auto,) * len(AXES)
    made = jax.make_mesh(tuple(shape), AXES, axis_types=types, devices=devices)
    return Mesh(by_process(made.devices), AXES, axis_types=types)


def by_process(devices: np.ndarray) -> np.ndarray:
    """Devices [data, fsdp, spatial], rearranged so that every process has consecutive rows of the batch.

    On a torus neighbours along an axis belong to other machines by turns. Devices that share an image stay together.
    """
    rows = devices.reshape(-1, devices.shape[2])
    order = sorted(range(len(rows)), key=lambda k: rows[k, 0].process_index)
    return rows[order].reshape(devices.shape)


@contextmanager
def using(mesh: Mesh) -> Iterator[None]:
    """Within it `process`, `platform` and `split_rays` know the mesh."""
    token = _current.set(mesh)
    try:
        yield
    finally:
        _current.reset(token)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


# ---------------------------------------------------------------------------------------------- states


def path_name(path: Sequence[Any]) -> str:
    """`a/b/0` of a path in a tree."""
    return "/".join(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)


def _largest(shape: tuple[int, ...], parts: int) -> PartitionSpec:
    """Splits the largest axis that divides; of equal ones the last, whose rows stay whole in memory."""
    fitting = [axis for axis, size in enumerate(shape) if size % parts == 0 and size >= parts]
    if parts == 1 or not fitting:
        return PartitionSpec()
    chosen = max(fitting, key=lambda axis: (shape[axis], axis))
    return PartitionSpec(*(None,) * chosen, "fsdp")


def _explicit(rule: Rule, name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    pattern, axes = rule
    if isinstance(axes, str):
        raise InputError(f"sharding rule {pattern!r} says {axes!r}: expected {WHOLE!r}, {LARGEST!r} or a list of axes")
    if len(axes) > len(shape):
        raise InputError(
            f"sharding rule {pattern!r} names {len(axes)} axes, but {name} is {list(shape)}: name at most {len(shape)}"
        )
    out: list[Any] = []
    for size, entry in zip(shape, axes, strict=False):
        parts = () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)
        unknown = [axis for axis in parts if axis not in AXES]
        if unknown:
            raise InputError(f"sharding rule {pattern!r} names a mesh axis {unknown[0]!r}: choose of {', '.join(AXES)}")
        count = math.prod(mesh.shape[axis] for axis in parts)
        if size % count:
            raise InputError(
                f"sharding rule {pattern!r} splits an axis of {size} of {name} {list(shape)} into {count} parts, which "
                "does not divide: name another axis, or change the mesh"
            )
        out.append(parts or None)
    return PartitionSpec(*out)


def shard_state(state: Tree, mesh: Mesh, rules: Sequence[Rule] = (), least: int = 1) -> Tree:
    """Shardings of a train state from its shapes.

    A parameter's moments and average lie as the parameter does. The first rule whose regex finds a parameter's name
    (`img2plane/low/kernel`; other arrays go by their path in the state) says how it is split: "whole", "fsdp" (its
    largest axis that divides) or a mesh axis, a list of them or None for each of its axes. What no rule finds is
    split as "fsdp" says when it has `least` elements, and is whole otherwise.

    Args:
      state: a tree with `params`, of arrays or their shapes.

    Raises:
      InputError: for a rule that decides about nothing, or an axis that does not divide.
    """
    params = {path_name(p): tuple(x.shape) for p, x in jax.tree_util.tree_leaves_with_path(state.params)}
    used = dict.fromkeys((pattern for pattern, _ in rules), 0)

    def one(path: Sequence[Any], leaf: Any) -> NamedSharding:
        name, shape = path_name(path), tuple(leaf.shape)
        endings = (path_name(path[k:]) for k in range(len(path)))
        name = next((end for end in endings if params.get(end) == shape), name)
        for rule in rules:
            if re.search(rule[0], name):
                used[rule[0]] += 1
                if rule[1] == WHOLE:
                    return replicated(mesh)
                if rule[1] == LARGEST:
                    return NamedSharding(mesh, _largest(shape, mesh.shape["fsdp"]))
                return NamedSharding(mesh, _explicit(rule, name, shape, mesh))
        return NamedSharding(
            mesh, _largest(shape, mesh.shape["fsdp"]) if math.prod(shape) >= least else PartitionSpec()
        )

    shardings = jax.tree_util.tree_map_with_path(one, state)
    unused = [pattern for pattern, count in used.items() if not count]
    if unused:
        example = next(iter(params), "none")
        raise InputError(
            f"sharding rule {unused[0]!r} decides about none of the {len(params)} parameters, whose names look like "
            f"{example}: mend it or take it out"
        )
    return shardings


def describe(state: Tree, shardings: Tree) -> str:
    """One line on how much of a state every device holds."""
    whole = part = 0
    for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True):
        whole += leaf.size * leaf.dtype.itemsize
        part += math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    mesh = jax.tree.leaves(shardings)[0].mesh
    shape = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    return (
        f"{params / 1e6:.2f} M parameters, a state of {whole / 2**20:.1f} MiB, "
        f"{part / 2**20:.1f} MiB of it on each device; mesh {shape}"
    )


def on_one_device(tree: Tree, mesh: Mesh) -> Tree:
    """The whole tree on this process's first device; every process has to call it."""
    gathered = jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)
    return jax.tree.map(lambda x: x.addressable_data(0), gathered)


# ---------------------------------------------------------------------------------------------- batches


def check_divides(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises InputError when a global batch does not divide among the devices."""
    data, fsdp = mesh.shape["data"], mesh.shape["fsdp"]
    if accumulate < 1:
        raise InputError(f"accumulate is {accumulate}: expected 1 or more")
    parts = data * fsdp * accumulate
    if batch_size < 1 or batch_size % parts:
        below = max(batch_size // parts, 1) * parts
        raise InputError(
            f"a batch of {batch_size} does not divide among {parts} = data {data} x fsdp {fsdp} x accumulate "
            f"{accumulate}: set batch_size to {below} or {below + parts}"
        )


def check_batch(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Whether a global batch divides among the devices and processes.

    Raises:
      InputError: when it does not, or when a process would hold rows that are not its own run of the batch.
    """
    check_divides(batch_size, mesh, accumulate)
    spatial = mesh.shape["spatial"]
    first, count = _rows(batch_size, mesh)
    if count * jax.process_count() != batch_size or first % count:
        raise InputError(
            f"with spatial {spatial} and {jax.local_device_count()} devices a process, process {jax.process_index()} "
            f"holds {count} of the {batch_size} rows of a batch from row {first} on: let spatial divide the devices of "
            "a process"
        )


def _rows(batch_size: int, mesh: Mesh) -> tuple[int, int]:
    """This process's first row of the batch, and how many from there on reach to its last."""
    index = NamedSharding(mesh, BATCH).addressable_devices_indices_map((batch_size,))
    slices = [s[0].indices(batch_size) for s in index.values() if s is not None]
    first = min(s[0] for s in slices)
    return first, max(s[1] for s in slices) - first


def process() -> tuple[int, int]:
    """Which run of consecutive rows of every batch is this process's, and how many such runs there are.

    A row's place in the batch then does not depend on the number of processes, nor does what is drawn at random for it.
    """
    mesh, count = _current.get(), jax.process_count()
    if mesh is None or count == 1:
        return jax.process_index(), count
    rows = mesh.shape["data"] * mesh.shape["fsdp"]
    first, _ = _rows(rows, mesh)
    return first * count // rows, count


def put_batch(batch: Tree, mesh: Mesh) -> Tree:
    """Places this process's rows of a global batch, sharded along the first axis.

    Raises:
      InputError: when they do not divide among the devices.
    """
    sharding = NamedSharding(mesh, BATCH)
    parts = mesh.shape["data"] * mesh.shape["fsdp"]

    def put(array: np.ndarray) -> jax.Array:
        rows = array.shape[0] * jax.process_count()
        if rows % parts:
            raise InputError(
                f"a batch of {array.shape[0]} x {jax.process_count()} processes does not divide among {parts} devices: "
                "change batch_size"
            )
        return jax.make_array_from_process_local_data(sharding, array, (rows, *array.shape[1:]))

    return jax.tree.map(put, batch)


def platform() -> str:
    """`cpu`, `gpu` or `tpu`: of the mesh in use, which may be a pod that is only planned for, else of this machine."""
    mesh = _current.get()
    found: str = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    return found


def split_rays(x: jax.Array) -> jax.Array:
    """[b, r, ...]: rays spread over the mesh's `spatial` axis where a mesh with one is in use, `x` itself elsewhere.

    Raises:
      InputError: when the rays do not divide.
    """
    mesh = _current.get()
    if mesh is None or mesh.shape["spatial"] == 1:
        return x
    parts = mesh.shape["spatial"]
    if x.shape[1] % parts:
        raise InputError(f"{x.shape[1]} rays at a time do not divide among spatial {parts}: change the model's chunk")
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(BATCH[0], "spatial")))


# ---------------------------------------------------------------------------------------------- processes


def is_main() -> bool:
    """Whether this process writes what only one may write."""
    return jax.process_index() == 0


class Preemption:
    """Whether a SIGTERM asked for the end; several processes agree on the step after which all of them stop."""

    def __init__(self) -> None:
        self._asked = False
        self._previous: Any = None
        # Where processes are connected jax listens itself, and tells the others.
        self._connected = jax.distributed.is_initialized()
        self._own = not self._connected and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "Preemption":
        if self._own:
            self._previous = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._own:
            signal.signal(signal.SIGTERM, self._previous)

    def _ask(self, *_: Any) -> None:
        self._asked = True

    def reached(self, step: int) -> bool:
        """To be asked once a step by every process."""
        if self._connected:
            return bool(multihost_utils.reached_preemption_sync_point(step))
        return self._asked
