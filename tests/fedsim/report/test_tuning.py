"""Hyperparameters chosen on validation images."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fedsim.output.results import Result, find_runs, read_result
from fedsim.report import command as report
from fedsim.report import tuning as tune
from tests.fedsim.conftest import MakeRun

VALIDATION = {
    # by method, rate and seed: fedbn is best at 0.1 by the mean though one seed prefers 0.3; fedavg has a tie but for
    # the last digit.
    ("fedbn", 0.03): (0.70, 0.72),
    ("fedbn", 0.1): (0.80, 0.84),
    ("fedbn", 0.3): (0.90, 0.60),
    ("fedavg", 0.03): (0.60, 0.70),
    ("fedavg", 0.1): (0.70, 0.6000000000000002),
    ("fedavg", 0.3): (0.20, 0.30),
}


@pytest.fixture
def sweep(tmp_path: Path, make_run: MakeRun) -> Path:
    folder = tmp_path / "sweep"
    for number, ((strategy, lr), accuracies) in enumerate(reversed(VALIDATION.items())):
        for seed, accuracy in enumerate(accuracies):
            make_run(
                folder / f"{number}_{seed}",
                *(f"strategy={strategy}", f"lr={lr}", f"seed={seed}", "split.validation=0.2"),
                accuracy={"plain": 0.1},  # test images must not matter
                validation_accuracy_mean=accuracy,
            )
    return folder


def test_the_rate_of_the_highest_mean_validation_accuracy_is_chosen_and_the_smaller_of_equals(sweep: Path) -> None:
    choices = {each.method: each for each in tune.choose(tune.tuning_table(find_runs([sweep]), ["lr"]), ["lr"])}
    assert choices["fedbn"].values == {"lr": 0.1}
    assert choices["fedbn"].validation == pytest.approx(0.82)
    assert choices["fedbn"].deviation == pytest.approx(0.02 * 2**0.5)
    assert choices["fedbn"].edges == ()
    assert choices["fedavg"].values == {"lr": 0.03}
    assert choices["fedavg"].edges == ("lr",)
    assert str(choices["fedavg"].budget) == "3 settings × 2 seeds × 2 rounds"


def test_it_prints_the_choice_its_budget_and_the_edge_and_writes_table_and_picture(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune.main([str(sweep)]) == 0
    said = capsys.readouterr().out
    assert "budget of each method: 3 settings × 2 seeds × 2 rounds" in said
    assert "lr=0.1" in said
    assert "fedavg: lr=0.03 is at the edge" in said
    assert "fedbn: lr" not in said
    table = pd.read_csv(sweep / "tuning.csv")
    assert sorted(table["validation"]) == sorted(value for pair in VALIDATION.values() for value in pair)
    assert (sweep / "tuning.png").stat().st_size > 5000


def test_two_settings_are_tuned_together_and_null_is_a_value(tmp_path: Path, make_run: MakeRun) -> None:
    for lr, clip, accuracy in ((0.05, 0.1, 0.5), (0.05, "null", 0.6), (0.1, 0.1, 0.9), (0.1, "null", 0.2)):
        words = ("strategy=fedwon", f"lr={lr}", f"strategy.clip={clip}", "split.validation=0.2")
        make_run(tmp_path / f"{lr}{clip}", *words, accuracy={"plain": 0.1}, validation_accuracy_mean=accuracy)
    keys = ["lr", "strategy.clip"]
    table = tune.tuning_table(find_runs([tmp_path]), keys)
    (choice,) = tune.choose(table, keys)
    assert choice.values == {"lr": 0.1, "strategy.clip": 0.1}
    assert tune.main([str(tmp_path), "--over", "strategy.clip,lr"]) == 0  # the picture has a place for null, too


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--seeds", "1,2"],
            "--seeds=1,2 has the seed 1, which the settings were chosen with: choose others than 0, 1",
        ),
        (["--seeds", "two"], "--seeds=two cannot be read"),
        (["--seeds", "3,4,3"], "--seeds=3,4,3 names a seed twice"),
        (["--seeds", "3", "--set", "strategy=fedbn"], "--set strategy=fedbn is not possible: "),
        (["--over", "strategy.mu"], "has no setting strategy.mu"),
        (["--over", "lr,rounds"], "--over=lr,rounds is not possible: rounds is not chosen by validation images"),
        (["--over", "norm.name"], "--over=norm.name is not possible: norm.name is not chosen by validation images"),
        (["--seeds", "3", "--set", "lr=5"], "--set lr=5 is not possible: lr is what was tuned; leave it out."),
        (
            ["--seeds", "3", "--set", "norm.name=gn"],
            "--set norm.name=gn is not possible: it is what a choice is",
        ),
        (["--seeds", "3", "--set", "rounds=["], "--set rounds=[ cannot be read: write KEY=VALUE."),
        (["--seeds", "3", "--set", "metrics[9]=x"], "--set metrics[9]=x cannot be read: write KEY=VALUE."),
    ],
)
def test_wrong_words_are_refused_in_a_sentence(
    sweep: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune.main([str(sweep), *words]) == 2
    assert sentence in capsys.readouterr().err


def test_a_list_is_nothing_to_choose_by_validation(
    tmp_path: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("dataset=digits5", "dataset.domains=[mnist,svhn]", "split.validation=0.2")
    make_run(tmp_path / "a", *words, accuracy={"mnist": 0.1}, validation_accuracy_mean=0.1)
    assert tune.main([str(tmp_path), "--over", "dataset.domains"]) == 2
    sentence = "error: --over=dataset.domains is not possible: dataset.domains is a list; choose others.\n"
    assert capsys.readouterr().err == sentence


def test_unequal_budgets_missing_seeds_and_missing_validation_are_refused(
    sweep: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("split.validation=0.2", "lr=1.0")
    make_run(sweep / "more0", *words, "strategy=fedbn", accuracy={"plain": 0.1}, validation_accuracy_mean=0.1)
    assert tune.main([str(sweep)]) == 2
    assert "fedbn lr=1.0 was run with seeds [0]" in capsys.readouterr().err
    make_run(sweep / "more1", *words, "strategy=fedbn", "seed=1", accuracy={"plain": 0.1}, validation_accuracy_mean=0.1)
    assert tune.main([str(sweep)]) == 2
    assert "fedbn has had 4 settings × 2 seeds" in capsys.readouterr().err
    make_run(sweep / "without", "strategy=fedavg", accuracy={"plain": 0.1})
    assert tune.main([str(sweep)]) == 2
    assert "without has no validation images to choose by" in capsys.readouterr().err


def test_a_run_that_diverged_counts_as_nothing_and_one_that_was_stopped_is_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import fedsim
    from fedsim.core.errors import RoundFailed

    small = ("rounds=2", "engine=inline", "pictures=false", "dataset.train_per_domain=20", "dataset.test_per_domain=20")
    words = (*small, "norm=none", "split.validation=0.2")
    fedsim.simulate(*words, "lr=0.01", f"out_dir={tmp_path}/good")
    with pytest.raises(RoundFailed, match="update_limit"):
        fedsim.simulate(*words, "lr=1e30", f"out_dir={tmp_path}/diverged")
    assert read_result(tmp_path / "diverged").clients["fault"].dropna().str.contains("update_limit").any()
    assert tune.main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "1 runs failed before their last round and count as 0: fedavg lr=1e+30 (" in said
    assert "update_limit" in said  # why it failed
    assert pd.read_csv(tmp_path / "tuning.csv").set_index("lr")["validation"][1e30] == 0
    assert tune.main([f"{tmp_path}/diverged"]) == 2
    assert "fedavg has failed at every setting that was tried: try others" in capsys.readouterr().err
    clients = tmp_path / "diverged" / "clients.csv"
    pd.read_csv(clients, keep_default_na=False).drop(columns="fault").to_csv(clients, index=False)
    assert tune.main([str(tmp_path)]) == 2
    assert "diverged was stopped in round 0: go on with resume=" in capsys.readouterr().err


def test_where_nothing_can_be_written_a_sentence_says_so(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sweep / "file").write_text("")
    assert tune.main([str(sweep), "--out", str(sweep / "file")]) == 1
    assert "file cannot be written (File exists)" in capsys.readouterr().err


def test_the_home_folder_may_be_written_as_a_tilde(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(sweep)
    monkeypatch.setenv("HOME", str(sweep))
    for each in (tune, report):
        assert each.main(["~", "--out=~/all"]) == 0  # which no shell expands
        assert each.main(["~/none"]) == 2
        assert f"{sweep}/none holds no run" in capsys.readouterr().err
    assert {path.name for path in (sweep / "all").iterdir()} >= {"tuning.csv", "comparison.csv"}
    assert not (sweep / "~").exists()


def test_runs_of_further_seeds_are_not_read_with_the_sweep_nor_taken_for_one(
    sweep: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("split.validation=0.2", "strategy=fedbn", "lr=0.1", "seed=7")
    begun = sweep / "test" / "fedbn" / "7"
    make_run(begun, *words, accuracy={"plain": 0.1}, validation_accuracy_mean=0.1)
    with (begun / "clients.csv").open("a", encoding="utf-8") as file:
        file.write("cut by a ki")
    assert tune.main([str(sweep)]) == 0
    (begun / "clients.csv").write_text("round\n", encoding="utf-8")
    assert tune.main([str(sweep / "test"), "--out", str(sweep)]) == 2
    assert "error: there are no runs of a sweep, but for those on further seeds" in capsys.readouterr().err


@pytest.mark.slow
def test_a_further_run_that_fails_leaves_the_others_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import fedsim
    from fedsim.server import simulation
    from fedsim.server.preparation import Prepared

    small = ("rounds=1", "engine=inline", "pictures=false", "dataset.train_per_domain=20", "dataset.test_per_domain=20")
    fedsim.simulate(*small, "split.validation=0.2", f"out_dir={tmp_path}/sweep/0")
    run = simulation.run

    def run_but_for_one(prepared: Prepared, *others: Any) -> Result:
        if prepared.settings.seed == 5:
            prepared = replace(prepared, settings=replace(prepared.settings, update_limit=1e-9))
        return run(prepared, *others)

    monkeypatch.setattr(simulation, "run", run_but_for_one)
    assert tune.main([str(tmp_path / "sweep"), "--seeds", "5,6"]) == 1
    said = capsys.readouterr()
    assert re.search(r"^fedavg lr=[\d.]+ seed=5 failed: .*update_limit", said.err, re.M)
    assert "comparison.md" in said.out
    assert set(pd.read_csv(tmp_path / "sweep" / "comparison.csv")["runs"]) == {1}


@pytest.mark.nightly
@pytest.mark.parametrize("folder", [".", "again/.."])
def test_the_runs_of_further_seeds_are_no_part_of_a_sweep_named_by_a_relative_path(
    sweep: Path, make_run: MakeRun, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sweep)
    (sweep / "again").mkdir()
    words = ("split.validation=0.2", "strategy=fedbn", "lr=0.1", "seed=7")
    make_run(sweep / "test" / "fedbn" / "7", *words, accuracy={"plain": 0.1}, validation_accuracy_mean=0.1)
    assert tune.main([folder]) == 0


@pytest.mark.slow
def test_the_chosen_settings_run_on_further_seeds_which_are_not_run_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import fedsim

    small = ("rounds=1", "engine=inline", "pictures=false", "dataset.train_per_domain=20", "dataset.test_per_domain=20")
    for lr in (0.01, 0.1):
        fedsim.simulate(*small, f"lr={lr}", "split.validation=0.2", f"out_dir={tmp_path}/sweep/{lr}")
    assert tune.main([str(tmp_path / "sweep"), "--seeds", "7", "--out", str(tmp_path / "held")]) == 0
    assert "validation images stay held out of the runs on further seeds" in capsys.readouterr().out
    words = [str(tmp_path / "sweep"), "--seeds", "5,6", "--set", "split.validation=0"]
    assert tune.main(words) == 0
    said = capsys.readouterr().out
    assert f"\njob 1 of 2: fedavg lr={_chosen(tmp_path)} seed=5\n" in said
    assert "held out" not in said
    assert f"\njob 2 of 2: fedavg lr={_chosen(tmp_path)} seed=6  (all jobs: " in said
    runs = sorted((tmp_path / "sweep" / "test").rglob("summary.json"))
    assert len(runs) == 2
    assert {read_result(run.parent).summary["seed"] for run in runs} == {5, 6}
    straight = fedsim.simulate(*small, f"lr={_chosen(tmp_path)}", "seed=5", f"out_dir={tmp_path}/straight")
    assert read_result(runs[0].parent).clients.equals(straight.clients)
    assert (tmp_path / "sweep" / "comparison.md").exists()
    before = [run.stat().st_mtime_ns for run in runs]
    capsys.readouterr()
    assert tune.main(words) == 0
    assert [run.stat().st_mtime_ns for run in runs] == before
    assert "1 settings" not in capsys.readouterr().out  # the test runs are no part of the sweep
    table = (tmp_path / "sweep" / "tuning.csv").stat().st_mtime_ns
    assert tune.main([*words, "rounds=2"]) == 2
    assert re.search(
        r"^error: .*/test/fedavg_lr=[\d.]+/5 holds a run with rounds=1, where rounds=2 is asked for: choose",
        capsys.readouterr().err,
    )
    assert (tmp_path / "sweep" / "tuning.csv").stat().st_mtime_ns == table  # before anything was written
    assert tune.main([*words, "device=auto", "checkpoint_every=3"]) == 0  # which change no number
    assert [run.stat().st_mtime_ns for run in runs] == before


def _chosen(folder: Path) -> float:
    table = pd.read_csv(folder / "sweep" / "tuning.csv")
    return float(table.loc[table["validation"].idxmax(), "lr"])
