"""Devices as a mesh and batches on it: the only importer of the sharding API."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from r3p.errors import InputError


def make_mesh() -> Mesh:
    """All devices along one `data` axis."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Places this process's share of a global batch, sharded along its first axis.

    Raises:
      InputError: when the batch does not divide among the devices.
    """
    devices = jax.local_device_count()

    def put(array: Any) -> jax.Array:
        if array.shape[0] % devices:
            raise InputError(
                f"a local batch of {array.shape[0]} does not divide among {devices} devices: change batch_size"
            )
        return jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("data")), array)

    return jax.tree.map(put, batch)


def process() -> tuple[int, int]:
    """This process's index and how many there are."""
    return jax.process_index(), jax.process_count()
