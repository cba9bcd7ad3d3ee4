"""The picture of the classes draws what the table says."""

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedsim.report.class_pictures import plot_classes


def table(shots: tuple[str, ...], layers: tuple[str, ...], classes: int = 3) -> pd.DataFrame:
    rows = [
        {
            "round": round,
            "class": f"c{c}",
            "train_images": 10 * (c + 1),
            "shot": shots[c % len(shots)],
            "num_examples": 5,
            "accuracy": 0.1 * (c + round) / classes,
            "realigned_accuracy": 0.5,
            **{f"{layer}_{what}": 1.0 + c + round for layer in layers for what in ("norm", "angle", "nearest")},
        }
        for round in (0, 2)
        for c in range(classes)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    axes: list[Axes] = []
    original = Figure.savefig

    def keep(figure: Figure, *args: object, **kwargs: object) -> None:
        axes.extend(figure.axes)
        original(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return axes


def test_classes_stand_in_the_order_of_their_images(tmp_path: Path, drawn: list[Axes]) -> None:
    plot_classes(table(("few", "medium", "many"), ("a", "b")), tmp_path / "classes.png")
    bars, norms, angles = drawn
    assert [text.get_text() for text in bars.get_xticklabels()] == ["c2", "c1", "c0"]
    assert [bar.get_height() for bar in bars.patches] == pytest.approx([100 * 0.1 * (c + 2) / 3 for c in (2, 1, 0)])
    assert len(norms.lines) == len(angles.lines) == 6  # three groups, two classifiers
    assert list(norms.lines[0].get_xdata()) == [0, 2]
    assert list(norms.lines[0].get_ydata()) == [3.0, 5.0]  # many: class 2


def test_without_a_tail_there_is_nothing_of_rows(tmp_path: Path, drawn: list[Axes]) -> None:
    classes = table(("",), ("head",))
    plot_classes(classes, tmp_path / "classes.png")
    (bars,) = drawn
    assert bars.get_title() == "global model, round 2"


def test_many_classes_and_no_classifier_have_a_picture_too(tmp_path: Path, drawn: list[Axes]) -> None:
    classes = table(("many",), (), classes=100).drop(columns="realigned_accuracy")
    plot_classes(classes, tmp_path / "classes.png")
    assert len(drawn) == 1
    assert drawn[0].get_xlabel() == "classes, the largest first"
