"""The whole model: how image-to-plane, motion adapter, renderer and super-resolution compose.

Real3D-Portrait, figure 2. What depends on the portrait alone (`canonical`, `encode`) is computed once; a frame is
`motion`, `fuse`, `head`, `frame`. Shapes: b images, h w, c plane channels, f decoder features.
"""

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from r3p import render
from r3p.errors import InputError
from r3p.models import layers
from r3p.models.decoder import Decoder, Head, render_head
from r3p.models.img2plane import ImageToPlanes
from r3p.models.keypoints import Warp
from r3p.models.motion_adapter import MotionAdapter
from r3p.models.planes import GridRefiner
from r3p.models.superres import FusionCache, FusionOutput, SuperResolution, TorsoSuperResolution

Array = jax.Array


class Portrait(nn.Module):
    """Every inference network behind one set of methods; the defaults are the released model.

    Attributes:
      torso: head, torso and background fused; otherwise the head's super-resolution alone.
      plane_fusion: how motion joins the canonical planes, `add` or `mul`.
      source_size: side of the image that `canonical` wants.
      img2plane_fields, adapter_fields, decoder_fields, superres_fields: of `ImageToPlanes`, `MotionAdapter`, `Decoder`,
        and `TorsoSuperResolution` or `SuperResolution`.
      double_planes: whether planes have twice the sides of what image-to-plane and adapter give, which is enlarged:
        planes that are adapted to a portrait then hold more of it, at the same cost of both networks.
      grid_blocks: of `GridRefiner` on the canonical tri-grids (`trigrid_v2`: 1 for up to three slices, 2 for more);
        image-to-plane then wants a `depth` above 1. 0 = none.
      coarse, fine, box_warp, box, shared_limits, chunk: of `r3p.render.render`.
      dtype: in which the networks compute; rays and compositing stay float32.
    """

    torso: bool = True
    plane_fusion: Literal["add", "mul"] = "add"
    source_size: int = 512
    img2plane_fields: Mapping[str, Any] = FrozenDict()
    adapter_fields: Mapping[str, Any] = FrozenDict()
    decoder_fields: Mapping[str, Any] = FrozenDict()
    superres_fields: Mapping[str, Any] = FrozenDict()
    double_planes: bool = False
    grid_blocks: int = 0
    coarse: int = 48
    fine: int = 48
    box_warp: float = 1.0
    box: tuple[float, float, float] | None = None
    shared_limits: bool = True
    chunk: int = 1024
    dtype: Any = jnp.float32

    def setup(self) -> None:
        if self.plane_fusion not in ("add", "mul"):
            raise InputError(f"plane fusion {self.plane_fusion!r} is unknown: choose add or mul")
        self.img2plane = ImageToPlanes(**self.img2plane_fields, dtype=self.dtype)
        self.adapter = MotionAdapter(**self.adapter_fields, dtype=self.dtype)
        if self.grid_blocks:
            self.grid = GridRefiner(self.grid_blocks, dtype=self.dtype)
        self.decoder = Decoder(**self.decoder_fields)
        kind: Any = TorsoSuperResolution if self.torso else SuperResolution
        self.superres = kind(**self.superres_fields, dtype=self.dtype)

    def _check_torso(self, wanted: bool) -> None:
        if self.torso != wanted:
            have, need = ("has", "without") if self.torso else ("has no", "with")
            raise InputError(f"this portrait model {have} torso; build it {need} one (torso={wanted}) for this method")

    @property
    def frame_size(self) -> int:
        """Side of finished frames in pixels."""
        fields = self.superres_fields
        return 2 * fields.get("up", 2) * self.raw_resolution

    @property
    def raw_resolution(self) -> int:
        """Rays along a side of a frame."""
        return self.superres_fields.get("raw_resolution", 128)

    def _enlarged(self, planes: Array) -> Array:
        if not self.double_planes:
            return planes
        *rest, h, w, c = planes.shape
        return layers.upsample2d(planes.reshape(-1, h, w, c)).reshape(*rest, 2 * h, 2 * w, c)

    # ------------------------------------------------------------------ once a portrait
    def canonical(
        self, image: Array, alpha: Array | None = None, camera: Array | None = None, *, train: bool = False
    ) -> Array:
        """Canonical planes [b, 3, (d,) h, w, c] of the head on black [b, source_size, source_size, 3] in [-1, 1]."""
        planes = self.img2plane(image, alpha, camera, train=train)
        return self._enlarged(self.grid(planes) if self.grid_blocks else planes)

    def encode(self, torso_image: Array, background: Array, segmap: Array, *, train: bool = False) -> FusionCache:
        """What a portrait's torso and background give to every frame, see `TorsoSuperResolution.encode`."""
        self._check_torso(True)
        return self.superres.encode(torso_image, background, segmap, train=train)

    # ------------------------------------------------------------------ once a frame
    def motion(self, pncc: Array, *, train: bool = False) -> Array:
        """Motion diff-planes for PNCC images [b, p, p, 9] (canonical, source, target) in [-1, 1]."""
        return self._enlarged(self.adapter(pncc, train=train))

    def fuse(self, canonical: Array, motion: Array) -> Array:
        """Planes of a frame; `canonical` may be of batch 1 for several frames."""
        return canonical + motion if self.plane_fusion == "add" else canonical * motion

    def head(
        self,
        planes: Array,
        camera: Array,
        *,
        resolution: int | None = None,
        jitter: Array | None = None,
        u: Array | None = None,
    ) -> Head:
        """Renders the head.

        Args:
          planes: [b, 3, (d,) h, w, c].
          camera: [b, 25].
          resolution: rays along a side; None = the super-resolution's raw resolution.
          jitter, u: [b, resolution**2, coarse] and [b, resolution**2, fine], see `r3p.render.render`.
        """
        side = self.raw_resolution if resolution is None else resolution
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
            box=self.box,
            shared_limits=self.shared_limits,
            chunk=self.chunk,
        )

    def density(self, planes: Array, points: Array) -> Array:
        """Density [b, n, 1] of planes [b, 3, (d,) h, w, c] at world points [b, n, 3]; what its regulariser asks."""
        return self.decoder(render.mean_features(planes, points, self.box_warp))[1]

    def frame(
        self,
        cache: FusionCache,
        head: Head,
        source_keypoints: Array,
        target_keypoints: Array,
        *,
        train: bool = False,
    ) -> FusionOutput:
        """The finished frame [b, frame_size, frame_size, 3] with head, torso and background; key points [b, 68, 3].

        (Unsupervised key points: see `TorsoSuperResolution.decode`.)
        """
        self._check_torso(True)
        return self.superres.decode(
            cache, head.rgb, head.feature, head.weight, source_keypoints, target_keypoints, train=train
        )

    def equivariance(self, images: Array, warp: Warp, *, train: bool = False) -> Array:
        """The loss of unsupervised key points on images [b, h, w, 3], see `TorsoSuperResolution.equivariance`."""
        self._check_torso(True)
        return self.superres.equivariance(images, warp, train=train)

    def enlarge(self, head: Head) -> Array:
        """The finished frame of a model without torso: [b, frame_size, frame_size, 3], not clamped."""
        self._check_torso(False)
        return self.superres(head.rgb, head.feature)

    # ------------------------------------------------------------------ whole passes, as the training stages run them
    def reconstruct(
        self,
        image: Array,
        camera: Array,
        *,
        resolution: int | None = None,
        jitter: Array | None = None,
        u: Array | None = None,
        train: bool = False,
    ) -> tuple[Head, Array]:
        """Image-to-plane stage: the source's own head from another camera, without motion."""
        head = self.head(self.canonical(image, train=train), camera, resolution=resolution, jitter=jitter, u=u)
        return head, self.enlarge(head)

    def animate(
        self,
        image: Array,
        pncc: Array,
        camera: Array,
        *,
        resolution: int | None = None,
        jitter: Array | None = None,
        u: Array | None = None,
        train: bool = False,
    ) -> tuple[Head, Array]:
        """Head stage: the source's head with another expression from another camera."""
        planes = self.fuse(self.canonical(image, train=train), self.motion(pncc, train=train))
        head = self.head(planes, camera, resolution=resolution, jitter=jitter, u=u)
        return head, self.enlarge(head)

    def __call__(
        self,
        image: Array,
        pncc: Array,
        camera: Array,
        torso_image: Array,
        background: Array,
        segmap: Array,
        source_keypoints: Array,
        target_keypoints: Array,
        *,
        resolution: int | None = None,
        jitter: Array | None = None,
        u: Array | None = None,
        train: bool = False,
    ) -> tuple[Head, FusionOutput]:
        """Source to finished frame.

        Args:
          image: [b, source_size, source_size, 3] in [-1, 1], the head on black.
          pncc: [b, p, p, 9] in [-1, 1]: canonical, source, target.
          camera: [b, 25] of the frame.
          torso_image, background: [b, s, s, 3] in [-1, 1].
          segmap: [b, s, s, 6] one-hot classes of the source.
          source_keypoints, target_keypoints: [b, 68, 3] in [-1, 1].
          resolution, jitter, u: see `head`.
          train: batch statistics and dropout (rng `dropout`).
        """
        planes = self.fuse(self.canonical(image, train=train), self.motion(pncc, train=train))
        head = self.head(planes, camera, resolution=resolution, jitter=jitter, u=u)
        cache = self.encode(torso_image, background, segmap, train=train)
        return head, self.frame(cache, head, source_keypoints, target_keypoints, train=train)
