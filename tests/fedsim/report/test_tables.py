"""Tables by any metric, round and setting, of runs of the simulator: each number against the runs' own files."""

import csv
import math
import re
import shutil
from pathlib import Path
from statistics import fmean, stdev

import matplotlib
import pandas as pd
import pytest
from PIL import Image

from fedsim.core.errors import UserError
from fedsim.metrics.balanced_accuracy import BalancedAccuracy
from fedsim.metrics.registry import FURTHER_METRICS
from fedsim.output.progress import Reporter
from fedsim.output.results import Result, find_runs
from fedsim.report.command import main
from fedsim.report.formats import caption, latex, to_latex, to_markdown, verdicts
from fedsim.report.grids import Grid, grid
from fedsim.report.selection import Selection, selection
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from tests.conftest import small_settings

TAIL = ("split=[longtail,domain]", "split.imbalance_factor=0.1", "metrics=[ece]", "engine=inline")
CELLS = [("fedavg", "bn"), ("fedavg", "gn"), ("fedbn", "bn")]
Row = dict[str, str]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two strategies and two norms, without FedBN of GroupNorm; two seeds each."""
    folder = tmp_path_factory.mktemp("sweep")
    for strategy, norm in CELLS:
        for seed in (0, 1):
            settings = small_settings(f"strategy={strategy}", f"norm={norm}", f"seed={seed}", *TAIL)
            run(prepare(settings), folder / f"{strategy}_{norm}_{seed}", Reporter())
    return folder


@pytest.fixture
def runs(sweep: Path) -> list[Result]:
    return find_runs([sweep])


@pytest.fixture
def plain(sweep: Path) -> list[Result]:
    """The runs with BatchNorm."""
    return find_runs([sweep / f"{strategy}_bn_{seed}" for strategy in ("fedavg", "fedbn") for seed in (0, 1)])


def rows(path: Path, **where: str) -> list[Row]:
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if all(row[key] == value for key, value in where.items())]


def shown(table: Grid) -> pd.DataFrame:
    return table.means()


def test_by_domain_it_is_the_mean_of_the_clients_and_the_global_model(sweep: Path, plain: list[Result]) -> None:
    table = grid(plain, Selection("loss", "domain", 1), [], [])
    assert table.rows == ("FedAvg", "FedBN")
    assert table.columns[-2:] == ("mean", "global")
    for strategy, label in (("fedavg", "FedAvg"), ("fedbn", "FedBN")):
        by_seed = [rows(sweep / f"{strategy}_bn_{seed}" / "clients.csv", round="1", split="test") for seed in (0, 1)]
        faded = [fmean(float(row["loss"]) for row in mine if row["domain"] == "faded") for mine in by_seed]
        mean = [fmean(float(row["loss"]) for row in mine) for mine in by_seed]
        assert shown(table).loc[label, "faded"] == pytest.approx(fmean(faded))
        assert shown(table).loc[label, "mean"] == pytest.approx(fmean(mean))
        assert table.deviations().loc[label, "mean"] == pytest.approx(stdev(mean))
        union = [rows(sweep / f"{strategy}_bn_{seed}" / "rounds.csv", round="1")[0]["global_loss"] for seed in (0, 1)]
        assert shown(table).loc[label, "global"] == pytest.approx(fmean(map(float, union)))


def test_by_client_each_has_its_column(sweep: Path, plain: list[Result]) -> None:
    table = grid(plain, Selection("ece", "client"), [], [])
    assert table.columns == (*(f"client {number}" for number in range(6)), "mean", "global")
    found = rows(sweep / "fedbn_bn_1" / "clients.csv", round="2", split="test", client="3")[0]
    assert table.cells["FedBN", "client 3"][1] == pytest.approx(float(found["ece"]))
    last = rows(sweep / "fedbn_bn_1" / "rounds.csv", round="2")[0]
    assert table.cells["FedBN", "mean"][1] == pytest.approx(float(last["client_ece_mean"]))
    assert table.cells["FedBN", "global"][1] == pytest.approx(float(last["global_ece"]))


def test_by_class_and_by_shot_it_is_the_global_model(sweep: Path, plain: list[Result]) -> None:
    by_class = grid(plain, Selection("accuracy", "class"), [], [])
    found = rows(sweep / "fedavg_bn_0" / "classes.csv", round="2")
    assert by_class.columns == (*(row["class"] for row in found), "global")
    assert [by_class.cells["FedAvg", row["class"]][0] for row in found] == [float(row["accuracy"]) for row in found]
    by_shot = grid(plain, Selection("accuracy", "shot"), [], [])
    last = rows(sweep / "fedavg_bn_0" / "rounds.csv", round="2")[0]
    assert by_shot.columns == ("many", "medium", "few", "global")
    expected = [float(last[name]) for name in ("many", "medium", "few", "global_accuracy")]
    assert [by_shot.cells["FedAvg", name][0] for name in by_shot.columns] == expected


@pytest.mark.nightly
def test_any_column_of_the_rounds_can_be_shown(sweep: Path, plain: list[Result]) -> None:
    chosen = selection("train_loss", None, "1", plain)
    assert (chosen.by, chosen.round) == (None, 1)
    table = grid(plain, chosen, [], [])
    values = [float(rows(sweep / f"fedbn_bn_{seed}" / "rounds.csv", round="1")[0]["train_loss"]) for seed in (0, 1)]
    assert list(table.column("train_loss")["FedBN"].values()) == values
    assert selection("accuracy", None, "final", plain).by == "domain"


def test_the_best_round_is_that_of_the_summary(plain: list[Result]) -> None:
    table = grid(plain, Selection("client_accuracy_mean", None, "best"), [], [])
    for result in plain:
        label = {"fedavg": "FedAvg", "fedbn": "FedBN"}[result.summary["strategy"]]
        value = table.cells[label, "client_accuracy_mean"][result.summary["seed"]]
        assert value == pytest.approx(result.summary["best"]["client_accuracy_mean"])


@pytest.mark.nightly
def test_rows_and_columns_are_settings_and_a_cell_may_be_empty(runs: list[Result]) -> None:
    table = grid(runs, Selection(), ["strategy"], ["norm"])
    assert (table.rows, table.columns) == (("FedAvg", "FedBN"), ("bn", "gn"))
    assert ("FedBN", "gn") not in table.cells
    assert math.isnan(shown(table).loc["FedBN", "gn"])
    values = [each.summary["final"]["client_accuracy_mean"] for each in runs if "fedavg_gn" in each.run_dir.name]
    assert list(table.cells["FedAvg", "gn"].values()) == pytest.approx(values)
    turned = grid(runs, Selection(), ["norm", "strategy"], ["seed"])
    assert (turned.rows, turned.columns) == (("bn FedAvg", "gn FedAvg", "bn FedBN"), ("seed=0", "seed=1"))


def test_runs_that_differ_in_more_than_the_seed_do_not_share_a_cell(runs: list[Result], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^runs with norm=bn and norm=gn .* meet in one cell \(FedAvg\): add norm to"):
        grid(runs, Selection(), ["strategy"], [])
    copied = find_runs([Path(shutil.copytree(runs[0].run_dir, tmp_path / "copy"))])
    twice = rf"^{runs[0].run_dir} and {tmp_path}/copy are the same run \(FedAvg\): give one"
    with pytest.raises(UserError, match=twice):
        grid([*runs[:1], *copied], Selection("bytes_up", None), [], [])


class TopTwo(BalancedAccuracy):
    """Of a name without the word accuracy."""

    percent = False


@pytest.mark.parametrize(
    ("metric", "better", "percent"),
    [
        ("accuracy", "higher", True),
        ("client_accuracy_std", "lower", True),
        ("realigned_few", "higher", True),
        ("ece", "lower", True),
        ("client_ece_mean", "lower", True),
        ("domain_ece.plain", "lower", True),
        ("balanced_accuracy", "higher", True),
        ("top_two", "higher", False),
        ("adapted_top_two", "higher", False),
        ("global_loss", "lower", False),
        ("bytes_up", "lower", False),
    ],
)
def test_which_values_are_better_and_in_percent(
    metric: str, better: str, percent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FURTHER_METRICS, "top_two", TopTwo())
    chosen = Selection(metric, None)
    assert chosen.lower_is_better == (better == "lower")
    assert chosen.in_percent == percent


def made(values: dict[tuple[str, str], list[float]], metric: str = "accuracy") -> Grid:
    """A table with these values of the seeds 0, 1, ...; rows and columns in the order of the keys."""
    return Grid(
        Selection(metric),
        table=pd.DataFrame(),
        rows=tuple(dict.fromkeys(row for row, _ in values)),
        columns=tuple(dict.fromkeys(column for _, column in values)),
        cells={place: dict(enumerate(each)) for place, each in values.items()},
        settings={"dataset": "digits", "split.alpha": 0.1},
        seeds=tuple(range(max(map(len, values.values())))),
    )


ACCURACIES = {
    ("a_b", "x"): [0.50, 0.60, 0.70],
    ("a_b", "mean"): [0.80, 0.81, 0.82],
    ("c%", "x"): [0.40, 0.41, 0.42],
    ("c%", "mean"): [0.80, 0.82, 0.81],
    ("d", "x"): [0.30],
    ("d", "mean"): [0.10, 0.11, 0.12],
}


def test_latex_has_the_best_bold_and_the_second_underlined() -> None:
    text = to_latex(made(ACCURACIES))
    lines = [line.strip() for line in text.splitlines()]
    assert lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")] == [
        r"a\_b & \textbf{60.0} {\scriptsize$\pm$\,10.0} & \textbf{81.0} {\scriptsize$\pm$\,1.0} \\",
        r"c\% & \underline{41.0} {\scriptsize$\pm$\,1.0} & \textbf{81.0} {\scriptsize$\pm$\,1.0} \\",
        r"d & 30.0 & \underline{11.0} {\scriptsize$\pm$\,1.0} \\",
    ]
    assert r"\begin{tabular}{lrr}" in lines
    assert r"& x & mean \\" in lines
    assert (
        r"\caption{Accuracy (\%) by domain, last round: mean $\pm$ standard deviation over up to 3 seeds. "
        r"Settings: dataset=digits split.alpha=0.1.}"
    ) in lines
    assert lines.index(r"\toprule") < lines.index(r"\midrule") < lines.index(r"\bottomrule")
    assert text.count("{") == text.count("}")
    assert text.startswith("% mean: a_b has the highest mean; not told apart from it")


def test_of_a_loss_the_lowest_is_best_and_of_equals_none() -> None:
    losses = {("a", "x"): [0.5], ("b", "x"): [0.25], ("a", "y"): [1.0], ("b", "y"): [1.0]}
    assert to_markdown(made(losses, "loss")).splitlines()[2:6] == [
        "| | x | y |",
        "|---|---:|---:|",
        "| a | <u>0.500</u> | 1.000 |",
        "| b | **0.250** | 1.000 |",
    ]


def test_every_letter_is_shown_by_latex() -> None:
    assert latex("50% of a_b & c#1 {x} ~ ^ \\ < ±") == (
        r"50\% of a\_b \& c\#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} \textless{} $\pm$"
    )


def test_what_seeds_cannot_tell_apart_is_said_with_effect_p_and_their_number() -> None:
    """Differences of 0, 1 and -1 points: mean 0; those to d are -70, -71 and -69."""
    lines = verdicts(made(ACCURACIES))
    assert lines == [
        "mean: a_b has the highest mean; not told apart from it (paired t-tests, p ≥ 0.05):",
        "  c%: +0.0 points, d = 0.0, p = 1.00, 3 seeds",
    ]
    two = {place: values[:2] for place, values in ACCURACIES.items()}
    assert verdicts(made(two)) == ["no test of which rows the seeds can tell apart: they share fewer than 3"]
    losses = {("a", "mean"): [1.0, 1.1, 1.2], ("b", "mean"): [1.1, 1.1, 1.3]}  # differences of 0.1, 0 and 0.1
    head, line = verdicts(made(losses, "loss"))
    assert head.startswith("mean: a has the lowest mean; not told apart")
    assert line.startswith("  b: +0.0667, d = 1.2, p = 0.18, 3 seeds")  # t = 2 with two degrees: 1 - 2/sqrt(6)


def test_a_caption_has_what_all_runs_share(runs: list[Result], plain: list[Result]) -> None:
    text = caption(grid(runs, Selection(), ["strategy"], ["norm"]))
    assert text.startswith("Accuracy (%), mean over clients, last round: mean ± standard deviation over 2 seeds. ")
    words = text.partition("Settings: ")[2].rstrip(".").split()
    assert "split=[longtail,domain]" in words
    assert "split.imbalance_factor=0.1" in words  # not the default
    assert "rounds=2" in words
    assert not [word for word in words if word.startswith(("strategy=", "norm=", "seed=", "momentum="))]
    assert "norm=bn" in caption(grid(plain, Selection(), [], []))
    assert "best round by test images" in caption(grid(runs, Selection(round="best"), ["strategy"], ["norm"]))


@pytest.mark.nightly
def test_the_command_writes_all_forms_and_the_picture(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(sweep), "--rows=strategy", "--columns=norm", "--out", str(tmp_path / "new")]) == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        *("table.csv", "table.md", "table.tex", "pairs.csv", "grid.png"),
    }
    told = capsys.readouterr().out
    assert re.search(r"FedAvg +\d+\.\d ± \d+\.\d +\d+\.\d ± \d+\.\d", told)
    frame = pd.read_csv(tmp_path / "new" / "table.csv")
    assert list(frame) == ["row", "strategy", "norm", "seed", "round", "run", "column", "value"]
    assert len(frame) == 6
    with Image.open(tmp_path / "new" / "grid.png") as image:
        colours = {image.convert("RGB").getpixel((x, y)) for x in range(image.width) for y in range(0, image.height, 9)}
    scale = matplotlib.colormaps["cividis"]
    assert {tuple(scale(end, bytes=True)[:3]) for end in (0.0, 1.0)} <= colours


@pytest.mark.parametrize("form", ["latex", "markdown", "csv"])
def test_a_format_is_only_printed(sweep: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    before = sorted(sweep.iterdir())
    assert main([str(sweep), "--metric=loss", "--by=client", f"--{form}"]) == 0
    text = capsys.readouterr().out
    assert {"latex": r"\toprule", "markdown": "|---|---:", "csv": "row,seed,round,run,column,value\n"}[form] in text
    assert sorted(sweep.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--by=x"], "--by=x is not known: choose domain, client, shot, class."),
        (["--round=last"], "--round=last is not possible: choose final, best or the number of a round."),
        (["--round=7"], "--round=7 has no accuracy in {}/fedavg_bn_0: choose final, best or 0, 1, 2."),
        (["--metric=acc"], "--metric=acc is not known by round in {}/fedavg_bn_0: choose loss, accuracy, ece, "),
        (["--metric=loss", "--by=class"], "--metric=loss is not known by class in {}/fedavg_bn_0: choose accuracy, "),
        (["--metric=loss", "--by=shot"], "--by=shot is not possible: {}/fedavg_bn_0 has no loss of many, medium and"),
        (["--rows=lrr"], "lrr is no setting of these runs: choose such as strategy, norm, lr or split.alpha."),
        (["--columns=strategy"], "--columns=strategy is not possible with rows by strategy: choose other --rows."),
        (["--latex", "--csv"], "--latex and --csv are two formats: choose one, or neither to write them all."),
    ],
)
def test_what_is_not_possible_is_one_sentence(
    sweep: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    assert main([str(sweep), *words]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {sentence.format(sweep)}")
    assert told.count("\n") == 1


def test_without_a_folder_there_is_nothing_to_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("error: no folder is given")
