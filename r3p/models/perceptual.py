"""Perceptual loss of Real3D-Portrait: distances of what VGG19 and VGGFace see in two images.

VGG (Simonyan and Zisserman 2015) trained on ImageNet and on faces (Parkhi et al. 2015), compared over several layers
and image scales as in face-vid2vid (Wang et al. 2021). Weights come from the official checkpoints through
`r3p.names.perceptual`; the networks are never trained here. Shapes: b images, h w, c channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from r3p.errors import InputError
from r3p.models import layers
from r3p.models.convolution import Conv
from r3p.models.segformer import RELU_INIT

Array = jax.Array

# Convolutions of each stage up to the last one that the loss looks at, the first of the fifth.
VGG19 = (2, 2, 4, 4, 1)
VGG16 = (2, 2, 3, 3, 1)
# Means and deviations of RGB in [0, 1]; VGGFace wants bytes less their mean.
IMAGENET = {"mean": (0.485, 0.456, 0.406), "deviation": (0.229, 0.224, 0.225)}
FACES = {
    "mean": tuple(m / 255 for m in (129.186279296875, 104.76238250732422, 93.59396362304688)),
    "deviation": (1 / 255,) * 3,
}


class VGG(nn.Module):
    """Images [b, h, w, 3] -> the first activation of each stage, [b, h / 2^i, w / 2^i, widths[i]].

    Attributes:
      convs: 3x3 convolutions of each stage; 2x2 max pooling stands between stages.
      widths: channels of each stage.
      mean, deviation: of the images it was trained on, which are taken out of the input.
      dtype: of the convolutions.
    """

    convs: Sequence[int] = VGG19
    widths: Sequence[int] = (64, 128, 256, 512, 512)
    mean: Sequence[float] = IMAGENET["mean"]
    deviation: Sequence[float] = IMAGENET["deviation"]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> list[Array]:
        x = (images - jnp.array(self.mean)) / jnp.array(self.deviation)
        seen: list[Array] = []
        for i, (width, convs) in enumerate(zip(self.widths, self.convs, strict=True)):
            if i:
                x = nn.max_pool(x, (2, 2), (2, 2))
            for j in range(convs):
                name = f"conv{i}_{j}"
                x = nn.relu(Conv(width, (3, 3), dtype=self.dtype, kernel_init=RELU_INIT, name=name)(x))
                if j == 0:
                    seen.append(x)
        return seen


class PerceptualLoss(nn.Module):
    """Both networks and the loss on them; the defaults are the released training's (`vgg19_v2`).

    Attributes:
      size: images of another width are resized to this square, antialiased.
      weights: of the stages, for the mean absolute difference of their first activations.
      scales: how often the images are halved, to be compared again by VGG19's last stage alone, with weight 1. (That
        only the last one counts there looks like an oversight of the original; its weights were tuned with it.)
      vgg19_fields, vggface_fields: of the networks, see `VGG`.
    """

    size: int = 512
    weights: Sequence[float] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
    scales: int = 3
    vgg19_fields: Mapping[str, Any] = FrozenDict()
    vggface_fields: Mapping[str, Any] = FrozenDict()
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.vgg19 = VGG(**self.vgg19_fields, dtype=self.dtype)
        self.vggface = VGG(**{"convs": VGG16, **FACES, **self.vggface_fields}, dtype=self.dtype)

    def __call__(self, prediction: Array, target: Array) -> Array:
        """The loss, a scalar; no gradient reaches `target`.

        Args:
          prediction, target: [b, h, w, 3]. The networks were trained on [0, 1]; the original's image-to-plane stage
            passes that and its head and torso stages pass [-1, 1], so take what the loss weights were chosen for.

        Raises:
          InputError: at trace time, for shapes that differ or are no images.
        """
        if prediction.shape != target.shape or prediction.ndim != 4 or prediction.shape[-1] != 3:
            raise InputError(
                f"perceptual loss of {prediction.shape} and {target.shape}: give two equal shapes [b, h, w, 3]"
            )
        pair = [prediction, jax.lax.stop_gradient(target)]
        if prediction.shape[2] != self.size:
            pair = [layers.resize(x, (self.size, self.size), antialias=True) for x in pair]
        # VGGFace sees bytes: its part is brought back to the unit of images.
        total = self._distance(self.vgg19, pair) + self._distance(self.vggface, pair) / 255
        for _ in range(self.scales):
            pair = [layers.resize(x, (x.shape[1] // 2, x.shape[2] // 2)) for x in pair]
            total += self._distance(self.vgg19, pair, last_only=True)
        return total

    def _distance(self, network: VGG, pair: Sequence[Array], last_only: bool = False) -> Array:
        first, second = (network(x) for x in pair)
        terms = jnp.stack(
            [jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)).mean() for a, b in zip(first, second, strict=True)]
        )
        return terms[-1] if last_only else jnp.sum(terms * jnp.array(self.weights))
