"""The words and flags of the command line, and the folders that are left: real runs in this process."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsim.app import cli
from fedsim.core.errors import FedsimError, UserError
from fedsim.output.recorder import Recorder
from tests.conftest import SMALL, small_settings
from tests.fedsim.config.test_run_folders import Noon

TINY = (*SMALL, "rounds=1", "engine=inline", "dataset.train_per_domain=20")

LONG = "x" * 300
"""No system takes such a name."""


@pytest.fixture
def main(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., int]:
    """``python run.py`` in this process, in an empty folder that is also the home; returns the exit status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path_factory.mktemp("matplotlib")))  # else it is made in the home

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        try:
            cli.main()
        except SystemExit as exit:
            return int(exit.code or 0)
        return 0

    return call


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-m", "--cfg", "job", "seed=0,1"], "--multirun is not possible with --cfg, which shows one configuration"),
        (["seed=0", "--info", "-m"], "--multirun is not possible with --info, which shows one configuration"),
        (["--cfg", "job", "seed=0,1"], "seed=0,1 names several values, and --cfg shows one configuration: choose one."),
        (["--cfg", "job", "roundz=1"], "roundz=1 is not a setting: did you mean rounds?"),
        (["-m", "lr=interval(0.1,1)"], "lr=interval(0.1,1) has no end of values: choose range("),
        (
            ["-m", "seed=0,1", "hydra.sweep.subdir=same"],
            "hydra.sweep.subdir=same is not possible: choose a name",
        ),
        (
            ["-m", "seed=0,1", "hydra.sweeper.max_batch_size=0"],
            "hydra.sweeper.max_batch_size=0 is not possible",
        ),
        (
            ["-m", "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=0"],
            "hydra.launcher.n_jobs=0 is not possible: choose a number of jobs at once, or -1 for the cores.",
        ),
        (
            ["-m", "seed=0,1", '+hydra.sweeper.params.lr="0.1,0.2"'],
            '+hydra.sweeper.params.lr="0.1,0.2" is not possible: give several values of a setting as KEY=VALUE,VALUE.',
        ),
        (
            ["--config-name=mine", "resume=run", "rounds=9"],
            "--config-path and --config-name cannot be given with resume=: a run keeps its own settings.",
        ),
        (["-m", "strategy=glob(x*)"], "strategy=glob(x*) names no value: choose at least one."),
        (
            ["--rounds=3"],
            "--rounds is not a flag: settings are written rounds=VALUE, and --hydra-help has the flags.",
        ),
        (["--batch-size", "3"], "--batch-size is not a flag: settings are written batch_size=VALUE"),
        (["--cfg", "jobs"], "argument --cfg/-c: invalid choice: 'jobs' (choose from"),
        (["resume="], "resume= is not possible: choose the directory of the run that is to go on."),
        (["-m", "seed=[1"], "'seed=[1' cannot be read: write key=value"),
        ([f"--config-path=/{LONG}"], f"--config-path=/{LONG} is too long for a path: choose a shorter one."),
        ([f"out_dir={LONG}"], f"out_dir={LONG} is too long for a path: choose a shorter one."),
        ([f"resume={LONG}"], f"resume={LONG} is too long for a path: choose a shorter one."),
        (["--config-path=~/none"], "--config-path=HOME/none is not a folder: choose one that holds a config.yaml."),
        (["data_dir=~/none", "dataset=cifar10"], "data_dir=HOME/none is not a folder"),
        (
            ["out_dir=new/run", "strategy.pretrained=~/m", "strategy=pruned"],
            "strategy.pretrained=HOME/m cannot be read",
        ),
        (
            ["engine=superlink", "engine.address=a:1", "engine.root_certificates=~/ca.crt"],
            "engine.root_certificates=HOME/ca.crt is not there",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_it_is_one_sentence_and_nothing_is_left(
    main: Callable[..., int], arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {sentence.replace('HOME', str(tmp_path / 'home'))}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_flags_stand_anywhere_and_one_configuration_is_shown(
    main: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main("rounds=7", "--cfg", "job", "-p", "budget", "split.leave_out=Zürich") == 0
    assert "memory_mb: null" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_repeated_from_the_relative_path_that_it_prints(
    main: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(*TINY, "out_dir=~/my (runs)=#é", "lr=0.01") == 0
    first = Path(capsys.readouterr().out.rstrip().split("run directory: ")[1])
    assert first == Path("home", "my (runs)=#é")
    assert main(f"--config-path={first}", "--config-name", "config.yaml", "out_dir=again") == 0
    assert (tmp_path / "again" / "clients.csv").read_bytes() == (tmp_path / first / "clients.csv").read_bytes()
    assert "lr: 0.01" in (tmp_path / "again" / "config.yaml").read_text()


@pytest.mark.nightly
def test_two_sweeps_of_one_second_lose_no_run_and_read_hydras_forms(
    main: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedsim.config.run_folders.datetime", Noon)
    assert main("-m", *TINY, "seed=range(0,2)") == 0
    assert main("-m", *TINY, "strategy=glob(fedb*)", "seed=choice(1,2)") == 0
    summaries = sorted(str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("summary.json"))
    folder = "multirun/2026-03-04/12-00-00"
    assert summaries == [f"{folder}-2/0", f"{folder}-2/1", f"{folder}/0", f"{folder}/1"]


@pytest.mark.parametrize("arguments", [[], ["out_dir=a/b"], ["-m", "seed=0,1"], ["-m", "seed=0,1", "out_dir=a/b"]])
def test_a_run_that_fails_before_its_first_round_leaves_no_folder(
    main: Callable[..., int], arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_engine(prepared: object) -> None:
        raise FedsimError("worker 0 could not be started")

    monkeypatch.setattr("fedsim.server.simulation.start_engine", no_engine)
    assert main(*TINY, *arguments) == 1
    assert list(tmp_path.iterdir()) == []


def test_of_two_runs_that_start_at_once_in_one_directory_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_settings(f"out_dir={tmp_path / 'run'}")
    first, second = Recorder(tmp_path / "run", settings), Recorder(tmp_path / "run", settings)
    monkeypatch.setattr(
        "fedsim.output.recorder.check_run_dir", lambda run_dir: run_dir.mkdir(exist_ok=True)
    )  # both look now
    first.open()
    with pytest.raises(UserError, match="already holds a run"):
        second.open()
    second.take_back()
    assert (tmp_path / "run" / "config.yaml").exists()
    first.take_back()
    assert not (tmp_path / "run" / "config.yaml").exists()
