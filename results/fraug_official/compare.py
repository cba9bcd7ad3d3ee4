"""FRAug here against the authors' code, on equal tensors: ``python -m results.fraug_official.compare --code DIR``.

``DIR`` is a checkout of the authors' repository (816e8bec). For each setting three clients of theirs and of ours train
for three rounds on the same batches with the same noise, in float64, from the same start. ``differences.csv`` beside
this file gets the largest difference of any number, by setting, round and what it belongs to, relative to the largest
of those numbers where that is above 1.
"""

import argparse
import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pandas as pd
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn
from torchvision.models import resnet18

import clients
import strategies
from clients.fraug import MEANS, MOMENTUM, TRANSFORM
from datasets.examples import Examples
from fedsim.client.lr_schedule import LearningRateSchedule
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import ARRAYS, METRICS, ROUND, arrays_of, config_of
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.training import LocalTraining, ServerTraining
from fedsim.models import CNN6
from results.fraug_official.official import (
    BATCH,
    CLASSES,
    FIXED,
    ROUNDS,
    STEPS,
    Network,
    Noise,
    authors,
    their_server,
    train,
)
from results.fraug_official.settings import SETTINGS, Setting

SIZES = (40, 27, 18)
TRAINING = LocalTraining(
    local_epochs=1,
    batch_size=BATCH,
    lr=FIXED["lr"],
    momentum=FIXED["local_momentum"],
    schedule=LearningRateSchedule(rounds=ROUNDS),
)
Tensors = Mapping[str, torch.Tensor]
CSV = Path(__file__).parent / "differences.csv"


def images_of(client: int) -> Examples:
    """Images of 3 x 9 x 9, brighter from client to client; the last one has none of the last class."""
    generator = torch.Generator().manual_seed(client)
    images = torch.randint(40 * client, 40 * client + 120, (SIZES[client], 3, 9, 9), generator=generator)
    labels = torch.randint(0, CLASSES - (client == 2), (SIZES[client],), generator=generator)
    return Examples(images.byte(), labels, lambda pixels, _: pixels.double() / 127.5 - 1)  # type: ignore[arg-type]


def seed(round: int, client: int) -> int:
    return 100 * round + client


class Ours:
    """Our server, and our clients with what a client host does around them: the personal part, and their state."""

    def __init__(self, model: nn.Module, setting: Setting, server: Any) -> None:
        self.model, self.initial = model, {name: each.clone() for name, each in model.state_dict().items()}
        self.trainer = clients.FRAug(TRAINING, local_steps=STEPS, **_taken(clients.FRAug, setting.ours))
        self.strategy = strategies.FRAug(model, ServerTraining(), **_taken(strategies.FRAug, setting.ours))
        shared = renamed(server.G.state_dict())
        self.strategy.generator = {name: shared[name].clone() for name in self.strategy.generator}
        self.states = [
            {TRANSFORM: to_record(renamed(user.FTNet.state_dict())), "personal": to_record({})} for user in server.users
        ]
        self.trained: list[Tensors] = [{}] * len(SIZES)
        self.grid = InlineGrid(self._app, len(SIZES), [torch.device("cpu")])
        self.arrays = to_record(self.initial)

    def _app(self, device: torch.device) -> ClientApp:
        app = ClientApp()

        @app.train()
        def train(message: Message, context: Context) -> Message:
            client, round = int(context.node_config["partition-id"]), int(str(config_of(message)[ROUND]))
            received = to_tensors(arrays_of(message))
            state = self.states[client]
            self.model.load_state_dict({**self.initial, **to_tensors(state["personal"]), **received})  # type: ignore[arg-type]
            training = TrainingContext(
                round=round,
                sent=message.content,
                state=state,  # type: ignore[arg-type]
                data=images_of(client),
                generator=torch.Generator().manual_seed(seed(round, client)),
            )
            with mock.patch("torch.rand", Noise(seed(round, client))):
                metrics = self.trainer.train(self.model, training)
            now = {name: each.clone() for name, each in self.model.state_dict().items()}
            self.trained[client] = now
            state["personal"] = to_record({name: now[name] for name in now if name not in received})
            content = {METRICS: MetricRecord({**metrics}), ARRAYS: to_record({name: now[name] for name in received})}
            return Message(RecordDict({**content, **training.reply}), reply_to=message)

        return app

    def round(self, number: int) -> None:
        config = ConfigRecord({ROUND: number})
        messages = list(self.strategy.configure_train(number, self.arrays, config, self.grid))
        arrays, _ = self.strategy.aggregate_train(number, self.grid.send_and_receive(messages))
        assert arrays is not None
        self.arrays = arrays

    def of(self, client: int, record: str) -> Tensors:
        return to_tensors(self.states[client][record])  # type: ignore[arg-type]

    def evaluated(self, client: int) -> Tensors:
        """The model of a client at evaluation: what is shared, and its own statistics."""
        return {**self.initial, **self.of(client, "personal"), **to_tensors(self.arrays)}


def compare(theirs: Any, setting: Setting) -> list[tuple[str, int, str, float]]:
    rows: list[tuple[str, int, str, float]] = []
    torch.manual_seed(0)
    model = Network()
    with their_server(theirs, model, setting.config, SIZES) as server, torch.no_grad():
        communicate(server, setting)
        ours = Ours(model, setting, server)
        for round in range(1, ROUNDS + 1):
            with torch.enable_grad():
                for client, user in enumerate(server.users):
                    train(user, round - 1, batches(ours.trainer, round, client), Noise(seed(round, client)))
                ours.round(round)

            def row(what: str, difference: Callable[[int, Any], float], round: int = round) -> None:
                rows.append((setting.name, round, what, max(difference(*each) for each in enumerate(server.users))))

            row("model after training", lambda client, user: far(ours.trained[client], user.model.state_dict()))
            row(
                "transformation", lambda client, user: far(ours.of(client, TRANSFORM), renamed(user.FTNet.state_dict()))
            )
            row("class means", lambda client, user: far(ours.of(client, MEANS), {MEANS: user.cls_mean_feature}))
            row("momentum", lambda client, user: far(ours.of(client, MOMENTUM), momenta(user)))
            row(
                "generator's part that stays",
                lambda client, user: far(ours.of(client, "generator"), renamed(user.G.state_dict())),
            )
            communicate(server, setting)
            row(
                "generator after aggregation",
                lambda *_: far(ours.strategy.generator, renamed(server.G.state_dict())),
            )
            row("model after aggregation", lambda client, user: far(ours.evaluated(client), user.model.state_dict()))
    return rows


def communicate(server: Any, setting: Setting) -> None:
    """What their server does before a round."""
    server.communicate(mode=setting.config["model_share"])
    server.communicate(model_name="G", mode=setting.config["model_share_G"])


def batches(trainer: clients.FRAug, round: int, client: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator, data = torch.Generator().manual_seed(seed(round, client)), images_of(client)
    return [data.batch(indices) for indices in trainer.batches(len(data), generator)]


def renamed(state: Tensors) -> dict[str, torch.Tensor]:
    """Entries of a generator or a transformation of theirs, under our names: the order is the same."""
    places = {name: place for place, name in enumerate(dict.fromkeys(key.rpartition(".")[0] for key in state))}
    layers = ("layers.0", "layers.1", "layers.3", "layers.4")
    parts = [(key.rpartition("."), each) for key, each in state.items()]
    return {f"{layers[places[module]]}.{entry}": each.clone() for (module, _, entry), each in parts}


def momenta(user: Any) -> dict[str, torch.Tensor]:
    found = {}
    networks = {"model": user.model, "generator": user.G, "transform": user.FTNet}
    optimizers = {"model": user.optimizer, "generator": user.optimizer_G, "transform": user.optimizer_FTNet}
    for name, network in networks.items():
        buffers = {
            key: optimizers[name].state[parameter]["momentum_buffer"] for key, parameter in network.named_parameters()
        }
        entries = buffers if name == "model" else renamed(buffers)
        found |= {f"{name}/{key}": each for key, each in entries.items()}
    return found


def far(ours: Tensors, official: Tensors) -> float:
    """The largest difference of our numbers and theirs of the same name, relative to the largest number above 1."""
    assert set(ours) <= set(official)
    compared = [name for name, each in ours.items() if each.is_floating_point()]
    largest = max([1.0, *(float(official[name].abs().max()) for name in compared)])
    return max((float((ours[name] - official[name]).abs().max()) / largest for name in compared), default=0.0)


def networks(theirs: Any) -> float:
    """The network for digits, ``model=cnn6 model.pool=3``: outputs in training and evaluation."""
    torch.manual_seed(0)
    official, ours = theirs.networks.CNN_Digits(), CNN6(10, (3, 32, 32), pool=3)
    ours.load_state_dict(dict(zip(ours.state_dict(), official.state_dict().values(), strict=True)))
    images, difference = torch.randn(4, 3, 32, 32), 0.0
    with torch.no_grad():
        for training in (True, False):
            one, other = ours.train(training)(images), official.train(training)(images)
            difference = max(difference, float((one - other).abs().max()))
    return difference


def shared_entries(theirs: Any) -> tuple[set[str], set[str]]:
    """The entries of torchvision's ResNet-18 that theirs shares between clients, and those that ours does."""
    model = resnet18(num_classes=7)
    one, other = (SimpleNamespace(model=copy.deepcopy(model), num_train_samples=1) for _ in range(2))
    for place, user in enumerate((one, other)):
        for entry in user.model.state_dict().values():
            entry.fill_(place)
    server = object.__new__(theirs.server.FRAug)
    server.model, server.selected_users = copy.deepcopy(model), [one, other]
    with torch.no_grad():
        server.communicate(mode="no_bn_running_stats")
    states = [user.model.state_dict() for user in (one, other)]
    official = {name for name, each in states[0].items() if each.equal(states[1][name])}
    return official, set(model.state_dict()) - strategies.FRAug(model).personal


def _taken(factory: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    names = factory.__init__.__kwdefaults__
    return {name: value for name, value in options.items() if name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--code", type=Path, required=True)
    theirs = authors(parser.parse_args().code)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    rows = [row for setting in SETTINGS for row in compare(theirs, setting)]
    table = pd.DataFrame(rows, columns=["setting", "round", "what", "difference"])
    table.to_csv(CSV, index=False, float_format="%.1e")
    largest = table.groupby(["setting", "what"], sort=False)["difference"].max().unstack()
    print(largest.to_string(float_format="%.1e".__mod__))
    print(f"model=cnn6 model.pool=3 and CNN_Digits: {networks(theirs):.1e}")
    official, ours = shared_entries(theirs)
    print(
        f"ResNet-18, shared entries: official {len(official)}, ours {len(ours)}; only official:",
        *sorted(official - ours),
    )


if __name__ == "__main__":
    main()
