"""``--compare A B``: settings, results and the round from which on two runs differ, against their own files."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fedsim.config.settings import Settings
from fedsim.output.progress import Reporter
from fedsim.output.results import Result
from fedsim.report.command import main
from fedsim.report.run_difference import different_settings, results, since
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from tests.conftest import small_settings


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    """Runs of the small federation, each played once."""
    folder, known = tmp_path_factory.mktemp("runs"), dict[tuple[str, ...], Result]()

    def play(*words: str) -> Result:
        if words not in known:
            settings: Settings = small_settings("engine=inline", *words)
            known[words] = run(prepare(settings), folder / str(len(known)), Reporter())
        return known[words]

    return play


def test_equal_runs_are_equal_whatever_they_took(played: Callable[..., Result]) -> None:
    a, b = played(), played("verbose=true")
    assert different_settings(a, b).to_dict("index") == {"verbose": {"A": "false", "B": "true"}}
    assert since(a, b) == ["the same numbers in all of 3 rounds (rounds.csv but for its times)"]
    assert set(results(a, b)["B − A"]) == {"+0.0"}


def test_settings_that_differ_are_named_with_both_values(played: Callable[..., Result]) -> None:
    a, b = played(), played("strategy=fedprox", "lr=0.1")
    assert different_settings(a, b).to_dict("index") == {
        "strategy": {"A": "fedavg", "B": "fedprox"},
        "strategy.mu": {"A": "", "B": "0.01"},
        "lr": {"A": "0.05", "B": "0.1"},
    }


def test_the_first_other_number_is_found_in_its_round(played: Callable[..., Result]) -> None:
    a, b = played(), played("lr=0.1")
    first = since(a, b)[0]
    values = [run.rounds.set_index("round")["global_loss"] for run in (a, b)]
    assert values[0][0] == values[1][0]  # the same initial model
    assert first.startswith("the numbers differ from round 1 on: ")
    later = a.rounds.copy()
    later.loc[later["round"] == 2, "train_loss"] += 0.5
    line, _ = since(a, replace(a, rounds=later))
    before, after = a.rounds["train_loss"].iloc[2], later["train_loss"].iloc[2]
    assert line == f"the numbers differ from round 2 on: train_loss is {before:.6g} and {after:.6g}"


@pytest.mark.parametrize(
    ("differences", "told"),
    [
        ((0.0, 0.02, 0.03), "is more than 1 point higher in B from round 1 on"),
        ((-0.02, 0.02, 0.03), "is more than 1 point higher in B from round 1 on"),
        ((0.02, 0.005, -0.03), "is more than 1 point higher in A from round 2 on"),
        ((0.05, 0.05, 0.005), "is within 1 point in the last round"),
        ((0.02, None, 0.02), "is more than 1 point higher in B from round 0 on"),  # round 1 was not evaluated
    ],
)
def test_the_last_stretch_in_which_one_is_ahead(
    played: Callable[..., Result], differences: tuple[float | None, ...], told: str
) -> None:
    a = played()
    rounds = a.rounds.copy()
    rounds["client_accuracy_mean"] = [
        None if each is None else value + each
        for value, each in zip(rounds["client_accuracy_mean"], differences, strict=True)
    ]
    assert since(a, replace(a, rounds=rounds))[-1] == f"the mean accuracy of the clients {told}"


def test_columns_that_one_run_alone_has_are_named(played: Callable[..., Result]) -> None:
    a = played()
    b = replace(a, rounds=a.rounds.assign(density=0.5, nothing=math.nan))
    assert since(a, b) == ["only B has density", "the same numbers in all of 3 rounds (rounds.csv but for its times)"]
    assert since(b, a)[0] == "only A has density"


def test_a_run_with_fewer_rounds_is_compared_as_far_as_it_goes(played: Callable[..., Result]) -> None:
    a = played()
    lines = since(a, replace(a, rounds=a.rounds.iloc[:2]))
    assert lines[0] == "rounds: 2 in A and 1 in B"
    assert lines[1].startswith("the same numbers in all of 2 rounds")


def test_the_command_prints_all_of_it(played: Callable[..., Result], capsys: pytest.CaptureFixture[str]) -> None:
    a, b = played(), played("lr=0.1")
    assert main(["--compare", str(a.run_dir), str(b.run_dir)]) == 0
    told = capsys.readouterr().out
    words = [line.split() for line in told.splitlines()]
    assert ["lr", "0.05", "0.1"] in words
    mine, theirs = (100 * run.summary["final"]["client_accuracy_mean"] for run in (a, b))
    assert ["mean", f"{mine:.1f}", f"{theirs:.1f}", f"{theirs - mine:+.1f}"] in words
    assert "the numbers differ from round 1 on" in told


def test_it_takes_two_runs(played: Callable[..., Result], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    a, b = (str(played(*words).run_dir) for words in ((), ("lr=0.1",)))
    both = str(Path(a).parent)
    assert main(["--compare", a, both]) == 2
    assert f"--compare {both} holds" in capsys.readouterr().err
    assert main(["--compare", a, str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert main([a, "--compare", a, b]) == 2
    assert capsys.readouterr().err == "error: --compare takes two runs and nothing else: leave the other folders out.\n"
