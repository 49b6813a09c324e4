"""Our network for each manifest: the module, its table of names, and the inputs that show its variables' shapes."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r3p.convert import Rule, check_against, to_variables
from r3p.errors import InputError
from r3p.models.audio2motion import AudioToMotion
from r3p.models.decoder import Decoder
from r3p.models.discriminator import Discriminator
from r3p.models.eg3d import EG3D, PUBLISHED
from r3p.models.hubert import Hubert, from_config
from r3p.models.img2plane import ImageToPlanes
from r3p.models.motion_adapter import MotionAdapter
from r3p.models.perceptual import PerceptualLoss
from r3p.models.planes import GridRefiner
from r3p.models.portrait import Portrait
from r3p.models.segformer import SegFormerPlanes, encoder_fields
from r3p.models.superres import SuperResolution, TorsoSuperResolution
from r3p.models.syncnet import SyncNet
from r3p.models.torso import TorsoModel
from r3p.names import (
    audio2motion,
    decoder,
    discriminator,
    eg3d,
    hubert,
    img2plane,
    motion_adapter,
    perceptual,
    planes,
    portrait,
    segformer,
    superres,
    syncnet,
    torso,
)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Network:
    """A module with its official names.

    Attributes:
      module: of Flax, with the fields of the manifest's network.
      rules: official names to our paths.
      shapes: of the inputs of `method`; they only have to reach every variable.
      method: of the module.
    """

    module: Any
    rules: list[Rule]
    shapes: tuple[Shape, ...]
    method: str = "__call__"

    def wanted(self) -> Any:
        """Shapes of the module's variables: nothing is computed."""
        inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in self.shapes]
        return jax.eval_shape(functools.partial(self.module.init, method=self.method), jax.random.key(0), *inputs)

    def variables(self, official: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The official state dict as our variables. Raises InputError when names or shapes do not fit exactly."""
        variables = to_variables(official, self.rules)
        check_against(variables, self.wanted())
        return variables


def image(channels: int, side: int = 512, b: int = 1) -> Shape:
    return b, side, side, channels


CAMERA, POINTS = (1, 25), (1, 68, 3)
_FUSION = (*(image(c, 128) for c in (3, 32, 1)), *(image(c) for c in (3, 3, 6)), POINTS, POINTS)
_TORSO = (image(3, 256), image(6), POINTS, POINTS, image(3, 256), image(1, 256))
_RECONSTRUCT = (image(3), CAMERA)
_ANIMATE = (image(3), image(9), CAMERA)
_SPEECH = ((1, 8, 1024), (1, 8))
_TRIGRID: Any = {"img2plane_fields": {"depth": 3}, "grid_blocks": 1}


def _fused(torso_version: str, fuse: str) -> Network:
    fields = {} if torso_version == "v2" else {"version": 1, "alpha_input": False}
    model = TorsoSuperResolution(fuse={"nofuse": "concat"}.get(fuse, fuse), torso_fields=fields)  # type: ignore[arg-type]
    return Network(model, superres.RULES_V3 if fuse == "v3" else superres.RULES, _FUSION)


NETWORKS = {
    "img2plane": Network(ImageToPlanes(), img2plane.RULES, (image(3),)),
    "segformer_img2plane_b0": Network(SegFormerPlanes(encoder=encoder_fields("b0")), segformer.RULES, (image(3),)),
    "segformer_img2plane_b3": Network(SegFormerPlanes(encoder=encoder_fields("b3")), segformer.RULES, (image(3),)),
    "secc2plane": Network(MotionAdapter(), motion_adapter.RULES, (image(9),)),
    "plane2grid": Network(GridRefiner(), planes.RULES, ((1, 3, 3, 64, 64, 32),)),
    "renderer": Network(Decoder(), decoder.RULES, ((1, 32),)),
    "renderer_trigrid": Network(Decoder(), decoder.RULES, ((1, 32),)),
    "sr_head": Network(SuperResolution(), superres.HEAD, (image(3, 128), image(32, 128))),
    "torso_v1": Network(TorsoModel(version=1, alpha_input=False), torso.RULES, _TORSO),
    "torso_v2": Network(TorsoModel(), torso.RULES, _TORSO),
    "torso_v2_rgb": Network(TorsoModel(alpha_input=False), torso.RULES, _TORSO),
    **{f"sr_warp_{t}_{f}": _fused(t, f) for t in ("v1", "v2") for f in ("v1", "v2", "v3", "nofuse")},
    "i2p_full": Network(Portrait(torso=False), portrait.IMAGE_TO_PLANE, _RECONSTRUCT, "reconstruct"),
    "i2p_full_trigrid_v2": Network(
        Portrait(torso=False, **_TRIGRID), portrait.IMAGE_TO_PLANE, _RECONSTRUCT, "reconstruct"
    ),
    "head_full": Network(Portrait(torso=False), portrait.HEAD, _ANIMATE, "animate"),
    "torso_full": Network(Portrait(), portrait.RULES, (*_ANIMATE, image(3), image(3), image(6), POINTS, POINTS)),
    "a2m_pitch": Network(AudioToMotion(), audio2motion.RULES, _SPEECH, "everything"),
    "a2m_vae": Network(
        AudioToMotion(pitch=False, condition_width=64, mouth_amplitude=False, pairing="mean"),
        audio2motion.PLAIN_RULES,
        _SPEECH,
        "everything",
    ),
    "syncnet": Network(SyncNet(), syncnet.RULES, ((1, 10, 1024), (1, 5, 1404))),
    "syncnet_lip": Network(SyncNet(features=512), syncnet.RULES, ((1, 10, 1024), (1, 5, 60))),
    "disc": Network(Discriminator(), discriminator.RULES, (image(3, b=2), image(3, 128, b=2), (2, 25))),
    "eg3d_r3d": Network(EG3D(), eg3d.RULES, ((1, 512), CAMERA, CAMERA)),
    "eg3d_orig": Network(EG3D(**PUBLISHED), eg3d.RULES, ((1, 512), CAMERA, CAMERA)),
    "perceptual": Network(PerceptualLoss(), perceptual.RULES, (image(3), image(3))),
}
# The same weights as `sr_head`, with the noise that the released models leave out.
NOISY_HEAD = Network(SuperResolution(noise="constant"), superres.HEAD_NOISY, NETWORKS["sr_head"].shapes)


def network(model: str, config: Mapping[str, Any] | None = None) -> Network:
    """The network of `manifests/MODEL.json`; a HuBERT's also depends on the `config` in its case (none: the large one).

    Raises:
      InputError: for a model that has no counterpart here.
    """
    if model.startswith("hubert"):
        return Network(from_config(config) if config else Hubert(), hubert.RULES, ((1, 800),))
    if model not in NETWORKS:
        raise InputError(f"the model {model!r} has no counterpart here: known are {', '.join(NETWORKS)} and hubert_*")
    return NETWORKS[model]
