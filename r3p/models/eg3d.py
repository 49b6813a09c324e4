"""The EG3D generator: latents and a camera to a tri-plane head and its image; teacher of the image-to-plane stage.

Source: EG3D (Chan et al., CVPR 2022), sections 4.2-4.4. Shapes: b batch, h w c of planes or images, z latent, s style,
n styles of the backbone, k cameras' numbers (25).
"""

from collections.abc import Mapping as Fields
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from r3p.errors import InputError
from r3p.models.decoder import Decoder, Head, render_head
from r3p.models.stylegan import Mapping, Synthesis
from r3p.models.superres import SuperResolution

Array = jax.Array

# Fields of the generator as NVIDIA published it for FFHQ at 512x512; the defaults are Real3D-Portrait's teacher, whose
# rays run where they meet the cube and whose super-resolution sees constant ones, as those of the later stages do.
PUBLISHED: Fields[str, Any] = FrozenDict(superres_style="latent", limits=(2.25, 3.3), clamp_image=False)


class EG3D(nn.Module):
    """One latent, many views: `style`, then `planes` once, then `head` and `enlarge` for each camera.

    Attributes:
      latent: z, width of the latents.
      style_width: s.
      mapping_depth: dense layers from latent and camera to style.
      plane_channels: c of each plane.
      backbone_fields, decoder_fields, superres_fields: of `Synthesis`, `Decoder` and `SuperResolution`. The backbone's
        `noise` is constant unless it says otherwise; the original draws it anew for every image, in use as in training.
      superres_style: what modulates the super-resolution: constant `ones`, or the backbone's last style, `latent`.
      coarse, fine, box_warp, limits, shared_limits, chunk: of `r3p.render.render`.
      clamp_image: whether the finished image is clamped to [-1, 1].
      dtype: in which backbone and super-resolution compute; rays and compositing stay float32.
    """

    latent: int = 512
    style_width: int = 512
    mapping_depth: int = 2
    plane_channels: int = 32
    backbone_fields: Fields[str, Any] = FrozenDict()
    decoder_fields: Fields[str, Any] = FrozenDict()
    superres_fields: Fields[str, Any] = FrozenDict(clamp=256.0)
    superres_style: Literal["ones", "latent"] = "ones"
    coarse: int = 48
    fine: int = 48
    box_warp: float = 1.0
    limits: tuple[float, float] | None = None
    shared_limits: bool = True
    clamp_image: bool = True
    chunk: int = 1024
    dtype: Any = jnp.float32

    def setup(self) -> None:
        if self.superres_style not in ("ones", "latent"):
            raise InputError(f"style {self.superres_style!r} of the super-resolution is unknown: choose ones or latent")
        self.mapping = Mapping(self.mapping_depth, self.style_width)
        # A running mean of styles over EG3D's own training, which is not repeated here.
        self.mean_style = self.variable("constants", "mean_style", jnp.zeros, (self.style_width,))
        self.backbone = Synthesis(
            image_features=3 * self.plane_channels, **{**self.backbone_fields, "dtype": self.dtype}
        )
        self.decoder = Decoder(**self.decoder_fields)
        self.superres = SuperResolution(
            **{"style_width": self.style_width, **self.superres_fields, "dtype": self.dtype}
        )

    def style(self, z: Array, camera: Array, truncation: float = 1.0) -> Array:
        """Latents [b, z], standard normal, and the camera [b, 25] that they are conditioned on -> styles [b, n, s].

        `truncation` 1 keeps the style, 0 gives the mean style: between them, less variety and fewer failures
        (StyleGAN, appendix B). The camera tells what correlates with pose; it need not be the one that is rendered.
        """
        if z.ndim != 2 or z.shape[-1] != self.latent:
            raise InputError(f"latents are [b, {self.latent}], got {z.shape}: draw as many standard normals an image")
        w = self.mapping(z, camera)
        mean = self.mean_style.value
        w = mean + truncation * (w - mean)
        return jnp.broadcast_to(w[:, None], (len(w), self.backbone.styles, self.style_width))

    def planes(self, ws: Array) -> Array:
        """Styles [b, n, s] -> planes [b, 3, h, w, c]; rng `noise` where the backbone's noise is random."""
        image = self.backbone(ws)
        *size, _ = image.shape
        return jnp.moveaxis(image.reshape(*size, 3, self.plane_channels), -2, 1)

    def head(
        self,
        planes: Array,
        camera: Array,
        *,
        resolution: int | None = None,
        jitter: Array | None = None,
        u: Array | None = None,
    ) -> Head:
        """Renders planes [b, 3, h, w, c] from cameras [b, 25].

        `resolution`: rays along a side, None = the super-resolution's raw resolution; `jitter`, `u`: [b, rays, coarse]
        and [b, rays, fine], see `r3p.render.render`.
        """
        side = self.superres.raw_resolution if resolution is None else resolution
        return render_head(
            self.decoder,
            planes,
            camera,
            side,
            coarse=self.coarse,
            fine=self.fine,
            jitter=jitter,
            u=u,
            box_warp=self.box_warp,
            limits=self.limits,
            shared_limits=self.shared_limits,
            chunk=self.chunk,
        )

    def enlarge(self, head: Head, ws: Array) -> Array:
        """The finished image [b, h, w, 3]; the super-resolution sees the head before any clamping."""
        image = self.superres(head.rgb, head.feature, ws[:, -1] if self.superres_style == "latent" else None)
        return jnp.clip(image, -1, 1) if self.clamp_image else image

    def __call__(
        self,
        z: Array,
        mapping_camera: Array,
        camera: Array,
        *,
        truncation: float = 1.0,
        resolution: int | None = None,
        jitter: Array | None = None,
        u: Array | None = None,
    ) -> tuple[Head, Array]:
        """Latents [b, z] to a head and its image from `camera`; `mapping_camera` conditions the style."""
        ws = self.style(z, mapping_camera, truncation)
        head = self.head(self.planes(ws), camera, resolution=resolution, jitter=jitter, u=u)
        return head, self.enlarge(head, ws)
