"""FDSE in the federation: rounds against numpy, who is sent which erasers, and what it refuses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from fedsim.config.settings import Settings
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import ARRAYS, EVALUATE, METRICS, TRAIN, arrays_of
from fedsim.methods.training import ServerTraining
from fedsim.norms import use_norm
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from strategies import FDSE
from tests.strategies.test_every_strategy import Watched

CLIENTS = 3
TAU = 0.5


def model() -> nn.Module:
    torch.manual_seed(0)
    return use_norm(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), "dse")


def moved(client: int, sent: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a client returns: every number moved, in a direction of its own."""
    generator = torch.Generator().manual_seed(client)
    return {
        name: each + torch.randn(each.shape, generator=generator) if each.is_floating_point() else each + 1
        for name, each in sent.items()
    }


def app(device: torch.device) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        trained = moved(client, to_tensors(arrays_of(message)))
        metrics = MetricRecord({"num-examples": 10 + client, "loss": 1.0})
        return Message(RecordDict({METRICS: metrics, ARRAYS: to_record(trained)}), reply_to=message)

    return app


def least_norm(directions: list[np.ndarray]) -> np.ndarray:
    """Of two directions of the same length: half of each."""
    assert len(directions) == 2
    return (directions[0] + directions[1]) / 2


def test_three_rounds_are_those_written_out() -> None:
    grid, first = InlineGrid(app, CLIENTS, [torch.device("cpu")]), model().state_dict()
    strategy, arrays = FDSE(model(), ServerTraining(fraction=2 / 3, seed=1), tau=TAU), to_record(first)
    erasing = ["0.eraser.norm.weight", "0.eraser.norm.bias", "0.eraser.conv.weight"]
    assert strategy.erasing == set(erasing)
    assert strategy.personal == {
        f"0.eraser.norm.{each}" for each in ("running_mean", "running_var", "num_batches_tracked")
    }
    own = {client: {name: first[name].double().numpy() for name in erasing} for client in range(CLIENTS)}
    cohorts = []
    for round in (1, 2, 3):
        messages = list(strategy.configure_train(round, arrays, ConfigRecord(), grid))
        cohort = [message.metadata.dst_node_id for message in messages]
        cohorts.append(cohort)
        before = [to_tensors(arrays_of(message)) for message in messages]
        for client, sent in zip(cohort, before, strict=True):
            for name in erasing:
                np.testing.assert_allclose(sent[name], own[client][name], rtol=1e-5, atol=1e-6)
        made, _ = strategy.aggregate_train(round, grid.send_and_receive(messages))
        assert made is not None
        arrays, new = made, to_tensors(made)
        trained = [moved(client, sent) for client, sent in zip(cohort, before, strict=True)]
        for name in ("0.extractor.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"):
            start = before[0][name].double().numpy()
            updates = [each[name].double().numpy() - start for each in trained]
            lengths = [np.linalg.norm(each) for each in updates]
            common = least_norm([each / length for each, length in zip(updates, lengths, strict=True)])
            np.testing.assert_allclose(new[name], start + np.mean(lengths) * common, rtol=1e-4, atol=1e-5)
        for name in ("1.running_mean", "1.running_var"):
            np.testing.assert_allclose(new[name], sum(each[name] for each in trained) / 2, rtol=1e-5, atol=1e-6)
        for name in erasing:
            vectors = [each[name].double().numpy() for each in trained]
            units = [each.ravel() / np.linalg.norm(each) for each in vectors]
            for place, client in enumerate(cohort):
                weights = np.exp([units[place] @ other / TAU for other in units])
                own[client][name] = sum(w * each for w, each in zip(weights / weights.sum(), vectors, strict=True))
            np.testing.assert_allclose(new[name], sum(each[name] for each in own.values()) / 3, rtol=1e-4, atol=1e-5)
    assert cohorts[0] != cohorts[2]
    for message in strategy.configure_evaluate(2, arrays, ConfigRecord(), grid):
        sent = to_tensors(arrays_of(message))
        for name in erasing:
            np.testing.assert_allclose(sent[name], own[message.metadata.dst_node_id][name], rtol=1e-4, atol=1e-5)


def test_clients_differ_in_their_erasers_alone(small_settings: Callable[..., Settings], tmp_path: Path) -> None:
    prepared = prepare(small_settings("strategy=fdse", "rounds=2", "engine=inline"))
    grid = Watched(prepared)
    run(prepared, tmp_path, Reporter(), grid)
    assert isinstance(prepared.strategy, FDSE)
    for type_ in (TRAIN, EVALUATE):
        one, two = (to_tensors(arrays_of(message)) for message, _ in grid.of(type_)[-2:])
        differ = {name for name in one if not torch.equal(one[name], two[name])}
        assert {name for name in one if name.endswith("eraser.conv.weight")} <= differ <= prepared.strategy.erasing


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["norm=bn"], "strategy=fdse needs layers with erasers of domain skew, and this network has none: leave"),
        (["strategy.tau=0"], "strategy.tau=0 is not possible: choose a number above 0."),
        (
            ["strategy.clip_norm=0"],
            "strategy.clip_norm=0 is not possible: choose a number above 0, or null for no clipping.",
        ),
        (["strategy.lam=-1"], "strategy.lam=-1 is not possible: choose a number of at least 0."),
        (["aggregation=median"], "strategy=fdse averages in a way of its own: choose aggregation=mean"),
        (["model=torchvision/resnet18"], "norm=dse takes a convolution of one group, or a linear layer, in front of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_refused(refusal: Callable[..., str], words: list[str], sentence: str) -> None:
    assert refusal("strategy=fdse", *words).startswith(sentence)
