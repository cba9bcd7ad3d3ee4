"""The run directory at every moment: what is in it, what is taken back on resuming, and what is refused."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import RecordDict
from flwr.clientapp import ClientApp
from safetensors.torch import load_file

from fedsim.config.composition import compose, load
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record
from fedsim.methods.client_state import PERSONAL
from fedsim.methods.federated_model import FederatedModel
from fedsim.output.model_files import save_models
from fedsim.output.recorder import Recorder
from fedsim.output.run_directory import check_run_dir

SmallSettings = Callable[..., Settings]


@pytest.fixture
def grid() -> Iterator[InlineGrid]:
    with InlineGrid(lambda device: ClientApp(), 2, [torch.device("cpu")]) as grid:
        yield grid


@pytest.fixture
def recorder(tmp_path: Path, small_settings: SmallSettings) -> Recorder:
    recorder = Recorder(tmp_path / "run", small_settings("strategy=fedwon", "seed=5"))
    recorder.open()
    return recorder


def row(round: int, accuracy: float | None, seconds: float = 0.5) -> dict[str, Any]:
    measured = (
        {"client_accuracy_mean": accuracy, "domain_accuracy.plain": accuracy, "domain_accuracy.font": 0.25}
        if accuracy is not None
        else {}
    )
    return {"round": round, **measured, "train_loss": 2.5, "bytes_up": 300, "bytes_down": 200, "seconds": seconds}


def summary_of(recorder: Recorder) -> dict[str, Any]:
    summary = json.loads((recorder.run_dir / "summary.json").read_text())
    assert isinstance(summary, dict)
    return summary


def test_opening_writes_settings_that_can_be_read_and_run_again(recorder: Recorder) -> None:
    settings = recorder.settings
    assert Settings.from_config(load(recorder.run_dir)) == settings
    assert Settings.from_config(compose([], recorder.run_dir)) == settings


def test_a_directory_with_a_run_is_not_opened_again_unless_resumed(
    recorder: Recorder, small_settings: SmallSettings
) -> None:
    with pytest.raises(UserError, match=rf"^out_dir={recorder.run_dir} already holds a run: choose another directory"):
        Recorder(recorder.run_dir, small_settings()).open()
    assert load(recorder.run_dir)["strategy"]["name"] == "fedwon"
    resumed = Recorder(recorder.run_dir, small_settings("strategy=fedwon", f"resume={recorder.run_dir}"))
    resumed.open()
    assert load(recorder.run_dir)["resume"] is None  # its directory may be moved


def test_a_place_where_no_directory_can_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=rf"^out_dir={tmp_path}/file/run cannot be written \(.+\): choose a directory"):
        check_run_dir(tmp_path / "file" / "run")
    check_run_dir(tmp_path / "new" / "run")
    assert list((tmp_path / "new" / "run").iterdir()) == []


def test_the_summary_holds_the_last_and_the_best_evaluated_round(recorder: Recorder, grid: InlineGrid) -> None:
    recorder.go_back_to(-1)
    for each in (row(0, 0.1), row(1, 0.75, seconds=1.25), row(2, None), row(3, 0.5)):
        recorder.record_round(each, grid)
    summary = summary_of(recorder)
    assert summary["final"] == {
        "round": 3,
        "client_accuracy_mean": 0.5,
        "domain_accuracy": {"plain": 0.5, "font": 0.25},
    }
    assert summary["best"]["round"] == 1
    assert summary["seconds"] == 0.5 + 1.25 + 0.5 + 0.5
    assert (summary["bytes_up"], summary["bytes_down"]) == (1200, 800)
    assert (summary["strategy"], summary["norm"], summary["seed"]) == ("fedwon", "sws", 5)
    assert torch.__version__.startswith(summary["versions"]["torch"])
    assert summary["peak_memory_mb"] > 50


def test_a_round_that_was_not_evaluated_leaves_the_summary_as_it_is(recorder: Recorder, grid: InlineGrid) -> None:
    recorder.go_back_to(-1)
    recorder.record_round(row(0, 0.1), grid)
    before = (recorder.run_dir / "summary.json").read_text()
    recorder.record_round(row(1, None), grid)
    assert (recorder.run_dir / "summary.json").read_text() == before
    assert (recorder.run_dir / "rounds.csv").read_text().count("\n") == 3


def test_a_resumed_run_ends_with_the_files_of_one_that_was_not_stopped(
    tmp_path: Path, grid: InlineGrid, small_settings: SmallSettings
) -> None:
    rows = [row(0, 1 / 3), row(1, None), row(2, 0.7), row(3, 0.2, seconds=0.1)]
    where = {"client": 0, "domain": "plain", "split": "test"}
    clients = [{"round": number, **where, "accuracy": number / 7} for number in range(4)]

    def record(run_dir: Path, rounds: range, back_to: int, resume: bool = False) -> None:
        settings = small_settings(f"resume={run_dir}") if resume else small_settings()
        recorder = Recorder(run_dir, settings)
        recorder.open()
        recorder.go_back_to(back_to)
        for number in rounds:
            recorder.record_clients([clients[number]])
            recorder.record_diagnostics([{"round": number, "layer": "head", "metric": "nc1", "value": number / 3}])
            recorder.record_round(rows[number], grid)

    record(tmp_path / "whole", range(4), -1)
    record(tmp_path / "stopped", range(3), -1)
    record(tmp_path / "stopped", range(2, 4), back_to=1, resume=True)
    for name in ("rounds.csv", "clients.csv", "diagnostics.csv", "config.yaml"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    whole, stopped = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "stopped"))
    assert {**stopped, "peak_memory_mb": 0} == {**whole, "peak_memory_mb": 0}


def test_the_global_model_and_what_each_client_kept_are_saved(recorder: Recorder) -> None:
    model = {
        "conv.weight": torch.arange(6.0).reshape(2, 3).t(),
        "bn.weight": torch.full((2,), 4.0),  # the average of 7 and 1, which the clients have
        "bn.count": torch.tensor(9),
    }
    kept = to_record({"bn.weight": torch.full((2,), 7.0), "bn.count": torch.tensor(9)})
    states = {0: RecordDict({PERSONAL: kept}), 1: RecordDict()}
    initial = {name: torch.ones_like(tensor) for name, tensor in model.items()}
    shared = to_record({"conv.weight": model["conv.weight"]})
    federated = FederatedModel(initial, shared, frozenset({"bn.weight", "bn.count"}), states)
    save_models(recorder.run_dir, federated, federated.personal_parts())
    saved = load_file(recorder.run_dir / "model.safetensors")
    assert saved.keys() == model.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in model.items())
    first, second = (load_file(recorder.run_dir / "clients" / f"{client}.safetensors") for client in (0, 1))
    assert first["bn.weight"].tolist() == [7, 7]
    assert first["bn.count"].item() == 9
    assert second["bn.weight"].tolist() == [1, 1]  # never trained: the initial values
    assert first.keys() == second.keys() == {"bn.weight", "bn.count"}


def test_without_a_personal_part_there_are_no_client_models(recorder: Recorder) -> None:
    federated = FederatedModel({}, to_record({"w": torch.ones(1)}), frozenset(), {0: RecordDict()})
    save_models(recorder.run_dir, federated)
    assert (recorder.run_dir / "model.safetensors").is_file()
    assert not (recorder.run_dir / "clients").exists()
