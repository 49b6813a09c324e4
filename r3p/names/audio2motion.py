"""Names of the official audio-to-motion checkpoints (`PitchContourVAEModel`, `VAEModel`)."""

from r3p.convert import Rule

_WN_LAYERS = {"in_layers": "in", "res_skip_layers": "out"}


def _wavenet(pattern: str, path: str) -> list[Rule]:
    rules = []
    for theirs, ours in (("weight_g", "scale"), ("weight_v", "kernel"), ("bias", "bias")):
        kind = "raw" if theirs == "bias" else "conv1d"
        last = path.count("\\") + 1
        rules += [
            Rule(rf"{pattern}\.{group}\.(\d+)\.{theirs}", f"params/{path}/{name}\\{last}/{ours}", kind)
            for group, name in _WN_LAYERS.items()
        ]
        rules.append(Rule(rf"{pattern}\.cond_layer\.{theirs}", f"params/{path}/condition/{ours}", kind))
    return rules


def _conv(pattern: str, path: str) -> list[Rule]:
    return [
        Rule(rf"{pattern}\.weight", f"params/{path}/kernel", "conv1d"),
        Rule(rf"{pattern}\.bias", f"params/{path}/bias"),
    ]


def _stack(theirs: str, ours: str) -> list[Rule]:
    return [
        Rule(rf"{theirs}\.0\.weight", f"params/{ours}/conv0/kernel", "conv1d"),
        Rule(rf"{theirs}\.3\.weight", f"params/{ours}/conv1/kernel", "conv1d"),
        Rule(rf"{theirs}\.1\.weight", f"params/{ours}/norm/scale"),
        Rule(rf"{theirs}\.1\.bias", f"params/{ours}/norm/bias"),
        Rule(rf"{theirs}\.1\.running_mean", f"batch_stats/{ours}/norm/mean"),
        Rule(rf"{theirs}\.1\.running_var", f"batch_stats/{ours}/norm/var"),
        Rule(rf"{theirs}\.1\.num_batches_tracked", None),
    ]


_VAE = [
    *_stack("mel_encoder", "audio_encoder"),
    *_conv(r"vae\.g_pre_net\.0", "condition_down"),
    *_conv(r"vae\.encoder\.pre_net\.0", "encoder/pre"),
    *_wavenet(r"vae\.encoder\.wn", "encoder/net"),
    *_conv(r"vae\.encoder\.out_proj", "encoder/post"),
    # even numbers are couplings, odd ones the parameterless channel flips
    *[
        rule
        for number in range(0, 16, 2)
        for side in ("pre", "post")
        for rule in _conv(rf"vae\.prior_flow\.flows\.{number}\.{side}", f"flow/step{number // 2}/{side}")
    ],
    *[
        rule
        for number in range(0, 16, 2)
        for rule in _wavenet(rf"vae\.prior_flow\.flows\.{number}\.enc", f"flow/step{number // 2}/net")
    ],
    # a transposed convolution: [in, out, k] -> [k, out, in]
    Rule(r"vae\.decoder\.pre_net\.0\.weight", "params/decoder/pre/kernel", "conv1d"),
    Rule(r"vae\.decoder\.pre_net\.0\.bias", "params/decoder/pre/bias"),
    *_wavenet(r"vae\.decoder\.wn", "decoder/net"),
    *_conv(r"vae\.decoder\.out_proj", "decoder/post"),
]

# PitchContourVAEModel
RULES = [
    *_VAE,
    *_stack("pitch_encoder", "pitch_encoder"),
    Rule(r"pitch_embed\.weight", "params/pitch_embedding/embedding"),
    Rule(r"blink_embed\.weight", "params/blink_embedding/embedding"),
    Rule(r"mouth_amp_embed", "params/mouth_amplitude_embedding"),
    Rule(r"cond_proj\.weight", "params/condition/kernel", "linear"),
    Rule(r"cond_proj\.bias", "params/condition/bias"),
]

# VAEModel holds a blink embedding that its forward pass never reads.
PLAIN_RULES = [*_VAE, Rule(r"blink_embed\.weight", None)]
