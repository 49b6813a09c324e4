"""Clips that were never filmed: records of the right shapes, and a stand-in for the preparation of real ones."""

import json
import os
import time

import numpy as np

from data_pipelines import shards
from data_pipelines.prepare import Prepared, Rejected, Stager
from r3p import camera

SETTINGS = {"size": 32, "hubert": 0, "quality": 95}
FIELDS = shards.fields_of(32)


def frame(rng, t):
    smooth = np.linspace(0, 200, 32)[:, None, None] + np.array([0, 20, 40]) + np.zeros((32, 32, 3))
    mask = np.zeros((32, 32), np.uint8)
    mask[8:24, 8:24] = 255
    return {
        "image": smooth.astype(np.uint8), "torso": smooth.astype(np.uint8), "classes": mask // 85,
        "head_mask": mask, "person_mask": mask, "camera": camera.from_pose(rng.normal(0, 0.2, 3), np.zeros(3)),
        **{k: rng.uniform(0, 1, 64) for k in ("expression", "before_expression", "after_expression")},
        "euler": np.zeros(3), "trans": np.zeros(3), "keypoints": rng.uniform(-1, 1, (68, 2)),
        "landmarks": np.full((478, 2), np.nan), "error": np.float32(np.nan), "time": np.float32(t / 25),
    }  # fmt: skip


def utterance(rng, t):
    return {
        "sound": rng.integers(-9999, 9999, 640 * t), "mel": rng.uniform(-4, 4, (2 * t, 80)),
        "pitch": np.full(2 * t, 99),
        "identity": np.zeros(80), "expression": rng.uniform(0, 1, (t, 64)), "euler": np.zeros((t, 3)),
        "trans": np.zeros((t, 3)), "blink": np.zeros(t), "amplitude": np.float32(0.3),
    }  # fmt: skip


def shared():
    return {"background": np.full((32, 32, 3), 90, np.uint8), "identity": np.arange(80) / 10}


class Pretend:
    """Prepares any file: its text says how many frames, and what happens instead."""

    def __init__(self):
        self.seconds = {"track": 0.0}

    def __call__(self, source):
        told = json.loads(source.video.read_text())
        if told.get("reject"):
            raise Rejected("cut", "the picture changes")
        if told.get("die"):
            os._exit(9)
        if told.get("fail"):
            raise ZeroDivisionError("one\ntwo")
        time.sleep(told.get("sleep", 0))
        rng = np.random.default_rng(len(source.name))
        self.seconds["track"] += 1.0

        def frames():
            for t in range(told["frames"]):
                if t == told.get("late"):
                    raise Rejected("no person", "frame 1")
                yield shards.pack(frame(rng, t), FIELDS["frames"])

        spoken = None if told.get("mute") else shards.pack(utterance(rng, told["frames"]), FIELDS["motion"])
        known = {"name": source.name, "person": source.person, "split": source.split, "notes": []}
        return Prepared(known, frames(), shards.pack(shared(), FIELDS["clips"]), spoken)


def make(staged):
    return Stager(staged, Pretend())
