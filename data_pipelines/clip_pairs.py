"""Shards of clips as the stages read them: pairs of frames (`data_pipelines.frames`) and utterances. No jax.

A pair is two O(1) reads of the same clip and one of what its frames share. Example k of a seed is always the same: its
target is frame k mod n of the split, its source another frame of that clip, drawn anew in each of `ROUNDS` rounds.
"""

from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.head import Head, draw_pncc
from data_pipelines.shards import Clip, Shards
from data_pipelines.utterances import SHORTEST
from r3p.errors import InputError

ROUNDS = 64
_COEFFICIENTS = ("expression", "camera", "keypoints", "euler", "trans")
_SOURCE = ("image", "torso", "classes", *_COEFFICIENTS)
_TARGET = ("image", "head_mask", "person_mask", "before_expression", "after_expression", *_COEFFICIENTS)


class ClipPairs:
    """Random access to pairs: the keys of `data_pipelines.frames` and the coefficients behind them.

    Args:
      folder: of shards.
      seed: of the sources drawn.
      pncc_size: side of the PNCC maps, which are drawn from the coefficients; 0 leaves them out.
      split: of the people.

    Raises:
      InputError: no shards there, or none of this split.
    """

    def __init__(self, folder: str | Path, seed: int, pncc_size: int, split: str = "train"):
        self.shards, self.seed, self.pncc_size = Shards(folder, split), seed, pncc_size
        self.shards.clips = [c for c in self.shards.clips if c.frames]
        if not self.shards.clips:
            raise InputError(f"{folder} holds utterances without pictures: run r3p prepare without --motion-only")
        self.ends = np.cumsum([c.frames for c in self.shards.clips])

    @cached_property  # not in __init__: workers get a copy of this object before they use it
    def _head(self) -> Head:
        return Head()

    @property
    def size(self) -> int:
        """Side of the images."""
        return int(self.shards.settings["size"])

    def __len__(self) -> int:
        return int(self.ends[-1]) * ROUNDS

    def place(self, index: int) -> tuple[Clip, int, int]:
        """Clip, source frame and target frame of an example."""
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        at = index % int(self.ends[-1])
        k = int(np.searchsorted(self.ends, at, side="right"))
        clip = self.shards.clips[k]
        target = at - (int(self.ends[k - 1]) if k else 0)
        source = int(np.random.default_rng([self.seed, index]).integers(max(clip.frames - 1, 1)))
        return clip, source + (source >= target and clip.frames > 1), target

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        clip, s, t = self.place(int(index))
        shared = self.shards.shared(clip)
        source, target = self.shards.frame(clip, s, _SOURCE), self.shards.frame(clip, t, _TARGET)
        head_mask = target["head_mask"]
        out = {
            "background": shared["background"],
            "identity": shared["identity"],
            "source": source["image"],
            "source_segmap": source["classes"],
            "torso": source["torso"],
            "target": target["image"],
            "target_head": cv2.multiply(target["image"], cv2.merge([head_mask] * 3), scale=1 / 255),
            "target_head_mask": head_mask,
            "target_mask": target["person_mask"],
            "before_expression": target["before_expression"],
            "after_expression": target["after_expression"],
        }
        for name, frame in (("source", source), ("target", target)):
            out |= {f"{name}_{key}": frame[key] for key in _COEFFICIENTS}
            points = np.clip(frame["keypoints"], -1, 1)
            out[f"{name}_keypoints"] = np.concatenate([points, np.zeros((len(points), 1), np.float32)], 1)
        return out | self._maps(out) if self.pncc_size else out

    def _maps(self, example: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        head = self._head
        neutral = head.vertices(example["identity"], np.zeros(len(head.expression), np.float32))
        shapes = {"canonical": neutral}
        shapes |= {k: head.express(neutral, example[f"{k}_expression"]) for k in ("source", "target")}
        return {f"pncc_{k}": draw_pncc(head, vertices, self.pncc_size) for k, vertices in shapes.items()}

    def __repr__(self) -> str:  # grain keys its checkpoints by it
        return f"ClipPairs({self.shards!r}, {self.seed}, {self.pncc_size})"


class ClipUtterances:
    """Utterances of shards, as `data_pipelines.utterances.Utterances` gives them: HuBERT's features where the shards
    have them, else mel bands. What is held out is the split `validation`.

    Raises:
      InputError: no shards, or no utterance of that split that is long enough.
    """

    def __init__(self, folder: str | Path, held_out: bool = False):
        split = "validation" if held_out else "train"
        self._shards = Shards(folder, split)
        self._clips = [c for c in self._shards.clips if c.motion is not None and c.length >= SHORTEST]
        if not self._clips:
            raise InputError(f"{folder} has no clips with sound of the split {split}: prepare more clips")
        self.names = [c.name for c in self._clips]
        self.frames = np.array([c.length for c in self._clips])
        self.person = np.unique([c.known["person"] for c in self._clips], return_inverse=True)[1]

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, k: int) -> dict[str, np.ndarray]:
        heard = "hubert" if "hubert" in self._shards.fields["motion"] else "mel"
        wanted = (heard, "pitch", "identity", "expression", "blink", "amplitude")
        values = self._shards.motion(self._clips[k], wanted)
        return {"audio" if name == heard else name: value for name, value in values.items()}
