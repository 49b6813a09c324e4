"""Names of Inception v3 in torchvision's layout, which pytorch-fid's weights of December 2015 have, too."""

from r3p.convert import Rule
from r3p.names.segformer import batch_norm, conv

RULES = [
    Rule(r"(?:AuxLogits\..*|fc\.(?:weight|bias))", None),  # the classifiers
    *conv(r"(Conv2d_\w+)\.conv", r"\1/conv", bias=False),
    *batch_norm(r"(Conv2d_\w+)\.bn", r"\1/bn"),
    *conv(r"(Mixed_\w+)\.(\w+)\.conv", r"\1/\2/conv", bias=False),
    *batch_norm(r"(Mixed_\w+)\.(\w+)\.bn", r"\1/\2/bn"),
]
