"""Pictures for papers and slides: as PDF, too, larger letters on slides, and told apart without colours."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from fedsim.report.plots import plot_comparison_by_domain, plot_comparison_over_rounds
from fedsim.report.style import STYLES, bar, colour, drawn_as, files, line, style

CURVES = {
    name: pd.DataFrame({0: [0.1, 0.2 + shift, 0.5], 1: [0.1, 0.3 + shift, 0.6]})
    for name, shift in (("FedAvg", 0.0), ("FedBN", 0.1), ("SCAFFOLD", 0.2))
}
BARS = pd.DataFrame([(name, "mean", 50.0, 2.0) for name in CURVES], columns=["label", "domain", "mean", "std"])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """The axes of the pictures that are saved."""
    axes: list[Axes] = []
    original = Figure.savefig

    def keep(figure: Figure, *args: object, **kwargs: object) -> None:
        axes[:] = figure.axes
        original(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return axes


@pytest.mark.parametrize("name", STYLES)
def test_each_style_writes_its_forms(name: str, tmp_path: Path) -> None:
    with drawn_as(name):
        plot_comparison_over_rounds(CURVES, tmp_path / "x.png")
        written = files("x.png")
    assert written == (["x.png"] if name == "screen" else ["x.png", "x.pdf"])
    assert {path.name for path in tmp_path.iterdir()} == set(written)
    with Image.open(tmp_path / "x.png") as image:
        dots = {"screen": 130 * 6, "paper": 300 * 6, "talk": 300 * 6 * 0.72}[name]
        assert image.width == round(dots)
    if name != "screen":
        pdf = (tmp_path / "x.pdf").read_bytes()
        assert pdf.startswith(b"%PDF")
        assert b"/Type3" not in pdf  # fonts that journals refuse
    assert style() is STYLES["screen"]  # again


@pytest.mark.parametrize("name", ["paper", "talk"])
def test_lines_and_bars_differ_without_colours(name: str, tmp_path: Path, drawn: list[Axes]) -> None:
    with drawn_as(name):
        plot_comparison_over_rounds(CURVES, tmp_path / "x.png")
        lines = drawn[0].get_lines()
        assert len({(each.get_linestyle(), each.get_marker()) for each in lines}) == 3
        assert all(tick == int(tick) for tick in drawn[0].get_xticks())
        legend = [text.get_text() for text in drawn[0].figure.legends[0].get_texts()]
        assert legend == list(CURVES)
        plot_comparison_by_domain(BARS, tmp_path / "y.png")
        assert len({patch.get_hatch() for patch in drawn[0].patches}) == 3
        assert [text.get_text() for text in drawn[0].figure.legends[0].get_texts()] == legend
        lines_of_eight = [line(number, 60) for number in range(8)]
        assert len({(str(each["linestyle"]), each["marker"]) for each in lines_of_eight}) == 8
        assert len({bar(number)["hatch"] for number in range(8)}) == 8


def test_on_a_screen_nothing_but_the_colour_differs_up_to_eight() -> None:
    assert [(line(number, 60)["marker"], line(number, 60)["linestyle"]) for number in range(8)] == [(None, "-")] * 8
    assert [bar(number) for number in range(8)] == [{"color": colour(number)} for number in range(8)]


def test_on_a_screen_the_ninth_has_the_first_colour_and_dashes() -> None:
    """A colour of its own would be like one of the eight: the ninth was a blue beside the first one's."""
    assert line(8, 60) == {"color": colour(0), "linestyle": "--", "marker": None}
    assert (bar(8)["color"], bar(8)["hatch"]) == (colour(0), "///")
    many = range(40)
    assert len({(line(number, 60)["color"], str(line(number, 60)["linestyle"])) for number in many}) == 40
    assert len({(bar(number)["color"], bar(number).get("hatch")) for number in many}) == 40


def test_a_band_is_one_deviation_over_seeds(tmp_path: Path, drawn: list[Axes]) -> None:
    plot_comparison_over_rounds({"FedAvg": CURVES["FedAvg"]}, tmp_path / "x.png")
    corners = drawn[0].collections[0].get_paths()[0].vertices
    last = corners[corners[:, 0] == 2][:, 1]
    assert (last.min(), last.max()) == pytest.approx((55 - 50**0.5, 55 + 50**0.5))


def test_a_long_title_fits_a_slide(tmp_path: Path, drawn: list[Axes]) -> None:
    with drawn_as("talk"):
        plot_comparison_over_rounds(CURVES, tmp_path / "x.png")
    box = drawn[0].title.get_window_extent()
    assert box.x1 <= drawn[0].figure.bbox.x1
    assert box.x0 >= 0


def test_the_first_colours_have_different_shades_of_grey() -> None:
    """So that few methods can be told apart in grey by colour alone."""
    greys = sorted(float(np.dot(to_rgb(colour(number)), (0.2126, 0.7152, 0.0722))) for number in (0, 1, 4, 6, 7))
    assert min(np.diff(greys)) > 0.04
