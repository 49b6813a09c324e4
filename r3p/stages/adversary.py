"""The dual discriminator as an adversary of a stage: what it costs to be seen through, and how it learns.

Non-saturating logistic losses (Goodfellow et al. 2014) with a lazy R1 penalty (Mescheder et al. 2018; Karras et al.
2020, appendix B), as in EG3D. Its parameters live beside the model's under `discriminator`, with their own Adam.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from r3p.errors import InputError
from r3p.models.discriminator import Discriminator, gradient_penalty
from r3p.stages.draws import Draws
from r3p.stages.pretrained import frozen_fields

Array = jax.Array
Tree = Any
NAME = "discriminator"
# Lazy regularisation every 16 steps counts as one step in 17: rate and momenta are those of the remaining 16.
BETAS = (0.0, 0.99 ** (16 / 17))


class Shown(NamedTuple):
    """What the discriminator is shown: image [b, s, s, 3] and raw [b, r, r, 3] in [-1, 1], camera [b, 25]."""

    image: Array
    raw: Array
    camera: Array


class Adversary:
    """A discriminator and the steps at which it plays.

    Args (of a stage's `config.adversary`):
      fields: of `Discriminator`.
      start: the step from which the model is asked to fool it.
      lead: so many steps earlier it begins to learn.
      penalty: weight of R1; it is taken every `penalty_every` steps with so many times that weight.
    """

    def __init__(
        self, *, fields: Mapping[str, Any], start: int, lead: int, penalty: float, penalty_every: int, frame_size: int
    ) -> None:
        self.model = Discriminator(**frozen_fields(fields))
        if self.model.resolution != frame_size:
            raise InputError(
                f"the discriminator's {len(self.model.widths)} widths are for images of {self.model.resolution} "
                f"pixels, the model's frames have {frame_size}: change adversary.fields.widths"
            )
        self.start, self.first = start, max(start - lead, 0)
        self.penalty, self.every = penalty, penalty_every

        @jax.jit  # a step calls it up to nine times, and traces it once
        def judge(params: Tree, image: Array, raw: Array, camera: Array, noise: Array) -> Array:
            return cast(Array, self.model.apply({"params": params}, image, raw, camera, noise))

        self._judge = judge

    def init(self, rng: Array) -> Tree:
        """Fresh parameters."""
        side = self.model.resolution
        image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        zeros = [jnp.zeros(s.shape) for s in (image, image, jax.ShapeDtypeStruct((1, 25), jnp.float32))]
        return self.model.init(rng, *jax.lax.optimization_barrier(zeros))["params"]

    def _logits(self, params: Tree, shown: Shown, noise: Array) -> Array:
        return self._judge(params, *shown, noise)

    def fool(self, params: Tree, shown: Shown, draws: Draws, step: Array, name: str) -> Array:
        """Official `G_*_adv`: softplus(-D), the mean over the batch; 0 before `start`."""

        def loss(shown: Shown) -> Array:
            return jax.nn.softplus(-self._logits(params, shown, draws.normal(f"fool {name}", (25,)))).mean()

        return jax.lax.cond(step >= self.start, loss, lambda shown: jnp.zeros(()), shown)

    def learn(
        self,
        params: Tree,
        real: Mapping[str, Shown],
        fake: Mapping[str, Shown],
        draws: Draws,
        step: Array,
        present: Mapping[str, Array] | None = None,
    ) -> tuple[Tree, dict[str, Array]]:
        """Gradients of the discriminator's loss, zero before it begins to learn, and its terms.

        Args:
          real, fake: what it is shown, by name. No gradient reaches them.
          present: of the fakes by name, whether they were made at this step; those not named always are.

        Terms: `d_real`, `d_fake` (sums over the names; official `D_maximize_*`, `D_minimize_*_fake`) and `d_r1`
        (`D_*_gradient_penalty` without its weight; the last is 0 at the steps between).
        """
        real, fake = jax.lax.stop_gradient((dict(real), dict(fake)))
        present = present or {}

        def loss(params: Tree) -> tuple[Array, dict[str, Array]]:
            def mean(name: str, shown: Shown, sign: float, kind: str) -> Array:
                noise = draws.normal(f"{kind} {name}", (25,))
                return jax.nn.softplus(sign * self._logits(params, shown, noise)).mean()

            zero = jnp.zeros(())
            on_real = sum((mean(n, s, -1.0, "real") for n, s in real.items()), zero)
            on_fake = zero
            for name, shown in fake.items():
                if name in present:
                    on_fake += jax.lax.cond(
                        present[name], lambda s, n=name: mean(n, s, 1.0, "fake"), lambda s: zero, shown
                    )
                else:
                    on_fake += mean(name, shown, 1.0, "fake")

            def penalty(params: Tree) -> Array:
                total = jnp.zeros(())
                for name, shown in real.items():
                    noise = draws.normal(f"real {name}", (25,))

                    def judge(image: Array, raw: Array, camera: Array = shown.camera, noise: Array = noise) -> Array:
                        return self._logits(params, Shown(image, raw, camera), noise)

                    total += gradient_penalty(judge, shown.image, shown.raw)
                return total

            r1 = jax.lax.cond(step % self.every == 0, penalty, lambda params: zero, params)
            total = on_real + on_fake + self.penalty * self.every * r1
            return total, {"d_real": on_real, "d_fake": on_fake, "d_r1": r1}

        def train(params: Tree) -> tuple[Tree, dict[str, Array]]:
            return jax.grad(loss, has_aux=True)(params)

        def rest(params: Tree) -> tuple[Tree, dict[str, Array]]:
            return jax.tree.map(jnp.zeros_like, params), {k: jnp.zeros(()) for k in ("d_real", "d_fake", "d_r1")}

        return jax.lax.cond(step >= self.first, train, rest, params)

    def rate(self, step: Array, rate: Array) -> Array:
        """The discriminator's learning rate: `rate`, or 0 before it begins to learn."""
        return jnp.where(step >= self.first, rate, 0.0)


def make(config: Any, frame_size: int) -> Adversary | None:
    """The adversary of `config.adversary`, or None where its `start` is negative."""
    if config.start < 0:
        return None
    return Adversary(**config.to_dict(), frame_size=frame_size)


def names(parts: Sequence[str], adversary: Adversary | None) -> tuple[str, ...]:
    """Names of what is trained: the model's `parts`, and the discriminator where there is one."""
    return (*parts, NAME) if adversary else tuple(parts)
