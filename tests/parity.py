"""The golden cases that tests run: those in `tests/data/parity`, or all of R3P_PARITY_CASES=DIR."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from r3p import detweights
from r3p.parity.cases import FLOOR, NOISE_FACTOR, Case, Comparison, Folder

CASES = Path(os.environ.get("R3P_PARITY_CASES", Path(__file__).parent / "data" / "parity" / "public"))
FOLDER = Folder(CASES)
SEED = "public"  # of weights without a case


def models() -> list[str]:
    """The manifests; those named in capitals list them."""
    return sorted(p.stem for p in FOLDER.manifests.glob("*.json") if not p.stem.isupper())


def official_weights(model: str) -> dict[str, np.ndarray]:
    """The official state dict of a manifest, drawn from its names."""
    return detweights.weights(FOLDER.manifest(model), SEED)


def bound(compared: Comparison) -> float:
    """Gradients as strictly as all else: where these were recorded, rounding is all that differs."""
    return max(NOISE_FACTOR * (compared.noise or 0.0), FLOOR)


def check(case: Case, name: str, value: Any) -> None:
    compared = case.compare(name, value)
    assert compared.error <= bound(compared), f"{case.name}/{name}: relative L2 error {compared.error:.2e}"
