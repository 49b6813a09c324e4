"""Teachers of image-to-plane: whatever shows one head from two cameras. They are frozen."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from r3p import sharding, weights
from r3p.errors import InputError
from r3p.models import layers
from r3p.models.eg3d import EG3D
from r3p.stages import Batch
from r3p.stages.adversary import Shown
from r3p.stages.draws import Draws
from r3p.stages.pretrained import frozen_fields
from r3p.stages.terms import clamped, shrink

Array = jax.Array
Tree = Any


class View(NamedTuple):
    """Image [b, s, s, 3] and raw [b, r, r, 3] in [-1, 1], depth [b, r, r, 1] (0 = unknown), camera [b, 25]."""

    image: Array
    raw: Array
    depth: Array
    camera: Array

    @property
    def shown(self) -> Shown:
        """As a discriminator wants it."""
        return Shown(self.image, self.raw, self.camera)


class Teacher(Protocol):
    """Shows heads.

    `init` gives what the teacher knows, which the train state carries along; `start`, parts of it that the student
    begins with (`params` of `Portrait`); `views`, the source and another view of the batch's heads; `batches`, host
    batches from a step on; `held_out`, those of heads that are never trained on; `example`, an empty row of them.
    """

    def init(self) -> Tree: ...
    def start(self) -> Tree: ...
    def views(self, trees: Tree, batch: Batch, draws: Draws) -> tuple[View, View]: ...
    def batches(self, first: int) -> Iterator[Batch]: ...
    def held_out(self) -> Iterator[Batch]: ...
    def example(self) -> Batch: ...


def to_float(image: Array) -> Array:
    """uint8 in [0, 255] -> float32 in [-1, 1]."""
    return image.astype(jnp.float32) / 127.5 - 1


def _batches(rows: Any, config: ConfigDict, first: int) -> Iterator[Batch]:
    from data_pipelines import frames

    trained = frames.part(rows, rows, held_out=False)
    return frames.batches(trained, config.batch_size, config.seed, first, sharding.process())


def _held_out(rows: Any, config: ConfigDict) -> Iterator[Batch]:
    from data_pipelines import frames

    apart = frames.part(rows, rows, held_out=True)
    return frames.batches(apart, config.batch_size, config.seed, 0, sharding.process(), config.held_out_batches)


class People:
    """Synthetic people, drawn by the loader; the head on black."""

    def __init__(self, config: ConfigDict, size: int, raw: int) -> None:
        self.config, self.size, self.raw = config, size, raw

    def init(self) -> Tree:
        return {}

    def start(self) -> Tree:
        return {}

    def views(self, trees: Tree, batch: Batch, draws: Draws) -> tuple[View, View]:
        def view(name: str) -> View:
            image = to_float(batch[name])
            return View(image, shrink(image, self.raw), batch[f"{name}_depth"][..., None], batch[f"{name}_camera"])

        return view("source"), view("target")

    def _rows(self) -> Any:
        from data_pipelines import views

        return views.PeopleViews(self.config.seed, self.size, self.raw)

    def batches(self, first: int) -> Iterator[Batch]:
        return _batches(self._rows(), self.config, first)

    def held_out(self) -> Iterator[Batch]:
        return _held_out(self._rows(), self.config)

    def example(self) -> Batch:
        out: Batch = {"example": np.uint32(0)}
        for name in ("source", "target"):
            out[name] = np.zeros((self.size, self.size, 3), np.uint8)
            out[f"{name}_camera"] = np.zeros(25, np.float32)
            out[f"{name}_depth"] = np.zeros((self.raw, self.raw), np.float32)
        return out


class Generator:
    """EG3D with converted weights: a random latent, shown with a truncated style from both cameras.

    The raw image is the finished one made smaller, antialiased, as in the original; not the generator's own.
    """

    def __init__(self, config: ConfigDict, size: int, raw: int) -> None:
        data = config.data
        if not data.eg3d:
            raise InputError(
                "data.teacher is eg3d but data.eg3d is empty: set it to what `r3p convert --from EG3D.pkl --to DIR` "
                "wrote, or set data.teacher to people"
            )
        self._trees, meta = weights.load(data.eg3d, "eg3d")
        self.model = EG3D(**{**frozen_fields(meta["fields"]), "shared_limits": False})
        self.config, self.raw, self.truncation = config, raw, data.truncation
        own = 2 * self.model.superres_fields.get("up", 2) * self.model.superres_fields.get("raw_resolution", 128)
        if own != size:
            raise InputError(f"the EG3D of {data.eg3d} makes images of {own} pixels, the model of {size}: mend `model`")

    def init(self) -> Tree:
        return self._trees

    def start(self) -> Tree:
        return {k: self._trees["params"][k] for k in ("decoder", "superres")}

    def views(self, trees: Tree, batch: Batch, draws: Draws) -> tuple[View, View]:
        rays = self.model.superres_fields.get("raw_resolution", 128) ** 2

        def both(model: EG3D) -> list[View]:
            ws = model.style(batch["latent"], batch["mapping_camera"], self.truncation)
            planes = model.planes(ws)
            out = []
            for name in ("source", "target"):
                camera = batch[f"{name}_camera"]
                jitter = draws.uniform(f"teacher {name}", (rays, model.coarse))
                u = draws.uniform(f"teacher fine {name}", (rays, model.fine)) if model.fine else None
                head = model.head(planes, camera, jitter=jitter, u=u)
                image = clamped(model.enlarge(head, ws))
                depth = layers.resize(head.depth, (self.raw, self.raw))
                out.append(View(image, shrink(image, self.raw), depth, camera))
            return out

        source, target = cast(list[View], self.model.apply(trees, method=both))
        return jax.lax.stop_gradient((source, target))

    def _rows(self) -> Any:
        from data_pipelines import views

        return views.GeneratorViews(self.config.seed, self.model.latent, self.config.data.cameras)

    def batches(self, first: int) -> Iterator[Batch]:
        return _batches(self._rows(), self.config, first)

    def held_out(self) -> Iterator[Batch]:
        return _held_out(self._rows(), self.config)

    def example(self) -> Batch:
        from data_pipelines import views

        return views.GeneratorViews(self.config.seed, self.model.latent)[0]


def make(config: ConfigDict, size: int, raw: int) -> Teacher:
    """The teacher that `config.data.teacher` names: `people` or `eg3d`."""
    kinds: dict[str, type[People] | type[Generator]] = {"people": People, "eg3d": Generator}
    if config.data.teacher not in kinds:
        raise InputError(f"data.teacher is {config.data.teacher!r}: choose one of {', '.join(kinds)}")
    return kinds[config.data.teacher](config, size, raw)
