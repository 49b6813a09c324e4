"""The study's page at work: a rater answers every pair, and what is saved is what was chosen.

Its script runs in QuickJS on a few lines of a page's objects, and in a browser where one is installed (`chromium` on
the path, or its file in R3P_BROWSER).
"""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import quickjs
from test_study import METHODS, made  # noqa: F401

from r3p.evaluate import study

BROWSER = os.environ.get("R3P_BROWSER") or shutil.which("chromium") or ""
_PAGE = """
class Element {
  constructor(name) { this.name = name; this.children = []; this.textContent = ""; }
  append(...all) { this.children.push(...all); }
  replaceChildren() { this.children = []; }
  all(name) {
    const own = this.children.filter(c => c instanceof Element);
    return own.flatMap(c => (c.name === name ? [c] : []).concat(c.all(name)));
  }
}
const body = new Element("main");
const document = {querySelector: () => body, createElement: name => new Element(name)};
const crypto = {getRandomValues: a => a.map((_, i) => 1000 * SEED + i)};
let saved = "";
class Blob { constructor(parts) { saved = parts.join(""); } }
const URL = {createObjectURL: () => "blob:1"};
class FormData {
  constructor(form) { this.form = form; }
  get(q) {
    const found = this.form.all("input").filter(i => i.name_ === q && i.checked);
    return found.length ? found[0].value : null;
  }
}
// Elements have a `name` of their own here: that of an input is kept beside.
const assign = Object.assign;
Object.assign = (e, fields) => {
  const {name, ...rest} = fields;
  if (name !== undefined) e.name_ = name;
  return assign(e, rest);
};
"""
# The rater prefers by the methods' strength, told by the clips' names; the browser has the same.
_RATER = """
function rate(strength, forms, sides, submit) {
  let pairs = 0;
  for (;;) {
    const form = forms();
    if (!form) return pairs;
    const [left, right] = sides().map(src => strength[src.split("/").pop()]);
    const chosen = left > right ? "0" : left < right ? "2" : "1";
    submit(form, chosen);
    pairs += 1;
  }
}
"""


def _strengths(key, prefer):
    return {clip: prefer[told["method"]] for clip, told in key["clips"].items()}


def _check(folder, key, votes, prefer):
    path = folder.parent / f"votes_{votes['rater']}.json"
    path.write_text(json.dumps(votes))
    (read,) = study.read_votes(key, [path])
    assert {v["pair"] for v in read["votes"]} == set(key["pairs"])
    strength = _strengths(key, prefer)
    for vote in votes["votes"]:
        clips = key["pairs"][vote["pair"]]
        best = max(clips, key=strength.__getitem__)
        wanted = "" if strength[clips[0]] == strength[clips[1]] else best
        assert set(vote["answers"].values()) == {wanted} and vote["left"] in clips
    return read


def test_what_a_rater_chooses_is_what_is_saved(made):  # noqa: F811
    folder, key = made
    text = (folder / "index.html").read_text()
    (script,) = re.findall(r"<script>(.*)</script>", text, re.DOTALL)
    prefer = {"ours": 2, "other": 1, "degraded": 0}
    orders, raters = set(), []
    for seed in range(1, 4):
        page = quickjs.Context()
        page.eval(_PAGE.replace("SEED", str(seed)) + script + _RATER)
        count = page.eval(f"""
rate({json.dumps(_strengths(key, prefer))}, () => body.all("form")[0], () => body.all("video").map(v => v.src),
  (form, chosen) => {{
    form.all("input").forEach(i => {{ i.checked = i.value === chosen; }});
    form.onsubmit({{preventDefault: () => 0}});
  }})""")
        assert count == len(key["pairs"])
        votes = json.loads(page.eval("saved"))
        raters.append(_check(folder, key, votes, prefer))
        orders.add(tuple(v["pair"] for v in votes["votes"]) + tuple(v["left"] for v in votes["votes"]))
    assert len({r["rater"] for r in raters}) == 3 and len(orders) > 1  # orders and sides of their own
    got = study.analyse(key, raters)
    assert got["raters"] == 3 and all(abs(r["preference"]) == 1 for r in got["preferences"])


def test_every_pair_shows_the_photograph(made):  # noqa: F811
    folder, key = made
    told = json.loads(re.search(r"const study = (\{.*\});", (folder / "index.html").read_text())[1])
    shown = {p["id"]: p["photograph"] for p in told["pairs"]}
    assert set(shown) == set(key["pairs"])
    clip_of = {k: key["clips"][clips[0]]["clip"] for k, clips in key["pairs"].items()}
    for pair, name in shown.items():
        assert (folder / "clips" / name).is_file()
        assert all(shown[other] == name for other in shown if clip_of[other] == clip_of[pair])
    assert len(set(shown.values())) == 3 and not any(m in "".join(shown.values()) for m in METHODS)


@pytest.mark.skipif(not BROWSER, reason="no chromium on the path and none in R3P_BROWSER")
def test_the_page_works_in_a_browser(made, tmp_path):  # noqa: F811
    folder, key = made
    prefer = {"ours": 1, "other": 2, "degraded": 0}
    driver = f"""<script>{_RATER}
const count = rate({json.dumps(_strengths(key, prefer))}, () => document.querySelector("form"),
  () => Array.from(document.querySelectorAll("video"), v => v.src),
  (form, chosen) => {{
    form.querySelectorAll("input").forEach(i => {{ i.checked = i.value === chosen; }});
    form.requestSubmit();
  }});
const link = document.querySelector("a");
fetch(link.href).then(r => r.text()).then(text => {{
  document.title = JSON.stringify({{count, download: link.download, votes: JSON.parse(text)}});
}}).catch(e => {{ document.title = "failed " + e; }});
</script>"""
    text = (folder / "index.html").read_text()
    page = folder / "driven.html"
    page.write_text(text.replace("</html>", driver + "</html>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    command = [BROWSER, *flags, f"--user-data-dir={tmp_path / 'browser'}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[1]
    said = json.loads(html.unescape(title))
    assert said["count"] == len(key["pairs"]) and said["download"] == f"votes_{said['votes']['rater']}.json"
    _check(folder, key, said["votes"], prefer)
    assert Path(folder / "key.json").is_file()
