"""`r3p eval` from manifest to report; faces are followed by a stand-in, except in the anchors' test."""

import csv
import json
import shutil

import cv2
import numpy as np
import pytest

from r3p import audio, cli, photo, video
from r3p.detect import Face
from r3p.errors import InputError
from r3p.evaluate import clip, command, harness, manifest, networks, page
from r3p.evaluate.metrics import METRICS

SIDE, FRAMES = 48, 5


class Follower:
    """In the place of the face models: a face wherever the picture is not black; brightness moves it and its lips."""

    def track(self, frames):
        rng = np.random.default_rng(0)
        points = rng.uniform(10, 30, (478, 3)).astype(np.float32)
        for frame in frames:
            moved = points + frame.mean() / 50
            moved[14, 1] = moved[13, 1] + frame.mean() / 10
            yield Face(moved, 1.0) if frame.any() else None

    def person_mask(self, frame):
        mask = np.zeros(frame.shape[:2], np.float32)
        mask[12:36, 12:36] = 1
        return mask


def _clip(folder, seed, shift=0.0, frames=FRAMES, side=SIDE):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    base = cv2.GaussianBlur(rng.integers(0, 256, (side, side, 3)).astype(np.uint8), (0, 0), 2).astype(float)
    base = 128 + 3 * (base - 128)
    for k in range(frames):
        moved = np.roll(base, k, 1) + shift
        photo.save_image(folder / f"{k:03d}.png", np.clip(moved, 0, 255).astype(np.uint8))
    return folder


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Two methods, three clips of two people; the second method lacks one and has a black one."""
    monkeypatch.setattr("r3p.evaluate.networks.FaceFinder", Follower)
    monkeypatch.setattr("r3p.evaluate.uncertainty.RESAMPLES", 200)
    with open(tmp_path / "m.csv", "w", newline="") as f:
        out = csv.DictWriter(f, manifest.COLUMNS)
        out.writeheader()
        for k in range(4):
            _clip(tmp_path / f"truth{k}", k)
            out.writerow(
                {"id": f"c{k}", "protocol": "same", "truth": f"truth{k}", "identity": f"p{k}", "output": f"c{k}"}
            )
            _clip(tmp_path / "ours" / f"c{k}", k, 3)
            if k < 3:
                _clip(tmp_path / "other" / f"c{k}", k, 12)
    shutil.rmtree(tmp_path / "other" / "c2")
    for k in range(FRAMES):
        (tmp_path / "other" / "c2").mkdir(exist_ok=True)
        photo.save_image(tmp_path / "other" / "c2" / f"{k:03d}.png", np.zeros((SIDE, SIDE, 3), np.uint8))
    return tmp_path


def _arguments(folder, *more):
    methods = f"ours={folder / 'ours'},other={folder / 'other'}"
    return [
        "eval",
        "--manifest",
        str(folder / "m.csv"),
        "--methods",
        methods,
        "--out",
        str(folder / "r"),
        "--every",
        "2",
        *more,
    ]


def brightness(frames):
    """A network of the user's."""
    return frames.reshape(len(frames), -1, 3).astype(float).mean(1)


def test_a_report_counts_failures_and_scores_what_all_have(stage, capsys):
    options = ["--size", str(SIDE), "--metrics", "pixels,features", "--anchors"]
    # VGG16 takes seconds here: a user's network stands for the features.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("r3p.lpips.load", _absent)
        assert cli.main(_arguments(stage, *options, "--network", "inception=test_evaluate:brightness")) == 0
    assert "2 of 4 clips are common" in capsys.readouterr().out
    report = json.loads((stage / "r" / "report.json").read_text())
    same = report["protocols"]["same"]
    assert same["common"] == 2 and same["clips"] == 4
    assert same["failures"]["other"] == {
        "c2": "no face is found in any frame of the output",
        "c3": "there is no output",
    }
    ours, other, copy = (same["figures"][n] for n in ("ours", "other", harness.COPY))
    still = same["figures"][harness.STILL]
    assert copy["psnr_s"]["mean"] == 100 > ours["psnr_s"]["mean"] > other["psnr_s"]["mean"] > 0
    assert ours["psnr_s"]["mean"] > still["psnr_s"]["mean"]
    assert ours["psnr_s"]["clips"] == 2 and ours["psnr_s"]["low"] is not None
    assert ours["l1_s"]["mean"] < other["l1_s"]["mean"] and copy["fid_a"]["mean"] == pytest.approx(0, abs=1e-6)
    assert set(same["pooled"]["ours"]) == {"fid_s", "kid_s", "frames"}
    assert "r3p assets" in same["not_computed"]["lpips_vgg"]
    assert "user-supplied" in same["not_computed"]["csim_a"]
    assert "lpips_vgg" not in ours
    assert report["provenance"]["networks"]["inception"] == "test_evaluate:brightness"
    pooled = same["pooled"]["ours"]["fid_s"]
    assert pooled["low"] <= pooled["mean"] <= pooled["high"]
    (difference,) = [d for d in same["differences"] if d["metric"] == "psnr_s"]
    assert difference["mean"] > 0 and difference["p_holm"] >= difference["p"]
    for name in ("report.md", "report.html", "plots/same_psnr_s.svg", "worst/same_0_0.png"):
        assert (stage / "r" / name).stat().st_size > 200
    text = (stage / "r" / "report.md").read_text()
    assert "no face is found" in text and "not to be compared" in text


def test_a_second_run_scores_only_what_changed(stage, monkeypatch):
    options = ["--size", str(SIDE), "--metrics", "pixels,features", "--network", "inception=test_evaluate:brightness"]
    monkeypatch.setattr("r3p.lpips.load", _absent)
    assert cli.main(_arguments(stage, *options)) == 0
    first = json.loads((stage / "r" / "report.json").read_text())
    scored = []

    def counted(row, output, *rest):
        scored.append(output.parent.name + "/" + output.name)
        return clip.score(row, output, *rest)

    monkeypatch.setattr("r3p.evaluate.harness.score", counted)
    assert cli.main(_arguments(stage, *options)) == 0
    # Failures are tried again, and nothing else is.
    assert scored == ["other/c2", "other/c3"]
    second = json.loads((stage / "r" / "report.json").read_text())
    assert second["clips"] == first["clips"]
    fid, before = (r["protocols"]["same"]["pooled"]["ours"]["fid_s"] for r in (second, first))
    assert fid == pytest.approx(before, rel=1e-5)
    photo.save_image(stage / "ours" / "c0" / "002.png", np.full((SIDE, SIDE, 3), 50, np.uint8))
    assert cli.main(_arguments(stage, *options)) == 0
    assert scored[2:] == ["ours/c0", "other/c2", "other/c3"]
    assert cli.main(_arguments(stage, *options, "--every", "1")) == 0
    assert len(scored) == 5 + 8


def test_a_reference_that_cannot_be_read_is_no_failure_of_a_method(stage, capsys):
    shutil.rmtree(stage / "truth1")
    (stage / "truth1").mkdir()
    assert cli.main(_arguments(stage, "--metrics", "pixels")) == 2
    assert "truth1 holds no PNG file" in capsys.readouterr().err


def _spoken(stage, frames):
    """A manifest whose sound is a video without any; the methods' clips are there."""
    with video.VideoWriter(stage / "mute.mp4", (SIDE, SIDE)) as writer:
        for _ in range(frames):
            writer.write(np.full((SIDE, SIDE, 3), 120, np.uint8))
    columns = ",".join(manifest.COLUMNS)
    (stage / "m.csv").write_text(f"{columns}\nc0,audio,truth0/000.png,,mute.mp4,,p,c0\n")


def test_a_sound_file_without_sound_is_one_sentence(stage, capsys):
    _spoken(stage, FRAMES)
    assert cli.main(_arguments(stage, "--metrics", "sync")) == 2
    assert "mute.mp4 has no sound: expected a file with an audio stream" in capsys.readouterr().err


def test_an_output_needs_no_sound_of_its_own(stage):
    """The manifest's sound counts; one that lasts longer than the output is a failure."""
    _spoken(stage, 10)
    nets = networks.Networks.__new__(networks.Networks)
    nets.finder, nets.missing, nets._user = networks.FaceFinder, {}, {}
    row = manifest.Row("a", "audio", stage / "truth0", None, stage / "a.wav", None, "p", "x")
    output, references = stage / "mute.mp4", clip.References(nets, SIDE)
    audio.save_wav(stage / "a.wav", np.zeros(6400, np.float32))
    with pytest.warns(UserWarning, match="is silent"):
        assert clip.score(row, output, nets, references, ("sync",)).frames == 10
    audio.save_wav(stage / "a.wav", np.zeros(19200, np.float32))
    longer = pytest.raises(InputError, match="10 frames long at 25 a second, its sound 30")
    with pytest.warns(UserWarning, match="is silent"), longer:
        clip.score(row, output, nets, references, ("sync",))


def _absent(*_, **__):
    raise InputError("vgg16.npz is not in the cache: run `r3p assets` once (it needs the network)")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("a,same,,,,,p,o", "has no driver or truth"),
        ("a,lips,,,,t,p,o", "protocol 'lips'"),
        ("a,same,,,,nowhere,p,o", "does not exist"),
        ("a,audio,t,,,,p,o", "has no audio"),
        ("a,audio,t,,a.wav,,p,o", "names audio .*a.wav, which does not exist"),
        ("a,same,,,,t,p,../o", "under the methods' folders"),
        ("a,same,,,,t,p,o\na,same,,,,t,p,o", "repeats the id"),
        ("", "has no row"),
    ],
)
def test_a_bad_manifest_is_one_sentence(line, sentence, tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "m.csv").write_text(f"{','.join(manifest.COLUMNS)}\n{line}\n")
    with pytest.raises(InputError, match=sentence):
        manifest.read(tmp_path / "m.csv")


def test_lines_of_json_are_a_manifest_too(tmp_path):
    (tmp_path / "t").mkdir()
    record = {"id": 1, "protocol": "novel-view", "truth": "t", "output": "o"}
    (tmp_path / "m.jsonl").write_text(json.dumps(record) + "\n")
    (row,) = manifest.read(tmp_path / "m.jsonl")
    assert row.protocol == "novel_view" and row.identity == "1" and row.source is None


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--metrics", "beauty"], "expected some of"),
        (["--size", "5"], "32 to 4096"),
        (["--network", "inception"], "NAME=MODULE:FUNCTION"),
        (["--network", "vgg=a:b"], "expected one of inception"),
        (["--network", "arcface=no_such:f"], "cannot be loaded"),
        (["--methods", "ours"], "NAME=DIR"),
        (["--methods", "ours=nowhere"], "no such folder"),
    ],
)
def test_bad_arguments_are_one_sentence(more, sentence, stage, capsys):
    assert cli.main(_arguments(stage, *more)) == 2
    assert sentence in capsys.readouterr().err


def _score(stage, output, **fields):
    paths = dict.fromkeys(("source", "driver", "audio", "truth")) | fields
    row = manifest.Row("a", "same", **paths, identity="p", output="x")
    nets = networks.Networks.__new__(networks.Networks)
    nets.finder, nets.missing = networks.FaceFinder, {"lpips": "", "inception": ""}
    return clip.score(row, output, nets, clip.References(nets, SIDE), ("pixels",))


def test_clips_that_cannot_be_scored(stage):
    truth = stage / "truth0"
    with pytest.raises(InputError, match="12 frames long at 25 a second, its truth 5"):
        _score(stage, _clip(stage / "long", 0, frames=12), truth=truth)
    with pytest.raises(InputError, match="only one frame"):
        _score(stage, _clip(stage / "one", 0, frames=1), truth=truth)
    with video.VideoWriter(stage / "one.mp4", (SIDE, SIDE)) as writer:
        writer.write(np.full((SIDE, SIDE, 3), 120, np.uint8))
    with pytest.raises(InputError, match="only one frame"):
        _score(stage, stage / "one.mp4", truth=truth)
    wide = stage / "wide"
    wide.mkdir()
    for k in range(FRAMES):
        photo.save_image(wide / f"{k}.png", np.full((24, 48, 3), 99, np.uint8))
    with pytest.raises(InputError, match="another aspect"):
        _score(stage, wide, truth=truth)
    (stage / "broken.mp4").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read as a video"):
        _score(stage, stage / "broken.mp4", truth=truth)


def test_another_rate_is_resampled_and_said(stage):
    with video.VideoWriter(stage / "fast.mp4", (SIDE, SIDE), 50) as writer:
        for _ in range(2 * FRAMES):
            writer.write(np.full((SIDE, SIDE, 3), 120, np.uint8))
    got = _score(stage, stage / "fast.mp4", truth=stage / "truth0")
    assert got.frames == FRAMES and got.notes == ["resampled from 50 frames a second"]


def test_lips_that_follow_the_loudness_are_in_sync(stage):
    loud = np.repeat(0.05 + 0.2 * (1 + np.sin(np.arange(40) / 2)), 640)
    sound = (loud * np.sin(2 * np.pi * 300 * np.arange(len(loud)) / 16000)).astype(np.float32)
    audio.save_wav(stage / "a.wav", sound)
    speaking = stage / "speaking"
    speaking.mkdir()
    for k, level in enumerate(np.log10(loud[320::640]) * 80 + 150):
        photo.save_image(speaking / f"{k:03d}.png", np.full((SIDE, SIDE, 3), level, np.uint8))
    nets = networks.Networks.__new__(networks.Networks)
    nets.finder, nets.missing, nets._user = networks.FaceFinder, {}, {}
    row = manifest.Row("a", "audio", stage / "truth0", None, stage / "a.wav", None, "p", "x")
    figures = clip.score(row, speaking, nets, clip.References(nets, SIDE), ("sync",)).figures
    assert figures["sync_proxy"] > 0.8 and abs(figures["sync_proxy_lag"]) <= 1


def test_a_users_networks_give_identity_and_pose(stage):
    nets = networks.Networks.__new__(networks.Networks)
    nets.finder, nets.missing, nets._user = networks.FaceFinder, {}, {}
    ours, truth = stage / "ours" / "c0", stage / "truth0"
    seen = clip.References(nets, SIDE)
    nets._user = {"arcface": lambda x: x.reshape(len(x), -1).astype(float) - 128}
    same = clip._identity(truth, seen(truth), truth, seen(truth), seen)
    assert same == {"csim_a": pytest.approx(1), "csim_s": pytest.approx(1)}
    other = clip._identity(stage / "truth1", seen(stage / "truth1"), truth, seen(truth), seen)
    assert other["csim_a"] < 0.9
    nets._user = {"deep3d": lambda x: np.outer(x.reshape(len(x), -1).mean(1), np.ones(257))}
    moved = clip._deep3d((ours, seen(ours)), (truth, seen(truth)), seen)
    assert set(moved) == {"aed_a", "apd_a1", "apd_a2"} and 2 < moved["aed_a"] < 4
    assert clip._deep3d((truth, seen(truth)), (truth, seen(truth)), seen)["apd_a1"] == 0
    nets._user = {"deep3d": lambda x: np.zeros((len(x), 5))}
    with pytest.raises(InputError, match="expected 257"):
        clip._deep3d((truth, seen(truth)), (truth, seen(truth)), seen)
    nets._user = {"arcface": lambda x: np.zeros(3)}
    with pytest.raises(InputError, match="for 2 frames"):
        nets.user("arcface", np.zeros((2, 4, 4, 3), np.uint8))


def test_every_figure_has_a_plot_that_is_xml():
    from xml.etree import ElementTree

    report = {
        "methods": ["a<b"],
        "anchors": [],
        "clips": [{"protocol": "same", "method": "a<b", "figures": {"psnr_s": 20.0}}],
        "protocols": {"same": {"figures": {"a<b": {"psnr_s": {"mean": 20.0, "low": 19.0, "high": 21.0}}}}},
    }
    ElementTree.fromstring(page.plot(report, "same", METRICS["psnr_s"]))
    ElementTree.fromstring(page.plot(report, "same", METRICS["l1_s"]))


def test_the_help_names_columns_and_protocols():
    assert all(word in command.parser().format_help() for word in (*manifest.COLUMNS, *manifest.PROTOCOLS))
