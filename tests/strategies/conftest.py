"""Somebody else's Flower app: a model, a ClientApp written without this project, and a Grid to run it on."""

from collections.abc import Callable

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from fedsim.engines.inline import InlineGrid


def toy_model(norm: bool = True) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(1, 4, 3)]
    if norm:
        layers.append(nn.BatchNorm2d(4))
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 3))


def foreign_app(device: torch.device) -> ClientApp:
    """Keeps what the server does not send in ``Context.state`` and returns only what it was sent."""
    app = ClientApp()

    def model_for(message: Message, context: Context) -> nn.Module:
        model = toy_model()
        kept = context.state.get("mine", ArrayRecord())
        received = next(iter(message.content.array_records.values()))
        model.load_state_dict({**model.state_dict(), **kept.to_torch_state_dict(), **received.to_torch_state_dict()})
        return model

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        model = model_for(message, context).train()
        generator = torch.Generator().manual_seed(client)
        images = 3 * client + (client + 1) * torch.randn(8, 1, 8, 8, generator=generator)  # a domain of its own
        loss = nn.functional.cross_entropy(model(images), torch.arange(8) % 3)
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
        state = model.state_dict()
        sent = set(next(iter(message.content.array_records.values())))
        context.state["mine"] = ArrayRecord({name: tensor for name, tensor in state.items() if name not in sent})
        reply = ArrayRecord({name: tensor for name, tensor in state.items() if name in sent})
        metrics = MetricRecord({"num-examples": 10 * (client + 1), "loss": loss.item()})
        return Message(RecordDict({"arrays": reply, "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        model_for(message, context)
        client = int(context.node_config["partition-id"])
        metrics = MetricRecord({"num-examples": 10, "accuracy": 0.1 * client})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


@pytest.fixture
def make_grid() -> Callable[[], InlineGrid]:
    return lambda: InlineGrid(foreign_app, 3, [torch.device("cpu")])


@pytest.fixture
def grid(make_grid: Callable[[], InlineGrid]) -> InlineGrid:
    return make_grid()


@pytest.fixture
def make_model() -> Callable[..., nn.Module]:
    return toy_model
