"""A listening-and-looking study: blinded pairs for raters, votes in files, and what the votes say.

python -m r3p.evaluate.study make --manifest M --methods ours=DIR,other=DIR --out STUDY
python -m r3p.evaluate.study analyse --study STUDY --votes votes/*.json

`make` copies the clips under names that say nothing and writes a page, `index.html`, that works from a folder or any
web server without anything else; which clip is whose stands in `key.json`, which is not for raters. Each rater gets the
pairs in an order and with sides of their own, sees every pair once, and saves the votes as a file. Some pairs are
checks: a method's clip against itself, degraded. A rater who prefers a degraded clip more than `ALLOWED` times is left
out; that rule is fixed here, before any vote.
"""

import argparse
import json
import secrets
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy import stats

from r3p import photo, video
from r3p.errors import InputError
from r3p.evaluate import manifest
from r3p.evaluate.manifest import Row
from r3p.evaluate.observe import frames_of

QUESTIONS = {
    "identity": "Which looks more like the person in the photograph?",
    "quality": "Which picture is better: sharper, steadier, more natural?",
    "lips": "In which do the lips fit the speech better?",
}
CHECKS = 3  # pairs with a degraded clip
ALLOWED = 0  # how often a rater may prefer a degraded clip's quality
_DEGRADED = 12  # times smaller and back
_PHOTOGRAPH = 320  # pixels of its longer side
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Which is better?</title>
<style>body{font:16px sans-serif;max-width:70em;margin:2em auto;padding:0 1em}video{width:46%;margin:1%}
fieldset{margin:1em 0}label{margin-right:2em}button{font-size:1em;padding:.5em 2em}</style>
<main></main>
<script>
const study = STUDY;
const rater = Array.from(crypto.getRandomValues(new Uint32Array(2)), x => x.toString(16)).join("");
const votes = [];
function shuffled(a) {
  const out = a.slice();
  for (let i = out.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [out[i], out[j]] = [out[j], out[i]];
  }
  return out;
}
const order = shuffled(study.pairs).map(p => ({id: p.id, photograph: p.photograph, sides: shuffled(p.clips)}));
const main = document.querySelector("main");
function element(name, text, parent) {
  const e = document.createElement(name);
  e.textContent = text;
  parent.append(e);
  return e;
}
function show(k) {
  main.replaceChildren();
  if (k === order.length) return finish();
  const pair = order[k];
  element("h1", `Pair ${k + 1} of ${order.length}`, main);
  if (pair.photograph) {
    const photograph = element("img", "", element("p", "", main));
    Object.assign(photograph, {src: "clips/" + pair.photograph, alt: "the photograph", height: 160});
  }
  for (const name of pair.sides) {
    const v = element("video", "", main);
    Object.assign(v, {src: "clips/" + name, controls: true, loop: true});
  }
  const form = element("form", "", main);
  for (const [q, text] of Object.entries(study.questions)) {
    const set = element("fieldset", "", form);
    element("legend", text, set);
    ["left", "no difference", "right"].forEach((word, i) => {
      const label = element("label", "", set);
      const input = document.createElement("input");
      Object.assign(input, {type: "radio", name: q, value: String(i), required: true});
      label.append(input, " " + word);
    });
  }
  element("button", "Next", form);
  form.onsubmit = event => {
    event.preventDefault();
    const said = new FormData(form);
    const answers = {};
    for (const q of Object.keys(study.questions)) {
      const i = Number(said.get(q));
      answers[q] = i === 1 ? "" : pair.sides[i / 2];
    }
    votes.push({pair: pair.id, left: pair.sides[0], answers});
    show(k + 1);
  };
}
function finish() {
  element("h1", "Thank you", main);
  const link = element("a", "Save the votes", main);
  const text = JSON.stringify({study: study.id, rater, votes}, null, 1);
  link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
  link.download = `votes_${rater}.json`;
}
show(0);
</script></html>
"""


def degrade(source: Path, target: Path) -> None:
    """The clip, twelve times coarser; its sound is kept out, so that only the picture is judged."""
    writer: video.VideoWriter | None = None
    try:
        for frame in video.read_frames(source):
            h, w = frame.shape[:2]
            small = cv2.resize(frame, (max(1, w // _DEGRADED), max(1, h // _DEGRADED)), interpolation=cv2.INTER_AREA)
            writer = writer or video.VideoWriter(target, (w, h))
            writer.write(cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR))
    except BaseException:
        if writer is not None:
            writer.discard()
        raise
    if writer is not None:
        writer.close()


def make(rows: list[Row], folders: dict[str, Path], out: Path) -> int:
    """Writes a study of every two methods on every clip that both have; returns how many pairs there are."""
    if len(folders) < 2:
        raise InputError("a study compares methods: give at least two")
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty: choose another folder")
    (out / "clips").mkdir(parents=True)
    key: dict[str, Any] = {"id": secrets.token_hex(4), "clips": {}, "pairs": {}}
    photographs: dict[str, str] = {}  # by clip of the manifest
    names: dict[tuple[str, str], str] = {}

    def named(method: str, row: Row, suffix: str) -> str:
        name = secrets.token_hex(8) + suffix
        key["clips"][name] = {"method": method, "clip": row.id, "identity": row.identity}
        return name

    for row in rows:
        there = [m for m, folder in folders.items() if (folder / row.output).is_file()]
        for method in there:
            source = folders[method] / row.output
            names[method, row.id] = named(method, row, source.suffix)
            shutil.copyfile(source, out / "clips" / names[method, row.id])
        if len(there) > 1 and (who := row.source or row.truth or row.driver) is not None:
            photographs[row.id] = secrets.token_hex(8) + ".jpg"
            photo.save_image(out / "clips" / photographs[row.id], next(frames_of(who, _PHOTOGRAPH)))
        for i, a in enumerate(there):
            for b in there[i + 1 :]:
                key["pairs"][secrets.token_hex(4)] = [names[a, row.id], names[b, row.id]]
    if not key["pairs"]:
        shutil.rmtree(out)
        raise InputError("no clip of the manifest is there, as a video file, from two methods")
    checked = list(names.items())[:: max(1, len(names) // CHECKS)][:CHECKS]
    for (method, clip), name in checked:
        row = next(r for r in rows if r.id == clip)
        bad = named("degraded", row, ".mp4")
        degrade(folders[method] / row.output, out / "clips" / bad)
        key["pairs"][secrets.token_hex(4)] = [name, bad]
    shown = [
        {"id": k, "clips": clips, "photograph": photographs.get(key["clips"][clips[0]]["clip"], "")}
        for k, clips in sorted(key["pairs"].items())
    ]
    text = json.dumps({"id": key["id"], "questions": QUESTIONS, "pairs": shown})
    (out / "index.html").write_text(_PAGE.replace("STUDY", text.replace("</", "<\\/"), 1))
    (out / "key.json").write_text(json.dumps(key, indent=1) + "\n")
    return len(shown)


def read_votes(key: dict[str, Any], paths: Sequence[Path]) -> list[dict[str, Any]]:
    """A dict a rater: {"rater", "votes"}. Raises InputError for another study's file or a second one of a rater."""
    out: list[dict[str, Any]] = []
    for path in paths:
        try:
            found = json.loads(path.read_text())
            said = {"rater": str(found["rater"]), "votes": list(found["votes"])}
            good = found["study"] == key["id"] and all(
                v["pair"] in key["pairs"]
                and set(v["answers"]) == set(QUESTIONS)
                and all(a == "" or a in key["pairs"][v["pair"]] for a in v["answers"].values())
                for v in said["votes"]
            )
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise InputError(f"{path} cannot be read as votes ({e}): expected what the study's page saves") from e
        if not good:
            raise InputError(f"{path} holds votes of another study: expected those of study {key['id']}")
        if said["rater"] in [r["rater"] for r in out]:
            raise InputError(f"{path} is a second file of the rater {said['rater']}: leave one out")
        out.append(said)
    return out


def analyse(
    key: dict[str, Any], raters: list[dict[str, Any]], *, resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Preferences of every two methods by question: -1 (all for b) to 1 (all for a).

    Raters and people are both drawn anew in each resample: both are samples of what one wants to speak of. The sign
    test is over raters. Raters who prefer a degraded clip are left out and counted.
    """
    kept = [r for r in raters if _failed(key, r) <= ALLOWED]
    votes: dict[tuple[str, str, str], list[tuple[int, str, float]]] = {}
    for k, rater in enumerate(kept):
        for vote in rater["votes"]:
            first, second = (key["clips"][c] for c in key["pairs"][vote["pair"]])
            if "degraded" in (first["method"], second["method"]):
                continue
            for question, answer in vote["answers"].items():
                value = 0.0 if answer == "" else 1.0 if answer == key["pairs"][vote["pair"]][0] else -1.0
                found = votes.setdefault((question, first["method"], second["method"]), [])
                found.append((k, first["identity"], value))
    rng = np.random.default_rng(seed)
    rows = [_preference(*of, found, rng, resamples) for of, found in sorted(votes.items())]
    return {"raters": len(kept), "left_out": len(raters) - len(kept), "preferences": rows}


def _failed(key: dict[str, Any], rater: dict[str, Any]) -> int:
    chosen = (v["answers"]["quality"] for v in rater["votes"])
    return sum(c != "" and key["clips"][c]["method"] == "degraded" for c in chosen)


def _preference(
    question: str, a: str, b: str, found: list[tuple[int, str, float]], rng: np.random.Generator, resamples: int
) -> dict[str, Any]:
    who, rater = np.unique([r for r, _, _ in found], return_inverse=True)
    people, person = np.unique([p for _, p, _ in found], return_inverse=True)
    value = np.array([v for _, _, v in found])
    means = []
    for _ in range(resamples):
        times = [np.bincount(rng.integers(0, len(x), len(x)), minlength=len(x)) for x in (who, people)]
        weight = times[0][rater] * times[1][person]
        if weight.sum():
            means.append(float((weight * value).sum() / weight.sum()))
    each = np.array([value[rater == k].mean() for k in range(len(who))])
    decided = each[each != 0]
    p = stats.binomtest(int((decided > 0).sum()), len(decided)).pvalue if len(decided) else 1.0
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "question": question, "a": a, "b": b, "preference": float(value.mean()), "low": float(low), "high": float(high),
        "p_sign": float(p), "votes": len(found), "raters": len(who), "identities": len(people),
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m r3p.evaluate.study", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="write the raters' page")
    making.add_argument("--manifest", type=Path, required=True)
    making.add_argument("--methods", required=True, help="NAME=DIR,NAME=DIR")
    making.add_argument("--out", type=Path, required=True)
    reading = commands.add_parser("analyse", help="print what the votes say, as JSON")
    reading.add_argument("--study", type=Path, required=True, help="the folder that `make` wrote")
    reading.add_argument("--votes", type=Path, nargs="+", required=True)
    args = parser.parse_args(argv)
    try:
        if args.command == "make":
            count = make(manifest.read(args.manifest), manifest.methods(args.methods), args.out)
            print(f"{count} pairs: open {args.out / 'index.html'}; keep {args.out / 'key.json'} from raters")
        else:
            path = args.study / "key.json"
            if not path.is_file():
                raise InputError(f"{path} does not exist: give a folder that `make` wrote")
            key = json.loads(path.read_text())
            print(json.dumps(analyse(key, read_votes(key, args.votes)), indent=1))
    except InputError as error:
        print(f"r3p study: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
