"""Official names of whole models: image-to-plane, head, and head with torso (`OSAvatar...` in the original)."""

from r3p.convert import Rule
from r3p.names import decoder, img2plane, motion_adapter, planes, superres
from r3p.names.segformer import nest

_DECODER = nest(decoder.RULES, "", "decoder")
_GRID = nest(planes.RULES, "plane2grid_module.", "grid")  # of tri-grids alone (`trigrid_v2`)
_HEAD = [
    *nest(img2plane.RULES, "cano_img2plane_backbone.", "img2plane"),
    *nest(motion_adapter.RULES, "secc_img2plane_backbone.", "adapter"),
    *_DECODER,
    *_GRID,
    # Weights of two losses, which the original keeps in the model.
    Rule(r"lambda_pertube(_blink)?_secc", None),
]

IMAGE_TO_PLANE = [
    *nest(img2plane.RULES, "img2plane_backbone.", "img2plane"),
    *_DECODER,
    *nest(superres.HEAD, "superresolution.", "superres"),
    *_GRID,
]
HEAD = [*_HEAD, *nest(superres.HEAD, "superresolution.", "superres")]
RULES = [*_HEAD, *nest(superres.RULES, "superresolution.", "superres")]
RULES_V3 = [*_HEAD, *nest(superres.RULES_V3, "superresolution.", "superres")]
