"""FedProto's server: prototypes are averaged class by class, and nothing else travels."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from safetensors.torch import load_file
from torch import nn

from fedsim.config.settings import Settings
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.reply_records import Question, ReplyFault
from fedsim.methods.training import ServerTraining
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from strategies import FedProto


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 3))


def strategy(weighting: str | None = None) -> FedProto:
    return FedProto(network(), ServerTraining(weighting=weighting))


def answered(
    server: FedProto, grid: InlineGrid, round: int, prototypes: list[dict[str, list[float]]]
) -> list[RecordDict]:
    """Let the clients answer with these prototypes, the n-th of which has n images; return what they were sent."""
    messages = list(server.configure_train(round, ArrayRecord(), ConfigRecord(), grid))
    replies = []
    for number, (message, own) in enumerate(zip(messages, prototypes, strict=True), start=1):
        content = RecordDict(
            {
                "metrics": MetricRecord({"num-examples": number, "loss": 1.0}),
                "arrays": ArrayRecord(),
                "prototypes": to_record({label: torch.tensor(values) for label, values in own.items()}),
            }
        )
        replies.append(Message(content, reply_to=message))
    server.aggregate_train(round, replies)
    return [message.content for message in messages]


ROUNDS = [
    [{"0": [1.0, 2.0], "2": [4.0, 0.0]}, {"0": [3.0, 4.0]}, {"0": [8.0, 0.0], "2": [0.0, 2.0]}],
    [{"2": [1.0, 1.0]}, {"1": [5.0, 5.0]}, {"2": [3.0, 5.0]}],
]
EXPECTED = {
    # (1 + 3 + 8) / 3 and (2 + 4 + 0) / 3; (4 + 0) / 2 and (0 + 2) / 2; class 0 stays in the second round
    "uniform": [{"0": [4.0, 2.0], "2": [2.0, 1.0]}, {"0": [4.0, 2.0], "1": [5.0, 5.0], "2": [2.0, 3.0]}],
    # (1 + 6 + 24) / 6 and (2 + 8 + 0) / 6; (4 + 0) / 4 and (0 + 6) / 4; then (1 + 9) / 4 and (1 + 15) / 4
    "examples": [{"0": [31 / 6, 10 / 6], "2": [1.0, 1.5]}, {"0": [31 / 6, 10 / 6], "1": [5.0, 5.0], "2": [2.5, 4.0]}],
}


@pytest.mark.parametrize("weighting", [None, "examples"])
def test_prototypes_are_averaged_over_the_clients_that_have_the_class(
    make_grid: Callable[[], InlineGrid], weighting: str | None
) -> None:
    server, grid = strategy(weighting), make_grid()
    sent = answered(server, grid, 1, ROUNDS[0])
    assert all(not content["prototypes"] and not content["arrays"] for content in sent)
    for round, expected in enumerate(EXPECTED[weighting or "uniform"], start=2):
        evaluated = list(server.configure_evaluate(round, ArrayRecord(), ConfigRecord(), grid))
        sent = answered(server, grid, round, ROUNDS[1])
        for content in [*sent, *(message.content for message in evaluated)]:
            found = to_tensors(content.array_records["prototypes"])
            assert list(found) == list(expected)
            for label, values in expected.items():
                torch.testing.assert_close(found[label], torch.tensor(values))


@pytest.mark.parametrize(
    ("sent", "fault"),
    [
        ({}, "it sent no prototypes"),
        ({"3": torch.zeros(2)}, "it sent a prototype of '3', which is no class"),
        ({"00": torch.zeros(2)}, "it sent a prototype of '00', which is no class"),
        ({"0": torch.zeros(3)}, r"it sent the prototype of class 0 as float32 \(3,\), which is float32 \(2,\)"),
        ({"0": torch.tensor([0.0, 2e3])}, r"it sent 2e\+03 in the prototype of class 0, where update_limit=1000"),
    ],
)
def test_prototypes_of_another_form_are_refused(sent: dict[str, torch.Tensor], fault: str) -> None:
    check, question = strategy().reply_records["prototypes"], Question(ConfigRecord(), {}, network().state_dict())
    check({"0": torch.ones(2), "2": torch.ones(2)}, question)
    with pytest.raises(ReplyFault, match=fault):
        check(sent, Question(ConfigRecord(), {}, network().state_dict(), update_limit=1000))


def test_no_model_travels_and_at_lam_0_every_client_has_the_model_of_local_training(
    small_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    words = ("rounds=3", "fraction=0.5", "engine=inline")
    run(prepare(small_settings("strategy=fedproto", "strategy.lam=0", *words)), tmp_path / "proto", Reporter())
    run(prepare(small_settings("strategy=local", *words)), tmp_path / "local", Reporter())
    for client in range(6):
        one, other = (load_file(tmp_path / each / f"clients/{client}.safetensors") for each in ("proto", "local"))
        assert one.keys() == other.keys()
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_clients_differ_from_local_training_once_there_are_prototypes(
    small_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    prepared = prepare(small_settings("strategy=fedproto", "engine=inline"))
    result = run(prepared, tmp_path / "proto", Reporter())
    run(prepare(small_settings("strategy=local", "engine=inline")), tmp_path / "local", Reporter())
    one, other = (load_file(tmp_path / each / "clients/0.safetensors") for each in ("proto", "local"))
    assert not any(torch.equal(tensor, other[name]) for name, tensor in one.items() if name.endswith("weight"))
    assert {"prototypes_client_accuracy_mean"} <= set(result.rounds.columns)
