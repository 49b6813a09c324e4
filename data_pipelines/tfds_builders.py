"""Builders of tensorflow-datasets over shards that `r3p prepare` wrote; TensorFlow is not needed.

    from data_pipelines import tfds_builders             # registers them
    import tensorflow_datasets as tfds

    given = tfds.download.DownloadConfig(manual_dir="shards/")
    builder = tfds.builder("celebv_hq/frames", data_dir="tfds/", file_format="array_record")
    builder.download_and_prepare(download_config=given)
    frames = tfds.data_source("celebv_hq/frames", data_dir="tfds/", split="train")

`celebv_hq`, `voxceleb2` and `talking_heads_folder` have the configs `frames`, `clips` and `motion`, the three kinds of
records that `data_pipelines.shards` describes, under the same names. Images are stored as the shards have them and
decoded when an example is read; sound is int16. An example's `clip` and `person` say whose it is.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.shards import KINDS, SPLITS, Clip, Shards, fields_of, split_record
from r3p.errors import InputError

_MANUAL = "Give the folder of shards that r3p prepare wrote as manual_dir."
_KINDS = {"frames": "A record a frame.", "clips": "A record a clip.", "motion": "A record an utterance."}


def _feature(spec: dict[str, Any]) -> Any:
    if spec["type"] in ("jpeg", "png"):
        channels = 3 if spec["type"] == "jpeg" else 1
        return tfds.features.Image(shape=(None, None, channels), encoding_format=spec["type"], doc=spec["unit"])
    shape = tuple(spec["shape"])
    return tfds.features.Tensor(shape=shape, dtype=np.dtype(spec["type"]).type, doc=spec["unit"])


class _Clips(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A set of talking clips."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=kind, description=_KINDS[kind]) for kind in KINDS]  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = _MANUAL
    about, homepage, citation, hubert = "", "", "", 1024

    def _info(self) -> Any:
        kind = self.builder_config.name
        features = {name: _feature(spec) for name, spec in fields_of(0, self.hubert)[kind].items()}
        texts = {k: tfds.features.Text() for k in ("clip", "person")}
        return tfds.core.DatasetInfo(
            builder=self, description=f"{self.about} {_KINDS[kind]}", homepage=self.homepage, citation=self.citation,
            features=tfds.features.FeaturesDict(features | texts),
        )  # fmt: skip

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        folder = Path(dl_manager.manual_dir)
        held = {clip.known["split"] for clip in Shards(folder, None).clips}
        return {split: self._generate_examples(folder, split) for split in SPLITS if split in held}

    def _generate_examples(self, folder: Path, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        shards = Shards(folder, split)
        width = shards.settings["hubert"]
        if width not in (0, self.hubert):
            raise InputError(f"{folder} has HuBERT features of width {width}: this builder describes {self.hubert}")
        kind = self.builder_config.name
        for clip in shards.clips:
            for t, record in _records(shards, kind, clip):
                example = split_record(record, shards.fields[kind])
                if kind == "motion" and not width:
                    example["hubert"] = np.zeros((0, self.hubert), np.float16)
                example |= {"clip": clip.name, "person": clip.known["person"]}
                yield f"{clip.name}/{t:06d}", example


def _records(shards: Shards, kind: str, clip: Clip) -> Iterator[tuple[int, bytes]]:
    if kind == "frames":
        yield from ((t, shards.record(kind, clip.group, clip.first + t)) for t in range(clip.frames))
    elif kind == "clips":
        yield 0, shards.record(kind, clip.group, clip.place)
    elif clip.motion is not None:
        yield 0, shards.record(kind, clip.group, clip.motion)


class CelebvHq(_Clips):
    """CelebV-HQ, prepared."""

    name = "celebv_hq"
    about = "CelebV-HQ: 35,666 clips of 15,653 people, cropped to the head at 25 Hz, with a fitted head."
    homepage = "https://celebv-hq.github.io"
    citation = """@inproceedings{zhu2022celebvhq,
  title={{CelebV-HQ}: A Large-Scale Video Facial Attributes Dataset},
  author={Zhu, Hao and Wu, Wayne and Zhu, Wentao and Jiang, Liming and Tang, Siwei and Zhang, Li and Liu, Ziwei and
    Loy, Chen Change},
  booktitle={ECCV}, year={2022}
}"""


class Voxceleb2(_Clips):
    """VoxCeleb2, prepared."""

    name = "voxceleb2"
    about = "VoxCeleb2: utterances of celebrities, cropped to the head at 25 Hz, with sound features and a fitted head."
    homepage = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox2.html"
    citation = """@inproceedings{chung2018voxceleb2,
  title={{VoxCeleb2}: Deep Speaker Recognition}, author={Chung, Joon Son and Nagrani, Arsha and Zisserman, Andrew},
  booktitle={INTERSPEECH}, year={2018}
}"""


class TalkingHeadsFolder(_Clips):
    """Anyone's own clips, prepared."""

    name = "talking_heads_folder"
    about = "A folder of talking clips, cropped to the head at 25 Hz, with a fitted head."
