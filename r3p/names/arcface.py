"""Names of ArcFace's IResNets (insightface's `arcface_torch`)."""

from r3p.convert import Rule
from r3p.names.segformer import batch_norm, conv

_BLOCK, _OURS = r"(layer\d+)\.(\d+)", r"\1_\2"
RULES = [
    *conv("conv1", "conv1", bias=False),
    *batch_norm("bn1", "bn1"),
    Rule(r"prelu\.weight", "params/prelu/slope"),
    *conv(rf"{_BLOCK}\.(conv\d)", rf"{_OURS}/\3", bias=False),
    *batch_norm(rf"{_BLOCK}\.(bn\d)", rf"{_OURS}/\3"),
    Rule(rf"{_BLOCK}\.prelu\.weight", rf"params/{_OURS}/prelu/slope"),
    *conv(rf"{_BLOCK}\.downsample\.0", f"{_OURS}/down", bias=False),
    *batch_norm(rf"{_BLOCK}\.downsample\.1", f"{_OURS}/down_bn"),
    *batch_norm("bn2", "bn2"),
    *conv("fc", "fc", "flat7x7"),
    *batch_norm("features", "features"),
]
