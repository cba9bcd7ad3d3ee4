"""The runs of a published table."""

import re
import signal
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import OmegaConf

from fedsim.config.composition import choices, compose, repeatable
from fedsim.config.settings import settings_of
from fedsim.core.errors import UserError
from fedsim.engines.grid import FederationGrid
from fedsim.output.recorder import Recorder
from fedsim.output.results import read_result
from fedsim.report import planned_runs, reproducing
from fedsim.report.planned_runs import TimeIsUp, ended_after, make_all
from fedsim.report.published import row_of
from fedsim.server.preparation import prepare

EXPERIMENTS = choices("experiment")
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
    def words(*settings: str) -> list[str]:
        return ["fedwon_digits5", *SMALL, *settings, "--rows", "norm=gn", "--seeds", "4,7", "--out", str(tmp_path)]

    assert reproducing.main(words()) == 0
    said = capsys.readouterr().out
    assert "job 1 of 2: strategy=fedavg norm=gn seed=4\n" in said
    assert "runs are left" not in said
    [gn] = {path.parent.parent.name for path in (tmp_path / "runs").rglob("summary.json")}
    assert gn == "strategy=fedavg_norm=gn"
    published = pd.read_csv(tmp_path / "published.csv").set_index("head").loc["mean of other domains"]
    runs = [read_result(tmp_path / "runs" / gn / seed) for seed in ("4", "7")]
    measured = [100 * run.summary["final"]["client_accuracy_mean"] for run in runs]
    assert [run.summary["seed"] for run in runs] == [4, 7]
    assert published["published"] == 88.0
    assert published["ours"] == pytest.approx(sum(measured) / 2)
    assert published["runs"] == 2
    before = stamps(tmp_path)
    assert reproducing.main([*words(), "--seeds", "4"]) == 0
    assert stamps(tmp_path) == before
    for other in ("rounds=2", "metrics=[ece]"):
        assert reproducing.main(words(other)) == 2
        name = other.partition("=")[0]
        told = rf"strategy=fedavg_norm=gn/4 holds a run with {name}=\S+, where {re.escape(other)} is asked for"
        assert re.search(told, capsys.readouterr().err)
    assert reproducing.main(words("download=true", "data_dir=/nowhere", "checkpoint_every=3")) == 0
    assert stamps(tmp_path) == before
    # Stopped behind the last round, before the report was written: that is still to be done.
    (tmp_path / "runs" / gn / "7" / "report.html").unlink()
    assert reproducing.main(words()) == 0
    assert (tmp_path / "runs" / gn / "7" / "report.html").exists()


@pytest.mark.slow
def test_a_run_that_diverges_leaves_the_others_to_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fedwon_office_caltech10", *SMALL, "lr=1e12", "--rows", "batch_size=1", "--out", str(tmp_path)]
    assert reproducing.main(words) == 1
    seen = capsys.readouterr()
    assert "strategy=fedavg norm=gn batch_size=1 seed=0 failed: " in seen.err
    assert "job 2 of 3" in seen.out


@pytest.mark.slow
def test_time_that_is_up_ends_a_run_which_goes_on_the_next_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is over in the fifth round, whatever a round takes."""

    def words(*settings: str) -> list[str]:
        given = ["fedwon_digits5", *SMALL, "rounds=8", "checkpoint_every=2", *settings]
        return [*given, "--rows", "norm=gn", "--minutes", "100", "--out", str(tmp_path)]

    run = tmp_path / "runs" / "strategy=fedavg_norm=gn" / "0"

    def ring_in(round: int) -> None:
        recorded = Recorder.record_round

        def record_round(recorder: Recorder, row: dict[str, Any], grid: FederationGrid) -> None:
            recorded(recorder, row, grid)
            if row["round"] == round:
                signal.raise_signal(signal.SIGALRM)

        monkeypatch.setattr(Recorder, "record_round", record_round)

    ring_in(5)
    assert reproducing.main(words()) == reproducing.LEFT
    assert "1 of 1 runs are left: the same command goes on" in capsys.readouterr().out
    assert not (tmp_path / "published.md").exists()
    monkeypatch.undo()
    assert reproducing.main(words("checkpoint_every=3", "engine=process", "engine.workers=1")) == 0
    said = capsys.readouterr().out
    assert "round 5/8 " in said
    assert "round 4/8 " not in said  # it went on from the checkpoint of round 4
    assert (tmp_path / "published.md").exists()
    assert pd.read_csv(run / "rounds.csv")["round"].tolist() == list(range(9))


def test_the_alarm_ends_a_block_where_ctrl_c_is_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        begun = time.monotonic()
        with ended_after(0.3 / 60):
            time.sleep(60)
        assert time.monotonic() - begun < 50
        with ended_after(0.01 / 60):
            pass
        time.sleep(0.1)  # the alarm of a block that has ended does not ring
        with pytest.raises(KeyError), ended_after(5):
            raise KeyError
        assert signal.getitimer(signal.ITIMER_REAL)[1] == 0  # another alarm, as of pytest-timeout, rings once
        assert not issubclass(TimeIsUp, Exception)
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_writes_what_is_finished_and_is_not_taken_for_time_that_is_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    [run] = reproducing.planned("fedwon_digits5", reproducing.rows_with(table(), ["norm=gn"]), [0], SMALL, tmp_path)
    monkeypatch.setattr(planned_runs.PlannedRun, "make", interrupt)
    with pytest.raises(KeyboardInterrupt), ended_after(5):
        make_all([run])
    assert reproducing.main(["fedwon_digits5", *SMALL, "--rows", "norm=gn", "--out", str(tmp_path)]) == 130
    assert "1 of 1 runs are left" in capsys.readouterr().out


def table() -> reproducing.Published:
    return reproducing.published_by("fedwon_digits5")


def test_rows_are_chosen_by_all_of_their_words() -> None:
    assert [row.run for row in reproducing.rows_with(table(), ["norm=bn", "strategy=fedavg"])] == [
        "strategy=fedavg norm=bn"  # it has no other words
    ]
    assert [row.run for row in reproducing.rows_with(table(), ["strategy=fedavg"])] == [
        "strategy=fedavg norm=bn",
        "strategy=fedavg norm=gn",
        "strategy=fedavg norm=ln",
        "strategy=fedavg norm=bn norm.policy=silobn",
        "strategy=fedavg norm=bn norm.policy=fixbn",
    ]
    assert len(reproducing.rows_with(table(), [])) == len(table().rows)
    with pytest.raises(UserError, match=r"^--rows norm=gn strategy=fedbn is not possible: no row of FedWon"):
        reproducing.rows_with(table(), ["norm=gn", "strategy=fedbn"])


def test_the_first_seed_comes_first(tmp_path: Path) -> None:
    rows = reproducing.rows_with(table(), ["norm=bn"])
    runs = reproducing.planned("fedwon_digits5", rows, [3, 1], ["data_dir=."], tmp_path)
    assert [each.seed for each in runs] == [3] * len(rows) + [1] * len(rows)
    assert [each.label for each in runs] == [row.run for row in rows] * 2


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_run_of_a_row_has_a_folder_of_its_own_and_is_put_beside_the_row(experiment: str, tmp_path: Path) -> None:
    if compose([f"experiment={experiment}"])["published"] is None:
        return
    published = reproducing.published_by(experiment)
    for number, run in enumerate(reproducing.planned(experiment, published.rows, [0], ["data_dir=."], tmp_path)):
        run.run_dir.mkdir(parents=True)
        OmegaConf.save(repeatable(run.settings.to_config()), run.run_dir / "config.yaml")
        found = row_of(run.run_dir)
        assert found is not None
        assert found[1].run == published.rows[number].run


@pytest.mark.nightly
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_row_of_every_table_can_be_run(experiment: str, tmp_path: Path) -> None:
    """On other images, and with a small network: what rows and experiment say of the rest goes together."""
    small = ("dataset=digits", "dataset.image_size=16", "model=cnn_small", "rounds=2", "batch_size=4")
    if compose([f"experiment={experiment}"])["published"] is None:
        return
    digits = compose(["dataset=digits"])["dataset"]
    for row in reproducing.published_by(experiment).rows:
        own = [word for word in (*small, "split.drop_empty=true") if word.partition("=")[0] not in row.words]
        words = [f"experiment={experiment}", *own, *row.run.split()]
        config = compose(words)
        config["dataset"] = {key: value for key, value in config["dataset"].items() if key in digits}
        prepare(settings_of(config, words))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["fedwon"], "experiment=fedwon is not known: choose fedbn_digits5, "),
        (["fraug_digits_small"], "experiment=fraug_digits_small has no published table: choose fedbn_digits5, "),
        (["fedwon_digits5", "--seeds", "1,1"], "--seeds=1,1 names a seed twice"),
        (
            ["fedwon_digits5", *SMALL, "--rows", "norm.policy=fixbn"],
            "the row strategy=fedavg norm=bn norm.policy=fixbn cannot be run: norm.freeze_after=0 is not possible",
        ),
        (["fedwon_digits5", "norm=gn"], "norm=gn is not possible, since rows differ in norm: choose rows by --rows"),
        (["fedwon_digits5", "seed=3"], "seed=3 is not possible: choose seeds by --seeds 0,1,2."),
        (["fedwon_digits5", "out_dir=x"], "out_dir=x is not possible: choose the folder by --out FOLDER."),
        (["fedwon_digits5", "lr=0.1,0.2"], "lr=0.1,0.2 names several values, and the rows are what is compared"),
        (
            ["fedwon_digits5", "--rows", "norm=gn", "data_dir=x"],
            "--rows norm=gn data_dir=x is not possible: no row of ",
        ),
        (["fedwon_digits5", "engine=superlink"], "engine=superlink is not possible: these runs are made on this"),
        (["fedwon_digits5", "data_dir=/no/müller (10)/a=b/#1"], "the row strategy=local norm=bn cannot be run: "),
        (["fedwon_digits5", *SMALL, "--minutes", "0"], "--minutes=0.0 is not possible: choose a number above 0,"),
        (["fedwon_digits5", *SMALL, "--minutes", "1e300"], "--minutes=1e+300 is not possible: choose a number above"),
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
