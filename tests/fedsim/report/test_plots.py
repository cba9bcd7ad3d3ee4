"""Pictures are written in the size asked for, without a warning, and grow with the numbers they show."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageColor

from fedsim.report.plots import (
    LONGEST,
    picture,
    plot_accuracy,
    plot_clients,
    plot_comparison_by_domain,
    plot_comparison_over_rounds,
    plot_run,
)
from fedsim.report.style import colour

DPI = 130


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    """Matplotlib warns where a picture does not fit or a legend is empty."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def size(path: Path) -> tuple[int, int]:
    height, width, _ = pixels(path).shape
    return width, height


def count(path: Path, colour: str) -> int:
    return int((pixels(path) == ImageColor.getrgb(colour)).all(axis=2).sum())


def client_table(clients: int, accuracy: float, domains: int = 2) -> pd.DataFrame:
    rows = [
        (round, k, f"domain{k % domains}", "test", accuracy * round / 2) for round in range(3) for k in range(clients)
    ]
    return pd.DataFrame(rows, columns=["round", "client", "domain", "split", "accuracy"])


@pytest.mark.parametrize("clients", [1, 6, 100])
def test_a_run_has_two_pictures_of_its_accuracy_however_many_clients(clients: int, tmp_path: Path) -> None:
    rounds = pd.DataFrame(
        {"round": [0, 1, 2], "client_accuracy_mean": [0, None, 0.8], "global_accuracy": [0, None, 0.5]}
    )
    plot_run(client_table(clients, 0.8), rounds, tmp_path / "plots")
    pictures = {path.name: size(path) for path in (tmp_path / "plots").iterdir()}
    assert pictures["accuracy.png"] == (int((8.5 if clients > 1 else 5) * DPI), int(3.4 * DPI))
    if clients > 1:
        assert pictures["clients.png"][0] == int(min(14, 1.5 + 0.6 * clients) * DPI)
    assert len(pictures) == (2 if clients > 1 else 1)  # one bar shows nothing
    assert all(len(np.unique(pixels(tmp_path / "plots" / name) @ (65536, 256, 1))) > 20 for name in pictures)


def test_a_bar_is_as_high_as_its_client_is_accurate(tmp_path: Path) -> None:
    table = client_table(3, 0.75, domains=3)
    table["accuracy"] *= (table["client"] + 1) / 3  # 25, 50 and 75 %
    plot_clients(table, tmp_path / "clients.png")
    heights = [count(tmp_path / "clients.png", colour(number)) for number in range(3)]
    assert heights[0] > 5000
    assert heights[2] - heights[1] == pytest.approx(heights[1] - heights[0], rel=0.03)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """The axes of the pictures that are saved."""
    axes: list[Axes] = []
    original = Figure.savefig

    def keep(figure: Figure, *args: object, **kwargs: object) -> None:
        axes.extend(figure.axes)
        original(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return axes


@pytest.mark.parametrize(
    ("accuracies", "axis", "words"),
    [
        ((0.1, 0.9), (0, 100), "accuracy (%)"),
        ((0.861, 0.869, 0.874), (84, 90), "accuracy (%), axis from 84"),
        ((0.985, 0.999), (96, 100), "accuracy (%), axis from 96"),
        ((0.5, 0.5), (48, 52), "accuracy (%), axis from 48"),
        ((0.02, 0.07), (0, 8), "accuracy (%)"),
        ((0.62, 0.88), (50, 100), "accuracy (%), axis from 50"),
    ],
)
def test_the_axis_is_where_the_differences_are_and_says_so(
    accuracies: tuple[float, ...], axis: tuple[float, float], words: str, tmp_path: Path, drawn: list[Axes]
) -> None:
    rows = [(1, client, "a", "test", accuracy) for client, accuracy in enumerate(accuracies)]
    plot_clients(pd.DataFrame(rows, columns=["round", "client", "domain", "split", "accuracy"]), tmp_path / "x.png")
    assert drawn[0].get_ylim() == axis
    assert drawn[0].get_ylabel() == words


@pytest.mark.parametrize(
    ("curves", "axis"),
    [
        (([0.10, 0.70, 0.861, 0.874], [0.08, 0.862, 0.867, 0.869]), (65, 90)),
        (([0.10, 0.84, 0.861, 0.874], [0.08, 0.862, 0.867, 0.869]), (82, 90)),
        (([0.10, 0.84, 0.861, 0.174], [0.08, 0.862, 0.867, 0.869]), (0, 100)),  # one has fallen
        (([0.995, 0.84, 0.861, 0.874], [0.08, 0.862, 0.867, 0.869]), (80, 100)),  # one was at its peak at once
    ],
)
def test_an_axis_over_rounds_is_where_the_curves_are_after_their_rise(
    curves: tuple[list[float], ...], axis: tuple[float, float], tmp_path: Path, drawn: list[Axes]
) -> None:
    index = pd.Index([0, 2, 5, 10], name="round")
    frames = {str(number): pd.DataFrame({"run": curve}, index=index) for number, curve in enumerate(curves)}
    plot_comparison_over_rounds(frames, tmp_path / "x.png")
    assert drawn[0].get_ylim() == axis


def test_rounds_are_whole_and_no_legend_lies_over_the_lines(tmp_path: Path, drawn: list[Axes]) -> None:
    rounds = pd.DataFrame({"round": [0, 1, 2], "client_accuracy_mean": [0, 0.4, 0.8]})
    plot_accuracy(client_table(2, 0.8), rounds, tmp_path / "accuracy.png")
    for axes in drawn:
        ticks = [tick for tick in axes.get_xticks() if 0 <= tick <= 2]
        assert ticks == [0, 1, 2]
        legend = axes.get_legend()
        assert legend is not None
        assert legend.get_window_extent().y1 < axes.get_window_extent().y0


@pytest.mark.parametrize("name", ["$x_1^2$", "_hidden", "a\\$b$", "\N{CAT}", "q" * 300])
def test_a_name_is_drawn_letter_by_letter(name: str, tmp_path: Path, drawn: list[Axes]) -> None:
    table = client_table(2, 0.8)
    table["domain"] = table["domain"].replace("domain0", name)
    plot_clients(table, tmp_path / "clients.png")
    figure = drawn[0].figure
    assert isinstance(figure, Figure)
    texts = figure.legends[0].get_texts()
    assert len(texts) == 2
    assert not any(text.get_parse_math() for text in texts)
    shown = texts[0].get_text().lstrip("\N{WORD JOINER}")
    assert shown == name if len(name) < 100 else len(shown) < 40
    assert (pixels(tmp_path / "clients.png")[:, :2] == 255).all()


def test_each_domain_has_its_own_colour(tmp_path: Path) -> None:
    plot_clients(client_table(5, 0.8, domains=5), tmp_path / "five.png")
    plot_clients(client_table(5, 0.8, domains=2), tmp_path / "two.png")
    assert [count(tmp_path / "five.png", shade) > 1000 for shade in map(colour, range(6))] == [True] * 5 + [False]
    assert [count(tmp_path / "two.png", shade) > 1000 for shade in map(colour, range(6))] == [True] * 2 + [False] * 4


def comparison(labels: int, std: float = 2.0) -> pd.DataFrame:
    rows = [
        (f"strategy{k} option={k}", domain, 50.0, std) for k in range(labels) for domain in ("plain", "font", "mean")
    ]
    return pd.DataFrame(rows, columns=["label", "domain", "mean", "std"])


@pytest.mark.parametrize("std", [2.0, float("nan")])
def test_a_comparison_has_bars_of_equal_area_for_equal_means(tmp_path: Path, std: float) -> None:
    plot_comparison_by_domain(comparison(3, std), tmp_path / "domains.png")
    areas = [count(tmp_path / "domains.png", shade) for shade in map(colour, range(3))]
    assert min(areas) > 5000
    assert max(areas) < 1.05 * min(areas)


def test_a_domain_that_a_strategy_lacks_has_no_bar(tmp_path: Path) -> None:
    table = comparison(2)
    plot_comparison_by_domain(table.drop(index=[3, 4]), tmp_path / "domains.png")  # all but the mean of the second
    first, second = (count(tmp_path / "domains.png", shade) for shade in map(colour, range(2)))
    assert second == pytest.approx(first / 3, rel=0.1)


def test_a_long_legend_stays_inside_the_picture(tmp_path: Path) -> None:
    plot_comparison_by_domain(comparison(8), tmp_path / "domains.png")
    assert (pixels(tmp_path / "domains.png")[:, :2] == 255).all()
    assert count(tmp_path / "domains.png", colour(0)) > 1000


def test_a_legend_has_every_setting_of_a_row(tmp_path: Path, drawn: list[Axes]) -> None:
    """Of two rows whose middles differ, the middles were cut out."""
    rows = [
        "FedAvg norm.policy=fixbn norm=bn lr=0.03 momentum=0.9",
        "FedAvg norm.policy=silobn norm=bn lr=0.03",
        "FedBN",
    ]
    frame = pd.DataFrame({0: [0.1, 0.4], 1: [0.2, 0.5]}, index=[0, 5])
    plot_comparison_over_rounds(dict.fromkeys(rows, frame), tmp_path / "rounds.png")
    plot_comparison_by_domain(pd.concat([comparison(1).assign(label=row) for row in rows]), tmp_path / "domains.png")
    for axes in drawn:
        texts = axes.figure.legends[0].get_texts()
        assert [text.get_text().replace("\n", " ") for text in texts] == rows
        assert max(len(part) for text in texts for part in text.get_text().split("\n")) <= LONGEST
    for name in ("rounds.png", "domains.png"):
        assert (pixels(tmp_path / name)[:, :2] == 255).all()
        assert (pixels(tmp_path / name)[-2:] == 255).all()


@pytest.mark.parametrize("runs", [1, 3])
def test_curves_show_a_band_only_where_there_are_seeds(tmp_path: Path, runs: int) -> None:
    frame = pd.DataFrame({run: [0.1, 0.4 + 0.1 * run, 0.5 + 0.1 * run] for run in range(runs)}, index=[0, 5, 10])
    plot_comparison_over_rounds({"fedavg": frame, "fedbn": frame[[0]] + 0.3}, tmp_path / "rounds.png")
    assert size(tmp_path / "rounds.png") == (6 * DPI, int(3.4 * DPI))
    band = tuple(round(0.15 * part + 0.85 * 255) for part in ImageColor.getrgb(colour(0)))
    close = (np.abs(pixels(tmp_path / "rounds.png").astype(int) - band) <= 2).all(axis=2).sum()
    assert (close > 1000) == (runs > 1)


def test_a_picture_makes_its_folder_and_leaves_the_style_as_it_was(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    with picture(tmp_path / "a" / "b.png", 2, 1, columns=2) as axes:
        assert len(axes) == 2
    assert size(tmp_path / "a" / "b.png") == (2 * DPI, DPI)
    assert dict(matplotlib.rcParams) == before


def test_colours_repeat_late() -> None:
    assert len({colour(number) for number in range(20)}) == 20
