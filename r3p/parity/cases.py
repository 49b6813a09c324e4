"""Golden cases recorded from the official PyTorch code: read one, rebuild what went in, compare what comes out.

A folder holds `CASE.npz`, its parent `manifests/MODEL.json` and `NOISE.json`. Weights and inputs are not stored: they
follow from names and the seed of the case (`r3p.detweights`). `NOISE.json` says what rounding alone did to each output
of the original: the relative L2 difference after every weight was changed by one part in 16 million.
"""

import functools
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from r3p import detweights
from r3p.errors import InputError
from r3p.parity.layouts import leaf
from r3p.parity.networks import Network, network

Array = np.ndarray
Values = Mapping[str, Any]  # what the network gave for recorded names, in the official layout

# Bounds: as many times the rounding noise, but no less than what is written here.
NOISE_FACTOR = 30.0
FLOOR = 1e-5
GRADIENT_FLOOR = 1e-3
ROLES = {"main": "outputs", "seam": "seams", "grad": "gradients"}
# Recorded beside the values, though they went in: the steps at which schedules were read.
GIVEN = ("steps",)


@dataclass(frozen=True)
class Comparison:
    """One recorded array: relative L2 error where recorded, what is allowed, what rounding did (None: not known)."""

    name: str
    role: str
    error: float
    bound: float
    noise: float | None

    @property
    def passed(self) -> bool:
        return self.error <= self.bound  # not a number: no

    @property
    def share(self) -> float:
        """The error in units of its bound."""
        return self.error / self.bound if np.isfinite(self.error) else float("inf")


@dataclass(frozen=True)
class Case:
    """A recorded run of the original.

    Attributes:
      name: of the case.
      seed: from which weights and inputs are drawn.
      meta: what the recorder wrote: inputs, outputs, how it called the original.
      recorded: arrays by name, in the official layout, large ones at some indices alone.
      manifest: names, shapes and rules of the official state dict.
      noise: relative L2 differences by name.
    """

    name: str
    seed: str
    meta: Mapping[str, Any]
    recorded: Mapping[str, Array]
    manifest: Mapping[str, Any]
    noise: Mapping[str, float]

    @functools.cached_property
    def inputs(self) -> dict[str, Any]:
        """Inputs in the official layout."""
        return detweights.inputs(self.meta["inputs"], self.seed, self.name)

    @functools.cached_property
    def official(self) -> dict[str, Array]:
        """The official state dict."""
        return detweights.weights(self.manifest, self.seed)

    @functools.cached_property
    def network(self) -> Network:
        config = self.meta.get("config")
        return network(self.meta["model"], config if isinstance(config, Mapping) else None)

    @functools.cached_property
    def variables(self) -> dict[str, Any]:
        """The official weights as our variables."""
        return self.network.variables(self.official)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.meta["outputs"][name]["shape"])

    def cotangent(self, name: str, like: str | None = None) -> Array:
        """What the recorded gradients of the output `name` were made with; `like`: where its shape is recorded."""
        return detweights.normal(self.seed, f"cot:{self.name}:{name}", self.shape(like or name))

    def strange_inputs(self) -> list[str]:
        """Inputs that are not those which the recorder had, by its mean, deviation and three values of each."""
        out = []
        for name, want in self.meta.get("input_check", {}).items():
            if not isinstance(want, list) or name not in self.inputs:
                continue  # of what became of the input: that shows in the outputs
            a = self.inputs[name].astype(np.float64)
            got = [a.mean(), a.std(), *a.reshape(-1)[:: max(1, a.size // 3)][:3]]
            if not np.allclose(got, want, rtol=1e-4, atol=1e-5):
                out.append(name)
        return out

    def compare(self, name: str, value: Any) -> Comparison:
        """Compares `value` (official layout) with what was recorded. Raises InputError for another shape."""
        spec, want = self.meta["outputs"][name], self.recorded[name].astype(np.float64).reshape(-1)
        got = np.asarray(value).astype(np.float64)
        if got.shape != self.shape(name):
            raise InputError(f"{name} is of shape {got.shape}, recorded was {self.shape(name)}")
        got = got.reshape(-1)
        if "sampled" in spec:
            index = detweights.sample_indices(self.name, name, got.size, spec["sampled"])
            if index.sum() != spec["index_sum"]:
                raise InputError(f"{name} was recorded at other indices than these: record the case again")
            got = got[index]
        error = float(np.linalg.norm(got - want)) / max(float(np.linalg.norm(want)), 1e-30)
        role = ROLES.get(spec.get("role", "main"), "outputs")
        noise = self.noise.get(name)
        floor = GRADIENT_FLOOR if role == "gradients" else FLOOR
        return Comparison(name, role, error, max(NOISE_FACTOR * (noise or 0.0), floor), noise)


Runner = Callable[[Case], Values]  # how a case is run here


def parameter_gradients(case: Case, gradients: Any, prefix: str = "grad/") -> dict[str, Array]:
    """Those of `gradients` (a tree as `params`) whose official names were recorded after `prefix`."""
    names = (n.removeprefix(prefix) for n in case.recorded if n.startswith(prefix))
    tree = {"params": gradients}
    return {prefix + n: leaf(tree, case.network.rules, n) for n in names if n in case.manifest}


@dataclass(frozen=True)
class Folder:
    """A folder of cases; raises InputError where it, its manifests or NOISE.json are missing or damaged."""

    path: Path

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise InputError(f"there is no folder {self.path}: give one that holds CASE.npz")
        if not self.names():
            raise InputError(f"the folder {self.path} holds no CASE.npz: give one with golden cases")
        if not self.manifests.is_dir():
            raise InputError(f"there is no folder {self.manifests}: golden cases have their weights' manifests there")
        self.noise()

    @property
    def manifests(self) -> Path:
        return self.path.parent / "manifests"

    def names(self) -> list[str]:
        return sorted(p.stem for p in self.path.glob("*.npz"))

    def noise(self) -> dict[str, Any]:
        return _json(self.path.parent / "NOISE.json", "what rounding did to each output")

    def manifest(self, model: str) -> dict[str, Any]:
        return _json(self.manifests / f"{model}.json", f"names, shapes and rules of the weights of {model}")

    def case(self, name: str, seed: str | None = None) -> Case:
        """Reads a case; `seed`: of weights and inputs, None = the one that it was recorded with."""
        path = self.path / f"{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as archive:
                recorded = {k: archive[k] for k in archive.files}
            meta = json.loads(str(recorded.pop("meta")))
            found, model = meta["case"], meta["model"]
            seed = meta["seed"] if seed is None else seed
            # The other way round is no harm: large arrays may have been left out.
            if strange := sorted(recorded.keys() - meta["outputs"].keys()):
                raise ValueError(f"its description does not know {', '.join(strange[:5])}")
            if not recorded:
                raise ValueError("it holds nothing to compare")
        except FileNotFoundError:
            raise InputError(f"there is no case {path}") from None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} is not a golden case ({error}): record it again") from None
        try:
            noise = {k: float(v["rel_l2"]) for k, v in self.noise().get(found, {}).items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"NOISE.json does not say the rel_l2 of each output of {found} ({error!r})") from None
        manifest = self.manifest(model) if model else {}
        return Case(found, seed, meta, recorded, manifest, noise)


@functools.lru_cache(maxsize=4)
def _parsed(path: Path, changed: int) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def _json(path: Path, what: str) -> dict[str, Any]:
    try:
        return _parsed(path, path.stat().st_mtime_ns)
    except OSError:
        raise InputError(f"there is no file {path}: it says {what}") from None
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is not JSON as it should be ({error}): it says {what}") from None
