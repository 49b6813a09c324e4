"""Arithmetic of a traced function, and what devices could do.

Counted from the jaxpr: the compiler's own analysis sees the body of a scan once, and gives nothing on TPUs before
compiling. What is recomputed in a backward pass counts, since the device computes it.
"""

import math
from typing import Any

import jax

# Dense bfloat16 FLOP/s of one jax device, by the beginning of `device_kind`, from the makers' data sheets. TPU v2, v3
# and v7 show a chip as two devices.
PEAKS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "TPU7x": 1153.5e12,
    "NVIDIA V100": 125e12,
    "Tesla V100": 125e12,
    "Tesla T4": 65e12,
    "NVIDIA T4": 65e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40": 181e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA A10": 125e12,
    "NVIDIA A10G": 70e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}


def peak(device: jax.Device | None = None) -> float | None:
    """Dense bfloat16 FLOP/s of a device (the first one by default); None when it is not in the table, as a CPU."""
    kind = (device or jax.devices()[0]).device_kind
    fitting = [name for name in PEAKS if kind.startswith(name)]
    return PEAKS[max(fitting, key=len)] if fitting else None


def count(jaxpr: Any) -> float:
    """Floating-point operations of the products and convolutions of a (closed) jaxpr, two for a multiply-add.

    Scans count as often as they run, the dearest branch of a condition once, a while loop as one turn.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    out: Any = equation.outvars[0].aval if equation.outvars else None
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return 2.0 * out.size * math.prod(equation.invars[0].aval.shape[k] for k in contracted)
    if name == "conv_general_dilated":
        kernel, numbers = equation.invars[1].aval, params["dimension_numbers"]
        # The zeros between the elements of a dilated input are not multiplied.
        per_output = kernel.size / kernel.shape[numbers.rhs_spec[0]] / math.prod(params["lhs_dilation"])
        return 2.0 * out.size * per_output
    parts = [count(part) for part in _jaxprs(params)]
    if name == "cond":
        return max(parts, default=0.0)
    return sum(parts) * (params["length"] if name == "scan" else 1)


def _jaxprs(params: dict[str, Any]) -> list[Any]:
    found = []
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(item, "eqns") or hasattr(getattr(item, "jaxpr", None), "eqns"):
                found.append(item)
    return found
