"""Published beside ours: which row belongs to a run, the difference by hand, and what deviates."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from omegaconf import OmegaConf

from fedsim.output.results import Result, find_runs
from fedsim.report.command import main
from fedsim.report.labels import group_by_settings
from fedsim.report.published import deviations, published_table, row_of, wide

MakeRun = Callable[..., Path]
WON = ("experiment=fedwon_digits5", "lr=0.1")


@pytest.fixture
def groups(tmp_path: Path, make_run: MakeRun) -> dict[str, list[Result]]:
    """FedWon with two seeds, and FedAvg as SiloBN, with another number of rounds."""
    for seed, svhn in enumerate((0.77, 0.79)):
        make_run(tmp_path / f"won{seed}", *WON, f"seed={seed}", accuracy={"mnist": 0.97, "svhn": svhn, "fonts": 0.9})
    silo = ("strategy=fedavg", "norm=bn", "norm.policy=silobn", "rounds=50", "data_dir=/data")
    make_run(tmp_path / "silo", *WON, *silo, accuracy={"mnist": 0.96, "svhn": 0.7})
    return group_by_settings(find_runs([tmp_path]))


def test_differences_are_ours_minus_the_row_whose_words_hold(groups: dict[str, list[Result]]) -> None:
    table = published_table(groups).set_index(["label", "head"])
    won = next(label for label in groups if label.startswith("fedwon"))
    silo = next(label for label in groups if label.startswith("fedavg"))
    svhn = table.loc[(won, "svhn")]
    assert svhn["published"] == 77.4
    assert svhn["published_std"] == 0.1
    assert svhn["ours"] == pytest.approx(78.0)
    assert svhn["std"] == pytest.approx(2**0.5)
    assert svhn["difference"] == pytest.approx(0.6)
    assert svhn["runs"] == 2
    assert table.loc[(silo, "svhn"), "published"] == 71.3  # not FedAvg's 71.6: one more word holds
    assert table.loc[(silo, "mean of 2 shared"), "difference"] == pytest.approx(83.0 - (96.2 + 71.3) / 2)
    assert table.loc[(won, "mean of 2 shared"), "ours"] == pytest.approx((97.0 + 78.0) / 2)  # without our fonts
    assert {head for label, head in table.index if label == won} == {"mnist", "svhn", "mean of 2 shared"}


def test_totals_are_compared_over_the_same_domains_alone(tmp_path: Path, make_run: MakeRun) -> None:
    all_of_them = {"mnist": 0.97, "svhn": 0.77, "usps": 0.9, "synth_digits": 0.8, "mnist_m": 0.7}
    make_run(tmp_path / "a", *WON, accuracy=all_of_them)
    make_run(tmp_path / "b", *WON, "dataset.domains=[mnist,svhn]", "seed=1", accuracy=all_of_them)
    for name, heads in (("a", {"mean"}), ("b", {"mean of 5 shared"})):
        table = published_table({name: find_runs([tmp_path / name])})
        assert set(table["head"]) - set(all_of_them) == heads
    own, told = ("experiment=fedbn_digits5",), {"mnist": 0.9, "fonts": 0.8}
    make_run(tmp_path / "c", *own, "dataset.domains=[mnist,fonts]", accuracy=told)
    table = published_table({"c": find_runs([tmp_path / "c"])})  # of whose paper the mean alone was at hand
    assert list(table["head"]) == ["mean of other domains"]
    assert table["difference"].isna().all()
    assert list(wide(table).loc["c"]["mean of other domains"]) == ["84.0 ± 1.5", "85.0", ""]
    make_run(tmp_path / "d", *own, accuracy=told)
    table = published_table({"d": find_runs([tmp_path / "d"])})
    assert list(table["head"]) == ["mean"]
    assert table["difference"].tolist() == pytest.approx([1.0])


def test_each_line_of_the_table_is_written_as_papers_write_it(groups: dict[str, list[Result]]) -> None:
    cells = wide(published_table(groups))
    won = next(label for label in groups if label.startswith("fedwon"))
    assert list(cells.columns) == ["mnist", "svhn", "mean of 2 shared"]
    assert list(cells.loc[won].index) == ["published", "ours (2 runs)", "difference"]
    assert list(cells.loc[won]["svhn"]) == ["77.4 ± 0.1", "78.0 ± 1.4", "+0.6"]


def test_what_deviates_from_the_experiment_is_named_and_what_the_paper_does_not_say(
    groups: dict[str, list[Result]], tmp_path: Path, make_run: MakeRun
) -> None:
    unknown = "FedWon (arXiv 2306.05879), Table 1, Digits-Five does not say: lr, rounds, strategy.clip_classifier"
    assert deviations(groups) == [unknown]  # lr and rounds differ, but no paper gives them
    make_run(tmp_path / "two", *WON, "batch_size=2", "split.validation=0.2", accuracy={"mnist": 0.9, "svhn": 0.8})
    runs = find_runs([tmp_path / "two"])
    line, _ = deviations({"two": runs})
    assert line == "other than experiment=fedwon_digits5: batch_size=2 (32), split.validation=0.2 (0.0)"
    line, _ = deviations({**groups, "two": runs})
    assert line.startswith("two: other than experiment=fedwon_digits5: batch_size=2 (32)")


def test_an_option_that_came_after_a_run_is_no_deviation(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "old", *WON, "batch_size=2", accuracy={"mnist": 0.9, "svhn": 0.8})
    config = tmp_path / "old" / "config.yaml"
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    del settings["model"]["linear_norm"]
    del settings["precision"]
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    line, _ = deviations({"old": find_runs([tmp_path / "old"])})
    assert line == "other than experiment=fedwon_digits5: batch_size=2 (32)"
    make_run(tmp_path / "other", *WON, "model=cnn_small", accuracy={"mnist": 0.9, "svhn": 0.8})
    line, _ = deviations({"other": find_runs([tmp_path / "other"])})
    assert "model=cnn_small (cnn6)" in line
    assert "model.linear_norm=null (true)" in line


def test_the_report_prints_and_writes_it(
    groups: dict[str, list[Result]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "published beside ours: FedWon (arXiv 2306.05879), Table 1, Digits-Five (%)" in said
    assert "published.csv, published.md" in said
    page = (tmp_path / "published.md").read_text(encoding="utf-8")
    assert " | difference | +0.2 | +0.6 |" in page
    assert pd.read_csv(tmp_path / "published.csv").shape == (len(published_table(groups)), 9)


def test_without_published_rows_nothing_is_said(
    tmp_path: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "0", accuracy={"plain": 0.5})
    make_run(tmp_path / "1", *WON, "norm=rms", "strategy=fedavg", accuracy={"mnist": 0.5})  # no row of the paper
    assert main([str(tmp_path)]) == 0
    assert "published beside" not in capsys.readouterr().out
    assert not (tmp_path / "published.md").exists()


def test_the_best_round_is_compared_where_the_paper_quotes_it(tmp_path: Path, make_run: MakeRun) -> None:
    run_dir = make_run(tmp_path / "0", "experiment=fedbn_office_caltech10", accuracy={"amazon": 0.5, "dslr": 0.9})
    summary = (run_dir / "summary.json").read_text()
    best = summary.rpartition('"best"')[2]
    (run_dir / "summary.json").write_text(summary.replace(best, best.replace("0.9", "0.95")))
    table = published_table(group_by_settings(find_runs([tmp_path]))).set_index("head")
    assert table.loc["dslr", "ours"] == pytest.approx(95.0)
    assert table.loc["amazon", "difference"] == pytest.approx(50 - 67.0)


def test_damaged_rows_are_named(tmp_path: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = make_run(tmp_path / "0", *WON, accuracy={"mnist": 0.5})
    config = OmegaConf.load(run_dir / "config.yaml")
    config.published.rows[0].mean = "many"
    OmegaConf.save(config, run_dir / "config.yaml")
    assert main([str(tmp_path)]) == 2
    assert f"{run_dir / 'config.yaml'} is damaged at published: many is no accuracy" in capsys.readouterr().err


@pytest.mark.parametrize(
    "row",
    [
        "strategy=fedavg norm=gn norm.groups=2",
        "strategy=fedavg norm=gn lr=1e-3",
        "strategy=fedavg norm=gn seed=1",
        "strategy=fedavg norm=gn metrics=[ece]",
    ],
)
def test_a_row_finds_the_runs_that_its_words_make(row: str, tmp_path: Path, make_run: MakeRun) -> None:
    made = make_run(tmp_path / "run", *WON, *row.split(), accuracy={"mnist": 0.9})
    config = OmegaConf.load(made / "config.yaml")
    config["published"]["rows"] = [{"run": row, "mnist": 90.0}, {"run": f"{row} local_epochs=7", "mnist": 80.0}]
    OmegaConf.save(config, made / "config.yaml")
    found = row_of(made)
    assert found is not None
    assert found[1].run == row
