"""Apache Beam's runners write what the processes write."""

import json
import shutil

import made_clips
import pytest
from test_prepare import CLIPS, prepared, sums, write_clips

from data_pipelines import prepare
from data_pipelines.sources import find_clips
from r3p.cli import main
from r3p.errors import InputError

pytestmark = pytest.mark.filterwarnings("default")  # Beam's own


def by_beam(*more, runner="direct", processes=2, limit_s=3600.0):
    from data_pipelines.beam import by_beam

    return by_beam(runner, more, processes, limit_s)


def test_beam_writes_the_same_shards_and_a_dead_clip_costs_itself(tmp_path):
    drive = by_beam()
    prepared(write_clips(tmp_path / "in", CLIPS), tmp_path / "whole")
    write_clips(tmp_path / "in", {"b/0.mp4": {"die": 1}})
    counts = prepared(tmp_path / "in", tmp_path / "out", drive)
    assert counts == {"accepted": 4, "cut": 1, "crashed": 2, "no person": 1}
    assert sums(tmp_path / "out") == sums(tmp_path / "whole")
    told = json.loads((tmp_path / "out" / prepare.REPORT).read_text())["rejected"]["b/0.mp4"]["text"]
    assert "status 9" in told
    before = sums(tmp_path / "out")
    prepared(tmp_path / "in", tmp_path / "out", drive)
    assert sums(tmp_path / "out") == before


def test_beam_goes_on_where_it_stopped(tmp_path):
    """Clips that an earlier run staged are not done again: their files may be gone by then."""
    drive = by_beam()
    folder = write_clips(tmp_path / "in", CLIPS)
    prepared(folder, tmp_path / "whole")
    sources, missing = find_clips(folder, split="train")
    staged = tmp_path / "out" / prepare.STAGED
    staged.mkdir(parents=True)
    for source in sources[:2]:
        made_clips.make(staged)(source)
        source.video.write_text("no clip any more")
    counts = prepare.prepare(
        sources, missing, tmp_path / "out", made_clips.SETTINGS, made_clips.make, (), drive=drive, group_bytes=200_000
    )
    assert counts["accepted"] == 4 and sums(tmp_path / "out") == sums(tmp_path / "whole")


def test_a_clip_that_takes_too_long_under_beam(tmp_path):
    write_clips(tmp_path / "in", {"a.mp4": {"frames": 1, "sleep": 600}})
    assert prepared(tmp_path / "in", tmp_path / "out", by_beam(limit_s=1))["too slow"] == 1


def test_a_runner_that_cannot_work_is_told(tmp_path):
    write_clips(tmp_path / "in", {"a.mp4": {"frames": 1}})
    with pytest.raises(InputError, match="NoSuchRunner runner stopped with 1 clips left"):
        prepared(tmp_path / "in", tmp_path / "out", by_beam(runner="NoSuchRunner"))


def test_options_of_beam_need_a_runner_of_beam(tmp_path, capsys):
    write_clips(tmp_path / "in", {"a.mp4": {"frames": 1}})
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    command = ["prepare", "--input", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--", "--project=p"]
    assert main(command) == 2 and "--project=p" in capsys.readouterr().err
