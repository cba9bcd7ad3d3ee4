"""What a run and a sweep print: on a terminal, in a log, to nobody, and with ``--quiet``."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from fedsim.app import cli
from tests.conftest import ROOT, SMALL

TINY = (*SMALL, "rounds=1", "engine=inline", "dataset.train_per_domain=20")
LEFT = r"\d+ (s|min) left, ends [\w :-]+"
Main = Callable[..., int]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Main:
    """``python run.py`` in this process, in an empty folder; returns the exit status."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        try:
            cli.main()
        except SystemExit as exit:
            return int(str(exit.code or 0))
        return 0

    return call


def on_a_terminal(folder: Path, columns: int, *arguments: str) -> str:
    """Everything that a run writes to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *arguments],
        cwd=folder,
        env={**environment, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux's end of a terminal
            break
        if not piece:
            break
        written += piece
    os.close(ours)
    assert process.wait(timeout=60) == 0, written.decode()
    return written.decode()


def test_on_a_terminal_two_lines_change_and_are_gone_before_the_table(tmp_path: Path) -> None:
    written = on_a_terminal(tmp_path, 80, *SMALL, "rounds=6", "engine=inline", "out_dir=run")
    live, cleared, rest = written.rpartition("\x1b[1A\x1b[2K\x1b[1A\x1b[2K")
    assert cleared
    assert "run directory: run" in rest
    assert "\x1b[1A" not in rest
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", live)]
    shown = [line for line in lines if line.startswith(("round ", "client accuracy"))]
    assert max(map(len, shown)) <= 80
    assert re.fullmatch(r"round 6/6  ━{30}  6/6 clients", shown[-2])
    last = pd.read_csv(tmp_path / "run" / "rounds.csv").iloc[-1]
    mean, worst = (f"{last[f'client_accuracy_{name}']:.1%}" for name in ("mean", "worst"))
    assert re.fullmatch(rf"client accuracy [▁-█]{{7}} {mean}  worst {worst}  \d+ images/s  [\d.]+ [MG]B", shown[-1])
    assert any(re.search(LEFT, line) for line in shown)


def test_in_a_log_a_round_is_a_line_and_nothing_else(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(*TINY, "rounds=4", "evaluate_every=2", "out_dir=run") == 0
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.split("\n"))
    rounds = [line for line in out.splitlines() if line.startswith("round ")]
    table = pd.read_csv(tmp_path / "run" / "rounds.csv").set_index("round")
    images = pd.read_csv(tmp_path / "run" / "federation.csv")["train"].sum()
    assert len(rounds) == 3
    for number, line in zip((0, 2, 4), rounds, strict=True):
        row = table.loc[number]
        accuracies = (
            f"client accuracy {row['client_accuracy_mean']:.1%}  worst {row['client_accuracy_worst']:.1%}  "
            f"global accuracy {row['global_accuracy']:.1%}"
        )
        speed = f"  {images / row['seconds']:.0f} images/s" if number else ""
        left = f"  {LEFT}" if number == 2 else ""
        assert re.fullmatch(rf"round {number}/4  {re.escape(accuracies + speed)}  [\d.]+ [MG]B{left}", line)
    assert not {"images_per_second", "memory_mb"} & set(table)


@pytest.mark.nightly
def test_a_run_that_nobody_reads_any_more_is_finished(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *TINY, "out_dir=run"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()  # before the first line: as behind `| head -0`
    _, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (0, "")
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.nightly
def test_a_quiet_run_says_where_its_results_are_and_has_the_same_numbers(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(*TINY, "strategy=fedbn", "out_dir=loud") == 0
    capsys.readouterr()
    assert main("--quiet", *TINY, "strategy=fedbn", "verbose=true", "out_dir=quiet") == 0
    assert capsys.readouterr() == ("run directory: quiet\n", "")
    for file in ("clients.csv", "model.safetensors"):
        assert (tmp_path / "quiet" / file).read_bytes() == (tmp_path / "loud" / file).read_bytes()
    headers = {(tmp_path / run / "rounds.csv").read_text().partition("\n")[0] for run in ("quiet", "loud")}
    assert len(headers) == 1

    assert main("resume=loud", "rounds=2", "--quiet") == 0  # each command is quiet or not
    assert capsys.readouterr().out == "run directory: loud\n"
    assert main("resume=quiet", "rounds=2") == 0
    assert "\nround 2/2  client accuracy " in capsys.readouterr().out


def test_warnings_and_errors_are_never_left_out(main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(*TINY, "strategy=fedbn", "fraction=0.2", "out_dir=run", "--quiet") == 0
    warning, place = capsys.readouterr().out.splitlines()
    assert warning.startswith("WARNING: with fraction=0.2 the statistics that clients keep are 4.0 rounds old")
    assert place == "run directory: run"
    assert main("--quiet", "strategy=fedfoo") == 2
    assert capsys.readouterr().err.startswith("error: strategy=fedfoo is not known")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["batch_size=18"], True),
        (["batch_size=18", "drop_last=true"], False),
        (["batch_size=18", "norm=gn"], False),
        (["batch_size=12"], False),
    ],
    ids=["few", "left out", "not normalized by", "enough"],
)
def test_last_batches_of_few_images_are_told_of_where_they_are_normalized_by(
    main: Main, words: list[str], told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(*TINY, *words, "out_dir=run", "--quiet") == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WARNING")]
    sentence = "WARNING: 6 of 6 clients end a pass with a batch of 2 images, of which the network takes statistics"
    assert [warning.startswith(sentence) for warning in warnings] == [True] * told


@pytest.mark.parametrize(
    ("words", "told"),
    [(["batch_size=2"], True), (["batch_size=3"], False), (["batch_size=2", "norm=gn"], False)],
    ids=["of two", "of three", "not normalized by"],
)
def test_pairs_of_images_are_told_of_where_linear_layers_are_normalized_by_them(
    main: Main, words: list[str], told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(*TINY, "model=cnn6", "dataset.train_per_domain=4", "drop_last=true", *words, "out_dir=run", "--quiet") == 0
    )
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WARNING")]
    sentence = "WARNING: with batch_size=2 BatchNorm behind a linear layer (features."
    assert [warning.startswith(sentence) for warning in warnings] == [True] * told


def test_each_job_of_a_sweep_says_which_it_is_and_how_long_all_of_them_take(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("-m", *TINY, "strategy=fedavg,fedbn,local", "out_dir=sweep") == 0
    out = capsys.readouterr().out
    assert "HYDRA" not in out
    first, *others = [line for line in out.splitlines() if line.startswith("job ")]
    assert first == "job 1 of 3: strategy=fedavg"
    for number, (line, strategy) in enumerate(zip(others, ("fedbn", "local"), strict=True), 2):
        assert re.fullmatch(rf"job {number} of 3: strategy={strategy}  \(all jobs: {LEFT}\)", line)


@pytest.mark.nightly
def test_a_quiet_sweep_may_go_on_aloud(main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("-m", *TINY, "seed=0,1,2", "out_dir=sweep", "--quiet") == 0
    assert capsys.readouterr().out.splitlines() == [f"run directory: sweep/{job}" for job in range(3)]
    assert "quiet" not in (tmp_path / "sweep" / "sweep.json").read_text()
    (tmp_path / "sweep" / "1" / "report.html").unlink()
    assert main("resume=sweep") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["sweep/0 was finished before", "job 2 of 3: seed=1"]
    assert lines[-2:] == ["run directory: sweep/1", "sweep/2 was finished before"]
    assert main("resume=sweep", "--quiet") == 0
    assert capsys.readouterr().out == ""
