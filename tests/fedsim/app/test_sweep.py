"""A sweep that was killed goes on: what is finished is skipped, the job that was broken is resumed, the others run."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsim.app import cli, jobs
from fedsim.app.sweep import FILE, Sweep, finished_jobs
from fedsim.core.errors import UserError
from fedsim.output.progress import Reporter
from tests.conftest import SMALL

WORDS = ("-m", *SMALL, "engine=inline", "strategy=fedavg,fedbn,local", "dataset.train_per_domain=20")
Main = Callable[..., int]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Main:
    """``python run.py`` in this process; returns the exit status, or 0 where the sweep ended as it should."""

    def call(*arguments: str) -> int:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        try:
            cli.main()
        except SystemExit as exit:
            return int(str(exit.code))
        return 0

    return call


@pytest.mark.nightly
def test_a_killed_sweep_goes_on_where_it_was(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(*WORDS, "out_dir=whole") == 0
    reporters = iter([Reporter(), Interrupts()])
    monkeypatch.setattr(jobs, "console_reporter", lambda **options: next(reporters))
    assert main(*WORDS, "out_dir=my sweep") == cli.INTERRUPTED
    assert "go on with the sweep: python run.py 'resume=my sweep'" in capsys.readouterr().err
    sweep = tmp_path / "my sweep"
    assert [(sweep / str(job) / "report.html").exists() for job in range(3)] == [True, False, False]
    assert not (sweep / "2").exists()
    finished = {file: file.stat().st_mtime_ns for file in (sweep / "0").rglob("*")}
    monkeypatch.undo()
    assert main("resume=my sweep") == 0
    assert "was finished before" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    for job in map(str, range(3)):
        for name in ("clients.csv", "config.yaml", "model.safetensors"):
            assert (sweep / job / name).read_bytes() == (tmp_path / "whole" / job / name).read_bytes()
    assert main("resume=my sweep") == 0  # nothing is left to do
    assert capsys.readouterr().out.count("was finished before") == 3


class Interrupts(Reporter):
    def round_done(self, round: int, metrics: object) -> None:
        if round == 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize("word", ["rounds=9", "out_dir=elsewhere", "strategy=local"])
def test_a_sweep_keeps_its_settings(tmp_path: Path, word: str) -> None:
    Sweep(["seed=0,1"], (tmp_path, "config")).save(tmp_path)
    with pytest.raises(UserError, match=rf"^{word} cannot be given with resume={tmp_path}, a sweep"):
        Sweep.named_by([f"resume={tmp_path}", word])


@pytest.mark.parametrize(
    "text",
    [
        '{"words": [',
        '{"words": "seed=0,1", "configuration": ["configs", "config"]}',
        '{"words": [1], "configuration": ["configs", "config"]}',
        '{"words": ["seed"], "configuration": ["configs", "config"]}',
        '{"words": ["seed=0,1"], "configuration": null}',
    ],
)
def test_a_damaged_description_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match=rf"^{tmp_path / FILE} cannot be read"):
        Sweep.named_by([f"resume={tmp_path}"])


def test_what_is_stored_is_what_was_said_but_for_the_folder(tmp_path: Path) -> None:
    Sweep(["seed=0,1", "out_dir=here"], (tmp_path, "mine")).save(tmp_path / "a,b")
    assert json.loads((tmp_path / "a,b" / FILE).read_text()) == {
        "words": ["seed=0,1"],
        "configuration": [str(tmp_path), "mine"],
    }
    found = Sweep.named_by([f"resume='{tmp_path}/a,b'"])
    assert found is not None
    folder, sweep = found
    assert folder == tmp_path / "a,b"
    assert sweep.words_in(folder) == ["seed=0,1", f'out_dir="{folder}"']


def test_a_run_is_no_sweep(tmp_path: Path) -> None:
    assert Sweep.named_by([f"resume={tmp_path}"]) is None
    assert Sweep.named_by(["seed=0"]) is None
    assert Sweep.named_by(["resume=a,b"]) is None


def test_jobs_are_counted_whatever_their_folders_are_called(tmp_path: Path) -> None:
    for name in ("0", "lr=0.1/seed=1", "begun"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("0", "lr=0.1/seed=1", "."):  # the last one is the page of the whole sweep
        (tmp_path / name / "report.html").touch()
    assert finished_jobs(tmp_path) == 2
