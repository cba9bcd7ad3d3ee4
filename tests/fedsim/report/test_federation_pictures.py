"""Pictures of a federation: written without a warning, whatever its size, and true to the numbers they show."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from datasets.build import build_federation
from datasets.federation import Federation
from fedsim.app.show_data import summary
from fedsim.config.settings import Settings
from fedsim.report.federation_pictures import _name_domains, plot_federation, plot_images, plot_labels, plot_longtail


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    """Matplotlib warns where a picture does not fit or a legend is empty."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("clients", [1, 6, 100])
def test_there_are_three_pictures_however_many_clients(
    clients: int, tmp_path: Path, make_federation: Callable[..., Federation]
) -> None:
    plot_federation(make_federation(clients), tmp_path / "plots")
    drawn = {path.name: pixels(path) for path in (tmp_path / "plots").iterdir()}
    assert drawn.keys() == {"labels.png", "longtail.png", "images.png"}
    assert all(len(np.unique(each @ (65536, 256, 1))) > 20 for each in drawn.values())
    assert all(max(each.shape[:2]) < 2000 for each in drawn.values())


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), ["images.png"]),
        (("split=[longtail,domain]", "split.imbalance_factor=0.2"), ["labels.png", "longtail.png", "images.png"]),
        (("split=[domain,shards]", "split.clients_per_domain=2"), ["labels.png", "images.png"]),  # labels, no tail
    ],
)
def test_a_picture_without_meaning_is_not_drawn(
    overrides: tuple[str, ...], expected: list[str], tmp_path: Path, small_settings: Callable[..., Settings]
) -> None:
    federation = build_federation(small_settings(*overrides))
    assert plot_federation(federation, tmp_path) == expected
    assert {path.name for path in tmp_path.iterdir()} == set(expected)
    words = summary(federation)
    assert ("many" in words) == ("longtail.png" in expected)


def test_a_tail_is_divided_by_the_rule_that_was_chosen(
    tmp_path: Path, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Axes] = []
    original = Figure.savefig

    def keep(figure: Figure, *args: Any, **options: Any) -> None:
        drawn.extend(figure.axes)
        original(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    for rule in ("share", "count"):
        plot_longtail(federation, tmp_path / "longtail.png", rule)
    borders = [sum(line.get_linestyle() == ":" for line in axes.lines) for axes in drawn]
    assert borders == [1, 0]  # 24 images of each class: many and medium, or all of them medium


def test_the_darkest_field_is_the_most_frequent_label(
    tmp_path: Path, make_federation: Callable[..., Federation]
) -> None:
    plot_labels(make_federation(4), tmp_path / "labels.png")  # client 3 has three images of class 0, the most
    dark = (pixels(tmp_path / "labels.png").astype(int) == (8, 48, 107)).all(axis=2)  # the end of "Blues"
    rows, columns = np.nonzero(dark[:, : int(0.75 * dark.shape[1])])  # without the colour bar
    assert rows.mean() > 0.6 * dark.shape[0]
    assert columns.mean() < 0.5 * dark.shape[1]


def test_one_image_can_be_told_from_none(tmp_path: Path, make_federation: Callable[..., Federation]) -> None:
    """Two clients and three classes: three fields hold one image, and three none."""
    plot_labels(make_federation(2), tmp_path / "labels.png")
    drawn = pixels(tmp_path / "labels.png").astype(int)
    tint = matplotlib.colormaps["Blues"](0.12, bytes=True)[:3]
    fields = (np.abs(drawn - tint) <= 2).all(axis=2)
    rows, columns = (np.flatnonzero(fields.mean(axis=axis) > 0.1) for axis in (1, 0))
    heat_map = fields[rows.min() : rows.max(), columns.min() : columns.max()]
    assert (255 - np.array(tint)).max() > 20
    assert 0.4 < heat_map.mean() < 0.8  # of the two columns that are not empty, three fields of four


def test_the_clients_of_a_domain_are_numbered() -> None:
    axes = Figure().add_subplot()
    _name_domains(axes, ["north"] * 3 + ["south"] + ["east"] * 2)
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "north 0\N{EN DASH}2",
        "south 3",
        "east 4\N{EN DASH}5",
    ]
    assert axes.get_yticks().tolist() == [1.0, 3.0, 4.5]


def test_the_sheet_shows_the_training_images_of_each_domain(tmp_path: Path, federation: Federation) -> None:
    """Enlarged without smoothing, so the colours of an image are those of the sheet."""
    plot_images(federation, tmp_path / "images.png", columns=4)
    shown = {tuple(pixel) for pixel in pixels(tmp_path / "images.png").reshape(-1, 3)}
    for partition in federation.partitions:
        labels = federation.source.labels[partition.train]
        first_of_class = [partition.train[np.flatnonzero(labels == digit)[0]] for digit in range(4)]
        colours = federation.source.images[first_of_class].transpose(0, 2, 3, 1).reshape(-1, 3)
        assert np.mean([tuple(each) in shown for each in colours]) > 0.9, partition.domain
