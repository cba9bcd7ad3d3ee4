"""Each tracker has the numbers of the run's own files, read back with its own package."""

import importlib
import json
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import fedsim
from fedsim.core.errors import RoundFailed
from fedsim.output.results import Result
from fedsim.trackers.tracker import TrackedRun, Tracker
from fedsim.trackers.tracking import Tracking
from tests.conftest import SMALL

History = dict[str, dict[int, float]]
"""By name of a metric, its value in each round"""
FAILING = ("faults.crash=0.9", "min_fraction_success=0.9")
RUN = (*SMALL, "engine=inline", "strategy=fedbn", "lr=0.03")


def simulated(run_dir: Path, *words: str) -> Result:
    return fedsim.simulate(*RUN, *words, f"out_dir={run_dir}", progress=False)


def resumed(run_dir: Path) -> Result:
    return fedsim.simulate(f"resume={run_dir}", "rounds=3", progress=False)


def expected(result: Result) -> History:
    """What every tracker has to have of the rounds: each number of ``rounds.csv``, and each client's accuracy."""
    history: History = {}
    for row in pd.read_csv(result.run_dir / "rounds.csv").to_dict("records"):
        for name, value in row.items():
            if name != "round" and value == value:  # not empty
                history.setdefault(str(name), {})[row["round"]] = value
    for row in pd.read_csv(result.run_dir / "clients.csv").to_dict("records"):
        history.setdefault(f"clients/{row['client']}/accuracy", {})[row["round"]] = row["accuracy"]
    assert {"client_accuracy_mean", "domain_accuracy.plain", "train_loss", "clients/5/accuracy"} <= history.keys()
    return history


def assert_has(found: History, history: History) -> None:
    for name, values in history.items():
        assert found[name].keys() == values.keys(), name
        assert found[name] == pytest.approx(values, rel=1e-6), name  # TensorBoard has 32 bits


def events(run_dir: Path) -> Any:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs pip install -e '.[tensorboard]'"
    )
    read = accumulator.EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    return read.Reload()


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs pip install -e '.[tensorboard]'")
    result = simulated(tmp_path, "tracker=tensorboard")

    def history() -> History:
        read = events(tmp_path)
        return {tag: {each.step: each.value for each in read.Scalars(tag)} for tag in read.Tags()["scalars"]}

    assert_has(history(), expected(result))
    assert history()["summary.final.client_accuracy_mean"] == pytest.approx(
        {2: result.summary["final"]["client_accuracy_mean"]}, rel=1e-6
    )
    plugin = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2").HParamsPluginData
    stored = events(tmp_path).summary_metadata["_hparams_/session_start_info"].plugin_data.content
    hparams = plugin.FromString(stored).session_start_info.hparams
    assert hparams["lr"].number_value == 0.03
    assert hparams["strategy.name"].string_value == "fedbn"
    longer = expected(resumed(tmp_path))
    assert_has(history(), longer)


@pytest.mark.nightly
def test_mlflow(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs pip install -e '.[mlflow]'")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    result = simulated(tmp_path / "run", "tracker=mlflow", f"tracker.uri={uri}", "tracker.project=mine")
    client = mlflow.MlflowClient(tracking_uri=uri)

    def only_run() -> Any:
        (run,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
        return run

    def history() -> History:
        run = only_run()
        return {
            name: {each.step: each.value for each in client.get_metric_history(run.info.run_id, name)}
            for name in run.data.metrics
        }

    assert_has(history(), expected(result))
    run = only_run()
    assert run.data.params["lr"] == "0.03"
    assert run.data.params["strategy.name"] == "fedbn"
    assert run.info.run_name == f"{tmp_path.name}/run"
    assert run.info.status == "FINISHED"
    assert run.data.metrics["summary.best.round"] == result.summary["best"]["round"]
    longer = expected(resumed(tmp_path / "run"))
    assert_has(history(), longer)
    assert only_run().info.run_id == run.info.run_id
    assert only_run().info.status == "FINISHED"


def leveldb_log(content: bytes) -> Iterator[bytes]:
    """The records of LevelDB's log format, in which W&B writes behind a header of seven bytes: blocks of 32 KiB, in
    them parts with a checksum, a length and a type: 1 whole, 2 first, 3 middle, 4 last."""
    at, record = 0, b""
    while at + 7 <= len(content):
        left = 32768 - (at + 7) % 32768  # the header of the file is in the first block
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


@pytest.mark.nightly
def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs pip install -e '.[wandb]'")
    for name in ("CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / name))
    result = simulated(tmp_path / "run", "tracker=wandb")

    def records() -> list[Any]:
        """All records of the files that are written offline, in the order in which they were begun."""
        proto = importlib.import_module("wandb.proto.wandb_internal_pb2")
        files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
        return [proto.Record.FromString(each) for path in files for each in leveldb_log(path.read_bytes()[7:])]

    def history() -> History:
        found: History = {}
        for record in records():
            items = {each.key or "/".join(each.nested_key): each.value_json for each in record.history.item}
            for name, value in items.items():
                found.setdefault(name, {})[int(items["_step"])] = json.loads(value)
        return found

    assert_has(history(), expected(result))
    (begun,) = [each.run for each in records() if each.HasField("run")]
    config = {each.key: json.loads(each.value_json) for each in begun.config.update}
    assert config["lr"] == 0.03
    assert config["strategy.name"] == "fedbn"
    summary = {each.key: each.value_json for record in records() for each in record.summary.update}
    assert json.loads(summary["summary.final.client_accuracy_mean"]) == result.summary["final"]["client_accuracy_mean"]
    longer = expected(resumed(tmp_path / "run"))
    assert_has(history(), longer)
    assert {each.run.run_id for each in records() if each.HasField("run")} == {begun.run_id}


def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="needs pip install -e '.[trackio]'")
    result = simulated(tmp_path / "run", "tracker=trackio")
    from trackio.sqlite_storage import SQLiteStorage

    name = f"{tmp_path.name}/run"

    def history() -> History:
        found: History = {}
        for row in SQLiteStorage.get_logs("fedsim", name):
            for metric, value in row.items():
                found.setdefault(metric, {})[row["step"]] = value
        return found

    assert_has(history(), expected(result))
    assert history()["summary.final.client_accuracy_mean"] == {2: result.summary["final"]["client_accuracy_mean"]}
    config = SQLiteStorage.get_run_config("fedsim", name)
    assert config["lr"] == 0.03
    assert config["strategy.name"] == "fedbn"
    longer = expected(resumed(tmp_path / "run"))
    assert_has(history(), longer)
    assert SQLiteStorage.get_runs("fedsim") == [name]


@pytest.mark.nightly
def test_several_track_one_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs pip install -e '.[tensorboard]'")
    mlflow = pytest.importorskip("mlflow", reason="needs pip install -e '.[mlflow]'")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    result = simulated(tmp_path / "run", "tracker=[tensorboard,mlflow]", f"tracker.uri={uri}")
    client = mlflow.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("fedsim").experiment_id])
    accuracy = result.summary["final"]["client_accuracy_mean"]
    assert run.data.metrics["client_accuracy_mean"] == accuracy
    assert events(tmp_path / "run").Scalars("client_accuracy_mean")[-1].value == pytest.approx(accuracy, rel=1e-6)


def test_a_run_that_fails_is_one_that_has_failed(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs pip install -e '.[mlflow]'")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with pytest.raises(RoundFailed):
        simulated(tmp_path / "run", "tracker=mlflow", f"tracker.uri={uri}", "faults=injected", *FAILING)
    client = mlflow.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("fedsim").experiment_id])
    assert run.info.status == "FAILED"
    assert [each.step for each in client.get_metric_history(run.info.run_id, "client_accuracy_mean")] == [0]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["tracker=excel"], "tracker=excel is not known: choose mlflow, none, tensorboard, trackio, wandb."),
        (["tracker=[wandb,wandb]"], "tracker=[wandb,wandb] is not possible: choose each of them once."),
        (
            ["tracker=tensorboard", "tracker.project=mine"],
            "tracker.project=mine is not a setting: leave it out, or choose",
        ),
        (["tracker=wandb", "tracker.mode=loud"], "tracker.mode=loud is not known: choose offline or online."),
    ],
)
def test_wrong_settings_are_refused(words: list[str], sentence: str, refusal: Callable[..., str]) -> None:
    assert refusal(*words).startswith(sentence)


@pytest.mark.parametrize("name", ["mlflow", "wandb", "trackio"])
def test_a_missing_package_is_refused_before_the_run(
    name: str, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # as Python has it for what cannot be imported
    assert refusal(f"tracker={name}").startswith(f"tracker={name} cannot be used (")
    assert refusal(f"tracker={name}").endswith(f"): install it with pip install -e '.[{name}]'.")


class Forgetful(Tracker):
    """Fails to log a round, and to end."""

    name = "forgetful"

    def __init__(self) -> None:
        self.ended: list[object] = []

    def start(self, run: TrackedRun) -> str | None:
        return None

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        raise OSError("no network")

    def finish(self, summary: Mapping[str, float] | None) -> None:
        self.ended.append(summary)
        raise OSError("no network")


def test_a_tracker_that_has_failed_is_ended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = Forgetful()
    tracking = Tracking([tracker])
    tracking.start(tmp_path, {}, 0)
    tracking.round({"round": 0})
    tracking.finish({})
    assert tracker.ended == [None]
    assert [record.getMessage() for record in caplog.records] == [
        "tracker=forgetful has failed and is told nothing more of this run (OSError: no network)"
    ]


def test_a_tracker_that_fails_ends_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """MLflow's database is a file that is none; TensorBoard goes on."""
    pytest.importorskip("tensorboard", reason="needs pip install -e '.[tensorboard]'")
    pytest.importorskip("mlflow", reason="needs pip install -e '.[mlflow]'")
    (tmp_path / "mlflow.db").write_text("no database, " * 1000)
    words = ("tracker=[mlflow,tensorboard]", f"tracker.uri=sqlite:///{tmp_path / 'mlflow.db'}")
    result = fedsim.simulate(*RUN, *words, f"out_dir={tmp_path / 'run'}")
    warnings = [line for line in capsys.readouterr().out.splitlines() if "WARNING" in line]
    assert len(warnings) == 1
    assert "tracker=mlflow has failed and is told nothing more of this run" in warnings[0]
    assert result.rounds["round"].tolist() == [0, 1, 2]
    assert len(events(tmp_path / "run").Scalars("client_accuracy_mean")) == 3
