"""Names of Deep3DFaceRecon's regressor (its PyTorch port's `net_recon`)."""

from r3p.convert import Rule
from r3p.names.segformer import batch_norm, conv

_BLOCK, _OURS = r"backbone\.(layer\d+)\.(\d+)", r"\1_\2"
RULES = [
    *conv(r"backbone\.conv1", "conv1", bias=False),
    *batch_norm(r"backbone\.bn1", "bn1"),
    *conv(rf"{_BLOCK}\.(conv\d)", rf"{_OURS}/\3", bias=False),
    *batch_norm(rf"{_BLOCK}\.(bn\d)", rf"{_OURS}/\3"),
    *conv(rf"{_BLOCK}\.downsample\.0", f"{_OURS}/down", bias=False),
    *batch_norm(rf"{_BLOCK}\.downsample\.1", f"{_OURS}/down_bn"),
    Rule(r"final_layers\.(\d+)\.weight", r"params/head\1/kernel", "conv1x1"),
    Rule(r"final_layers\.(\d+)\.bias", r"params/head\1/bias"),
]
