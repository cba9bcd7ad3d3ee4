"""FedTAN's common step against one step of torch's SGD on the batches of all clients together, in float64."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn
from torch.nn import functional as F

from clients import FedTAN as LocalFedTAN
from clients import LocalSGD
from datasets.examples import Examples
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import ARRAYS, METRICS, QUERY, ROUND, arrays_of, config_of
from fedsim.methods.interfaces import QueryContext, TrainingContext
from fedsim.methods.training import LocalTraining, ServerTraining
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from strategies import FedTAN
from tests.strategies.test_every_strategy import Watched

IMAGES = (5, 9, 7)
TRAINING = LocalTraining(local_epochs=1, batch_size=100, lr=0.1, momentum=0.0, weight_decay=0.01)


class Residual(nn.Module):
    """A branch with two BatchNorms beside a shortcut with one, registered in another order than they run."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.BatchNorm2d(3)
        self.shortcut = nn.Sequential(nn.Conv2d(2, 3, 1, bias=False), nn.BatchNorm2d(3))
        self.branch = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.last(self.branch(x)) + self.shortcut(x))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), Residual(), nn.Flatten()),
        *(nn.Linear(12, 5), nn.BatchNorm1d(5, affine=False), nn.ReLU(), nn.Linear(5, 3)),
    ).double()


def examples(client: int) -> Examples:
    """Darker or lighter, so that BatchNorm of one client is not that of all."""
    generator = torch.Generator().manual_seed(client)
    images = torch.randint(60 * client, 60 * client + 70, (IMAGES[client], 1, 4, 4), generator=generator)
    labels = torch.randint(0, 3, (IMAGES[client],), generator=generator)
    return Examples(images.byte(), labels, lambda batch, _: batch.double() / 127.5 - 1)


def app_of(trainer: LocalFedTAN) -> Callable[[torch.device], ClientApp]:
    def make(device: torch.device) -> ClientApp:
        app = ClientApp()

        @app.train()
        def train(message: Message, context: Context) -> Message:
            network = model()
            network.load_state_dict(to_tensors(arrays_of(message)))
            for parameter in network.parameters():
                parameter.grad = torch.ones_like(parameter)  # of the client before
            training = TrainingContext(
                data=examples(int(context.node_config["partition-id"])),
                generator=torch.Generator().manual_seed(7),
                sent=message.content,
                config=config_of(message),
                state=context.state,
            )
            metrics = MetricRecord({**trainer.train(network, training)})
            assert not context.state
            return Message(RecordDict({METRICS: metrics, ARRAYS: to_record(network.state_dict())}), reply_to=message)

        @app.query("method")
        def query(message: Message, context: Context) -> Message:
            network = model()
            asked = QueryContext(
                round=int(str(config_of(message)[ROUND])),
                config=config_of(message),
                state=context.state,
                model=network,
                arrays=to_tensors(arrays_of(message)),
                data=examples(int(context.node_config["partition-id"])),
                generator_for=lambda purpose: torch.Generator().manual_seed(3),
                load=network.load_state_dict,
                images=lambda data: iter(()),
                score=lambda data: {},
            )
            answer = trainer.queries[str(config_of(message)[QUERY])](asked)
            content = {METRICS: MetricRecord({**answer.metrics}), ARRAYS: to_record(answer.arrays)}
            return Message(RecordDict(content), reply_to=message)

        return app

    return make


def test_the_common_step_is_that_of_one_sgd_on_all_images() -> None:
    grid = InlineGrid(app_of(LocalFedTAN(TRAINING, further_epochs=0)), 3, [torch.device("cpu")])
    strategy = FedTAN(model(), ServerTraining(weighting="examples", image_shape=(1, 4, 4)))
    arrays, central = to_record(model().state_dict()), model()
    optimizer = torch.optim.SGD(central.parameters(), lr=0.1, weight_decay=0.01)
    everything = [examples(client).batch(torch.arange(IMAGES[client])) for client in range(3)]
    images, labels = (torch.cat(parts) for parts in zip(*everything, strict=True))
    central.train()
    for round in (1, 2, 3):
        messages = list(strategy.configure_train(round, arrays, ConfigRecord(), grid))
        made, _ = strategy.aggregate_train(round, grid.send_and_receive(messages))
        assert made is not None
        arrays = made
        optimizer.zero_grad()
        F.cross_entropy(central(images), labels).backward()
        optimizer.step()
        for name, parameter in central.named_parameters():
            torch.testing.assert_close(to_tensors(arrays)[name], parameter.detach(), rtol=1e-9, atol=1e-11, msg=name)
        for name, buffer in central.named_buffers():
            if name.endswith("running_mean"):
                torch.testing.assert_close(to_tensors(arrays)[name], buffer, rtol=1e-9, atol=1e-11, msg=name)


def test_running_variances_move_as_the_authors_have_it() -> None:
    """By the global variance times n / (n - 1), where n is the number of the client's images."""
    grid = InlineGrid(app_of(LocalFedTAN(TRAINING, further_epochs=0)), 3, [torch.device("cpu")])
    strategy = FedTAN(model(), ServerTraining(weighting="uniform", image_shape=(1, 4, 4)))
    messages = list(strategy.configure_train(1, to_record(model().state_dict()), ConfigRecord(), grid))
    made, _ = strategy.aggregate_train(1, grid.send_and_receive(messages))
    assert made is not None
    features = [
        model()[0](examples(client).batch(torch.arange(IMAGES[client]))[0]).detach().transpose(0, 1).flatten(1)
        for client in range(3)
    ]
    mean = sum(each.mean(1) for each in features) / 3
    variance = sum(((each - mean[:, None]) ** 2).mean(1) for each in features) / 3
    expected = 0.9 + 0.1 * variance * (5 / 4 + 9 / 8 + 7 / 6) / 3
    torch.testing.assert_close(to_tensors(made)["1.running_var"], expected, rtol=1e-10, atol=0)


def test_after_the_common_step_comes_local_training() -> None:
    """Whose start is what the common step alone leaves."""
    ends, steps = [], []

    class Counted(LocalFedTAN):
        def finish(self, model: nn.Module, context: TrainingContext, metrics: dict[str, float]) -> dict[str, float]:
            steps.append((context.step, context.steps))
            return super().finish(model, context, metrics)

    for further in (0, 2):
        grid = InlineGrid(app_of(Counted(TRAINING, further_epochs=further)), 3, [torch.device("cpu")])
        strategy = FedTAN(model(), ServerTraining(seed=1, image_shape=(1, 4, 4)))
        messages = list(strategy.configure_train(1, to_record(model().state_dict()), ConfigRecord(), grid))
        (reply,) = (each for each in grid.send_and_receive(messages) if each.metadata.src_node_id == 1)
        ends.append(to_tensors(arrays_of(reply)))
    assert all(made == announced for made, announced in steps)
    assert {made for made, _ in steps} == {1, 3}
    network = model()
    network.load_state_dict(ends[0])
    plain = LocalSGD(LocalTraining(local_epochs=2, batch_size=100, lr=0.1, momentum=0.0, weight_decay=0.01))
    plain.train(network, TrainingContext(data=examples(1), generator=torch.Generator().manual_seed(7)))
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(ends[1][name], tensor, rtol=1e-9, atol=1e-11, msg=name)


def test_the_model_travels_once_and_layers_come_in_the_order_of_the_forward_pass(
    small_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    prepared = prepare(small_settings("strategy=fedtan", "rounds=1", "engine=inline"))
    grid = Watched(prepared)
    run(prepared, tmp_path, Reporter(), grid)
    asked = [message for message, _ in grid.seen if config_of(message).get(QUERY) == "statistics_parts"]
    assert len(asked) == 3 * 3 * 6
    assert [len(arrays_of(message)) > 12 for message in asked] == [True] * 6 + [False] * (len(asked) - 6)
    wanted = [config_of(message)["wanted"] for message in asked[::6]]
    layers = ["features.1", "features.5", "features.9"]
    assert wanted == [
        *([f"{layer}{kind}"] for layer in layers for kind in ("/mean", "/variance")),
        *([f"{layer}/mean gradient", f"{layer}/variance gradient"] for layer in reversed(layers)),
    ]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["norm=gn"], "strategy=fedtan needs BatchNorm layers with running statistics, and this network has others"),
        (["norm.statistics=none"], "strategy=fedtan needs BatchNorm layers with running statistics, and this network"),
        (["strategy.further_epochs=-1"], "strategy.further_epochs=-1 is not possible: choose a whole number of at l"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_refused(refusal: Callable[..., str], words: list[str], sentence: str) -> None:
    assert refusal("strategy=fedtan", *words).startswith(sentence)


def test_noise_is_refused() -> None:
    class Noisy(ServerTraining.__dataclass_fields__["aggregation"].default_factory):  # type: ignore[misc]
        noisy = True

    with pytest.raises(UserError, match=r"^strategy=fedtan has clients tell statistics of their images"):
        FedTAN(model(), ServerTraining(weighting="uniform", aggregation=Noisy()))
