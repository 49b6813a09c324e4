"""Official names of the radiance decoder."""

from r3p.convert import Rule

RULES = [
    Rule(r"decoder\.net\.0\.weight", r"params/hidden_layer/kernel", "linear"),
    Rule(r"decoder\.net\.0\.bias", r"params/hidden_layer/bias"),
    Rule(r"decoder\.net\.2\.weight", r"params/out/kernel", "linear"),
    Rule(r"decoder\.net\.2\.bias", r"params/out/bias"),
]
