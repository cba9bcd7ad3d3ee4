"""The command line as a person uses it: real runs, wrong settings, a kill, Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from fedsim.app import cli
from fedsim.output.checkpoint import has_checkpoint
from tests.conftest import ROOT, SMALL, CommandLine

PICTURES = {"accuracy.png", "classes.png", "clients.png", "images.png"}
TABLES = {"clients.csv", "classes.csv", "rounds.csv"}
DESCRIBING = {"config.yaml", "federation.csv", "provenance.json", "summary.json"}
FILES = TABLES | DESCRIBING | {"model.safetensors", "report.html"}


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """``python run.py`` in this process, in an empty folder; returns the exit status."""

    def call(*arguments: str) -> int:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        assert isinstance(exit.value.code, int)
        return exit.value.code

    return call


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["strategy=fedfoo"], "strategy=fedfoo is not known: choose apfl, central, creff, ditto, "),
        (["roundz=3"], "roundz=3 is not a setting: did you mean rounds?"),
        (["+strategy.extra=3"], "strategy.extra=3 is not an option of fedavg: leave it out."),
        (["rounds"], "'rounds' cannot be read: write key=value, without spaces."),
        (["rounds=0"], "rounds=0 is not possible: choose a whole number of at least 1."),
        (["strategy=fedprox", "strategy.mu=-1"], "strategy.mu=-1 is not possible: choose a number of at least 0."),
        (["strategy=fedbn", "norm=gn"], "strategy=fedbn needs BatchNorm layers to keep on the clients"),
        (["experiment=null"], "experiment=null is not possible: leave it out, or choose "),
        (["out_dir=/dev/null/run"], "out_dir=/dev/null/run cannot be written (Not a directory)"),
        (["resume=nowhere"], "nowhere is not a run directory: choose one that holds a config.yaml."),
        (["-m", "strategy=fedavg,fedfoo"], "strategy=fedfoo is not known"),
        (["-m", "strategy=fedbn", "norm=bn,gn"], "strategy=fedbn needs BatchNorm layers"),
        (["--config-name", "other"], "--config-name=other is not in "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_settings_are_one_sentence_and_exit_status_2(
    main: Callable[..., int],
    arguments: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert main(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {sentence}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []  # nothing was started


@pytest.mark.parametrize(("name", "words"), [("outputs", []), ("multirun", ["-m"])])
def test_where_no_folder_for_runs_can_be_made_a_sentence_says_so(
    main: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, words: list[str]
) -> None:
    (tmp_path / name).write_text("a file")
    assert main(*words, *SMALL, "engine=inline") == 2
    sentence = rf"^error: \S*{name}\S* cannot be used \(.+\): choose another directory with out_dir=\.\n$"
    assert re.search(sentence, capsys.readouterr().err)


def test_a_file_that_cannot_be_written_is_named_and_the_run_can_go_on(
    main: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "run" / ".model.safetensors.new").mkdir(parents=True)  # where it is written first
    assert main(*SMALL, "rounds=1", "engine=inline", "out_dir=run") == 1
    run_dir = tmp_path / "run"
    assert capsys.readouterr().err.splitlines() == [
        f"error: {run_dir / 'model.safetensors'} cannot be written (Is a directory)",
        "go on with: python run.py resume=run",
    ]
    assert has_checkpoint(run_dir / "checkpoints")


@pytest.mark.nightly
def test_a_warning_is_printed_once(run_py: CommandLine) -> None:
    done = run_py("strategy=fedbn", "fraction=0.2", "rounds=1", "engine=inline")
    assert done.returncode == 0, done.stderr
    warning = "WARNING: with fraction=0.2 the statistics that clients keep are 4.0 rounds old on average"
    assert warning in done.stdout
    assert (done.stdout + done.stderr).count("rounds old on average") == 1


@pytest.mark.nightly
def test_a_run_leaves_the_promised_files_and_prints_where(run_py: CommandLine, tmp_path: Path) -> None:
    done = run_py("strategy=fedbn", "out_dir=here", "pictures=true")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("run directory: here")
    assert "round 2/2  client accuracy" in done.stdout
    run_dir = tmp_path / "here"
    files = {path.name for path in run_dir.iterdir()}
    assert files == FILES | {"checkpoints", "plots", "clients"}
    assert {path.name for path in (run_dir / "plots").iterdir()} == PICTURES
    assert {path.name for path in (run_dir / "clients").iterdir()} == {f"{c}.safetensors" for c in range(6)}

    clients = pd.read_csv(run_dir / "clients.csv")
    assert list(clients) == ["round", "client", "domain", "split", "num_examples", "loss", "accuracy"]
    assert len(clients) == 3 * 6
    final = json.loads((run_dir / "summary.json").read_text())["final"]
    last = clients[clients["round"] == 2]
    assert final["client_accuracy_mean"] == pytest.approx(last["accuracy"].mean())
    assert final["client_accuracy_worst"] == pytest.approx(last["accuracy"].min())
    assert final["client_accuracy_std"] == pytest.approx(last["accuracy"].std(ddof=0))
    # Each domain's test set has 20 images, so the union's accuracy is the mean of the domains'.
    assert final["global_accuracy"] == pytest.approx(sum(final["domain_accuracy"].values()) / 6)

    # The configuration that was left behind repeats the run.
    repeats = ("--config-path", str(run_dir), "--config-name", "config", "out_dir=again", "pictures=false")
    again = run_py(*repeats, small=False)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again" / "clients.csv").read_bytes() == (run_dir / "clients.csv").read_bytes()

    # A second run into the same directory would destroy the first.
    refused = run_py("out_dir=here")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: out_dir=here already holds a run")


@pytest.mark.nightly
def test_inline_and_any_number_of_workers_write_the_same_bytes(run_py: CommandLine, tmp_path: Path) -> None:
    engines = ["engine=inline", "engine.workers=1", "engine.workers=3"]
    for number, engine in enumerate(engines):
        options = ("strategy=fedbn", "fraction=0.7", "split.clients_per_domain=2", "tta=tent", "diagnostics=true")
        done = run_py(*options, engine, f"out_dir={number}")
        assert done.returncode == 0, done.stderr
    for file in ("clients.csv", "diagnostics.csv"):
        assert len({(tmp_path / str(number) / file).read_bytes() for number in range(3)}) == 1


@pytest.mark.slow
def test_a_sweep_is_run_and_reported(run_py: CommandLine, tmp_path: Path) -> None:
    done = run_py("-m", "strategy=fedavg,fedwon", "seed=0,1", "out_dir=sweep", "rounds=1", "engine=inline")
    assert done.returncode == 0, done.stderr
    report = subprocess.run(
        [sys.executable, "-m", "fedsim.report", str(tmp_path / "sweep")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.returncode == 0, report.stderr
    table = pd.read_csv(tmp_path / "sweep" / "comparison.csv")
    assert table["label"].unique().tolist() == ["fedavg", "fedwon"]
    assert set(table["runs"]) == {2}
    finals = [json.loads((tmp_path / "sweep" / str(job) / "summary.json").read_text())["final"] for job in range(4)]
    mean = table[(table["label"] == "fedwon") & (table["domain"] == "mean")].iloc[0]
    values = pd.Series([100 * final["client_accuracy_mean"] for final in finals[2:]])
    assert mean["mean"] == pytest.approx(values.mean())
    assert mean["std"] == pytest.approx(values.std())


@pytest.mark.nightly
def test_a_run_that_diverges_is_an_error_and_the_others_of_a_sweep_are_played(
    run_py: CommandLine, tmp_path: Path
) -> None:
    done = run_py("-m", "lr=1e9,0.05", "out_dir=sweep", "rounds=1")
    assert done.returncode == 1
    sentence = r"^error: client \d failed in round 1: it (sent|moved) .*min_fraction_success=1\)$"
    assert re.search(sentence, done.stderr, re.MULTILINE)
    assert not (tmp_path / "sweep" / "0" / "model.safetensors").exists()
    assert (tmp_path / "sweep" / "1" / "model.safetensors").exists()


def started(run_dir: Path, *arguments: str) -> "subprocess.Popen[str]":
    """A run in a process group of its own, as a terminal would start it, that has written its first rounds."""
    command = [sys.executable, str(ROOT / "run.py"), *SMALL, *arguments, f"out_dir={run_dir.name}"]
    process = subprocess.Popen(
        command,
        cwd=run_dir.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell without job control starts what runs in its background, this test perhaps, deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    rounds = run_dir / "rounds.csv"
    deadline = time.monotonic() + 120
    while not (rounds.exists() and len(rounds.read_text().splitlines()) >= 4):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.mark.nightly
@pytest.mark.slow
def test_a_stopped_run_is_resumed_to_the_same_bytes(run_py: CommandLine, tmp_path: Path) -> None:
    options = ("strategy=fedbn", "rounds=8", "diagnostics=true", "diagnostics_every=2")
    process = started(tmp_path / "run", *options)
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "go on with: python run.py resume=run" in errors
    assert "stopped; what was recorded is intact" in errors
    final = json.loads((tmp_path / "run" / "summary.json").read_text())["final"]
    recorded = pd.read_csv(tmp_path / "run" / "rounds.csv")["round"].max()
    assert final["round"] in (recorded - 1, recorded)  # it may fall between the two files

    process = started(tmp_path / "killed", *options)
    process.kill()
    process.communicate(timeout=60)

    straight = run_py(*options, "out_dir=straight")
    assert straight.returncode == 0, straight.stderr
    for stopped in ("run", "killed"):
        assert not (tmp_path / stopped / "model.safetensors").exists()
        resumed = run_py(f"resume={stopped}", small=False)
        assert resumed.returncode == 0, resumed.stderr
        for file in ("clients.csv", "diagnostics.csv", "model.safetensors"):
            assert (tmp_path / stopped / file).read_bytes() == (tmp_path / "straight" / file).read_bytes()

    refused = run_py("resume=run", "lr=0.1", small=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: lr=0.1 cannot be given with resume=")


def test_run_py_can_be_imported_by_workers_without_cost() -> None:
    program = "import sys, run; assert 'torch' not in sys.modules and 'hydra' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
