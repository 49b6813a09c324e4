"""launch/ablations.py: what a row trains and from where, what a second call leaves alone, what the table says."""

import json
from pathlib import Path

import numpy as np
import pytest

from configs.ablations import ROWS
from launch import ablations
from r3p.evaluate import ablation


def _by_folder(rows):
    return {run.folder: run for run in ablations.runs(rows, "smoke")}


def test_every_row_begins_from_what_it_does_not_change():
    found = _by_folder(list(ROWS))
    assert found["default/torso"].start == "default/motion2plane"
    assert found["concatenation/torso"].start == "default/motion2plane"
    assert "concatenation/motion2plane" not in found
    assert found["without_laplacian/motion2plane"].start == "default/img2plane"
    assert found["without_laplacian/torso"].start == "without_laplacian/motion2plane"
    assert found["without_laplacian/torso"].config == "configs/torso.py:smoke"
    assert found["without_pretraining/motion2plane"].start is None
    assert found["small_image_to_plane/img2plane"].config == "configs/ablations.py:small_image_to_plane.img2plane.smoke"
    again = _by_folder([ablations.AGAIN])["another_seed/torso"]
    assert (again.config, again.start) == ("configs/torso.py:smoke", "default/motion2plane")
    assert "seed=1001" in ablations.train(again, Path("runs"), ["run"], [])
    order = list(found)
    assert all(run.start is None or order.index(run.start) < k for k, run in enumerate(found.values()))
    assert all(ablations.last_of(row) in found for row in ("default", *ROWS))


def test_a_second_call_goes_on_where_the_first_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ablations, "write_table", lambda args: None)
    called = []

    def call(command):
        called.append(command[command.index("--workdir") + 1].removeprefix(f"{tmp_path}/"))
        return 1 if len(called) == 3 else 0

    given = ["--out", str(tmp_path), "--rows", "concatenation", "--set", "steps=2"]
    assert ablations.main(given, call) == 1
    assert called == ["default/img2plane", "default/motion2plane", "default/torso"]
    assert "start again" in capsys.readouterr().err
    assert ablations.main(given, call) == 0
    assert called[3:] == ["default/torso", "concatenation/torso"]
    assert ablations.main(given, call) == 0 and len(called) == 5


def test_commands_name_config_folder_and_start(tmp_path, capsys):
    given = ["--out", str(tmp_path), "--rows", "concatenation", "--mode", "full", "--set", "steps=2", "--dry-run"]
    assert ablations.main([*given, "--launch", "python launch/run.py --auto --"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == (
        "python launch/run.py --auto -- --config configs/ablations.py:concatenation.torso.full "
        f"--workdir {tmp_path}/concatenation/torso --set steps=2 --set start={tmp_path}/default/motion2plane"
    )
    with pytest.raises(SystemExit):
        ablations.main(["--out", str(tmp_path), "--rows", "without_hands"])


def test_the_table_says_what_can_be_told():
    rng = np.random.default_rng(0)
    default = {"psnr_s": list(rng.normal(20, 2, 40)), "lpips_vgg": list(rng.uniform(0.2, 0.3, 40))}
    worse = {k: [v + d for v in default[k]] for k, d in (("psnr_s", -1.0), ("lpips_vgg", 0.1))}
    noise = {k: list(np.array(default[k]) + rng.normal(0, 0.5, 40)) for k in default}
    entries = ablation.compare(default, {"worse": worse, "noise": noise})
    words = {(e["row"], e["metric"]): e["word"] for e in entries}
    assert words["worse", "psnr_s"] == words["worse", "lpips_vgg"] == "worse than the default"
    assert words["noise", "psnr_s"] == "too small a run or too few examples to tell"
    # A run of another seed that differs by half as much takes the word back.
    chance = {k: [v + d for v in default[k]] for k, d in (("psnr_s", 0.6), ("lpips_vgg", 0.01))}
    again = ablation.compare(default, {"worse": worse, "seed": chance}, "seed")
    words = {(e["row"], e["metric"]): e["word"] for e in again}
    assert words["seed", "psnr_s"] == "chance" and words["worse", "lpips_vgg"] == "worse than the default"
    assert words["worse", "psnr_s"] == "within twice what another seed does: too small a run to tell"
    page = ablation.markdown(entries, default, "told")
    assert "| worse | " in page and "-1 [" in page and json.dumps(entries)


def test_pictures_are_cut_out_of_a_preview():
    strip = np.concatenate([np.full((8, 4, 3), k, np.uint8) for k in range(3)], 1)
    found = ablation.pictures(strip, "source_target_image")
    assert found["image"].shape == (4, 4, 3) and found["image"].max() == 2 and found["target"].min() == 1


def test_a_run_is_scored_on_held_out_examples_once(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from ml_collections import ConfigDict

    from r3p.errors import InputError

    rng = np.random.default_rng(0)
    counts, seeds, name = [], [], ["source_target_image_raw_torso_depth"]

    def make(config):
        counts.append(config.held_out_batches)
        seeds.append(config.seed)

        def preview(state, batch):
            target = batch["target"]
            image = np.clip(target.astype(int) + state, 0, 255).astype(np.uint8)
            return {name[0]: np.concatenate([target, target, image, target, target, target], 1)}

        batches = [{"target": rng.integers(0, 200, (16, 16, 3), dtype=np.uint8)} for _ in range(5)]
        return SimpleNamespace(preview=preview, held_out=lambda: iter(batches))

    monkeypatch.setattr(ablation, "read_run", lambda workdir: (ConfigDict({"seed": 1, "stage": "torso"}), 10))
    monkeypatch.setattr(ablation, "load_stage", make)

    class Without:
        def __contains__(self, name):
            return False

    networks = Without()
    scores = ablation.kept_scores(tmp_path / "s.json", tmp_path, networks, 3)
    assert set(scores) == {"psnr_s", "ssim_s", "l1_s"} and len(scores["psnr_s"]) == 3 and counts == [3]
    np.testing.assert_allclose(scores["l1_s"], 10 / 255, rtol=1e-5)
    assert ablation.kept_scores(tmp_path / "s.json", tmp_path, networks, 3) == scores and counts == [3]
    assert len(ablation.kept_scores(tmp_path / "s.json", tmp_path, networks, 4, 7)["l1_s"]) == 4
    assert seeds == [1, 7]
    name[0] = "source_target_raw_raw_raw_depth"
    with pytest.raises(InputError, match="no finished frame"):
        ablation.score_run(tmp_path, networks, 2)
