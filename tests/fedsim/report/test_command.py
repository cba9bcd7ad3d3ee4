"""Comparisons of runs: which of them form a row, and every mean and deviation against hand numbers."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from fedsim.core.errors import UserError
from fedsim.output.results import Result, find_runs, read_result
from fedsim.output.terminal import console, print_whole
from fedsim.report.command import main
from fedsim.report.comparison_tables import accuracy_table, cells, learning_curves, render, to_markdown
from fedsim.report.grids import grid
from fedsim.report.labels import group_by_settings
from fedsim.report.run_table import run_table
from fedsim.report.selection import Selection

MakeRun = Callable[..., Path]
Groups = dict[str, list[Result]]
FILES = {"comparison.md", "comparison.csv", "comparison_domains.png", "comparison_rounds.png", "report.html"}


@pytest.fixture
def grouped(tmp_path: Path, make_run: MakeRun) -> Callable[..., Groups]:
    """The groups of runs that were started with the given overrides."""

    def make(*runs: list[str]) -> Groups:
        for number, overrides in enumerate(runs):
            make_run(tmp_path / str(number), *overrides, accuracy={"plain": 0.5})
        return group_by_settings(find_runs([tmp_path]))

    return make


@pytest.fixture
def groups(tmp_path: Path, make_run: MakeRun) -> Groups:
    """FedAvg with three seeds and FedBN with one."""
    for seed, (plain, font) in enumerate([(0.6, 0.1), (0.7, 0.2), (0.9, 0.3)]):
        accuracy = {"plain": plain, "font": font}
        make_run(tmp_path / f"{seed}", f"seed={seed}", accuracy=accuracy, global_accuracy=0.5 + 0.1 * seed)
    make_run(tmp_path / "3", "strategy=fedbn", accuracy={"plain": 0.25, "font": 0.75}, global_accuracy=0.125)
    return group_by_settings(find_runs([tmp_path]))


def sizes(groups: Groups) -> dict[str, int]:
    return {label: len(runs) for label, runs in groups.items()}


def test_runs_that_differ_in_their_seed_are_one_row(grouped: Callable[..., Groups]) -> None:
    runs = [["seed=0"], ["strategy=fedbn"], ["seed=1"], ["seed=2"]]
    assert sizes(grouped(*runs)) == {"fedavg": 3, "fedbn": 1}


def test_where_and_how_a_run_was_computed_does_not_matter(grouped: Callable[..., Groups]) -> None:
    runs = [
        ["device=cpu", "out_dir=a"],
        ["engine=inline", "verbose=true"],
        ["checkpoint_every=0"],
        ["engine.workers=1"],
        ["pictures=false", "download=true"],
    ]
    assert sizes(grouped(*runs)) == {"fedavg": 5}


def test_runs_of_one_strategy_are_told_apart_by_what_they_differ_in(grouped: Callable[..., Groups]) -> None:
    runs = [["lr=0.1"], ["lr=0.2"], ["lr=0.1", "seed=1"], ["strategy=fedbn", "lr=0.2"]]
    assert sizes(grouped(*runs)) == {"fedavg lr=0.1": 2, "fedavg lr=0.2": 1, "fedbn": 1}


def test_a_group_is_told_apart_by_its_name_and_by_what_it_shares(grouped: Callable[..., Groups]) -> None:
    """Not by ``_target_`` or the options that only one of them has."""
    assert sizes(grouped(["norm=bn"], ["norm=gn"], ["norm=sws"], ["norm=gn", "seed=1"])) == {
        "fedavg norm=bn": 1,
        "fedavg norm=gn norm.channels_per_group=16": 2,
        "fedavg norm=sws": 1,
    }


def test_options_of_one_choice_are_shown_where_that_choice_differs(grouped: Callable[..., Groups]) -> None:
    runs = [["norm=bn"], ["norm=gn"], ["norm=gn", "norm.groups=4"], ["strategy=fedwon"], ["strategy=fedwon"]]
    runs[-1].append("strategy.clip=null")
    assert sizes(grouped(*runs)) == {
        "fedavg norm=bn": 1,
        "fedavg norm=gn norm.channels_per_group=16": 1,
        "fedavg norm=gn norm.groups=4": 1,
        "fedwon strategy.clip=0.1": 1,
        "fedwon strategy.clip=null": 1,
    }


def test_runs_of_one_row_with_one_seed_are_refused(tmp_path: Path, make_run: MakeRun) -> None:
    for name in ("a", "b"):
        make_run(tmp_path / name, accuracy={"plain": 0.5})
    with pytest.raises(UserError, match=rf"^{tmp_path}/a and {tmp_path}/b are the same run \(fedavg\): give"):
        accuracy_table(group_by_settings(find_runs([tmp_path])))


def test_a_run_that_was_stopped_is_a_row_of_its_own(tmp_path: Path, make_run: MakeRun) -> None:
    for seed in (0, 1):
        make_run(tmp_path / f"{seed}", f"seed={seed}", accuracy={"plain": 0.5 + 0.1 * seed})
    summary = tmp_path / "1" / "summary.json"
    summary.write_text(summary.read_text().replace('"rounds": 2', '"rounds": 25'))
    runs = find_runs([tmp_path])
    assert grid(runs, Selection(), ["strategy"], []).rows == ("FedAvg", "FedAvg (stopped in round 2 of 25)")
    assert grid(runs, Selection(round=2), ["strategy"], []).rows == ("FedAvg",)


def test_what_a_norm_leaves_to_the_strategy_is_not_in_a_label(grouped: Callable[..., Groups]) -> None:
    runs = [[], ["norm.policy=silobn"], ["norm.policy=fixbn", "norm.freeze_after=1"], ["norm=ln"]]
    assert sizes(grouped(*runs)) == {
        "fedavg norm=bn": 1,
        "fedavg norm.policy=silobn norm=bn": 1,
        "fedavg norm.policy=fixbn norm.freeze_after=1 norm=bn": 1,
        "fedavg norm=ln": 1,
    }


@pytest.mark.parametrize(
    ("runs", "labels"),
    [
        (
            [["split=domain"], ["split=[longtail,domain]"], ["split=[domain,longtail]"], ["split=dirichlet"]],
            ["split=[domain]", "split=[longtail,domain]", "split=[domain,longtail]", "split=[dirichlet]"],
        ),
        (
            [["split=dirichlet", "split.alpha=0.1"], ["split=dirichlet", "split.alpha=1"]],
            ["split.alpha=0.1", "split.alpha=1"],
        ),
        ([["split.leave_out=font"], []], ["split.leave_out=font", "split.leave_out=null"]),
    ],
)
def test_splits_are_told_apart_by_their_steps_and_what_they_share(
    runs: list[list[str]], labels: list[str], grouped: Callable[..., Groups]
) -> None:
    assert list(grouped(*runs)) == [f"fedavg {label}" for label in labels]


def test_the_same_number_written_otherwise_is_the_same_setting(grouped: Callable[..., Groups]) -> None:
    assert sizes(grouped(["fraction=1"], ["fraction=1.0"], ["momentum=0"])) == {"fedavg": 3}


def test_the_table_holds_means_and_sample_deviations_in_percent(groups: Groups) -> None:
    table = accuracy_table(groups).set_index(["label", "domain"])
    plain = table.loc[("fedavg", "plain")]  # 60, 70 and 90
    assert plain["mean"] == pytest.approx(220 / 3)
    assert plain["std"] == pytest.approx(((40 / 3) ** 2 + (10 / 3) ** 2 + (50 / 3) ** 2) ** 0.5 / 2**0.5)
    assert plain["runs"] == 3
    mean = table.loc[("fedavg", "mean")]  # 35, 45 and 60
    assert mean["mean"] == pytest.approx(140 / 3)
    assert mean["std"] == pytest.approx((475 / 3) ** 0.5)
    global_ = table.loc[("fedavg", "global")]  # 50, 60 and 70
    assert (global_["mean"], global_["std"]) == pytest.approx((60, 10))
    alone = table.loc[("fedbn", "font")]
    assert alone["mean"] == pytest.approx(75)
    assert pd.isna(alone["std"])
    assert alone["runs"] == 1


def test_cells_show_a_deviation_only_where_there_is_one(groups: Groups) -> None:
    wide = cells(accuracy_table(groups))
    assert list(wide.index) == ["fedavg", "fedbn"]
    assert list(wide.columns) == ["plain", "font", "mean", "global"]
    assert list(wide.loc["fedavg"]) == ["73.3 ± 15.3", "20.0 ± 10.0", "46.7 ± 12.6", "60.0 ± 10.0"]
    assert list(wide.loc["fedbn"]) == ["25.0", "75.0", "50.0", "12.5"]


def test_a_domain_that_one_row_lacks_is_an_empty_cell(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "0", accuracy={"plain": 0.5})
    make_run(tmp_path / "1", "strategy=fedbn", accuracy={"font": 0.25})
    wide = cells(accuracy_table(group_by_settings(find_runs([tmp_path]))))
    assert wide.loc["fedavg"].to_dict() == {"plain": "50.0", "font": "", "mean": "50.0", "global": "50.0"}


def test_markdown_is_a_table_of_the_cells(groups: Groups) -> None:
    assert to_markdown(accuracy_table(groups)).splitlines() == [
        "| | plain | font | mean | global |",
        "|---|---:|---:|---:|---:|",
        "| fedavg | 73.3 ± 15.3 | 20.0 ± 10.0 | 46.7 ± 12.6 | 60.0 ± 10.0 |",
        "| fedbn | 25.0 | 75.0 | 50.0 | 12.5 |",
    ]


def printed(table: object, width: int = 100) -> str:
    stream = io.StringIO()
    console(file=stream, width=width).print(table)
    return stream.getvalue()


def test_every_cell_is_printed_on_a_terminal_of_80_columns(groups: Groups) -> None:
    table = accuracy_table(groups)
    text = printed(render(table), width=80)
    assert all(cell in text for cell in cells(table).to_numpy().ravel())
    assert "3 runs" in text


def test_no_strategy_is_missing_where_a_terminal_is_too_narrow(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    labels = [f"fedavg lr={number}" for number in range(8)]
    rows = [(label, "plain", 70 + number, 12.3, 3) for number, label in enumerate(labels)]
    table = pd.DataFrame(rows, columns=["label", "domain", "mean", "std", "runs"])
    print_whole(render(table))
    text = capsys.readouterr().out
    assert all(f"{mean}.0 ± 12.3" in text for mean in range(70, 78))
    assert all(label in text for label in labels)


def test_curves_have_a_column_for_each_run_and_only_evaluated_rounds(groups: Groups) -> None:
    curves = learning_curves(groups)
    assert list(curves) == ["fedavg", "fedbn"]
    assert list(curves["fedavg"].index) == [0, 2]
    assert curves["fedavg"].loc[2].tolist() == pytest.approx([0.35, 0.45, 0.6])
    assert curves["fedavg"].loc[0].tolist() == pytest.approx([0.175, 0.225, 0.3])
    assert curves["fedbn"].shape == (2, 1)


def test_the_command_writes_its_files_beside_the_runs(
    tmp_path: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "sweep"
    make_run(sweep / "0", accuracy={"plain": 0.5, "font": 0.7})
    make_run(sweep / "1", "seed=1", accuracy={"plain": 0.6, "font": 0.9})
    assert main([str(sweep)]) == 0
    assert {path.name for path in sweep.iterdir() if path.is_file()} == FILES
    assert "55.0 ± 7.1" in (sweep / "comparison.md").read_text()
    table = pd.read_csv(sweep / "comparison.csv").set_index("domain")
    assert table.loc["font", "mean"] == pytest.approx(80)
    assert table.loc["font", "std"] == pytest.approx(200**0.5)
    assert all(Image.open(sweep / name).width > 300 for name in FILES if name.endswith(".png"))
    assert "55.0 ± 7.1" in capsys.readouterr().out


def test_the_files_can_go_elsewhere(tmp_path: Path, make_run: MakeRun) -> None:
    runs = [make_run(tmp_path / f"{seed}", f"seed={seed}", accuracy={"plain": 0.5}) for seed in (0, 1)]
    before = {path for run in runs for path in run.iterdir()}
    assert main([*map(str, runs), "--out", str(tmp_path / "new" / "folder")]) == 0
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == FILES
    assert {path for run in runs for path in run.iterdir()} == before


def test_a_folder_without_runs_is_exit_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} holds no run")
    assert list(tmp_path.iterdir()) == []


def test_the_table_of_a_run_shows_each_domain_and_all(tmp_path: Path, make_run: MakeRun) -> None:
    run_dir = make_run(tmp_path / "run", accuracy={"plain": 0.812, "font": 0.6}, global_accuracy=0.456)
    lines = [line.split() for line in printed(run_table(read_result(run_dir))).splitlines()]
    assert ["plain", "font", "all"] in lines
    assert ["clients", "81.2", "60.0", "70.6"] in lines
    assert ["clients,", "best", "round", "2", "81.2", "60.0", "70.6"] in lines
    assert ["global", "model", "45.6", "45.6", "45.6"] in lines


def test_the_table_of_a_run_shows_what_was_left_out_validated_and_mixed(tmp_path: Path, make_run: MakeRun) -> None:
    result = read_result(make_run(tmp_path / "run", accuracy={"plain": 0.8, "font": 0.6}))
    change = {
        "client_domain_accuracy": {"mixed": 0.55},
        "domain_accuracy": {"plain": 0.5, "font": 0.625},
        "unseen_accuracy": {"street": 0.25},
        "validation_accuracy_mean": 0.75,
    }
    summary = {**result.summary, **{which: {**result.summary[which], **change} for which in ("final", "best")}}
    table = printed(run_table(replace(result, summary=summary)), width=200)
    lines = [line.split() for line in table.splitlines()]
    assert ["mixed", "plain", "font", "street", "(left", "out)", "all", "validation"] in lines
    assert ["clients", "55.0", "70.0", "75.0"] in lines
    union = f"{100 * result.summary['final']['global_accuracy']:.1f}"
    assert ["global", "model", "50.0", "62.5", "25.0", union] in lines
    assert "best round by validation 2" in table
    wide = cells(accuracy_table({"fedavg [x]": [replace(result, summary=summary)]}))
    assert wide.loc["fedavg [x]", "street (left out)"] == "25.0"
    assert list(wide.columns)[-2:] == ["mean", "global"]
    assert "fedavg [x]" in printed(render(accuracy_table({"fedavg [x]": [result]})))  # and not a markup of rich
