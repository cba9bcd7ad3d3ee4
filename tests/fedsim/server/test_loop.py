"""The round loop on the inline engine: what it counts, when it evaluates, and how it fails and goes on."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp
from safetensors.torch import load_file

from datasets.source import Part
from fedsim.client.app_factory import ClientAppFactory
from fedsim.client.host import ClientHost
from fedsim.config.settings import Settings
from fedsim.core.errors import RoundFailed
from fedsim.core.seeding import draw_cohort
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import arrays_of
from fedsim.output.progress import Reporter
from fedsim.output.recorder import Recorder
from fedsim.output.results import Result, read_result
from fedsim.server.loop import FederatedLoop
from fedsim.server.preparation import Prepared, prepare


def play(
    prepared: Prepared,
    run_dir: Path,
    make_app: Callable[[torch.device], ClientApp] | None = None,
    reporter: Reporter | None = None,
) -> Result:
    """The loop alone, without pictures."""
    settings, federation = prepared.settings, prepared.federation
    grid = InlineGrid(make_app or ClientAppFactory(settings, federation), len(federation.clients), prepared.devices)
    recorder = Recorder(run_dir, settings)
    recorder.open()
    with grid:
        FederatedLoop(prepared, grid, recorder, reporter or Reporter()).run()
    return read_result(run_dir)


@pytest.fixture
def small(small_settings: Callable[..., Settings]) -> Callable[..., Prepared]:
    return lambda *overrides: prepare(small_settings("engine=inline", *overrides))


def failing_app(prepared: Prepared, client: int, round: int) -> Callable[[torch.device], ClientApp]:
    """The real app, but training fails on one client in one round."""

    def make(device: torch.device) -> ClientApp:
        host = ClientHost(prepared.settings, prepared.federation, device)
        app = ClientApp()

        @app.train()
        def train(message: Message, context: Context) -> Message:
            asked = int(str(message.content.config_records["config"]["server-round"]))
            if (int(context.node_config["partition-id"]), asked) == (client, round):
                raise MemoryError("no memory for this client")
            return host.train(message, context)

        app.evaluate()(host.evaluate)
        app.evaluate("global_model")(host.evaluate_global)
        return app

    return make


def test_bytes_are_those_of_the_arrays_that_travel(small: Callable[..., Prepared], tmp_path: Path) -> None:
    prepared = small("rounds=1", "fraction=0.5")
    result = play(prepared, tmp_path)
    of_the_model = sum(tensor.numel() * tensor.element_size() for tensor in prepared.model.state_dict().values())
    assert result.rounds["bytes_down"].tolist()[1] == 3 * of_the_model
    assert result.rounds["bytes_up"].tolist()[1] == 3 * of_the_model
    assert result.summary["bytes_up"] == 3 * of_the_model


def test_fedbn_sends_less_by_its_batch_norm_and_local_sends_nothing(
    small: Callable[..., Prepared], tmp_path: Path
) -> None:
    fedbn = small("rounds=1", "strategy=fedbn")
    state = fedbn.model.state_dict()
    shared = sum(t.numel() * t.element_size() for name, t in state.items() if name not in fedbn.strategy.personal)
    assert play(fedbn, tmp_path / "fedbn").summary["bytes_down"] == 6 * shared
    assert play(small("rounds=1", "strategy=local"), tmp_path / "local").summary["bytes_down"] == 0


def test_first_and_last_round_are_evaluated_and_those_between_as_asked(
    small: Callable[..., Prepared], tmp_path: Path
) -> None:
    result = play(small("rounds=5", "evaluate_every=2"), tmp_path)
    assert result.rounds["round"].tolist() == [0, 1, 2, 3, 4, 5]
    evaluated = result.rounds.dropna(subset="client_accuracy_mean")["round"].tolist()
    assert evaluated == [0, 2, 4, 5]
    assert result.clients["round"].unique().tolist() == evaluated
    assert result.summary["final"]["round"] == 5


def test_the_same_cohort_average_comes_out_of_the_whole_loop(small: Callable[..., Prepared], tmp_path: Path) -> None:
    """A round with one client per cohort leaves that client's model: the loop neither mixes nor loses anything."""
    prepared = small("rounds=1", "fraction=0.1")
    play(prepared, tmp_path)
    grid = InlineGrid(ClientAppFactory(prepared.settings, prepared.federation), 6, prepared.devices)
    messages = prepared.strategy.configure_train(1, to_record(prepared.model.state_dict()), ConfigRecord(), grid)
    (reply,) = grid.send_and_receive(messages)
    final = load_file(tmp_path / "model.safetensors")
    for name, tensor in to_tensors(arrays_of(reply)).items():
        assert torch.equal(final[name], tensor), name


class Told(Reporter):
    def __init__(self) -> None:
        self.curve: list[float] = []
        self.rounds: dict[int, dict[str, Any]] = {}

    def resumed(self, accuracies: Sequence[float]) -> None:
        self.curve = [*accuracies]

    def round_done(self, round: int, metrics: dict[str, Any]) -> None:
        self.rounds[round] = metrics


def test_the_speed_told_is_that_of_the_images_of_the_cohort(small: Callable[..., Prepared], tmp_path: Path) -> None:
    prepared, told = small("split=quantity", "split.num_clients=6", "norm=gn", "fraction=0.5", "local_epochs=3"), Told()
    rounds = play(prepared, tmp_path, reporter=told).rounds.set_index("round")
    federation = prepared.federation
    images = {}
    for round in (1, 2):
        cohort = draw_cohort(list(federation.clients), 0.5, prepared.settings.seeds.cohort, round)
        images[round] = 3 * sum(federation.num_images(client, Part.TRAIN) for client in cohort)
        seconds = rounds.loc[round, "seconds"]
        assert told.rounds[round]["images_per_second"] * seconds == pytest.approx(images[round], rel=1e-6)
    assert images[1] != images[2]
    assert "images_per_second" not in told.rounds[0]
    assert all(told.rounds[round]["memory_mb"] > 50 for round in range(3))
    assert told.curve == []
    assert not {"images_per_second", "memory_mb"} & set(rounds)


def test_a_resumed_run_tells_the_accuracies_before(small: Callable[..., Prepared], tmp_path: Path) -> None:
    before, told = play(small("evaluate_every=1"), tmp_path).rounds, Told()
    play(small("rounds=3", f"resume={tmp_path}"), tmp_path, reporter=told)
    assert told.curve == pytest.approx(before["client_accuracy_mean"].tolist())
    assert list(told.rounds) == [3]


def test_a_failed_client_is_named_and_ends_the_run_if_all_are_needed(
    small: Callable[..., Prepared], tmp_path: Path
) -> None:
    prepared = small("rounds=3")
    with pytest.raises(
        RoundFailed, match=r"client 4 failed in round 2: MemoryError: no memory for this client .*1 of 6"
    ):
        play(prepared, tmp_path, failing_app(prepared, client=4, round=2))
    # What came before is there, and a resumed run without the fault ends as one that never had it.
    assert read_result(tmp_path).rounds["round"].tolist() == [0, 1]
    resumed = small("rounds=3")
    resumed = replace(resumed, settings=replace(resumed.settings, resume=str(tmp_path)))
    play(resumed, tmp_path)
    play(small("rounds=3"), tmp_path / "straight")
    assert (tmp_path / "clients.csv").read_bytes() == (tmp_path / "straight" / "clients.csv").read_bytes()


def test_a_failed_client_is_left_out_if_the_others_are_enough(
    small: Callable[..., Prepared], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepared = small("rounds=2", "min_fraction_success=0.8")
    result = play(prepared, tmp_path, failing_app(prepared, client=4, round=2))
    assert "client 4 failed in round 2: MemoryError: no memory for this client" in caplog.text
    assert result.rounds["round"].tolist() == [0, 1, 2]
    assert result.rounds["bytes_up"].tolist()[2] == result.rounds["bytes_down"].tolist()[2] * 5 / 6


@pytest.mark.parametrize("strategy", ["fedavg", "fedbn", "local"])
def test_a_run_resumed_from_any_round_ends_the_same_bit_for_bit(
    small: Callable[..., Prepared], tmp_path: Path, strategy: str
) -> None:
    play(small("rounds=4", f"strategy={strategy}", "fraction=0.5"), tmp_path / "straight")
    stopped = tmp_path / "stopped"
    play(small("rounds=2", f"strategy={strategy}", "fraction=0.5"), stopped)
    # As a kill in round 3 would leave it: rows beyond the checkpoint, the last one torn.
    with (stopped / "clients.csv").open("a") as file:
        file.write("3,0,plain,test,20,1.5,0.25\r\n3,1,inver")
    prepared = small("rounds=4", f"strategy={strategy}", "fraction=0.5")
    play(replace(prepared, settings=replace(prepared.settings, resume=str(stopped))), stopped)
    assert (stopped / "clients.csv").read_bytes() == (tmp_path / "straight" / "clients.csv").read_bytes()


def test_without_checkpoints_a_resumed_run_begins_anew(small: Callable[..., Prepared], tmp_path: Path) -> None:
    play(small("rounds=1", "checkpoint_every=0"), tmp_path)
    before = (tmp_path / "clients.csv").read_bytes()
    assert not list((tmp_path / "checkpoints").glob("*")) if (tmp_path / "checkpoints").exists() else True
    prepared = small("rounds=1", "checkpoint_every=0")
    play(replace(prepared, settings=replace(prepared.settings, resume=str(tmp_path))), tmp_path)
    assert (tmp_path / "clients.csv").read_bytes() == before


@pytest.mark.parametrize(("minutes", "rounds"), [(1e-9, [1, 2]), (1000, [2])])
def test_checkpoints_are_also_written_by_the_clock_and_after_the_last_round(
    small: Callable[..., Prepared], tmp_path: Path, minutes: float, rounds: list[int]
) -> None:
    play(small("checkpoint_every=0", f"checkpoint_minutes={minutes}"), tmp_path)
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        f"round_{round:05d}.safetensors" for round in rounds
    ]
