"""The sections of a page that are words and tables: what was run, what came out, the images and all settings."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

import pandas as pd

from fedsim.core.files import reading
from fedsim.output.results import Result
from fedsim.report.comparison_tables import accuracy_by_seed, accuracy_table, cells
from fedsim.report.heads import is_total
from fedsim.report.page.document import Section
from fedsim.report.page.frames import Groups, numbered
from fedsim.report.page.tables import Cell, html_table, of_texts
from fedsim.report.run_difference import differing_settings
from fedsim.report.run_table import run_cells
from fedsim.report.significance import sentences

MOST_CONFIGURATIONS = 20
LARGEST_PICTURE = 1_000_000
"""Bytes of a picture that a page still takes in"""
OF_ALL = ("dataset", "model", "norm")
"""Settings of ``summary.json`` that the first sentence names where all runs agree in them"""


def what_was_run(groups: Groups) -> Section:
    """Return the section of the runs, the versions that they ran with, and the settings in which they differ."""
    runs = [run for _, _, run in numbered(groups)]
    labels = [method for method, _, _ in numbered(groups)]
    facts = [(label, _facts(run)) for label, run in zip(labels, runs, strict=True)]
    html = [html_table("method", ["seed", "rounds", "seconds", "MB down", "MB up", "folder"], facts)]
    if len(runs) > 1:
        differing = differing_settings({str(number): run for number, run in enumerate(runs)}).T
        table = of_texts("method", differing.set_axis(labels, axis="index"))
        html += ["<h3>Settings that differ</h3>", table if differing.shape[1] else "<p>None.</p>"]
    return Section("run", "What was run", [_in_common(runs), *_versions(runs)], "\n".join(html))


def _facts(run: Result) -> list[Cell]:
    summary = run.summary
    reached, asked = summary["final"]["round"], summary["rounds"]
    numbers = [summary.get("seconds"), *(summary.get(name) for name in ("bytes_down", "bytes_up"))]
    scaled = [value if value is None or not place else value / 1e6 for place, value in enumerate(numbers)]
    return [
        Cell(str(summary["seed"]), summary["seed"]),
        Cell(str(reached) if reached == asked else f"{reached} of {asked}", reached),
        *(Cell("", None) if value is None else Cell(f"{value:,.1f}", value) for value in scaled),
        Cell(run.run_dir.name),
    ]


def _in_common(runs: Sequence[Result]) -> str:
    same = {name: {str(run.summary.get(name)) for run in runs} for name in OF_ALL}
    words = [f"{name} {values.pop()}" for name, values in same.items() if len(values) == 1 and values != {"None"}]
    return f"{len(runs)} run{'s' if len(runs) > 1 else ''}{': ' if words else ''}{', '.join(words)}."


def _versions(runs: Sequence[Result]) -> list[str]:
    """Return a sentence for each set of versions that any of the runs had."""
    told = dict.fromkeys(
        ", ".join(
            [
                *(f"{name} {version}" for name, version in run.summary.get("versions", {}).items()),
                *([f"commit {run.summary['commit']}"] if run.summary.get("commit") else []),
            ]
        )
        for run in runs
    )
    return [f"Made with {words}." for words in told if words]


def results(groups: Groups) -> Section:
    """Return the section of the accuracies after the last round, as the terminal shows them."""
    runs = [run for _, _, run in numbered(groups)]
    if len(runs) == 1:
        return Section("results", "Accuracy (%)", html=of_texts("whose", run_cells(runs[0])))
    table = accuracy_table(dict(groups))
    shown = cells(table)
    means = table.pivot(index="label", columns="domain", values="mean")
    columns = sorted(shown.columns, key=is_total)
    rows = [
        (str(label), [_of_mean(shown.loc[label, name], means.loc[label, name]) for name in columns])
        for label in shown.index
    ]
    told = sentences({label: accuracy_by_seed(each) for label, each in groups.items()})
    return Section("results", "Accuracy after the last round (%)", told, html_table("method", columns, rows))


def _of_mean(text: str, mean: float) -> Cell:
    return Cell(text, None if pd.isna(mean) else float(mean))


def images(groups: Groups) -> Section | None:
    """Return the section with the picture of the images, where one run is told of and has drawn it."""
    runs = [run for _, _, run in numbered(groups)]
    path = runs[0].run_dir / "plots" / "images.png"
    if len(runs) > 1 or not path.is_file() or path.stat().st_size > LARGEST_PICTURE:
        return None
    with reading(path):
        data = base64.b64encode(path.read_bytes()).decode("ascii")
    title = "Training images of each domain"
    return Section("images", title, html=f'<img src="data:image/png;base64,{data}" alt="{escape(title)}">')


def all_settings(groups: Groups) -> Section:
    """Return the section with the configuration of each method's first run."""
    shown = list(groups.items())[:MOST_CONFIGURATIONS]
    parts = [
        f"<details><summary>{escape(label)}, seed {runs[0].summary['seed']}</summary>"
        f"<pre>{escape(_text(runs[0].run_dir / 'config.yaml'))}</pre></details>"
        for label, runs in shown
    ]
    told = ["Of the first run of each method."] if len(groups) < sum(map(len, groups.values())) else []
    if len(shown) < len(groups):
        told.append(f"Of {len(groups)} methods the first {len(shown)} are shown.")
    return Section("settings", "All settings", told, "\n".join(parts))


def _text(path: Path) -> str:
    with reading(path):
        return path.read_text(encoding="utf-8")
