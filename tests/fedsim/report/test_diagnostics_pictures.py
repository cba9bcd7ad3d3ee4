"""The pictures are drawn from the table alone; what is written in a cell is short."""

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.image import imread

from fedsim.report.diagnostics_pictures import _short, plot_diagnostics, plot_diagnostics_comparison


def table(sites: int, rounds: int) -> pd.DataFrame:
    apart = ["kl_clients_before", "kl_clients_training", "kl_clients_after", "kl_training"]
    rows = [
        (10 * round, f"site{site}", metric, 0.1 * (site + 1))
        for round in range(rounds)
        for site in range(sites)
        for metric in (*apart, "mean_shift_after", "dead")
    ]
    rows += [(10 * round, "head", name, 0.5) for round in range(rounds) for name in ("nc1", "nc3", "nc4")]
    return pd.DataFrame(rows, columns=["round", "layer", "metric", "value"])


@pytest.mark.parametrize(("sites", "rounds"), [(1, 1), (3, 7), (40, 30), (0, 2)])
def test_any_number_of_layers_and_rounds_can_be_drawn(tmp_path: Path, sites: int, rounds: int) -> None:
    """Also without updates (round 0 alone), and for a network without a norm layer."""
    plot_diagnostics(table(sites, rounds), tmp_path / "one.png")
    height, width, _ = imread(tmp_path / "one.png").shape
    assert 500 < height < 2500
    assert 1000 < width < 2500


def test_a_row_for_each_run(tmp_path: Path) -> None:
    heights = []
    for count in (1, 3):
        plot_diagnostics_comparison({f"run {k}": table(3, 4) for k in range(count)}, tmp_path / "runs.png")
        heights.append(imread(tmp_path / "runs.png").shape[0])
    assert heights[1] > 1.5 * heights[0]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((171.4, "171"), (9.96, "10"), (2.55, "2.5"), (0.999, "1.0"), (0.25, ".25"), (-0.25, "-.25")),
        *((0.004, "4e-3"), (0.0, "0"), (1e-5, ".00"), (0.0097, ".01"), (float("nan"), ""), (float("inf"), "")),
    ],
)
def test_numbers_in_cells_are_short(value: float, text: str) -> None:
    assert _short(value) == text
