"""Files as they come: none stops `r3p prepare`, each ends in the shards or with a reason in the report."""

import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import films
import numpy as np
import pytest
from test_prepare import sums

from data_pipelines.prepare import REPORT, STAGED
from data_pipelines.shards import Shards
from data_pipelines.shards_check import check
from r3p.cli import main
from r3p.photo import load_image

TONE = (np.sin(np.arange(16000 * 3) * 0.05) * 0.3).astype(np.float32)
FRAMES = 18


@pytest.fixture(scope="module")
def portrait(request):
    return cv2.resize(load_image(request.path.parent / "data" / "portrait.jpg"), (208, 208))


def _variable(path, image):
    """12 pictures in 0.8 s: 100, 25 and 8 a second."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=100)
        stream.height, stream.width = image.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 100)
        for at in (0, 1, 2, 3, 4, 8, 12, 16, 28, 40, 52, 80):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 100)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def _turn(path):
    """Says in the track's header that the pictures are to be turned by a quarter, as a phone does."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    for k, v in enumerate((0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)):
        data[at + 4 * k : at + 4 * k + 4] = (v & 0xFFFFFFFF).to_bytes(4, "big")
    path.write_bytes(data)


def _hostile(folder, portrait):
    still = [portrait] * FRAMES
    sound = TONE[: FRAMES * 640]
    good = films.write(folder / "ñandú 名前" / "кл ип 1.mp4", still, sound)
    (folder / "empty.mp4").touch()
    (folder / "no header.mp4").write_bytes(good.read_bytes()[-3000:])
    whole = films.write(folder / "long.mp4", [portrait] * 40, TONE[: 40 * 640]).read_bytes()
    (folder / "long.mp4").unlink()
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) * 6 // 10])
    (folder / "text.mp4").write_text("no video")
    films.part(good, "audio", folder / "only sound.mp4")
    films.write(folder / "mute.mp4", still)
    films.write(folder / "two.mp4", still[:2], TONE[:1280])
    films.write(folder / "late.mp4", still)
    films.part(films.write(folder / "tone.mp4", [portrait[:32, :32]] * 60, TONE), "audio", folder / "late.m4a")
    (folder / "tone.mp4").unlink()
    films.write(folder / "damaged sound.mp4", still)
    (folder / "damaged sound.m4a").write_bytes(b"x" * 999)
    _variable(folder / "variable.mp4", portrait)
    # Upright in the end, and higher than wide.
    tall = np.concatenate([portrait, portrait[-40:][::-1]])
    _turn(films.write(folder / "turned.mp4", [np.ascontiguousarray(np.rot90(tall))] * FRAMES, sound))


@pytest.mark.slow
def test_each_ends_in_the_report(portrait, tmp_path):
    _hostile(tmp_path / "in", portrait)
    out = tmp_path / "out"
    assert main(["prepare", "--input", str(tmp_path / "in"), "--out", str(out), "--size", "64", "--workers", "1"]) == 0
    assert list(check(out)) == []
    report = json.loads((out / REPORT).read_text(encoding="utf-8"))
    reasons = {name: told["reason"] for name, told in report["rejected"].items()}
    truncated = reasons.pop("truncated.mp4", "accepted")
    assert truncated in ("accepted", "too short", "out of step", "unreadable")  # by where the codec gives up
    assert reasons == {
        "empty.mp4": "unreadable", "no header.mp4": "unreadable", "text.mp4": "unreadable",
        "only sound.mp4": "unreadable", "two.mp4": "too short", "late.mp4": "out of step",
    }  # fmt: skip
    assert not any(str(tmp_path) in told["text"] or "Traceback" in told["text"] for told in report["rejected"].values())
    clips = {c.name: c for c in Shards(out, None).clips}
    assert set(clips) - {"truncated.mp4"} == {
        "ñandú 名前/кл ип 1.mp4", "mute.mp4", "damaged sound.mp4", "variable.mp4", "turned.mp4"
    }  # fmt: skip
    assert clips["ñandú 名前/кл ип 1.mp4"].known["person"] == "ñandú 名前"
    assert clips["mute.mp4"].known["notes"] == ["no sound"] and clips["mute.mp4"].motion is None
    assert clips["damaged sound.mp4"].known["notes"][0].startswith("no sound: damaged sound.m4a cannot be read")
    assert 20 <= clips["variable.mp4"].frames <= 27  # 0.8 s and how long the last picture stays
    turned = clips["turned.mp4"].known["file"]
    assert turned["size"] == [208, 248] and turned["rotation"] in (90, 270)


@pytest.mark.slow
def test_workers_and_kills_change_nothing(portrait, tmp_path):
    """Networks and all: one process, two, and a run that is killed and started again write the same bytes."""
    for k, name in enumerate(("a/1.mp4", "a/2.mp4", "b/1.mp4", "b/2.mp4")):
        moved = [np.roll(portrait, (t + k) // 2, 1) for t in range(FRAMES)]
        films.write(tmp_path / "in" / name, moved, TONE[: FRAMES * 640])
    (tmp_path / "in" / "b" / "0.mp4").touch()

    def command(out, workers):
        return ["prepare", "--input", str(tmp_path / "in"), "--out", str(tmp_path / out), "--size", "64",
                "--workers", str(workers), "--split", "train"]  # fmt: skip

    assert main(command("one", 1)) == 0
    assert len(Shards(tmp_path / "one").clips) == 4
    assert main(command("two", 2)) == 0
    assert sums(tmp_path / "two") == sums(tmp_path / "one")
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-m", "r3p", *command("killed", 0)], env=os.environ | {"PYTHONPATH": path}
    )
    staged, until = tmp_path / "killed" / STAGED, time.monotonic() + 900
    # Two clips are done and a third is begun.
    while len(list(staged.glob("*.clip"))) < 2 or not list(staged.glob("*.part")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert main(command("killed", 1)) == 0
    assert sums(tmp_path / "killed") == sums(tmp_path / "one")
