"""Shards: what goes in comes out, groups, appending, damage that the check finds."""

import pickle

import made_clips
import numpy as np
import pytest
from made_clips import SETTINGS, frame, utterance

from data_pipelines import shards, shards_check
from r3p.cli import main
from r3p.errors import InputError

FIELDS = made_clips.FIELDS


def _add(writer, name, t, person="p", split="train", sound=True):
    rng = np.random.default_rng(len(name))
    frames = [shards.pack(frame(rng, k), FIELDS["frames"]) for k in range(t)]
    spoken = shards.pack(utterance(rng, t), FIELDS["motion"]) if sound else None
    return writer.add(
        {"name": name, "person": person, "split": split},
        frames,
        shards.pack(made_clips.shared(), FIELDS["clips"]),
        spoken,
    )


@pytest.fixture
def folder(tmp_path):
    writer = shards.ShardWriter(tmp_path / "é set", SETTINGS, group_bytes=45_000)
    closed = [_add(writer, n, t, split=s) for n, t, s in (("a", 3, "train"), ("bb", 5, "train"), ("ccc", 2, "test"))]
    assert closed[1] == ["a", "bb"] and closed[0] is closed[2] is None
    assert writer.close() == ["ccc"]
    return tmp_path / "é set"


def test_what_goes_in_comes_out(folder):
    data = shards.Shards(folder)
    assert [c.name for c in data.clips] == ["a", "bb"]
    assert [c.name for c in shards.Shards(folder, "test").clips] == ["ccc"]
    rng = np.random.default_rng(2)
    expected = [frame(rng, k) for k in range(5)][4]
    found = pickle.loads(pickle.dumps(data)).frame(data.clips[1], 4)
    assert list(found) == list(FIELDS["frames"])
    for key, value in expected.items():
        if key in ("image", "torso"):
            assert np.abs(found[key].astype(int) - value).max() < 8, key
        else:
            np.testing.assert_allclose(found[key], value, rtol=1e-6, err_msg=key)
    assert list(data.frame(data.clips[0], 0, ("time", "classes"))) == ["classes", "time"]
    assert data.shared(data.clips[1])["identity"][20] == 2
    spoken = data.motion(data.clips[1])
    assert spoken["sound"].shape == (3200,) and spoken["mel"].shape == (10, 80) and spoken["mel"].dtype == np.float16


def test_a_set_grows_and_keeps_its_settings(folder):
    before = {p.name: p.read_bytes() for p in folder.glob("frames-*")}
    writer = shards.ShardWriter(folder, SETTINGS)
    _add(writer, "dddd", 2, sound=False)
    writer.close()
    assert all((folder / n).read_bytes() == data for n, data in before.items())
    data = shards.Shards(folder, None)
    assert [c.name for c in data.clips] == ["a", "bb", "ccc", "dddd"] and data.clips[3].motion is None
    assert data.metadata["totals"]["utterances"] == 3
    with pytest.raises(InputError, match="choose another"):
        shards.ShardWriter(folder, SETTINGS | {"size": 64})


def test_an_unfinished_group_does_not_count(folder):
    writer = shards.ShardWriter(folder, SETTINGS)
    _add(writer, "dddd", 2)
    del writer
    again = shards.ShardWriter(folder, SETTINGS)
    assert again.group == 2 and not list(folder.glob(".*.part")) and len(shards.Shards(folder, None).clips) == 3


def test_check_finds_damage(folder, capsys):
    assert main(["data", "check", str(folder)]) == 0 and "sound" in capsys.readouterr().out
    path = folder / "motion-00000.array_record"
    good = path.read_bytes()
    path.write_bytes(good[:-9] + b"x" * 9)
    assert (
        main(["data", "check", str(folder)]) == 1 and "motion-00000.array_record is damaged" in capsys.readouterr().out
    )
    path.unlink()
    assert list(shards_check.check(folder)) == ["motion-00000.array_record is missing"]
    path.write_bytes(good)
    writer = shards.ShardWriter(folder, SETTINGS)
    bad = utterance(np.random.default_rng(0), 4) | {"pitch": np.full(8, np.nan), "mel": np.zeros((6, 80))}
    shared = shards.pack({"background": np.zeros((32, 32, 3), np.uint8), "identity": np.full(80, 99)}, FIELDS["clips"])
    writer.add({"name": "e", "person": "p", "split": "train"}, [], shared, shards.pack(bad, FIELDS["motion"]))
    writer.close()
    texts = " ".join(shards_check.check(folder))
    assert "pitch is not finite" in texts and "mel has 6 frames, expected 8" in texts and "identity is 99" in texts


def test_show_draws_a_row_a_clip(folder):
    assert shards_check.show(folder, count=2, height=24).shape == (48, 24 * 8, 3)


def test_folders_without_shards_are_told(tmp_path, capsys):
    assert main(["data", "check", str(tmp_path)]) == 2 and "r3p prepare" in capsys.readouterr().err
    (tmp_path / "metadata.json").write_text('{"schema": 99}')
    with pytest.raises(InputError, match="schema 99"):
        shards.Shards(tmp_path)
