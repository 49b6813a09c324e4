"""Shards as tensorflow-datasets gives them, without TensorFlow."""

import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from test_prepare import CLIPS, prepared, write_clips

from data_pipelines.shards import Shards

pytestmark = pytest.mark.filterwarnings("default")  # the packages' own


@pytest.mark.parametrize("name", ["celebv_hq", "voxceleb2", "talking_heads_folder"])
def test_what_is_in_the_shards_comes_out(name, tmp_path):
    from data_pipelines import tfds_builders  # registers the builders

    assert tfds_builders.KINDS == ("frames", "clips", "motion")
    prepared(write_clips(tmp_path / "in", CLIPS), tmp_path / "shards")
    given = tfds.download.DownloadConfig(manual_dir=str(tmp_path / "shards"))
    sets = {}
    for kind in tfds_builders.KINDS:
        builder = tfds.builder(f"{name}/{kind}", data_dir=tmp_path / "tfds", file_format="array_record")
        builder.download_and_prepare(download_config=given)
        sets[kind] = tfds.data_source(f"{name}/{kind}", data_dir=tmp_path / "tfds", split="train")
    shards = Shards(tmp_path / "shards")
    assert [len(sets[k]) for k in tfds_builders.KINDS] == [71, 4, 3]
    clips = {c.name: c for c in shards.clips}
    for example in (sets["frames"][k] for k in (0, 40)):
        clip = clips[_text(example["clip"])]
        t = round(float(example["time"]) * 25)
        expected = shards.frame(clip, t)
        assert np.abs(example["image"].astype(int) - expected["image"]).max() <= 3  # another decoder
        np.testing.assert_array_equal(example["classes"][..., 0], expected["classes"])
        for key in ("expression", "camera", "landmarks"):
            np.testing.assert_array_equal(example[key], expected[key], err_msg=key)
    spoken = sets["motion"][0]
    expected = shards.motion(clips[_text(spoken["clip"])])
    assert spoken["sound"].dtype == np.int16 and spoken["mel"].dtype == np.float16
    assert spoken["hubert"].shape == (0, 1024) and _text(spoken["person"]) in "abd.mp4"
    for key in ("sound", "mel", "pitch", "expression", "blink"):
        np.testing.assert_array_equal(spoken[key], expected[key], err_msg=key)
    assert "tensorflow" not in sys.modules


def _text(value):
    return value.decode() if isinstance(value, bytes) else str(value)
