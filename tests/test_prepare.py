"""Preparation of clips: order, workers, resuming, what goes wrong with one clip; the data sets' layouts and splits."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import made_clips
import numpy as np
import pytest

from data_pipelines import frames, prepare, utterances
from data_pipelines.clip_pairs import ClipPairs
from data_pipelines.shards import Shards
from data_pipelines.shards_check import check
from data_pipelines.sources import find_clips, split_of
from r3p.cli import main
from r3p.errors import InputError

CLIPS = {
    "a/1.mp4": {"frames": 18}, "a/ü 2.mp4": {"frames": 17}, "b/1.mp4": {"frames": 20, "mute": 1},
    "b/2.mp4": {"reject": 1},
    "c/1.mp4": {"fail": 1}, "c/2.mp4": {"frames": 3, "late": 1}, "d.mp4": {"frames": 16},
}  # fmt: skip


def write_clips(folder, clips):
    for name, told in clips.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(told))
    return folder


def prepared(folder, out, drive=None, **more):
    sources, missing = find_clips(folder, split="train")
    return prepare.prepare(
        sources,
        missing,
        out,
        made_clips.SETTINGS,
        made_clips.make,
        (),
        drive=drive or prepare.by_processes(0),
        group_bytes=200_000,
        **more,
    )


def sums(out):
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.iterdir()) if p.name != prepare.REPORT
    }


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"), CLIPS)


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    counts = prepared(clips, out)
    assert counts == {"accepted": 4, "cut": 1, "crashed": 1, "no person": 1}
    return out


def test_every_clip_ends_in_shards_or_report(whole):
    assert list(check(whole)) == [] and len(list(whole.glob("index-*"))) > 1 and not (whole / prepare.STAGED).exists()
    assert [c.name for c in Shards(whole).clips] == ["a/1.mp4", "a/ü 2.mp4", "b/1.mp4", "d.mp4"]
    report = json.loads((whole / prepare.REPORT).read_text())
    assert report["rejected"]["c/1.mp4"] == {"reason": "crashed", "text": "ZeroDivisionError: one"}
    assert report["frames"] == 71 and report["seconds"]["track"] == 4


def test_running_again_writes_nothing_and_new_clips_are_appended(clips, whole, tmp_path):
    folder, out = tmp_path / "clips", tmp_path / "out"
    write_clips(folder, CLIPS)
    prepared(folder, out)
    before = sums(out)
    assert before == sums(whole)
    prepared(folder, out)
    assert sums(out) == before
    write_clips(folder, {"e.mp4": {"frames": 2}, "c/1.mp4": {"frames": 4}})
    assert prepared(folder, out)["accepted"] == 5  # what was rejected stays so
    assert prepared(folder, out, retry=True)["accepted"] == 6 and list(check(out)) == []
    assert {k: v for k, v in sums(out).items() if k.startswith("frames")}.items() >= {
        k: v for k, v in before.items() if k.startswith("frames")
    }.items()


def test_two_workers_and_a_dead_one(clips, whole, tmp_path):
    """The same shards for any number of processes; a clip that kills its process costs only itself."""
    write_clips(tmp_path / "in", CLIPS | {"b/0.mp4": {"die": 1}})
    counts = prepared(tmp_path / "in", tmp_path / "out", prepare.by_processes(2))
    assert counts == {"accepted": 4, "cut": 1, "crashed": 2, "no person": 1} and sums(tmp_path / "out") == sums(whole)
    told = json.loads((tmp_path / "out" / prepare.REPORT).read_text())["rejected"]["b/0.mp4"]["text"]
    assert "status 9" in told


def test_a_clip_that_takes_too_long(tmp_path):
    write_clips(tmp_path / "in", {"a.mp4": {"frames": 1, "sleep": 600}})
    assert prepared(tmp_path / "in", tmp_path / "out", prepare.by_processes(1, limit_s=1))["too slow"] == 1


def test_killed_in_the_middle(clips, whole, tmp_path):
    write_clips(tmp_path / "in", CLIPS | {"d.mp4": {"frames": 16, "sleep": 600}})
    code = f"""
from pathlib import Path
import made_clips
from data_pipelines import prepare, sources
if __name__ == "__main__":
    found, missing = sources.find_clips(Path({str(tmp_path / "in")!r}), split="train")
    prepare.prepare(found, missing, Path({str(tmp_path / "out")!r}), made_clips.SETTINGS, made_clips.make, (),
                    drive=prepare.by_processes(0), group_bytes=200_000)
"""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), *sys.path])
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path})
    until = time.monotonic() + 120
    while not (tmp_path / "out" / prepare.STAGED).exists() or len(list((tmp_path / "out" / ".staged").iterdir())) < 4:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    write_clips(tmp_path / "in", CLIPS)
    prepared(tmp_path / "in", tmp_path / "out")
    assert sums(tmp_path / "out") == sums(whole)


# ------------------------------------------------------------------------------------------------ reading
def test_pairs_are_of_one_clip_and_reproducible(whole):
    pairs = ClipPairs(whole, 5, 24)
    assert len(pairs) == 71 * 64
    seen = set()
    for k in range(0, len(pairs), 37):
        clip, source, target = pairs.place(k)
        assert source != target and min(source, target) >= 0 and max(source, target) < clip.frames
        seen.add((clip.name, target))
    assert len({name for name, _ in seen}) == 4
    example, again = pairs[40], ClipPairs(whole, 5, 24)[40]
    for key, value in example.items():
        np.testing.assert_array_equal(value, again[key], err_msg=key)
    assert not example["target_head"][0, 0].any()
    np.testing.assert_array_equal(example["target_head"][16, 16], example["target"][16, 16])


def test_stages_read_shards_by_folder(whole):
    source = frames.examples("shards", folder=str(whole), seed=1, size=32, pncc_size=24)
    wanted = frames.KEYS + frames.MOTION
    batch = next(frames.batches(frames.Frames(source, 1, 24, wanted), 2, 1, 0))
    assert set(batch) == set(wanted) and batch["source"].shape == (2, 32, 32, 3)
    assert batch["target_keypoints"].shape == (2, 68, 3) and batch["pncc_after"].shape == (2, 24, 24, 3)
    with pytest.raises(InputError, match="--size 64"):
        frames.examples("shards", folder=str(whole), seed=1, size=64, pncc_size=24)
    said = utterances.Utterances(whole)
    assert said.names == ["a/1.mp4", "a/ü 2.mp4", "d.mp4"] and list(said.frames) == [18, 17, 16]
    draws = utterances.Draws(2, 4, 3)
    spoken = next(utterances.batches(said, 2, [20], draws, 1, 0))
    assert spoken["audio"].shape == (2, 40, 80) and spoken["mask"].sum() in (35, 34, 33)
    with pytest.raises(InputError, match="validation"):
        utterances.Utterances(whole, held_out=True)


# ------------------------------------------------------------------------------------------------ layouts
def test_splits_never_change_and_keep_people_apart():
    parts = [split_of(f"id{k:05d}") for k in range(2000)]
    assert parts[:4] == [split_of(f"id{k:05d}") for k in range(4)]
    for split, share in (("train", 0.9), ("validation", 0.05), ("test", 0.05)):
        assert abs(parts.count(split) / 2000 - share) < 0.02


def test_voxceleb2_layout(tmp_path):
    for name in ("dev/mp4/id00012/21Uxsk56VDQ/00001.mp4", "dev/aac/id00012/21Uxsk56VDQ/00001.m4a",
                 "test/mp4/id00017/abc/00001.mp4", "dev/mp4/id00012/x/00002.mp4", "readme/a.mp4"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found, _ = find_clips(tmp_path, "voxceleb2")
    assert [s.person for s in found] == ["id00012", "id00012", "id00017"]
    assert found[0].sound == tmp_path / "dev/aac/id00012/21Uxsk56VDQ/00001.m4a" and found[1].sound is None
    assert found[2].split == "test" and "test" not in (found[0].split, found[1].split)
    assert found[0].known == {"youtube": "21Uxsk56VDQ"}


def test_celebvhq_layout(tmp_path):
    (tmp_path / "v_0.mp4").touch()
    row = {"ytb_id": "v", "duration": {"start_sec": 1.0, "end_sec": 4.0}, "bbox": {"top": 0.1}, "version": "v0.1"}
    listing = tmp_path / "celebvhq_info.json"
    listing.write_text(json.dumps({"clips": {"v_0": row, "w_1": {"ytb_id": "w"}}}))
    found, missing = find_clips(tmp_path, "celebvhq", listing)
    assert missing == ["w_1"] and found[0].person == "v" and found[0].known["duration"]["end_sec"] == 4.0
    assert found[0].times is None
    raw = {"w_1": row | {"ytb_id": "w", "bbox": {"top": 0.1, "bottom": 0.9, "left": 0.25, "right": 0.75}}}
    (tmp_path / "w.mp4").touch()
    listing.write_text(json.dumps({"clips": raw | {"w_3": row | {"ytb_id": "w", "bbox": {"top": 2}}}}))
    found, missing = find_clips(tmp_path, "celebvhq", listing)
    assert [(s.name, s.video.name, s.times, s.box) for s in found] == [
        ("w_1", "w.mp4", (1.0, 4.0), (0.25, 0.1, 0.75, 0.9))
    ]  # fmt: skip
    assert missing == ["w_3 (the list has no duration and bbox to cut it from w.mp4)"]
    with pytest.raises(InputError, match="--list"):
        find_clips(tmp_path, "celebvhq")
    # Its own splits hold, for all clips of a video; what it does not tell goes by person.
    names = [f"{video}_{k}" for video in "abc" for k in range(2)]
    for name in names:
        (tmp_path / f"{name}.mp4").touch()
    told = {name: row | {"ytb_id": name[0]} for name in names}
    told["a_0"]["split"], told["b_0"]["split"], told["b_1"]["split"] = "val", "test", "train"
    for whole in ({"clips": told}, {"clips": {n: row | {"ytb_id": n[0]} for n in names},
                                    "splits": {"val": ["a_0"], "test": ["b_0"], "train": ["b_1"]}}):  # fmt: skip
        listing.write_text(json.dumps(whole))
        found, _ = find_clips(tmp_path, "celebvhq", listing)
        assert [s.split for s in found] == ["validation"] * 2 + ["test"] * 2 + [split_of("c")] * 2
    told["c_0"]["split"] = "dev"
    listing.write_text(json.dumps({"clips": told}))
    with pytest.raises(InputError, match="the split 'dev': expected train, val"):
        find_clips(tmp_path, "celebvhq", listing)
    listing.write_text("[]")
    with pytest.raises(InputError, match="not CelebV-HQ's list"):
        find_clips(tmp_path, "celebvhq", listing)


def test_folders_that_cannot_be_used_are_told(tmp_path, capsys):
    assert main(["prepare", "--input", str(tmp_path / "none"), "--out", str(tmp_path / "o")]) == 2
    assert main(["prepare", "--input", str(tmp_path), "--out", str(tmp_path / "o"), "--size", "3"]) == 2
    assert main(["prepare", "--input", str(tmp_path), "--out", str(tmp_path / "o")]) == 2
    assert "holds no clips" in capsys.readouterr().err
