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
FILES = TABLES | {"config.yaml", "provenance.json", "summary.json", "model.safetensors", "report.html"}


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
        (["strategy=fedfoo"], "strategy=fedfoo is not known: choose ditto, fedadagrad, fedadam, fedavg, "),
        (["dataset=imagenet"], "dataset=imagenet is not known: choose cifar10, cifar100, devices, digits, "),
        (["model=resnet9000"], "model=resnet9000 is not known: choose alexnet, cnn6, cnn_small, "),
        (["norm=x"], "norm=x is not known: choose bcn, bn, crms, evonorm_b0, "),
        (["experiment=x"], "experiment=x is not known: choose fedbn_digits5, "),
        (["roundz=3"], "roundz=3 is not a setting: did you mean rounds?"),
        (["strategy.clap=3", "strategy=fedwon"], "strategy.clap=3 is not a setting: did you mean strategy.clip?"),
        (["+extra=3"], "extra=3 is not a setting: the settings are "),
        (["+strategy.extra=3"], "strategy.extra=3 is not an option of fedavg: leave it out."),
        (["rounds"], "'rounds' cannot be read: write key=value, without spaces."),
        (["rounds=0"], "rounds=0 is not possible: choose a whole number of at least 1."),
        (["rounds=1.5"], "rounds=1.5 is not possible: choose a whole number of at least 1."),
        (["rounds=many"], "rounds=many is not possible: choose a whole number of at least 1."),
        (["fraction=0"], "fraction=0 is not possible: choose a number above 0 and at most 1."),
        (["fraction=2"], "fraction=2 is not possible: choose a number above 0 and at most 1."),
        (["batch_size=-4"], "batch_size=-4 is not possible: choose a whole number of at least 1."),
        (["batch_size=1"], "batch_size=1 gives norm=bn no batch to normalize over"),
        (["batch_size=1", "norm=evonorm_b0"], "batch_size=1 gives norm=evonorm_b0 no batch to normalize over"),
        (["model=torchvision/resnet18", "norm=in"], "norm=in normalizes over the pixels of each channel, of which"),
        (["compression=zip"], "compression=zip is not possible: choose fp16 or int8, or null."),
        (["round_timeout=0"], "round_timeout=0 is not possible: choose a number of seconds above 0, or null."),
        (["update_limit=-1"], "update_limit=-1 is not possible: choose a number above 0, or null."),
        (
            ["dataset=cifar10", "dataset.cutout=0"],
            "dataset.cutout=0 is not possible: choose a whole number from 1 to 32",
        ),
        (["dataset=cifar10", "dataset.cutout=33"], "dataset.cutout=33 is not possible: choose a whole number from 1"),
        (["dataset=cifar10", "dataset.cutout=1.5"], "dataset.cutout=1.5 is not possible: choose a whole number or"),
        (["dataset=fashion_mnist", "dataset.cutout=8"], "dataset.cutout=8 is not used with dataset.augment=false:"),
        (["dataset=devices"], "dataset=devices is images that real devices hold: run it with flwr run"),
        (["dataset=devices", "dataset.classes=1"], "dataset.classes=1 is not possible: choose a whole number of at"),
        (["dataset=devices", "dataset.channels=2"], "dataset.channels=2 is not possible: choose 1 or 3."),
        (["engine=superlink"], "engine.address=None is not possible: choose the SuperLink's HOST:PORT."),
        (["engine=superlink", "engine.address=http://a:1"], "engine.address=http://a:1 is not possible: choose"),
        (["engine=superlink", "engine.address=a:1"], "engine.root_certificates=None is not possible: choose the"),
        (
            ["engine=superlink", "engine.address=a:1", "engine.root_certificates=nowhere.crt"],
            "engine.root_certificates=nowhere.crt is not there: choose the file ca.crt.",
        ),
        (
            ["engine=superlink", "engine.address=a:1", "engine.insecure=true", "+strategy.clip=1"],
            "strategy.clip=1 is not an option of fedavg: leave it out.",
        ),
        (["lr=0"], "lr=0 is not possible: choose a number above 0."),
        (["seed=-1"], "seed=-1 is not possible: choose a whole number of at least 0."),
        (["device=tpu"], "device=tpu is not possible: choose auto or cpu"),
        (["device=cuda:99"], "device=cuda:99 is not possible: choose auto or cpu"),
        (["engine.workers=0"], "engine.workers=0 is not possible: choose a whole number of at least 1."),
        (["split.clients_per_domain=0"], "split.clients_per_domain=0 is not possible: choose a whole number"),
        (["strategy.weighting=size"], "strategy.weighting=size is not known: choose examples or uniform."),
        (["strategy=fedwon", "strategy.clip=-1"], "strategy.clip=-1 is not possible: choose a number above 0"),
        (["strategy=fedprox", "strategy.mu=-1"], "strategy.mu=-1 is not possible: choose a number of at least 0."),
        (["strategy=fedprox", "strategy.mu=inf"], "strategy.mu=inf is not possible: choose a number of at least 0."),
        (["strategy=fedprox", "strategy.mu=x"], "strategy.mu=x is not possible: choose a number."),
        (["strategy=fedper", "head=etf"], "strategy=fedper needs a classifier that is trained, and that of this"),
        (["strategy=fedper", "train_only=norm"], "strategy=fedper needs a classifier that is trained, and that of"),
        (["strategy=fedrep", "head=etf"], "strategy=fedrep needs a classifier that is trained, and that of this"),
        (["strategy=fedrep", "strategy.head_epochs=0"], "strategy.head_epochs=0 is not possible: choose a whole"),
        (["strategy=fedper", "model=torchvision/squeezenet1_1"], "strategy=fedper needs a network whose logits"),
        (["strategy=fedbn", "norm=gn"], "strategy=fedbn needs BatchNorm layers to keep on the clients"),
        (["strategy=fedwon", "norm=bn"], "strategy=fedwon needs standardized convolutions and no normalization layer"),
        (["norm.policy=x"], "norm.policy=x is not known: choose fedavg, fedbn, silobn, fixbn, or null."),
        (["norm=gn", "norm.policy=silobn"], "norm.affine=shared is about layers with running statistics"),
        (["strategy=fedbn", "norm.policy=silobn"], "norm.affine=shared contradicts strategy=fedbn"),
        (["norm=gn", "norm.groups=5"], "norm.groups=5 does not divide the 32 channels"),
        (["attention=x"], "attention=x is not known: choose ela, none, scse, se."),
        (["attention=se", "attention.reduction=40"], "attention.reduction=40 is not possible for the 32 channels of a"),
        (["attention=se", "attention.reduction=1.5"], "attention.reduction=1.5 is not possible: choose a whole"),
        (["attention=scse", "attention.combine=x"], "attention.combine=x is not known: choose add or max."),
        (["attention=ela", "attention.norm_groups=5"], "attention.norm_groups=5 does not divide the 32 channels of a"),
        (["attention=ela", "strategy=fedwon"], "strategy=fedwon needs standardized convolutions and no normalization"),
        (
            ["attention=se", "model=torchvision/densenet121", "dataset.image_size=64"],
            "attention=se stands at the end of residual branches, or",
        ),
        (["experiment=null"], "experiment=null is not possible: leave it out, or choose "),
        (["head=x"], "head=x is not known: choose cosine, etf, linear, local_generic."),
        (["head=cosine", "head.scale=0"], "head.scale=0 is not possible: choose a number above 0."),
        (["head=cosine", "head.learnable=1"], "head.learnable=1 is not possible: choose true or false."),
        (["head=local_generic"], "head=local_generic has a fixed classifier, which strategy=fedavg does not make"),
        (["strategy=fedloge", "head=etf"], "strategy=fedloge needs a network that ends in its three classifiers"),
        (
            ["strategy=fedloge", "head.sparsity=1"],
            "head.sparsity=1 is not possible: choose a number from 0 to below 1.",
        ),
        (["strategy=fedloge", "head.bias=no"], "head.bias=no is not known: choose zero or random."),
        (["strategy=fedloge", "strategy.local_rule=x"], "strategy.local_rule=x is not known: choose code or readme."),
        (["shots=x"], "shots=x is not possible: choose share or count."),
        (["mask_absent_classes=1"], "mask_absent_classes=1 is not possible: choose true or false."),
        (["head=etf", "model=torchvision/squeezenet1_1"], "head=etf needs a network whose logits come out of one"),
        (["reparam=x"], "reparam=x is not known: choose none, weight_compander."),
        (["reparam=weight_compander", "reparam.b=0"], "reparam.b=0 is not possible: choose a number above 0."),
        (["reparam=weight_compander", "reparam.a=0.01"], "reparam.a=0.01 allows weights below 0.0157, and features.0"),
        (["reparam=weight_compander", "train_only=norm"], "train_only=norm freezes the weights that reparam="),
        (["tta=x"], "tta=x is not known: choose alpha_bn, bn_batch, cafa, none, tent."),
        (["tta=bn_batch", "norm=gn"], "tta=bn_batch is about BatchNorm's running statistics"),
        (["tta=tent", "norm=none"], "tta=tent trains the scales and shifts of norm layers"),
        (["tta=tent", "tta.lr=0"], "tta.lr=0 is not possible: choose a number above 0."),
        (["aggregation=x"], "aggregation=x is not known: choose krum, mean, median, multikrum, trimmed_mean."),
        (["aggregation=median", "fraction=0.3"], "aggregation=median of 2 is their mean: choose a larger fraction"),
        (["aggregation=trimmed_mean", "aggregation.share=0.5"], "aggregation.share=0.5 is not possible: choose a"),
        (["aggregation=trimmed_mean", "aggregation.share=0.1"], "aggregation.share=0.1 trims none of 6 clients"),
        (["aggregation=krum", "aggregation.malicious=2"], "aggregation.malicious=2 needs at least 7 clients in each"),
        (
            ["aggregation=krum", "aggregation.malicious=0.5"],
            "aggregation.malicious=0.5 is not possible: choose a whole",
        ),
        (["aggregation=multikrum", "aggregation.selected=4"], "aggregation.selected=4 is not possible for 6 clients"),
        (["privacy=x"], "privacy=x is not known: choose none, server_adaptive_clipping, server_fixed_clipping."),
        (["privacy=server_fixed_clipping", "privacy.clipping_norm=0"], "privacy.clipping_norm=0 is not possible"),
        (
            ["privacy=server_fixed_clipping", "privacy.noise_multiplier=1"],
            "strategy.weighting=examples lets a client weigh more than privacy.noise_multiplier is made for",
        ),
        (
            ["privacy=server_adaptive_clipping", "privacy.noise_multiplier=1", "strategy=fedbn"],
            "privacy.noise_multiplier=1 is not possible with a standard deviation of 0.3 for the number of clipped",
        ),
        (["diagnostics=yes please"], "diagnostics=yes please is not possible: choose true or false."),
        (["diagnostics_images=1"], "diagnostics_images=1 is not possible: choose a whole number of at least 2."),
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


def test_a_warning_is_printed_once(run_py: CommandLine) -> None:
    done = run_py("strategy=fedbn", "fraction=0.2", "rounds=1", "engine=inline")
    assert done.returncode == 0, done.stderr
    warning = "WARNING: with fraction=0.2 the statistics that clients keep are 4.0 rounds old on average"
    assert warning in done.stdout
    assert (done.stdout + done.stderr).count("rounds old on average") == 1


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_stopped_run_is_resumed_to_the_same_bytes(run_py: CommandLine, tmp_path: Path) -> None:
    options = ("strategy=fedbn", "rounds=12", "diagnostics=true", "diagnostics_every=2")
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
