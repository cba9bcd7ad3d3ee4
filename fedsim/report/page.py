"""``report.html``: one run on one page, with embedded pictures, so that the file can be sent alone."""

import base64
from html import escape
from pathlib import Path

import pandas as pd

from fedsim.core.files import write_atomically
from fedsim.output.results import Result, read_result
from fedsim.report.run_table import run_cells

STYLE = """
body { font-family: sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; }
table { border-collapse: collapse; }
th, td { padding: 0.2em 0.8em; border-bottom: 1px solid #ccc; text-align: right; }
tbody th { text-align: left; font-weight: normal; }
img { display: block; max-width: 100%; }
pre, .wide { overflow-x: auto; }
"""
HEADINGS = {
    "accuracy": "Accuracy over rounds",
    "clients": "Accuracy of each client",
    "classes": "Accuracy of each class",
    "labels": "Training images of each client and class",
    "longtail": "Training images of each class",
    "images": "Training images of each domain",
    "diagnostics": "Diagnostics",
}
"""Headings of a run's pictures, in the order of the page; other pictures follow under the names of their files."""
PAGE = "report.html"
"""The last file that a run writes: where it is, the run is finished."""


def write_html(run_dir: Path) -> None:
    """Write ``report.html``: the final numbers, the pictures and the settings of a run."""
    result = read_result(run_dir)
    config = (run_dir / "config.yaml").read_text(encoding="utf-8")
    text = page(result, _pictures(run_dir), config)
    write_atomically(run_dir / PAGE, lambda path: path.write_text(text, encoding="utf-8"))


def page(result: Result, pictures: dict[str, bytes], config: str) -> str:
    """Return the document; ``pictures`` are PNG files by their names without the suffix."""
    head = escape(f"{result.summary['strategy']} on {result.summary['dataset']}")
    sections = [
        f"<h2>{escape(HEADINGS.get(name, name))}</h2>\n"
        f'<img src="data:image/png;base64,{base64.b64encode(data).decode()}" alt="{escape(HEADINGS.get(name, name))}">'
        for name, data in pictures.items()
    ]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{head}</title>",
            f"<style>{STYLE}</style>",
            "</head>",
            "<body>",
            f"<h1>{head}</h1>",
            "<h2>Accuracy (%)</h2>",
            _table(run_cells(result)),
            *sections,
            "<h2>Configuration</h2>",
            f"<pre>{escape(config)}</pre>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _table(cells: pd.DataFrame) -> str:
    """Return an HTML table; names are isolated with ``bdi``, since they may be written from right to left."""
    heads = "".join(f'<th scope="col"><bdi>{escape(name)}</bdi></th>' for name in cells.columns)
    rows = [
        f'<tr><th scope="row">{escape(str(row))}</th>' + "".join(f"<td>{value}</td>" for value in values) + "</tr>"
        for row, values in zip(cells.index, cells.to_numpy(), strict=True)
    ]
    body = "\n".join(rows)
    head = f"<thead><tr><td></td>{heads}</tr></thead>"
    return f'<div class="wide"><table>\n{head}\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _pictures(run_dir: Path) -> dict[str, bytes]:
    order = list(HEADINGS)
    files = {path.stem: path for path in sorted((run_dir / "plots").glob("*.png"))}
    names = sorted(files, key=lambda name: order.index(name) if name in order else len(order))
    return {name: files[name].read_bytes() for name in names}
