"""Replies that are added up where they are made: the same numbers, bytes and refusals as of single ones."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedsim.aggregation import Mean, Median
from fedsim.client.app_factory import ClientAppFactory
from fedsim.client.host import ClientHost, Opened, partition_of
from fedsim.config.settings import Settings
from fedsim.core.errors import RoundFailed
from fedsim.engines import pace
from fedsim.engines.client_call import Call, call_client, call_clients
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.groups import ADD_UP, is_added_up, openings
from fedsim.messages.schema import ARRAYS, arrays_of, config_of
from fedsim.methods.training import ServerTraining
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from strategies import FedAvg
from tests.methods import METHODS

MakeSettings = Callable[..., Settings]
MANY = ("split=iid", "split.num_clients=21", "rounds=2", "fraction=0.9")
CPU = torch.device("cpu")
ADDED_UP = {"fedavg", "fedbn", "fedwon"}
"""Some of the methods whose replies are added up"""
READ = {"scaffold", "fednova", "fedtiny", "fedproto", "hbn"}
"""Some of those that need each reply"""


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let groups be sent at once however slow this machine is."""
    monkeypatch.setattr(pace, "WORTH_ADDING_UP", float("inf"))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each reply that a strategy has read, whether it was added up."""
    read: list[bool] = []

    class Watching(FedAvg):
        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
            def watched() -> Iterable[Message]:
                for reply in replies:
                    read.append(is_added_up(reply))
                    yield reply

            return original(self, server_round, watched())

    original = FedAvg.aggregate_train
    monkeypatch.setattr(FedAvg, "aggregate_train", Watching.aggregate_train)
    return read


def files(folder: Path) -> dict[str, bytes]:
    """What a run has written, but for times and what was measured of the machine."""
    names = ("clients.csv", "classes.csv", "model.safetensors")
    columns = [line.split(",") for line in (folder / "rounds.csv").read_text().splitlines()]
    counted = [columns[0].index(name) for name in ("train_loss", "bytes_up", "bytes_down")]
    rows = "\n".join(",".join(line[place] for place in counted) for line in columns).encode()
    return {"rounds.csv": rows, **{name: (folder / name).read_bytes() for name in names}}


@pytest.mark.parametrize("words", [(), ("strategy=fedbn", "norm=bn"), ("strategy.weighting=uniform",)])
@pytest.mark.usefixtures("always")
def test_a_run_has_the_same_bytes_with_any_number_of_workers(
    words: tuple[str, ...], small_settings: MakeSettings, seen: list[bool], tmp_path: Path
) -> None:
    run(prepare(small_settings(*MANY, *words, "engine=inline")), tmp_path / "inline", Reporter())
    assert not any(seen)
    for workers in (1, 2):
        seen.clear()
        settings = small_settings(*MANY, *words, "engine=process", f"engine.workers={workers}")
        run(prepare(settings), tmp_path / str(workers), Reporter())
        assert sum(seen) >= 16
        assert files(tmp_path / str(workers)) == files(tmp_path / "inline")


@pytest.mark.parametrize(
    "words",
    [
        ("compression=fp16",),
        ("faults=injected", "faults.drop_out=0.1", "min_fraction_success=0.1"),
        ("diagnostics=true",),
    ],
)
@pytest.mark.usefixtures("always")
def test_what_reads_each_reply_receives_each_reply(
    words: tuple[str, ...], small_settings: MakeSettings, seen: list[bool], tmp_path: Path
) -> None:
    run(prepare(small_settings(*MANY, *words, "engine=process", "engine.workers=2")), tmp_path, Reporter())
    assert seen
    assert not any(seen)


class OwnMean(Mean):
    """It may combine replies in another way than to add them up."""


def test_another_aggregation_receives_each_reply(small_settings: MakeSettings) -> None:
    for aggregation, weighting in ((Mean(), "uniform"), (OwnMean(), None), (Median(), None)):
        strategy = FedAvg(None, ServerTraining("uniform", aggregation=aggregation))
        assert strategy.added_up_by == weighting


def test_methods_that_read_more_than_the_model_are_told_from_the_others(small_settings: MakeSettings) -> None:
    added_up = {name for name in METHODS if prepare(small_settings(f"strategy={name}")).strategy.added_up_by}
    assert added_up >= ADDED_UP
    assert not added_up & READ


def test_a_reply_that_is_refused_is_in_no_sum(small_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Client 1 sends NaN and client 6 raises; the others' sum is the same as without them."""
    original = ClientHost.close

    def close(self: ClientHost, message: Message, context: Context, opened: Opened, metrics: Any) -> Message:
        reply = original(self, message, context, opened, metrics)
        if partition_of(context) == 1:
            next(iter(to_tensors(arrays_of(reply)).values())).fill_(float("nan"))
        if partition_of(context) == 6:
            raise RuntimeError("no more memory")
        config_of(message).clear()  # a client may change what it is told; others, and the checks, must not see it
        message.content.clear()
        return reply

    monkeypatch.setattr(ClientHost, "close", close)
    prepared = prepare(small_settings(*MANY))
    app = ClientAppFactory(prepared.settings, prepared.federation)(CPU)
    config = ConfigRecord({ADD_UP: "uniform"})
    arrays = to_record(dict(prepared.model.state_dict()))
    messages = prepared.strategy.messages("train", range(8), 1, arrays, config)  # type: ignore[attr-defined]
    contexts = [Context(1, client, {"partition-id": client}, RecordDict(), {}) for client in range(8)]
    calls = [Call(*each) for each in zip(messages, contexts, openings(messages), strict=True)]
    replies = [reply for reply, _ in call_clients(app, messages[0].content, calls)]
    assert [reply.has_error() for reply in replies] == [client in (1, 6) for client in range(8)]
    assert "that are not finite" in str(replies[1].error.reason)
    assert [is_added_up(reply) for reply in replies if reply.has_content()] == [True] * 6
    for last, clients in ((3, (0, 2, 3)), (7, (4, 5, 7))):
        alone = [call_client(app, messages[client], contexts[client])[0] for client in clients]
        summed = to_tensors(arrays_of(replies[last]))
        for name, total in summed.items():
            parts = [to_tensors(arrays_of(reply))[name] for reply in alone]
            if total.is_floating_point():
                assert torch.equal(total, sum(part.double() for part in parts))
            else:
                assert torch.equal(total, torch.stack(parts).amax(0))
    assert ARRAYS not in replies[2].content
    assert config_of(replies[2])["server-round"] == 1


@pytest.mark.parametrize("engine", ["inline", "process"])
@pytest.mark.usefixtures("always")
def test_an_update_beyond_its_limit_is_refused_in_the_same_words(
    engine: str, small_settings: MakeSettings, tmp_path: Path
) -> None:
    settings = small_settings(*MANY, "update_limit=1e-9", f"engine={engine}")
    with pytest.raises(RoundFailed, match=r"client \d+ failed in round 1: it moved a number in .* update_limit=1e-09"):
        run(prepare(settings), tmp_path, Reporter())
