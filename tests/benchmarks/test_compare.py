"""Contestants of `python benchmarks/compare.py` do the same work; how fast they are is not tested."""

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.compare import FIGURES, main, with_ratios
from benchmarks.contestants.cases import CASES

TOLD = ["repetition", "case", "contestant", "workers", "rounds", "clients", "images", "first_loss", "last_loss"]


@pytest.mark.nightly
@pytest.mark.slow
def test_a_bare_loop_and_fedsim_train_the_same_images(tmp_path: Path) -> None:
    table_file = tmp_path / "compare.csv"
    contestants = ["--contestants", "bare", "fedsim_lean"]
    main(["--case", "toy", *contestants, "--rounds", "2", "--repeat", "1", "--csv", str(table_file)])
    table = pd.read_csv(table_file)
    assert set(table) == {*TOLD, *FIGURES}
    assert list(table["contestant"]) == ["bare", "fedsim_lean"]
    assert list(table["images"]) == [2 * CASES["toy"].clients * CASES["toy"].images] * 2
    assert (table["last_loss"] < table["first_loss"]).all()
    assert table["ratio_to_bare"][0] == 1
    assert (table[list(FIGURES)] > 0).all(axis=None)


def test_ratios_are_formed_inside_a_repetition() -> None:
    rows = [("toy", 0, "bare", 4.0), ("toy", 0, "pfl", 2.0), ("toy", 1, "pfl", 3.0), ("small", 1, "bare", 9.0)]
    table = with_ratios(pd.DataFrame(rows, columns=["case", "repetition", "contestant", "rounds_per_second"]))
    assert table["ratio_to_bare"].fillna(-1).tolist() == [1, 0.5, -1, 1]
