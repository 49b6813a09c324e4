"""People to score on: motion is smooth and about the neck; what is made stays, what is half made is made again."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest

from data_pipelines.people import People
from data_pipelines.people_render import PIVOT
from r3p import audio, avatar, fit, photo, weights
from r3p.camera import rotation
from r3p.errors import InputError
from r3p.evaluate import held_out, manifest, record, subjects


@pytest.fixture(scope="module")
def people():
    return People(1, 64, 32, per_person=1)


def test_heads_turn_about_the_neck(people):
    expression, poses, view = subjects._motion(people, np.random.default_rng(3), 30)
    assert expression.shape == (30, 64) and len(poses) == 30
    assert np.abs(np.diff(expression, axis=0)).max() < 0.45  # no jump from frame to frame
    necks = [rotation(p.euler) @ PIVOT + p.trans for p in (*poses, view)]
    np.testing.assert_allclose(necks, np.repeat(necks[:1], 31, 0), atol=1e-9)
    turns = np.stack([p.euler for p in poses])
    assert np.degrees(np.ptp(turns[:, 1])) > 5 and np.degrees(np.abs(np.diff(turns, axis=0)).max()) < 4
    assert 11 < np.degrees(abs(view.euler[1] - poses[0].euler[1])) < 23


def test_synthetic_clips_are_the_same_every_time(people):
    first, again = (subjects._synthetic(people, 5, 2) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert first[1].shape == (64, 64, 3) and np.abs(first[0][0].astype(int) - first[1]).mean() > 1


def _fit(frames, **fields):
    arrays = dict(expression=np.zeros((frames, 64)), euler=np.zeros((frames, 3)), trans=np.zeros((frames, 3)))
    arrays |= dict(identity=np.zeros(80), error=np.zeros(frames)) | fields
    return fit.Fit(**{k: arrays[k].astype(np.float32) for k in ("identity", "expression", "euler", "trans", "error")})


def _subject(folder, name, frames=4):
    for sub in ("truth", "view"):
        (folder / name / sub).mkdir(parents=True)
        for k in range(frames if sub == "truth" else 1):
            photo.save_image(folder / name / sub / f"{k:04d}.png", np.full((8, 8, 3), k, np.uint8))
    photo.save_image(folder / name / "source.png", np.zeros((8, 8, 3), np.uint8))
    turn = np.outer(np.arange(frames) / 10, [0, 1, 0])
    return subjects.Subject(name, folder / name, np.zeros((8, 8, 3), np.uint8), _fit(frames, euler=turn), _fit(1))


def test_jobs_fill_a_manifest_of_all_protocols(tmp_path):
    one, other = (_subject(tmp_path, n) for n in ("one", "other"))
    jobs = held_out.jobs(one, other, np.zeros(audio.RATE // 5, np.float32), tmp_path)
    assert [j.row["protocol"] for j in jobs] == list(held_out.PROTOCOLS)
    with open(tmp_path / "m.csv", "w", newline="") as f:
        writer = csv.DictWriter(f, manifest.COLUMNS)
        writer.writeheader()
        writer.writerows(j.row for j in jobs)
    rows = {r.protocol: r for r in manifest.read(tmp_path / "m.csv")}
    assert rows["cross"].driver == other.truth and rows["same"].truth == one.truth
    assert {r.identity for r in rows.values()} == {"one"} and rows["audio"].audio.exists()
    sound = rows["audio"].audio
    made = sound.stat().st_mtime_ns
    held_out.jobs(one, other, np.zeros(audio.RATE // 5, np.float32), tmp_path)
    assert sound.stat().st_mtime_ns == made  # scores are kept that rest on it
    held_out.jobs(one, other, np.full(audio.RATE // 4, 0.1, np.float32), tmp_path)
    assert len(audio.load(sound)) == audio.RATE // 4 and list(sound.parent.iterdir()) == [sound]
    # The driver's turns are laid on the photograph's pose.
    own = SimpleNamespace(euler=np.array([0, 0.5, 0]), trans=np.zeros(3), expression=np.zeros(64, np.float32))
    moved = jobs[1].move(own)
    np.testing.assert_allclose(moved.euler[:, 1], 0.5 + np.arange(4) / 10, atol=1e-6)
    still = jobs[0].move(own)
    assert still.expression.shape == (1, 64) and still.euler.shape == (1, 3)


def test_what_is_made_is_left_alone(tmp_path):
    one = _subject(tmp_path, "one")
    jobs = held_out.jobs(one, one, np.zeros(audio.RATE // 5, np.float32), tmp_path)[:2]
    own = SimpleNamespace(euler=np.zeros(3), trans=np.zeros(3), expression=np.zeros(64, np.float32))
    calls = []

    def frames(move):
        calls.append(len(move.expression))
        for k in range(len(move.expression)):
            if len(calls) == 2 and k == 2:
                raise KeyboardInterrupt
            yield np.full((8, 8, 3), k, np.uint8)

    with pytest.raises(KeyboardInterrupt):
        held_out.make(jobs, own, frames, tmp_path / "m")
    assert (tmp_path / "m" / "one-novel_view").exists() and not (tmp_path / "m" / "one-same").exists()
    held_out.make(jobs, own, frames, tmp_path / "m")
    assert calls == [1, 4, 4] and len(list((tmp_path / "m" / "one-same").glob("*.png"))) == 4
    held_out.make(jobs, own, frames, tmp_path / "m")
    assert len(calls) == 3


def test_bad_arguments_are_one_sentence(tmp_path, capsys):
    assert held_out.main(["--out", str(tmp_path), "--protocols", "singing"]) == 2
    assert "singing" in capsys.readouterr().err
    assert held_out.main(["--out", str(tmp_path), "--record", "--real", "clip.mp4"]) == 2
    assert "leave --real" in capsys.readouterr().err
    with pytest.raises(InputError, match="expected 2 or more"):
        held_out.run(held_out.parser().parse_args(["--out", str(tmp_path), "--people", "1"]))


def test_a_folder_keeps_its_people(tmp_path):
    def begin(*more):
        held_out._same_people(held_out.parser().parse_args(["--out", str(tmp_path), *more]))

    begin("--people", "3")
    begin("--people", "3", "--adapt", "5", "--real-frames", "9")  # of no clip
    with pytest.raises(InputError, match="begun with --people 3, not 4"):
        begin("--people", "4")
    with pytest.raises(InputError, match="begun with --real None, not "):
        begin("--people", "3", "--real", "clip.mp4")


def test_figures_go_into_the_provenance_and_arrays_stay(tmp_path):
    path = tmp_path / "w.npz"
    trees = {"params": {"a": {"kernel": np.arange(6, dtype=np.float16).reshape(2, 3)}, "b": np.ones(2, np.float16)}}
    weights.save(path, trees, {"kind": "portrait model", "provenance": {"seed": 1, "held_out": "old"}})
    before = record.digest(path)
    interval = {"mean": 20.123456, "low": 19.0, "high": None, "clips": 2}
    figures = {"ours": {"psnr_s": interval}, "(the truth itself)": {"psnr_s": interval}}
    part = {"common": 2, "failures": {"ours": {"c": "why"}}, "figures": figures, "pooled": {"ours": {"frames": 9}}}
    report = {"methods": ["ours"], "protocols": {"same": part}, "provenance": {"size": 256}}
    record.record(path, report, people=2)
    assert record.digest(path) == before
    flat, meta = weights.read(path)
    assert flat["params/a/kernel"].dtype == np.float16 and meta["provenance"]["seed"] == 1
    told = meta["provenance"]["held_out"]
    same = {"clips": 2, "failures": {"ours": 1}, "methods": {"ours": {"psnr_s": [20.12, 19.0, None]}}}
    assert told["people"] == 2 and told["protocols"] == {"same": same} and told["harness"] == {"size": 256}
    assert told["arrays_sha256"] == before


def test_clips_of_other_weights_are_not_taken_for_these(tmp_path):
    for k in range(2):
        weights.save(tmp_path / f"{k}.npz", {"params": {"a": np.full(2, k)}}, {"kind": "x"})
    record.stamp(tmp_path / "ours", tmp_path / "0.npz")
    record.stamp(tmp_path / "ours", tmp_path / "0.npz")
    with pytest.raises(InputError, match=r"other weights than .*1\.npz"):
        record.stamp(tmp_path / "ours", tmp_path / "1.npz")


def test_the_default_weights_tell_what_the_harness_measured():
    """And that of the arrays that are shipped."""
    told = weights.read(avatar.DEFAULT_WEIGHTS)[1]["provenance"]["held_out"]
    assert told["arrays_sha256"] == record.digest(avatar.DEFAULT_WEIGHTS)
    assert told["people"] >= 50 and set(told["protocols"]) == set(held_out.PROTOCOLS)
    for part in told["protocols"].values():
        assert part["clips"] >= 50 and set(part["methods"]) == {"ours", "still", "puppet"}
        assert not any(part["failures"].values())
    assert told["harness"]["detector"] and told["harness"]["networks"]
