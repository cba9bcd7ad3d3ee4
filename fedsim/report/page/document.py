"""The HTML document of a page, complete in one file: nothing in it is fetched from anywhere."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from fedsim.report.page.behaviour import SCRIPT
from fedsim.report.page.figure import Figure
from fedsim.report.page.look import CSS, config_of_figures
from fedsim.report.page.script import plotting_script
from fedsim.report.page.thinning import TOLD

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; img-src data: blob:"
"""What the browser allows the page: its own style and scripts, and no address. Vega compiles its expressions."""
DIGITS = 6
"""Significant digits of the numbers that figures are drawn from"""


@dataclass(frozen=True)
class Section:
    """A section of a page: texts, then HTML that is already escaped, then figures."""

    name: str
    title: str
    notes: Sequence[str] = ()
    html: str = ""
    figures: Sequence[Figure] = ()
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """What the figures are drawn from"""


def document(title: str, sections: Sequence[Section]) -> str:
    """Return the text of the file."""
    tables = {name: table for each in sections for name, table in each.tables.items()}
    data = {
        "tables": {name: packed(table) for name, table in tables.items()},
        "figures": {each.name: {"data": each.data, "spec": each.spec()} for one in sections for each in one.figures},
        "configs": {"light": config_of_figures(dark=False), "dark": config_of_figures(dark=True)} if tables else {},
    }
    links = "".join(f'<li><a href="#{each.name}">{escape(each.title)}</a></li>' for each in sections)
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>{CSS}</style>",
            "</head>",
            "<body>",
            f"<h1>{escape(title)}</h1>",
            f'<nav aria-label="sections"><ul>{links}</ul></nav>',
            *(_section(each, tables) for each in sections),
            f'<script type="application/json" id="page-data">{in_json(data)}</script>',
            *([f"<script>{plotting_script()}</script>"] if tables else []),
            f"<script>{SCRIPT}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def in_json(value: Any) -> str:
    """Return JSON in which no text can end the element that it stands in."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def packed(table: pd.DataFrame) -> dict[str, Any]:
    """Return a table by columns; names as the list of different ones and a number for each row, to be small."""
    return {str(name): _packed(table[name]) for name in table}


def _packed(column: pd.Series) -> Any:
    if not pd.api.types.is_numeric_dtype(column):
        codes, levels = pd.factorize(column)
        return {"levels": [str(level) for level in levels], "codes": codes.tolist()}
    if pd.api.types.is_integer_dtype(column):
        return column.tolist()
    values = column.to_numpy(dtype=float)
    known = np.isfinite(values)
    return [float(f"{value:.{DIGITS}g}") if there else None for value, there in zip(values, known, strict=True)]


def _section(section: Section, tables: Mapping[str, pd.DataFrame]) -> str:
    notes = [f'<p class="note">{escape(note)}</p>' for note in section.notes]
    figures = [_figure(each, tables[each.data].attrs.get(TOLD)) for each in section.figures]
    head = f'<section id="{section.name}"><h2>{escape(section.title)}</h2>'
    return "\n".join([head, *notes, section.html, *figures, "</section>"])


def _figure(figure: Figure, told: str | None) -> str:
    note = f"<p>{escape(told)}</p>" if told else ""
    caption = f"<figcaption><h3>{escape(figure.title)}</h3>{note}</figcaption>"
    return f'<figure>{caption}<div class="choices"></div><div class="chart" data-figure="{figure.name}"></div></figure>'
