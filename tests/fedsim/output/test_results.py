"""Run directories are read back as tables, in the order a person would list them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedsim.core.errors import UserError
from fedsim.output.results import find_runs, read_result, read_table

MakeRun = Callable[..., Path]


def test_a_run_is_read_back(tmp_path: Path, make_run: MakeRun) -> None:
    run_dir = make_run(tmp_path / "run", accuracy={"plain": 0.8, "font": 0.6}, global_accuracy=0.5)
    result = read_result(run_dir)
    assert result.run_dir == run_dir
    assert result.summary["final"]["client_accuracy_mean"] == pytest.approx(0.7)
    assert result.rounds["round"].tolist() == [0, 1, 2]
    assert result.rounds["client_accuracy_mean"].isna().tolist() == [False, True, False]
    assert result.clients.groupby("domain")["accuracy"].max().to_dict() == {"plain": 0.8, "font": 0.6}


def test_runs_are_found_at_any_depth_and_counted_as_people_count(tmp_path: Path, make_run: MakeRun) -> None:
    for name in ("sweep/10", "sweep/9", "sweep/1", "sweep/1/again", "other"):
        make_run(tmp_path / name, accuracy={"plain": 0.5})
    (tmp_path / "sweep" / "2").mkdir()  # a run that was stopped before its first round
    (tmp_path / "sweep" / "2" / "config.yaml").write_text("rounds: 1\n")
    found = find_runs([tmp_path / "sweep", tmp_path / "other"])
    names = [str(run.run_dir.relative_to(tmp_path)) for run in found]
    assert sorted(names) == ["other", "sweep/1", "sweep/1/again", "sweep/10", "sweep/9"]
    assert [name for name in names if "again" not in name] == ["sweep/1", "sweep/9", "sweep/10", "other"]


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_a_folder_without_a_run_is_refused(tmp_path: Path, make_run: MakeRun, name: str) -> None:
    make_run(tmp_path / "run", accuracy={"plain": 0.5})
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=rf"/{name} holds no run: choose a directory with a summary.json"):
        find_runs([tmp_path / "run", tmp_path / name])


def test_names_are_read_as_they_stand_and_numbers_as_numbers(tmp_path: Path) -> None:
    names = ["NA", "nan", "null", "007", "1e5", "true", "inf", ""]
    lines = [f"{number},{name},{name},{0.1 * number!r}\r\n" for number, name in enumerate(names)]
    path = tmp_path / "table.csv"
    path.write_text(
        "round,domain,class,accuracy\r\n" + "".join(lines) + "8,plain,cat,\r\n9,plain,cat,nan\r\n", newline=""
    )
    table = read_table(path)
    assert table["domain"].tolist() == [*names, "plain", "plain"]
    assert table["class"].tolist() == [*names, "cat", "cat"]
    assert table["accuracy"].tolist()[:8] == [0.1 * number for number in range(8)]
    assert table["accuracy"].isna().tolist() == [False] * 8 + [True] * 2


@pytest.mark.parametrize(
    ("name", "row", "sentence"),
    [
        ("rounds.csv", "2,0.5,0.5,0.25", "its row 4 is there twice"),
        ("rounds.csv", "2.5,0.5,0.5,0.25", "a round of it is no whole number"),
        ("rounds.csv", ",0.5,0.5,0.25", "a round of it is no whole number"),
        ("clients.csv", "inf,0,plain,test,0.5", "a round of it is no whole number"),
        ("rounds.csv", "3,0.5,much,0.25", "its column .* does not hold numbers alone"),
        ("rounds.csv", "3,0.5,0.5,0.25é", "its column .* does not hold numbers alone"),
    ],
)
def test_rows_that_are_no_rounds_or_there_twice_are_refused(
    tmp_path: Path, make_run: MakeRun, name: str, row: str, sentence: str
) -> None:
    file = make_run(tmp_path / "run", accuracy={"plain": 0.5}) / name
    file.write_text(f"{file.read_text()}{row}\n")
    with pytest.raises(UserError, match=rf"^{file} cannot be read \({sentence}\)\.$"):
        read_result(file.parent)


@pytest.mark.parametrize("name", ["clients.csv", "rounds.csv"])
def test_a_run_has_rows(tmp_path: Path, make_run: MakeRun, name: str) -> None:
    file = make_run(tmp_path / "run", accuracy={"plain": 0.5}) / name
    file.write_text(file.read_text().splitlines()[0] + "\n")
    with pytest.raises(UserError, match=rf"^{file} cannot be read \(it has no rows\)\.$"):
        read_result(file.parent)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"strategy": ["fedbn"]}, r"its strategy is \['fedbn'\] and no text"),
        ({"global_accuracy": "high"}, r"its final\.global_accuracy is 'high' and no number"),
        ({"domain_accuracy": {"plain": None}}, r"its final\.domain_accuracy\.plain is None and no number"),
        ({"unseen_accuracy": 0.5}, r"its final does not have accuracies by domain"),
        (
            {"client_accuracy_worst": {"plain": 0.5}},
            r"its final\.client_accuracy_worst is \{'plain': 0\.5\} and no number",
        ),
        ({"domain_accuracy": {"plain": {}}}, r"its final\.domain_accuracy\.plain is \{\} and no number"),
    ],
)
def test_a_summary_whose_numbers_are_none_is_refused(
    tmp_path: Path, make_run: MakeRun, change: dict[str, Any], sentence: str
) -> None:
    file = make_run(tmp_path / "run", accuracy={"plain": 0.5}) / "summary.json"
    summary = json.loads(file.read_text())
    (summary if "strategy" in change else summary["final"]).update(change)
    file.write_text(json.dumps(summary))
    with pytest.raises(UserError, match=rf"^{file} cannot be read \({sentence}\)\.$"):
        read_result(file.parent)
