"""``python -m datasets.show``: what it prints and writes is what the clients hold."""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from datasets.build import build_federation
from fedsim.app.show_data import imbalance_factor, main
from fedsim.config.composition import compose, repeatable
from fedsim.config.settings import Settings
from fedsim.output.federation_table import clients_table, label_entropy

ROOT = Path(__file__).parent.parent.parent.parent
SMALL = ("dataset.train_per_domain=40", "dataset.test_per_domain=20")


def test_entropy_is_that_of_the_shares() -> None:
    counts = np.array([[5, 0, 0], [2, 2, 0], [1, 2, 1]])
    expected = [0.0, math.log(2), 0.5 * math.log(4) + 0.5 * math.log(2)]
    assert label_entropy(counts).tolist() == pytest.approx(expected)


def test_the_imbalance_factor_is_the_smallest_class_there_is_over_the_largest() -> None:
    assert imbalance_factor(np.array([50, 0, 2, 10])) == 2 / 50


def test_the_table_and_the_pictures_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["split=[longtail,domain,dirichlet]", "split.clients_per_domain=2", "split.imbalance_factor=0.1"]
    assert main([*SMALL, *words, f"out_dir={tmp_path}"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"federation.csv", "labels.png", "longtail.png", "images.png"}
    table = pd.read_csv(tmp_path / "federation.csv")
    assert len(table) == 12
    assert list(table["domain"][::2]) == ["plain", "inverted", "faded", "texture", "street", "font"]
    by_class = table[[f"train.{digit}" for digit in range(10)]]
    assert (by_class.sum(axis=1) == table["train"]).all()
    assert ((by_class > 0).sum(axis=1) == table["classes"]).all()
    # Every class has 4 images in each of the 6 domains, so 24 are the largest class.
    assert by_class.sum().tolist() == [int(24 * 0.1 ** (digit / 9)) for digit in range(10)]
    printed = capsys.readouterr().out
    assert f"12 clients, {table['train'].sum()} training images" in printed
    assert f"imbalance factor {2 / 24:.4g}" in printed


def test_of_a_run_that_is_to_go_on_its_own_clients_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    OmegaConf.save(repeatable(compose([*SMALL, "dataset.train_per_domain=30"])), tmp_path / "config.yaml")
    assert main([f"resume={tmp_path}"]) == 0
    assert "6 clients, 180 training images" in capsys.readouterr().out
    assert main([f"resume={tmp_path}", "seed=1"]) == 2
    assert "seed=1 cannot be given with resume=" in capsys.readouterr().err


def test_many_clients_are_summed_up_by_their_spread(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "split=iid", "split.num_clients=60"]) == 0
    printed = capsys.readouterr().out
    assert "median" in printed
    assert "60 clients, 240 training images" in printed


def test_the_table_tells_parts_and_own_test_sets(small_settings: Callable[..., Settings]) -> None:
    table = clients_table(build_federation(small_settings("split.validation=0.25")))
    assert table["train"].tolist() == [30] * 6
    assert table["validation"].tolist() == [10] * 6
    assert table["test"].tolist() == [20] * 6
    halves = build_federation(small_settings("split.test=matched", "split.clients_per_domain=2"))
    table = clients_table(halves)
    expected = [
        sum(count * 20 // 40 for count in row) for row in table[[f"train.{digit}" for digit in range(10)]].values
    ]
    assert table["test"].tolist() == expected


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["dataset=cifar10"],
            "error: dataset=cifar10 is read from data_dir=null: choose the folder that holds cifar10.npz, or else cif",
        ),
        (["split=[longtail,nonsense]"], "error: split=[longtail,nonsense] is not known: choose dirichlet, "),
        (["split=[domain,domain]"], "error: split=[domain,domain] is not possible: choose each of them once."),
        (["split=[]"], "error: split=[] is not known: choose dirichlet, "),
        (["split.alpha=3"], "error: split.alpha=3 is not a setting: "),
        (["split=dirichlet", "split.alpha=0"], "error: split.alpha=0 is not possible: choose a number above 0."),
        (
            ["split=[dirichlet,shards]"],
            "error: split=[dirichlet,shards] is not possible: choose one of dirichlet and shards.",
        ),
        (["split.leave_out=mars"], "error: split.leave_out=mars is not possible: choose from plain, inverted, "),
        (["split=naturalid"], "error: split=naturalid needs images with an id"),
    ],
)
def test_wrong_words_are_one_sentence_and_exit_status_2(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, *words] if "dataset=cifar10" not in words else words) == 2
    error = capsys.readouterr().err
    assert error.startswith(sentence)
    assert error.count("\n") == 1


@pytest.mark.nightly
def test_it_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "datasets.show", *SMALL]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "6 clients, 240 training images" in done.stdout
