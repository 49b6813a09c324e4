"""Golden cases recorded from the official PyTorch code: rebuild weights and inputs from names, compare our values.

A case directory holds `CASE.npz`, its parent `manifests/MODEL.json` and `NOISE.json`. The cases that tests run by
default lie in `tests/data/parity`; `R3P_PARITY_CASES=DIR` points at a fuller set.
"""

import functools
import json
import os
from pathlib import Path
from typing import Any

import detweights
import numpy as np

CASES = Path(os.environ.get("R3P_PARITY_CASES", Path(__file__).parent / "data" / "parity" / "public"))
SEED = "public"
Array = np.ndarray


@functools.lru_cache(maxsize=2)
def noise() -> dict[str, Any]:
    return json.loads((CASES.parent / "NOISE.json").read_text())


def available(case: str) -> bool:
    return (CASES / f"{case}.npz").exists()


def load_case(case: str) -> tuple[dict[str, Any], dict[str, Array], dict[str, Array]]:
    """The case's meta, its inputs (official layout) and the recorded arrays."""
    with np.load(CASES / f"{case}.npz") as archive:
        recorded = {k: archive[k] for k in archive.files}
    meta = json.loads(str(recorded.pop("meta")))
    return meta, detweights.inputs(meta["inputs"], SEED, meta["case"]), recorded


def official_weights(model: str) -> dict[str, Array]:
    """The official state dict of `manifests/MODEL.json`, drawn from its names."""
    return detweights.weights(str(CASES.parent / "manifests" / f"{model}.json"), SEED)


def cotangent(case: str, output: str, shape: tuple[int, ...]) -> Array:
    """The cotangent which the recorded gradients of `output` were made with."""
    return detweights.normal(SEED, f"cot:{case}:{output}", shape)


def relative_error(
    case: str, meta: dict[str, Any], recorded: dict[str, Array], name: str, value: Any, bound: float | None = None
) -> tuple[float, float]:
    """Relative L2 error of `value` (official layout) where recorded, and its bound: 30x rounding, at least 1e-5.

    `bound` is for cases whose rounding was not measured.
    """
    spec, want = meta["outputs"][name], recorded[name].astype(np.float64)
    got = np.asarray(value, np.float64)
    assert list(got.shape) == list(spec["shape"]), f"{case}/{name}: shape {got.shape}, recorded {spec['shape']}"
    if "sampled" in spec:
        index = detweights.sample_indices(meta["case"], name, got.size, spec["sampled"])
        assert index.sum() == spec["index_sum"]
        got = got.reshape(-1)[index]
    error = np.linalg.norm(got.reshape(-1) - want.reshape(-1)) / max(np.linalg.norm(want), 1e-30)
    return float(error), max(30 * noise()[case][name]["rel_l2"], 1e-5) if bound is None else bound


def check(
    case: str, meta: dict[str, Any], recorded: dict[str, Array], name: str, value: Any, bound: float | None = None
) -> None:
    error, bound = relative_error(case, meta, recorded, name, value, bound)
    assert error <= bound, f"{case}/{name}: relative L2 error {error:.2e} exceeds {bound:.2e}"
