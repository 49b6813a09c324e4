"""Official names of the motion adapter."""

from r3p.convert import Rule
from r3p.names import segformer

RULES = [
    Rule(r"prenet\.weight", "params/mix_kernel", "conv2d"),
    Rule(r"prenet\.bias", "params/mix_bias"),
    Rule(r"prenet\.resample_filter", None),
    *segformer.nest(segformer.RULES, "", "planes"),
]
