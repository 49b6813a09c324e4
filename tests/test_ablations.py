"""Every row of the ablation table differs from the default in the fields that it is about, and in no other."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from quick import quick_jit

from configs import ablations

# The fields by hand, not from the table itself.
DIFFERENCES = {
    "without_pretraining.motion2plane": {"start": ("~/r3p_runs/img2plane", "")},
    "without_finetuning.motion2plane": {"img2plane_stop": (70_000, 0)},
    **{
        f"{size}_image_to_plane.{stage}": {
            "model.img2plane_fields.low.blocks": (None, low),
            "model.img2plane_fields.fusion.blocks": (None, fusing),
        }
        for size, low, fusing in (("small", 2, 1), ("large", 10, 3))
        for stage in ("img2plane", "motion2plane", "torso")
    },
    "without_laplacian.motion2plane": {"loss.laplacian": (1.0, 0.0), "blink.goal": (0.3, 0.0)},
    "unsupervised_keypoints.torso": {
        "model.superres_fields.keypoints": (None, "unsupervised"), "loss.equivariance": (0.0, 10.0),
    },
    "concatenation.torso": {"model.superres_fields.fuse": (None, "concat")},
    "without_inpainting.torso": {"background": ("inpainted", "raw")},
}  # fmt: skip


def flat(config: ConfigDict, prefix: str = "") -> dict:
    out = {}
    for key, value in config.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else {f"{prefix}{key}": value}
    return out


@pytest.mark.parametrize("name", list(DIFFERENCES))
def test_a_row_differs_in_its_fields_alone(name: str) -> None:
    row, before = flat(ablations.get_config(name)), flat(ablations.default(name.split(".")[1]))
    found = {k: (before.get(k), row.get(k)) for k in row.keys() | before.keys() if row.get(k) != before.get(k)}
    assert found == DIFFERENCES[name]


def test_the_table_is_the_papers_and_whole() -> None:
    assert len(ablations.ROWS) == 8
    assert {f"{row}.{stage}" for row, stages in ablations.ROWS.items() for stage in stages} == set(DIFFERENCES)
    # image-to-plane as it is has (5, 1) blocks: what the sizes change is what the model has
    assert ablations.BACKBONE_BLOCKS["standard"] not in (ablations.BACKBONE_BLOCKS[s] for s in ("small", "large"))


def test_names_are_checked() -> None:
    assert ablations.get_config("large_image_to_plane").stage == "img2plane"
    with pytest.raises(ValueError, match="choose one of without_pretraining"):
        ablations.get_config("without_hands")
    with pytest.raises(ValueError, match="changes nothing in stage 'img2plane'"):
        ablations.get_config("concatenation.img2plane")


@pytest.mark.slow
@pytest.mark.parametrize("row", ["unsupervised_keypoints", "concatenation", "without_inpainting"])
def test_rows_of_the_torso_train(row: str) -> None:
    from r3p.stages import torso

    config = ablations.get_config(f"{row}.torso.smoke")
    stage = torso.make(config)
    state, step = quick_jit(stage.init)(jax.random.key(0)), quick_jit(stage.step)
    first = state.params["superres"]
    for k, batch in zip(range(3), stage.batches(0), strict=False):
        state, metrics = step(state, batch, jax.random.key(k))
        assert np.isfinite([float(v) for v in metrics.values()]).all()
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), state.params["superres"], first)
    if row == "unsupervised_keypoints":
        assert float(metrics["equivariance"]) > 0
        assert moved["detector"]["heat"]["kernel"] > 0 and moved["detector"]["down0"]["conv"]["kernel"] > 0
    assert moved["torso"]["motion"]["mask"]["kernel"] > 0
    assert np.isfinite(float(quick_jit(stage.evaluate)(state, batch)["mv_l1"]))
