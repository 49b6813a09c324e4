"""The report of `r3p eval` as pages: Markdown, HTML, and SVG plots of means, intervals and every clip."""

import html
import math
from pathlib import Path
from typing import Any

from r3p.evaluate.metrics import METRICS, POOLED, Metric
from r3p.evaluate.published import PUBLISHED

TITLES = {"same": "Same identity", "cross": "Cross identity", "audio": "Audio-driven", "novel_view": "Novel view"}
_ARROW = {"more": " ↑", "less": " ↓", "": ""}
_COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b83280", "#4a5568")
_ROW, _LEFT, _WIDTH = 26, 190, 680  # pixels of a plot


def number(value: float | None) -> str:
    """Four figures that count; a dash for none."""
    return "-" if value is None else f"{value:.4g}"


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    if found["low"] is None:
        return number(found["mean"])
    return f"{number(found['mean'])} [{number(found['low'])}, {number(found['high'])}]"


Table = tuple[list[str], list[list[str]]]


def _figures(part: dict[str, Any], names: list[str]) -> Table:
    metrics = [m for m in METRICS.values() if any(m.name in part["figures"][n] for n in names)]
    rows = [
        [m.title + _ARROW[m.better], *(_cell(part["figures"][n].get(m.name)) for n in names), m.meaning]
        for m in metrics
    ]
    for m in POOLED.values():
        if any(m.name in part["pooled"].get(n, {}) for n in names):
            cells = (_cell(part["pooled"].get(n, {}).get(m.name)) for n in names)
            rows.append([m.title + _ARROW[m.better], *cells, m.meaning])
    return ["", *names, "what it is"], rows


def _differences(part: dict[str, Any]) -> Table:
    rows = []
    for d in part["differences"]:
        metric, sure = METRICS[d["metric"]], d["p_holm"] is not None and d["p_holm"] < 0.05
        ahead = d["a"] if (d["mean"] > 0) == (metric.better == "more") else d["b"]
        said = f"{ahead} is ahead" if sure else "too few clips or too small a difference to tell"
        rows.append([metric.title, f"{d['a']} - {d['b']}", _cell(d), number(d["p"]), number(d["p_holm"]), said])
    return ["", "difference", "mean [95 %]", "p (Wilcoxon)", "p (Holm)", ""], rows


def _failures(part: dict[str, Any]) -> Table:
    rows = [
        [name, str(len(of)), "; ".join(f"{k}: {v}" for k, v in of.items())] for name, of in part["failures"].items()
    ]
    return ["", "failures", "reasons"], rows


def sections(report: dict[str, Any]) -> list[tuple[str, str, list[tuple[str, Table]]]]:
    """(title, a sentence, [(caption, table)]) of each protocol."""
    names = report["methods"] + report["anchors"]
    out = []
    for protocol, part in report["protocols"].items():
        text = (
            f"{part['clips']} clips; scores are of the {part['common']} that every method has "
            f"({part['identities']} identities), mean and 95 % interval over identities."
        )
        tables = [("Scores", _figures(part, names)), ("Failures", _failures(part))]
        if part["differences"]:
            tables.append(("Paired differences", _differences(part)))
        if part["not_computed"]:
            listed = METRICS | POOLED
            rows = [[listed[k].title if k in listed else k, why] for k, why in part["not_computed"].items()]
            tables.append(("Not computed", (["", "why"], rows)))
        if protocol in PUBLISHED:
            rows = [[r["of"], r["figures"]] for r in PUBLISHED[protocol]]
            caption = "Published for the original's weights: other clips, crops and networks; not to be compared"
            tables.append((caption, (["test", "figures"], rows)))
        out.append((TITLES[protocol], text, tables))
    return out


def plot(report: dict[str, Any], protocol: str, metric: Metric) -> str:
    """SVG of one figure: a bar and its interval for each method, a dot for each clip."""
    names = report["methods"] + report["anchors"]
    found = {n: report["protocols"][protocol]["figures"][n].get(metric.name) for n in names}
    dots = {
        n: [
            c["figures"].get(metric.name)
            for c in report["clips"]
            if c["protocol"] == protocol and c["method"] == n and c["figures"].get(metric.name) is not None
        ]
        for n in names
    }
    values = [v for of in dots.values() for v in of] + [f["mean"] for f in found.values() if f]
    low, high = min([0.0, *values]), max([*values, 1e-9])
    span = (high - low) or 1.0

    def x(value: float) -> float:
        return round(_LEFT + (value - low) / span * (_WIDTH - _LEFT - 70), 1)

    parts = []
    for k, name in enumerate(names):
        y, colour, of = 30 + k * _ROW, _COLOURS[k % len(_COLOURS)], found[name]
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 14}" text-anchor="end">{html.escape(name)}</text>')
        if of is None:
            parts.append(f'<text x="{_LEFT}" y="{y + 14}" fill="#777">none</text>')
            continue
        left, right = sorted((x(0), x(of["mean"])))
        parts.append(f'<rect x="{left}" y="{y + 4}" width="{max(right - left, 1):.1f}" height="12" fill="{colour}66"/>')
        parts += [f'<circle cx="{x(v)}" cy="{y + 10}" r="2" fill="{colour}"/>' for v in dots[name]]
        if of["low"] is not None:
            a, b = x(of["low"]), x(of["high"])
            parts.append(f'<path d="M{a} {y + 10}H{b}M{a} {y + 5}v10M{b} {y + 5}v10" stroke="#111" fill="none"/>')
        parts.append(f'<text x="{_WIDTH - 4}" y="{y + 14}" text-anchor="end">{number(of["mean"])}</text>')
    height = 36 + len(names) * _ROW
    title = html.escape(metric.title + _ARROW[metric.better])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="8" y="18" font-weight="bold">{title}</text>{"".join(parts)}</svg>'
    )


def _markdown(report: dict[str, Any], plots: dict[str, list[str]], worst: dict[str, list[str]]) -> str:
    lines = ["# Evaluation", ""]
    for (title, text, tables), protocol in zip(sections(report), report["protocols"], strict=True):
        lines += [f"## {title}", "", text, ""]
        for caption, (head, rows) in tables:
            lines += [f"**{caption}**", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
            lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
            lines.append("")
        lines += [f"![]({name})" for name in plots[protocol] + worst[protocol]] + [""]
    lines += ["## Made with", "", *(f"- {k}: {v}" for k, v in report["provenance"].items()), ""]
    return "\n".join(lines)


def _html(report: dict[str, Any], plots: dict[str, list[str]], worst: dict[str, list[str]]) -> str:
    e = html.escape
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Evaluation</title>'
        "<style>body{font:14px sans-serif;margin:2em;max-width:75em}table{border-collapse:collapse;margin:.5em 0 1.5em}"
        "td,th{border:1px solid #ccc;padding:.3em .6em;text-align:left}img{max-width:100%;margin:.3em}</style>"
        "<h1>Evaluation</h1>"
    ]
    for (title, text, tables), protocol in zip(sections(report), report["protocols"], strict=True):
        parts.append(f"<h2>{e(title)}</h2><p>{e(text)}</p>")
        for caption, (head, rows) in tables:
            cells = ["".join(f"<td>{e(c)}</td>" for c in row) for row in rows]
            body = "".join(f"<tr>{c}</tr>" for c in cells)
            parts.append(
                f"<h3>{e(caption)}</h3><table><tr>{''.join(f'<th>{e(h)}</th>' for h in head)}</tr>{body}</table>"
            )
        parts += [f'<img src="{e(name)}" alt="{e(name)}">' for name in plots[protocol] + worst[protocol]]
    made = "".join(f"<li>{e(k)}: {e(str(v))}</li>" for k, v in report["provenance"].items())
    return "\n".join([*parts, f"<h2>Made with</h2><ul>{made}</ul></html>\n"])


def write(report: dict[str, Any], folder: Path, worst: dict[str, list[str]]) -> None:
    """report.md, report.html and plots/ in a folder. worst: names of contact sheets there, by protocol."""
    (folder / "plots").mkdir(exist_ok=True)
    plots: dict[str, list[str]] = {}
    for protocol, part in report["protocols"].items():
        plots[protocol] = []
        for metric in METRICS.values():
            found = [f[metric.name]["mean"] for f in part["figures"].values() if metric.name in f]
            if any(v is not None and math.isfinite(v) for v in found):
                name = f"plots/{protocol}_{metric.name}.svg"
                (folder / name).write_text(plot(report, protocol, metric))
                plots[protocol].append(name)
    (folder / "report.md").write_text(_markdown(report, plots, worst))
    (folder / "report.html").write_text(_html(report, plots, worst))
