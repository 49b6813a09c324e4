"""The ablations of the paper's table: each row is a few fields away from the stages' own configs.

    python -m r3p.train --config configs/ablations.py:ROW.STAGE --workdir ~/r3p_runs/ROW/STAGE --set start=RUN --set ..

ROW is a key of `ROWS`, STAGE one of those it lists (the first when left out); what is set beside is what the stage's
own config wants, see there. A row is made in the order image-to-plane, head (`motion2plane`), torso:

  - stages before its first are the default's, whose run is `start`;
  - stages after its last have the default's config, and the row's own run as `start`.

`ROW.STAGE.smoke` is the same in minutes, on the path of the stage's `smoke`. Measure with `r3p.evaluate` against the
default's runs: the paper compares identity, FID, expression and pose in the cross-identity setting.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import img2plane, motion2plane, torso
from r3p.models.img2plane import BACKBONE_BLOCKS

STAGES = {"img2plane": img2plane, "motion2plane": motion2plane, "torso": torso}
# Where the commands of the stages' configs leave their runs.
START = {"motion2plane": "~/r3p_runs/img2plane", "torso": "~/r3p_runs/head"}

Changes = dict[str, Any]


def _sized(scale: str) -> dict[str, Changes]:
    """Image-to-plane with fewer or more transformer blocks, wherever it is a part of the model."""
    low, fusing = BACKBONE_BLOCKS[scale]
    fields = dict(low=dict(blocks=low), fusion=dict(blocks=fusing))
    return {stage: dict(model=dict(img2plane_fields=fields)) for stage in STAGES}


# Row -> stage -> what differs there, as nested dictionaries.
ROWS: dict[str, dict[str, Changes]] = {
    # Image-to-plane begins with the head stage, from random weights.
    "without_pretraining": {"motion2plane": dict(start="")},
    # Image-to-plane stays what the pre-training made it.
    "without_finetuning": {"motion2plane": dict(img2plane_stop=0)},
    "small_image_to_plane": _sized("small"),
    "large_image_to_plane": _sized("large"),
    # No Laplacian on the diff-planes: neither the paper's over time nor the original's over the closing of the lids.
    "without_laplacian": {"motion2plane": dict(loss=dict(laplacian=0.0), blink=dict(goal=0.0))},
    # The torso follows key points that a network finds in the frames, taught by the frames and by equivariance.
    "unsupervised_keypoints": {
        "torso": dict(model=dict(superres_fields=dict(keypoints="unsupervised")), loss=dict(equivariance=10.0))
    },
    # Head, torso and background are joined as channels, without masks.
    "concatenation": {"torso": dict(model=dict(superres_fields=dict(fuse="concat")))},
    # The background is the photograph as it is, the person still in it.
    "without_inpainting": {"torso": dict(background="raw")},
}


def default(stage: str, mode: str = "full") -> ConfigDict:
    """A stage's own config, begun from the run before it: what the rows differ from."""
    config = STAGES[stage].get_config(mode)
    if mode == "full" and stage in START:
        config.start = START[stage]
    return config


def get_config(name: str) -> ConfigDict:
    """`ROW`, `ROW.STAGE` or `ROW.STAGE.smoke`."""
    row, _, rest = name.partition(".")
    if row not in ROWS:
        raise ValueError(f"ablation {row!r}: choose one of {', '.join(ROWS)}")
    stage, _, mode = rest.partition(".")
    stage = stage or next(iter(ROWS[row]))
    if stage not in ROWS[row]:
        raise ValueError(f"{row} changes nothing in stage {stage!r}: choose one of {', '.join(ROWS[row])}")
    config = default(stage, mode or "full")
    config.update(ROWS[row][stage])
    return config
