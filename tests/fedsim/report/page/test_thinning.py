"""What is left out of a page of a large run, and what is drawn as one."""

import numpy as np
import pandas as pd
import pytest

from fedsim.report.page.thinning import MOST_CELLS, MOST_ROWS, Bins, every_few, named_bins


def test_the_first_and_the_last_round_stay() -> None:
    rounds = pd.Series(np.repeat(np.arange(0, 1001, 5), 2))
    kept = rounds[every_few(rounds, 7)]
    assert kept.nunique() == 7
    assert kept.min() == 0
    assert kept.max() == 1000
    assert len(kept) == 14
    assert every_few(rounds, 201).all()


def test_cells_are_means_of_what_is_known() -> None:
    table = pd.DataFrame([[1.0, 2, 3], [3, 4, np.nan], [5, np.nan, np.nan]], index=[4, 5, 6], columns=[0, 10, 20])
    means = Bins(2, 2).mean(table)
    assert means.index.tolist() == [4, 6]
    assert means.columns.tolist() == [0, 20]
    assert means.iloc[0].tolist() == [2.5, 3.0]
    assert means.iloc[1, 0] == 5.0
    assert np.isnan(means.iloc[1, 1])
    assert named_bins(table.index, 2) == ["4–5", "6"]
    assert named_bins(table.index, 1) == ["4", "5", "6"]


@pytest.mark.parametrize(
    ("shape", "maps"), [((1000, 500), 1), ((1000, 500), 12), ((1000, 500), 100), ((7, 100_000), 3), ((100_000, 3), 2)]
)
def test_all_heat_maps_of_a_page_are_small(shape: tuple[int, int], maps: int) -> None:
    bins = Bins.of_all([pd.DataFrame(np.zeros(shape))] * maps)
    rows, columns = -(-shape[0] // bins.rows), -(-shape[1] // bins.columns)
    assert rows <= MOST_ROWS
    assert rows * columns * maps <= MOST_CELLS
    assert rows * bins.rows < shape[0] + bins.rows


def test_a_small_run_is_drawn_as_it_is() -> None:
    table = pd.DataFrame(np.random.default_rng(0).random((100, 100)))
    assert Bins.of_all([table] * 3) == Bins(1, 1)
    assert Bins(1, 1).mean(table).equals(table)
