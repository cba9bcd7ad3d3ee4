"""What the figures of a page are made of: choices, lines with bands, heat maps and legends that fit a phone."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

PERCENT = ".1%"
HEIGHT = 280
PHONE = 320
"""Pixels that a figure has on a phone"""
LETTER = 6.6
SYMBOL = 28
"""Pixels of a letter and of the symbol beside it, in a legend"""
LONGEST_LEGEND = 300
MANY = 500
"""Marks from which on a figure is drawn as pixels, and its points are small or left out"""
LINE = 13
"""Pixels of a line of a label"""
LEAST_ROW = 44
"""Pixels of a row of points or bars"""
WHOLE = "floor(datum.value) === datum.value ? format(datum.value, 'd') : ''"
"""The label of an axis of rounds, of which there is no half"""
PLAINLY = "abs(datum.value) >= 10000 ? format(datum.value, '.3~s') : format(datum.value, '.4~r')"
"""The label of an axis whose numbers may be of any size; small ones have no prefix such as m for a thousandth"""


def chart_of(data: str) -> Any:
    return alt.Chart(alt.NamedData(data)).properties(width="container", height=HEIGHT)


def choice(name: str, words: str, options: Mapping[str, str] | Sequence[str]) -> Any:
    """Return a parameter that the reader chooses, from values and what they are called; fixed where there is one."""
    shown = dict(options) if isinstance(options, Mapping) else {each: each for each in options}
    values = list(shown)
    if len(values) == 1:
        return alt.param(name=name, value=values[0])
    menu = alt.binding_select(options=values, labels=list(shown.values()), name=f"{words}: ")
    return alt.param(name=name, value=values[0], bind=menu)


def names_axis() -> Any:
    """Return an axis for labels of runs, which are long: a line for each of their settings."""
    return alt.Axis(labelLimit=150, labelExpr="split(datum.label, ' ')", labelLineHeight=LINE, labelBaseline="middle")


def row_height(names: Sequence[str], least: int = LEAST_ROW) -> int:
    """Return how many pixels a row of such an axis needs."""
    return max(least, LINE * max(name.count(" ") + 2 for name in names))


def colour_of(field: str, values: Sequence[str], least: int = 2) -> Any:
    """Return a colour by name, with a legend below in as many columns as a phone has room for.

    With fewer than ``least`` names there is no legend.
    """
    letters = max((len(value) for value in values), default=1)
    columns = max(1, int(PHONE / (SYMBOL + LETTER * min(letters, LONGEST_LEGEND / LETTER))))
    legend = alt.Legend(orient="bottom", columns=columns, title=None, labelLimit=LONGEST_LEGEND, symbolOpacity=1)
    return alt.Color(
        f"{field}:N", scale=alt.Scale(domain=list(values)), legend=legend if len(values) >= least else None
    )


def mean_over_seeds(chart: Any, *by: str, form: str = PERCENT) -> Any:
    """Return the chart with the rows of all seeds as one: *mean*, and one sample standard deviation on both sides."""
    return (
        chart.transform_aggregate(mean="mean(value)", std="stdev(value)", runs="count()", groupby=list(by))
        .transform_calculate(deviation="isValid(datum.std) ? datum.std : 0")
        .transform_calculate(
            low="datum.mean - datum.deviation",
            high="datum.mean + datum.deviation",
            shown=f"format(datum.mean, '{form}') + (datum.runs > 1 ? ' ± ' + format(datum.deviation, '{form}') : '')",
        )
    )


def lines(base: Any, field: str, values: Sequence[str], title: str = "accuracy", form: str = "~%") -> Any:
    """Return a line over rounds for each of some names, with a band of one standard deviation and values to hover."""
    x = alt.X("round:Q", axis=alt.Axis(labelExpr=WHOLE), scale=alt.Scale(nice=False), title="round")
    scale = alt.Scale(zero=False)
    colour = colour_of(field, values)
    picked = alt.selection_point(name="picked", fields=[field], bind="legend", toggle="true")
    near = alt.selection_point(name="near", nearest=True, on="pointerover", fields=["round", field], empty=False)
    y = alt.Y("mean:Q", title=title, axis=alt.Axis(format=form) if form else alt.Axis(labelExpr=PLAINLY), scale=scale)
    band = base.mark_area(strokeWidth=0).encode(
        x,
        alt.Y("low:Q", scale=scale, title=title),
        alt.Y2("high:Q"),
        colour,
        opacity=alt.when(picked).then(alt.value(0.18)).otherwise(alt.value(0.02)),
    )
    line = base.mark_line(strokeWidth=2).encode(
        x, y, colour, opacity=alt.when(picked).then(alt.value(1)).otherwise(alt.value(0.12))
    )
    told = [alt.Tooltip(f"{field}:N"), alt.Tooltip("round:Q"), alt.Tooltip("shown:N", title=title)]
    points = base.mark_point(filled=True, size=70).encode(
        x, y, colour, tooltip=told, opacity=alt.when(near).then(alt.value(1)).otherwise(alt.value(0))
    )
    return alt.layer(band, line.add_params(picked), points.add_params(near))


def heat_map(base: Any, row: Any, column: Any, title: str, tooltip: Sequence[Any], **scale: Any) -> Any:
    """Return a heat map of *value*, in the colours of the pictures, with the scale above it."""
    legend = alt.Legend(orient="top", gradientLength=200, title=title, format=scale.pop("form", "~s"))
    colour = alt.Color("value:Q", scale=alt.Scale(scheme="cividis", **scale), legend=legend)
    edge = alt.ExprRef("scale('color', datum.value)")  # else hairlines of the background shine through
    return base.mark_rect(stroke=edge, strokeWidth=0.5).encode(column, row, colour, tooltip=list(tooltip))
