"""Official names of the dual discriminator."""

from r3p.convert import Rule
from r3p.names.segformer import conv

RULES = [
    *conv(r"b\d+\.fromrgb", "from_rgb"),
    *conv(r"b(\d+)\.conv(\d)", r"block\1/conv\2"),
    *conv(r"b(\d+)\.skip", r"block\1/skip", bias=False),
    *conv(r"b4\.conv", "conv"),
    *conv(r"b4\.fc", "hidden", "flat4x4"),
    *conv(r"b4\.out", "out", "linear"),
    *conv(r"mapping\.embed", "mapping/embed", "linear"),
    *conv(r"mapping\.fc(\d+)", r"mapping/dense\1", "linear"),
    # The filter is a constant of the code.
    Rule(r"(.*\.)?resample_filter", None),
]
