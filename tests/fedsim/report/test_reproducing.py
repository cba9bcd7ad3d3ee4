"""The runs of a published table."""

from pathlib import Path

import pandas as pd
import pytest

from fedsim.core.errors import UserError
from fedsim.output.results import read_result
from fedsim.report import reproducing
from fedsim.report.planned_runs import make_all

SMALL = (
    *("dataset=digits", "dataset.train_per_domain=20", "dataset.test_per_domain=20", "dataset.image_size=16"),
    *("model=cnn_small", "rounds=1", "engine=inline", "pictures=false"),
)


def stamps(out: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in (out / "runs").rglob("summary.json")}


@pytest.mark.slow
def test_the_rows_are_run_beside_what_is_published_and_none_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fedwon_digits5", *SMALL, "--seeds", "4,7", "--out", str(tmp_path)]
    assert reproducing.main([*words, "--rows", "strategy=fedavg", "norm=gn"]) == 0
    said = capsys.readouterr().out
    assert "job 1 of 2: strategy=fedavg norm=gn seed=4\n" in said
    assert "runs are left" not in said
    [gn] = {path.parent.parent.name for path in (tmp_path / "runs").rglob("summary.json")}
    assert gn == "strategy=fedavg_norm=gn"
    published = pd.read_csv(tmp_path / "published.csv").set_index("head").loc["mean"]
    runs = [read_result(tmp_path / "runs" / gn / seed) for seed in ("4", "7")]
    measured = [100 * run.summary["final"]["client_accuracy_mean"] for run in runs]
    assert [run.summary["seed"] for run in runs] == [4, 7]
    assert published["published"] == 88.0
    assert published["ours"] == pytest.approx(sum(measured) / 2)
    assert published["runs"] == 2
    before = stamps(tmp_path)
    assert reproducing.main([*words, "--rows", "norm=gn", "--seeds", "4"]) == 0
    assert stamps(tmp_path) == before
    assert reproducing.main([*words, "rounds=2", "--rows", "norm=gn"]) == 2
    assert "strategy=fedavg_norm=gn/4 holds a run with rounds=1, where rounds=2 is asked for" in capsys.readouterr().err
    assert stamps(tmp_path) == before


@pytest.mark.slow
def test_a_run_that_diverges_leaves_the_others_to_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fedwon_office_caltech10", *SMALL, "lr=1e12", "--rows", "batch_size=1", "--out", str(tmp_path)]
    assert reproducing.main(words) == 1
    seen = capsys.readouterr()
    assert "strategy=fedavg norm=gn batch_size=1 seed=0 failed: " in seen.err
    assert "job 2 of 3" in seen.out


@pytest.mark.slow
def test_time_that_is_up_ends_a_run_which_goes_on_the_next_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "fedwon_digits5",
        *SMALL,
        "rounds=100000",
        "checkpoint_every=1",
        "evaluate_every=100000",
        "--rows",
        "norm=gn",
    ]
    words += ["--minutes", "0.12", "--out", str(tmp_path)]
    begun = []
    for _ in range(2):
        assert reproducing.main(words) == 0
        assert "1 of 1 runs are left: the same command goes on" in capsys.readouterr().out
        begun.append(len(pd.read_csv(tmp_path / "runs" / "strategy=fedavg_norm=gn" / "0" / "rounds.csv")))
    assert 1 < begun[0] < begun[1] < 100_000


def test_ctrl_c_is_not_taken_for_time_that_is_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    [run] = reproducing.planned("fedwon_digits5", reproducing.rows_with(table(), ["norm=gn"]), [0], SMALL, tmp_path)
    monkeypatch.setattr("fedsim.report.planned_runs.PlannedRun.make", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_all([run], minutes=5)


def table() -> reproducing.Published:
    return reproducing.published_by("fedwon_digits5")


def test_rows_are_chosen_by_all_of_their_words() -> None:
    assert [row.run for row in reproducing.rows_with(table(), ["strategy=fedavg", "norm=bn"])] == [
        "strategy=fedavg norm=bn",
        "strategy=fedavg norm=bn norm.policy=silobn",
        "strategy=fedavg norm=bn norm.policy=fixbn",
    ]
    assert len(reproducing.rows_with(table(), [])) == len(table().rows)
    with pytest.raises(UserError, match=r"^--rows norm=gn strategy=fedbn is not possible: no row of FedWon"):
        reproducing.rows_with(table(), ["norm=gn", "strategy=fedbn"])


def test_every_row_of_every_table_can_be_composed(tmp_path: Path) -> None:
    for experiment in ("fedloge_cifar10_lt", "fedtiny_cifar10", "fedwon_office_caltech10_resnet18", "fedbn_domainnet"):
        published = reproducing.published_by(experiment)
        runs = reproducing.planned(experiment, published.rows, [0, 1], ["data_dir=."], tmp_path)
        assert [each.seed for each in runs] == [0] * len(published.rows) + [1] * len(published.rows)
        assert len({each.run_dir for each in runs}) == len(runs)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["fedwon"], "experiment=fedwon is not known: choose fedbn_digits5, "),
        (["fraug_digits_small"], "experiment=fraug_digits_small has no published table: choose fedbn_digits5, "),
        (["fedwon_digits5", "--seeds", "1,1"], "--seeds=1,1 names a seed twice"),
        (["fedwon_digits5", "--minutes", "0"], "--minutes=0.0 is not possible: choose a number above 0."),
        (["fedwon_digits5", "round=3"], "round=3 is not a setting"),
        (["fedwon_digits5", "--rows", "norm=evonorm"], "--rows norm=evonorm is not possible: no row of "),
    ],
)
def test_wrong_words_are_refused_in_a_sentence(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproducing.main([*words, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {sentence}")
    assert not (tmp_path / "out").exists()


def test_the_rows_are_listed_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproducing.main(["fedwon_digits5", "--list", "--rows", "norm=sws", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "strategy=fedwon norm=sws" in said
    assert "88.5 ± 0.1" in said
    assert "norm=bn" not in said
    assert not (tmp_path / "out").exists()
