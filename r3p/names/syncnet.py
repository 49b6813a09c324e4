"""Official names of the SyncNets (`LandmarkHubertSyncNet`)."""

from r3p.names.segformer import batch_norm, conv

RULES = [
    rule
    for theirs, ours in (("hubert_encoder", "audio_encoder"), ("mouth_encoder", "mouth_encoder"))
    for rule in (
        *conv(rf"{theirs}\.(\d+)\.conv_block\.0", rf"{ours}/block\1/conv", "conv1d"),
        *batch_norm(rf"{theirs}\.(\d+)\.conv_block\.1", rf"{ours}/block\1/norm"),
    )
]
