"""FBN in the federation: rounds written out in numpy, what the clients' layers do, and what it refuses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import ARRAYS, METRICS, TRAIN, arrays_of
from fedsim.methods.training import ServerTraining
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from strategies import FBN
from tests.strategies.test_every_strategy import Watched

IMAGES = (3, 6, 9)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))


def statistics(client: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(client)
    return {
        "1.running_mean": torch.randn(2, generator=generator),
        "1.running_var": torch.rand(2, generator=generator),
    }


def app(device: torch.device) -> ClientApp:
    """Moves parameters by the client's number, and has statistics of its own."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client, sent = int(context.node_config["partition-id"]), to_tensors(arrays_of(message))
        names = dict(model().named_parameters())
        trained = {name: each + client if name in names else each for name, each in sent.items()}
        metrics = MetricRecord({"num-examples": IMAGES[client], "loss": 1.0})
        content = RecordDict({METRICS: metrics, ARRAYS: to_record({**trained, **statistics(client)})})
        return Message(content, reply_to=message)

    return app


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_three_rounds_are_those_written_out(weighting: str) -> None:
    grid = InlineGrid(app, 3, [torch.device("cpu")])
    strategy = FBN(model(), ServerTraining(weighting=weighting, seed=1), rate=0.25)
    arrays, weight = to_record(model().state_dict()), model().state_dict()["0.weight"].double().numpy()
    means = [statistics(client)["1.running_mean"].double().numpy() for client in range(3)]
    variances = [statistics(client)["1.running_var"].double().numpy() for client in range(3)]
    mean, variance, moved = np.zeros(2), np.ones(2), (24 / 18 if weighting == "examples" else 1.0)
    for round in range(1, 4):
        messages = list(strategy.configure_train(round, arrays, ConfigRecord(), grid))
        made, _ = strategy.aggregate_train(round, grid.send_and_receive(messages))
        assert made is not None
        arrays = made
        mean = 0.75 * mean + 0.25 * sum(n * each for n, each in zip(IMAGES, means, strict=True)) / 18
        around = [n * (var + (each - mean) ** 2) for n, each, var in zip(IMAGES, means, variances, strict=True)]
        variance = 0.75 * variance + 0.25 * sum(around) / 17
        expected = {"0.weight": weight + round * moved, "1.running_mean": mean, "1.running_var": variance}
        for name, each in expected.items():
            np.testing.assert_allclose(to_tensors(arrays)[name], each, rtol=1e-5, atol=1e-6, err_msg=name)


def test_clients_normalize_by_the_servers_statistics(small_settings: Callable[..., Settings], tmp_path: Path) -> None:
    """A client whose learning rate is next to nothing returns averages that are a fixed function of what was sent."""
    words = ("rounds=2", "engine=inline", "lr=1e-12", "strategy.rate=1", "batch_size=100")
    prepared = prepare(small_settings("strategy=fbn", *words))
    grid = Watched(prepared)
    run(prepared, tmp_path, Reporter(), grid)
    first = [reply for message, reply in grid.of(TRAIN) if message.metadata.dst_node_id == 0]
    layers = [name.removesuffix("running_mean") for name in prepared.model.state_dict() if "running_mean" in name]
    before, after = (to_tensors(arrays_of(reply)) for reply in first)
    # In front of the first layer nothing has changed; behind it the second round normalizes by other statistics.
    torch.testing.assert_close(before[f"{layers[0]}running_mean"], after[f"{layers[0]}running_mean"])
    assert not torch.allclose(before[f"{layers[1]}running_var"], after[f"{layers[1]}running_var"], rtol=0.1)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["norm=gn"], "strategy=fbn needs BatchNorm layers with running statistics, and this network has none"),
        (["norm.statistics=none"], "strategy=fbn needs BatchNorm layers with running statistics, and this network"),
        (["strategy.rate=1.5"], "strategy.rate=1.5 is not possible: choose a number above 0 and at most 1."),
        (["norm.policy=silobn"], "strategy=fbn pools statistics on the server, which norm.statistics=local keeps"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_refused(refusal: Callable[..., str], words: list[str], sentence: str) -> None:
    assert refusal("strategy=fbn", *words).startswith(sentence)


def test_noise_is_refused() -> None:
    class Noisy(ServerTraining.__dataclass_fields__["aggregation"].default_factory):  # type: ignore[misc]
        noisy = True

    with pytest.raises(UserError, match=r"^strategy=fbn has clients tell statistics of their images"):
        FBN(model(), ServerTraining(weighting="uniform", aggregation=Noisy()))
