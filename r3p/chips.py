"""What chips can do, from their makers' data sheets, and how many of them a topology's name means."""

import dataclasses
import re

from r3p.errors import InputError


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of chip.

    Attributes:
      name: as its maker writes it.
      platform: of jax.
      memory: bytes of HBM.
      flops: dense bfloat16 FLOP/s.
      bandwidth: bytes/s of HBM.
      network: bytes/s that it sends to its neighbours, over all links, one direction.
      beyond: bytes/s that it sends beyond its machine, where that is another network than `network`; else 0.
      named_by: what a topology's name counts of each chip: TensorCores, of which some have two.
      axes: of the torus; 0 = machines of eight.
      source: where the figures are from.
    """

    name: str
    platform: str
    memory: float
    flops: float
    bandwidth: float
    network: float
    beyond: float
    named_by: int
    axes: int
    source: str


# Google gives the links' bit/s, both directions together from v5p on; here it is one direction in bytes.
CHIPS = {
    "v4": Chip("TPU v4", "tpu", 32 * 2**30, 275e12, 1228e9, 300e9, 0, 2, 3, "cloud.google.com/tpu/docs/v4"),
    "v5e": Chip("TPU v5e", "tpu", 16 * 2**30, 197e12, 819e9, 200e9, 0, 1, 2, "cloud.google.com/tpu/docs/v5e"),
    "v5p": Chip("TPU v5p", "tpu", 95 * 2**30, 459e12, 2765e9, 600e9, 0, 2, 3, "cloud.google.com/tpu/docs/v5p"),
    "v6e": Chip("TPU v6e", "tpu", 32 * 2**30, 918e12, 1640e9, 400e9, 0, 1, 2, "cloud.google.com/tpu/docs/v6e"),
    "h100": Chip(
        "NVIDIA H100 SXM", "cuda", 80e9, 989e12, 3350e9, 450e9, 50e9, 1, 0,
        "NVIDIA H100 data sheet; DGX H100 for the network, 400 Gbit/s a GPU between machines",
    ),
}  # fmt: skip
A_MACHINE = 8  # GPUs

# The same of the H100 as XLA's compiler wants to know it, which asks the device where there is one: NVIDIA's H100 data
# sheet and the CUDA programming guide's table of compute capability 9.0.
H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 7 }
runtime_version { major: 12 minor: 8 patch: 0 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3350000000000
  device_memory_size: 84929347584
  l2_cache_size: 52428800
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  threads_per_warp: 32
  threads_per_core_limit: 2048
  threads_per_block_limit: 1024
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
"""

# Chips to the torus that a slice of so many is.
_SHAPES: dict[int, dict[int, tuple[int, ...]]] = {
    2: {n: (2 ** (k // 2), 2 ** (k - k // 2)) for k, n in enumerate((1, 2, 4, 8, 16, 32, 64, 128, 256)) if k > 1},
    3: {
        4: (2, 2, 1), 8: (2, 2, 2), 16: (2, 2, 4), 32: (2, 4, 4), 64: (4, 4, 4), 128: (4, 4, 8), 256: (4, 8, 8),
        512: (8, 8, 8), 1024: (8, 8, 16), 2048: (8, 16, 16), 4096: (16, 16, 16),
    },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips that are connected: `shape` as jax's topologies are named, `4x4`."""

    name: str
    chip: Chip
    count: int
    shape: str

    @property
    def network(self) -> float:
        """Bytes/s that a chip sends in a collective of all."""
        return self.chip.beyond if self.chip.beyond and self.count > A_MACHINE else self.chip.network


def topology(name: str) -> Topology:
    """`v5e-16`, `v5p-128` (TensorCores: 64 chips), `h100-16` (two machines).

    Raises:
      InputError: for another name, or a size that is not sold.
    """
    found = re.fullmatch(r"(\w+)-(\d+)", name)
    if not found or found.group(1) not in CHIPS:
        raise InputError(f"topology {name!r} is unknown: write one of {', '.join(CHIPS)}, then -N, as in v5e-16")
    chip, asked = CHIPS[found.group(1)], int(found.group(2))
    if chip.axes == 0:
        if asked % A_MACHINE and asked not in (1, 2, 4):
            raise InputError(f"topology {name!r}: expected 1, 2, 4 or a multiple of {A_MACHINE} GPUs")
        machines = max(asked // A_MACHINE, 1)
        return Topology(name, chip, asked, f"1x{machines}x{asked // machines}")
    shapes = _SHAPES[chip.axes]
    count = asked // chip.named_by
    if asked % chip.named_by or count not in shapes:
        listed = ", ".join(f"{found.group(1)}-{n * chip.named_by}" for n in shapes)
        raise InputError(f"topology {name!r} is not a slice that r3p knows: choose one of {listed}")
    return Topology(name, chip, count, "x".join(map(str, shapes[count])))
