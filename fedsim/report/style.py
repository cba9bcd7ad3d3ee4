"""The looks of pictures: on a screen, in a paper (``--style paper``) or on slides (``--style talk``).

Colours can be told apart with any colour vision; from the ninth line or bar on they repeat, dashed or hatched. In a
paper and on slides, all lines also differ by dashes and markers, and bars by hatching, so that they can be told apart
in grey. The order of legends and colours is that of the table beside the pictures.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import matplotlib
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

SCREEN = "screen"
_SETTINGS: dict[Any, Any] = {
    "figure.dpi": 130,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "text.parse_math": False,  # a name may hold $ and ^
    "hatch.linewidth": 0.4,
}
# Okabe & Ito's colours, which people with any colour vision can distinguish.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
_DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1)), (0, (1, 1)))
_MARKERS = "osD^vPX*"
_HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "ooo", "+++")
COLOURS = len(_COLOURS) + 20
"""Number of different colours; beyond it they repeat."""
MARKERS_PER_LINE = 8


@dataclass(frozen=True)
class Style:
    """How pictures are drawn and written."""

    formats: tuple[str, ...] = ("png",)
    scale: float = 1.0
    """Of the picture in inches: letters are of the same size in a smaller picture, and so are larger on a slide"""
    grey: bool = False
    """Whether lines and bars differ by more than their colour"""
    settings: dict[Any, Any] = field(default_factory=dict)
    """Of Matplotlib, beside those of every style"""


STYLES = {
    SCREEN: Style(),
    "paper": Style(
        ("png", "pdf"),
        grey=True,
        settings={
            "figure.dpi": 300,
            "font.family": "serif",
            "lines.linewidth": 1.2,
            "axes.linewidth": 0.6,
            "pdf.fonttype": 42,
            "grid.linewidth": 0.4,  # letters that a journal's checks accept
        },
    ),
    "talk": Style(
        ("png", "pdf"),
        scale=0.72,
        grey=True,
        settings={"figure.dpi": 300, "lines.linewidth": 2.2, "axes.linewidth": 1.0, "pdf.fonttype": 42},
    ),
}
_current: ContextVar[str] = ContextVar("style", default=SCREEN)
_kept: ContextVar[dict[str, Figure] | None] = ContextVar("kept", default=None)


@contextmanager
def drawn_as(name: str) -> Iterator[None]:
    """Draw the pictures of the block in the style of that name."""
    token = _current.set(name)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def kept_in_memory() -> Iterator[dict[str, Figure]]:
    """Keep the pictures of the block in place of writing them; yield where they come by their names."""
    figures: dict[str, Figure] = {}
    token = _kept.set(figures)
    try:
        yield figures
    finally:
        _kept.reset(token)


def kept() -> dict[str, Figure] | None:
    """Return where pictures are kept now; ``None`` if they are written to files."""
    return _kept.get()


def style() -> Style:
    """Return the style in which pictures are drawn now."""
    return STYLES[_current.get()]


def settings(fonts: list[str]) -> dict[Any, Any]:
    """Return Matplotlib's settings of the current style; ``fonts`` are those that have all letters."""
    mine = style().settings
    serif = ["DejaVu Serif"] if mine.get("font.family") == "serif" else []
    return {**_SETTINGS, **mine, "font.family": [*serif, *fonts]}


def files(name: str) -> list[str]:
    """Return the files that a picture is written to, as ``grid.png`` and ``grid.pdf``."""
    return [f"{name.rpartition('.')[0]}.{form}" for form in style().formats]


def colour(number: int) -> str:
    """Return a colour for the n-th line or bar; beyond the eighth from a longer, less distinct list."""
    if number < len(_COLOURS):
        return _COLOURS[number]
    return to_hex(matplotlib.colormaps["tab20"]((number - len(_COLOURS)) % 20))


def mark(points: int) -> str | None:
    """Return the marker of a line: a line of one or two points needs one to be visible."""
    return "o" if points <= 2 else None


def line(number: int, points: int) -> dict[str, Any]:
    """Return the options of ``Axes.plot`` for the n-th of several lines of so many points."""
    if not style().grey:
        again, first = divmod(number, len(_COLOURS))
        return {"color": colour(first), "linestyle": _DASHES[again % len(_DASHES)], "marker": mark(points)}
    return {
        "color": colour(number),
        "linestyle": _DASHES[number % len(_DASHES)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "markersize": 4,
        "markevery": max(1, points // MARKERS_PER_LINE),
        "markerfacecolor": "white" if number // len(_MARKERS) % 2 else colour(number),
    }


def bar(number: int) -> dict[str, Any]:
    """Return the options of ``Axes.bar`` for the n-th of several kinds of bars."""
    if not style().grey:
        again, first = divmod(number, len(_COLOURS))
        hatched = {"hatch": _HATCHES[again % len(_HATCHES)], "edgecolor": "white", "linewidth": 0}
        return {"color": colour(first), **(hatched if again else {})}
    return {"color": colour(number), "hatch": _HATCHES[number % len(_HATCHES)], "edgecolor": "white", "linewidth": 0}
