"""The study: nothing on the page tells whose a clip is; votes say what was put into them; cheaters are left out."""

import json

import numpy as np
import pytest

from r3p import video
from r3p.errors import InputError
from r3p.evaluate import study
from r3p.evaluate.manifest import Row

METHODS = ("ours", "other")


@pytest.fixture
def made(tmp_path):
    rows = []
    for k in range(3):
        truth = tmp_path / "ours" / f"c{k}.mp4"
        rows.append(Row(f"clip_{k}", "same", None, None, None, truth, f"person_{k}", f"c{k}.mp4"))
        for method in METHODS:
            (tmp_path / method).mkdir(exist_ok=True)
            with video.VideoWriter(tmp_path / method / f"c{k}.mp4", (32, 32)) as writer:
                writer.write(np.random.default_rng(k).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    folders = {m: tmp_path / m for m in METHODS}
    assert study.make(rows, folders, tmp_path / "study") == 3 + study.CHECKS
    return tmp_path / "study", json.loads((tmp_path / "study" / "key.json").read_text())


def _votes(key, rater, prefer):
    """prefer: {method: strength}; the stronger method's clip is chosen."""
    votes = []
    for pair, clips in key["pairs"].items():
        strengths = [prefer[key["clips"][c]["method"]] for c in clips]
        answer = "" if strengths[0] == strengths[1] else clips[int(np.argmax(strengths))]
        votes.append({"pair": pair, "left": clips[0], "answers": dict.fromkeys(study.QUESTIONS, answer)})
    return {"study": key["id"], "rater": rater, "votes": votes}


def test_the_page_is_blind(made):
    folder, key = made
    text = (folder / "index.html").read_text()
    assert not any(word in text for word in ("ours", "other", "degraded", "clip_", "person_"))
    assert all((folder / "clips" / name).is_file() and name in text for name in key["clips"])


def test_votes_say_what_was_put_in(made):
    _, key = made
    fair = {"ours": 2, "other": 1, "degraded": 0}
    raters = [_votes(key, f"r{k}", fair) for k in range(5)] + [_votes(key, "x", fair | {"ours": 1})]
    raters.append(_votes(key, "careless", {"ours": 0, "other": 1, "degraded": 2}))
    got = study.analyse(key, raters)
    assert (got["raters"], got["left_out"]) == (6, 1)
    row = next(r for r in got["preferences"] if r["question"] == "lips")
    assert {row["a"], row["b"]} == set(METHODS)
    assert row["preference"] == pytest.approx(5 / 6) and row["low"] < 5 / 6 < row["high"] <= 1
    assert row["p_sign"] == pytest.approx(2 / 32)  # five of five


def test_votes_of_another_study_are_refused(made, tmp_path):
    _, key = made
    good = _votes(key, "r", {"ours": 2, "other": 1, "degraded": 0})
    path = tmp_path / "v.json"
    path.write_text(json.dumps(good))
    assert study.read_votes(key, [path])[0]["rater"] == "r"
    with pytest.raises(InputError, match="second file"):
        study.read_votes(key, [path, path])
    path.write_text(json.dumps(good | {"study": "x"}))
    with pytest.raises(InputError, match="another study"):
        study.read_votes(key, [path])
    path.write_text("[]")
    with pytest.raises(InputError, match="cannot be read as votes"):
        study.read_votes(key, [path])
