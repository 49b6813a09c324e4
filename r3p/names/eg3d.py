"""Official names of the EG3D generator, the same for both variants."""

from r3p.convert import Rule
from r3p.names import decoder, superres
from r3p.names.segformer import conv, nest

RULES = [
    *superres.block(r"backbone\.synthesis\.b(\d+)", r"backbone/block\1", constant_noise=True),
    Rule(r"backbone\.synthesis\.b4\.const", "params/backbone/block4/start", "image"),
    Rule(r"backbone\.mapping\.w_avg", "constants/mean_style"),
    *conv(r"backbone\.mapping\.embed", "mapping/embed", "linear"),
    *conv(r"backbone\.mapping\.fc(\d+)", r"mapping/dense\1", "linear"),
    *nest(decoder.RULES, "", "decoder"),
    *nest(superres.HEAD, "superresolution.", "superres"),
]
