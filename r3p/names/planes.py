"""Official names of the tri-grid refiner (`Plane2GridModule`)."""

from r3p.convert import Rule
from r3p.names.segformer import layer_norm

RULES = [Rule(r"res_blocks_3d\.(\d+)\.alpha", r"params/block\1/scale")]
for _i in range(2):
    _theirs, _ours = rf"res_blocks_3d\.(\d+)\.conv{_i + 1}", r"params/block\1"
    RULES += [
        Rule(rf"{_theirs}\.weight", f"{_ours}/kernel{_i}", "conv3d"),
        Rule(rf"{_theirs}\.bias", f"{_ours}/bias{_i}"),
        *layer_norm(rf"res_blocks_3d\.(\d+)\.norm{_i + 1}", rf"block\1/norm{_i}"),
    ]
