"""The looks of a page: its style sheet, and the colours of its figures in the light and in the dark."""

from typing import Any

CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1a1a1a; --quiet: #595959; --rule: #d5d5d5; --link: #0060a8; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181b; --ink: #ececec; --quiet: #a8a8a8; --rule: #3a3d42; --link: #7cc0f5; }
}
* { box-sizing: border-box; }
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 68rem; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0.5rem 0; }
h2 { border-top: 1px solid var(--rule); font-size: 1.25rem; margin: 2.2rem 0 0.6rem; padding-top: 0.8rem; }
h3 { font-size: 1rem; margin: 1rem 0 0.3rem; }
p { margin: 0.5rem 0; max-width: 46rem; }
a { color: var(--link); }
nav ul { display: flex; flex-wrap: wrap; gap: 0.3rem 1rem; list-style: none; margin: 0.6rem 0; padding: 0; }
.note, figcaption p { color: var(--quiet); font-size: 0.875rem; }
.wide, pre { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--rule); padding: 0.3rem 0.7rem; text-align: right; white-space: nowrap; }
th[scope=row], thead th:first-child { background: var(--paper); font-weight: normal; left: 0; max-width: 45vw;
  min-width: 7rem; overflow-wrap: break-word; position: sticky; text-align: left; white-space: normal; }
th button { background: none; border: 0; color: inherit; cursor: pointer; font: inherit; font-weight: 600; padding: 0; }
th button::after { content: " \\2195"; color: var(--quiet); font-weight: normal; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
button:focus-visible, summary:focus-visible, a:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
figure { margin: 1.2rem 0 1.8rem; }
.chart { display: block; padding-bottom: 1.4rem; position: relative; width: 100%; }
.chart.vega-embed.has-actions { padding-right: 0; }
.chart.vega-embed summary { bottom: 0; top: auto; }
.chart.vega-embed .vega-actions { bottom: 35px; right: 0; top: auto; }
.chart.vega-embed .vega-actions::before, .chart.vega-embed .vega-actions::after { display: none; }
.choices { display: flex; flex-wrap: wrap; gap: 0.4rem 1.2rem; margin: 0.4rem 0; }
.vega-bind { max-width: 100%; }
.vega-bind label { align-items: center; display: flex; flex-wrap: wrap; gap: 0.4rem; max-width: 100%; }
.vega-bind-name { color: var(--quiet); font-size: 0.875rem; margin: 0; }
.vega-bind select, .vega-bind input { font: inherit; font-size: 0.9375rem; max-width: 100%; min-width: 0; }
.vega-bind select { background: var(--paper); border: 1px solid var(--quiet); border-radius: 4px; color: var(--ink);
  padding: 0.2rem 0.4rem; }
.vega-bind-radio label { margin-right: 0.8rem; }
img { background: #fff; display: block; max-width: 100%; }
pre { font-size: 0.8125rem; }
"""
BLACK, PALE = "#000000", "#FFFFFF"
"""The palette's black, and what it is in the dark"""


def config_of_figures(dark: bool) -> dict[str, Any]:
    """Return Vega's configuration; the palette is that of the pictures, which any colour vision can tell apart."""
    from fedsim.report.style import COLOURS, colour  # loads matplotlib, which a page without figures does not need

    ink, quiet, rule = ("#ececec", "#a8a8a8", "#3a3d42") if dark else ("#1a1a1a", "#595959", "#e2e2e2")
    palette = [colour(number).upper() for number in range(COLOURS)]
    axis = {"labelColor": ink, "titleColor": ink, "gridColor": rule, "domainColor": quiet, "tickColor": quiet}
    letters = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    return {
        "background": "transparent",
        "font": "system-ui, sans-serif",
        "view": {"stroke": None},
        "axis": {**axis, **letters},
        "axisX": {"labelOverlap": "greedy", "labelSeparation": 6},
        "axisXQuantitative": {"tickCount": 8},
        "axisBand": {"grid": False},
        "legend": {"labelColor": ink, "titleColor": ink, **letters},
        "range": {"category": [PALE if dark and each == BLACK else each for each in palette]},
        "rule": {"color": ink},
        "tick": {"color": ink},
        "text": {"color": ink, "fontSize": 12},
        "mark": {"invalid": "filter"},
    }
