"""Official names of the motion adapter."""

from r3p.convert import Rule
from r3p.names import segformer


def adapter(prefix: str = "", path: str = "") -> list[Rule]:
    return [
        Rule(rf"{prefix}prenet\.weight", f"params/{path}mix_kernel", "conv2d"),
        Rule(rf"{prefix}prenet\.bias", f"params/{path}mix_bias"),
        Rule(rf"{prefix}prenet\.resample_filter", None),
        *segformer.planes(prefix, f"{path}planes/"),
    ]


RULES = adapter()
