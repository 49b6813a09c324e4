"""Names of HuBERT checkpoints as `transformers` writes them, older and newer, bare or with a head for another task."""

from r3p.convert import Rule

_DENSE = {
    r"attention\.q_proj": "attention/query",
    r"attention\.k_proj": "attention/key",
    r"attention\.v_proj": "attention/value",
    r"attention\.out_proj": "attention/out",
    r"feed_forward\.intermediate_dense": "up",
    r"feed_forward\.output_dense": "down",
}
_NORMS = {"layer_norm": "attention_norm", "final_layer_norm": "mlp_norm"}
# Checkpoints with a head for recognition or classification carry the network under this.
_P = r"(?:hubert\.)?"
_LAYER = rf"{_P}encoder\.layers\.(\d+)"
_CONV = rf"{_P}feature_extractor\.conv_layers\.(\d+)"
_POSITION = rf"{_P}encoder\.pos_conv_embed"


def _dense(theirs: str, ours: str) -> list[Rule]:
    return [
        Rule(rf"{theirs}\.weight", f"params/{ours}/kernel", "linear"),
        Rule(rf"{theirs}\.bias", f"params/{ours}/bias"),
    ]


def _norm(theirs: str, ours: str) -> list[Rule]:
    return [Rule(rf"{theirs}\.weight", f"params/{ours}/scale"), Rule(rf"{theirs}\.bias", f"params/{ours}/bias")]


RULES = [
    Rule(rf"{_CONV}\.conv\.weight", r"params/extractor/kernel\1", "conv1d"),
    Rule(rf"{_CONV}\.conv\.bias", r"params/extractor/bias\1"),
    *_norm(rf"{_CONV}\.layer_norm", r"extractor/norm\1"),
    *_norm(rf"{_P}feature_projection\.layer_norm", "projection/norm"),
    *_dense(rf"{_P}feature_projection\.projection", "projection/dense"),
    # Weight norm: magnitude and direction stay parameters; original0/1 is what newer versions of PyTorch call g and v.
    Rule(rf"{_POSITION}\.conv\.(?:weight_g|parametrizations\.weight\.original0)", "params/position/scale", "conv1d"),
    Rule(rf"{_POSITION}\.conv\.(?:weight_v|parametrizations\.weight\.original1)", "params/position/kernel", "conv1d"),
    Rule(rf"{_POSITION}\.conv\.weight", "params/position/kernel", "conv1d"),  # the form with batch norm
    Rule(rf"{_POSITION}\.conv\.bias", "params/position/bias"),
    *_norm(rf"{_POSITION}\.batch_norm", "position/norm"),
    Rule(rf"{_POSITION}\.batch_norm\.running_mean", "batch_stats/position/norm/mean"),
    Rule(rf"{_POSITION}\.batch_norm\.running_var", "batch_stats/position/norm/var"),
    Rule(rf"{_POSITION}\.batch_norm\.num_batches_tracked", None),
    *_norm(rf"{_P}encoder\.layer_norm", "norm"),
    *(rule for theirs, ours in _DENSE.items() for rule in _dense(rf"{_LAYER}\.{theirs}", rf"layer\1/{ours}")),
    *(rule for theirs, ours in _NORMS.items() for rule in _norm(rf"{_LAYER}\.{theirs}", rf"layer\1/{ours}")),
    # What stands in for masked frames while HuBERT itself is trained; features never read it.
    Rule(rf"{_P}masked_spec_embed", None),
    # Heads that follow the features: characters (hubert-large-ls960-ft has it), classes of an utterance.
    Rule(r"lm_head\.(weight|bias)", None),
    Rule(r"(projector|classifier)\.(weight|bias)", None),
    Rule(r"layer_weights", None),
]
