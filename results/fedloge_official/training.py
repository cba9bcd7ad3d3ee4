"""The networks, and the second and third comparison: stage 1 and the aggregation. The fourth starts from their end."""

import copy
import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from clients import FedLoGe
from datasets.examples import Examples
from fedsim.aggregation import RunningAverage
from fedsim.heads import LocalGenericHeads, use_local_generic
from fedsim.methods.interfaces import TrainingContext
from fedsim.models.classifier import classifier_of, features_seen
from fedsim.models.resnet import resnet18, resnet34
from results.fedloge_official.frames import NORM
from results.fedloge_official.images import AsDoubles, chosen, tensors
from results.fedloge_official.official import CLASSES, FEATURES, TRAINING, Backbone, loaders_of
from results.fedloge_official.predictors import TESTS, of_a_client, of_the_server
from results.fedloge_official.rows import largest, row

CLIENTS = {120: range(10), 77: range(6), 45: (0, 2, 7)}
"""Training images and classes of the three clients; no last batch is a single image."""
ROUNDS = 2
State = dict[str, torch.Tensor]


def networks(theirs: types.SimpleNamespace, data: Any) -> None:
    images, _ = tensors(data["test_images"][:4], data["test_labels"][:4])
    for name, make in (("ResNet18", resnet18), ("ResNet34", resnet34)):
        torch.manual_seed(0)
        official: Any = getattr(theirs.networks, name)(CLASSES).double()
        ours = make(CLASSES).double()
        scale = official.layer2[0].conv2.weight.std().item(), ours.state_dict()["layer2.0.conv2.weight"].std().item()
        with torch.no_grad():
            for parameter in official.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter) / 4)
        state = [value for key, value in official.state_dict().items() if not key.startswith("projection")]
        ours.load_state_dict(dict(zip(ours.state_dict(), state, strict=True)))
        difference = 0.0
        with torch.no_grad(), features_seen(classifier_of(ours, "this")[1]) as seen:
            for training in (True, False):
                ours.train(training)
                official.train(training)
                ours(AsDoubles((0.5,), (0.5,))(images, None))
                expected = official(AsDoubles((0.5,), (0.5,))(images, None), latent_output=True)
                difference = max(difference, largest(seen.pop(), expected))
        row(f"{name}, features in training and evaluation", difference)
        row("  deviation of a convolution's first weights", f"official {scale[0]:.4f}, here {scale[1]:.4f}")


def training_to_predictions(theirs: types.SimpleNamespace, data: Any) -> None:
    clients = [chosen(data, count, classes) for count, classes in CLIENTS.items()]
    torch.manual_seed(0)
    network = nn.Sequential(Backbone(), nn.Linear(FEATURES, CLASSES))
    model = use_local_generic(network, norm=NORM, steps=500, bias="random").double()
    heads = heads_of(model)
    heads.generic.make()
    backbone = copy.deepcopy(model.get_submodule("0"))
    g_head, g_aux = plain(heads.generic), plain(heads.auxiliary)
    l_heads = [plain(heads.personal) for _ in clients]
    personal = [own_part(model) for _ in clients]
    shared = shared_part(model)
    for round in range(1, ROUNDS + 1):
        trained, official = [], []
        for client, examples in enumerate(clients):
            model.load_state_dict({**model.state_dict(), **shared, **personal[client]})
            generator = torch.Generator().manual_seed(100 * round + client)
            context = TrainingContext(round=round, data=examples, generator=generator)
            FedLoGe(TRAINING).train(model, context)
            trained.append(shared_part(model))
            personal[client] = own_part(model)
            update = loaders_of(theirs, examples, 100 * round + client)
            state, aux, l_heads[client], _ = update.update_weights_gaux(
                *(copy.deepcopy(backbone), copy.deepcopy(g_head), copy.deepcopy(g_aux), l_heads[client]),
                epoch=TRAINING.local_epochs,
            )
            official.append((state, aux))
        pairs = list(zip(trained, official, strict=True))
        row(f"round {round}, backbone after training", max(backbone_difference(*pair) for pair in pairs))
        row(
            f"round {round}, auxiliary head after training",
            max(head_difference(one, "auxiliary", aux) for one, (_, aux) in pairs),
        )
        row(
            f"round {round}, personal heads after training",
            max(head_difference(one, "personal", head) for one, head in zip(personal, l_heads, strict=True)),
        )
        shared, sizes = average(trained, clients), [len(examples) for examples in clients]
        state = theirs.fedavg.FedAvg_noniid([state for state, _ in official], sizes)
        g_aux = theirs.fedavg.FedAvg_noniid_classifier([aux for _, aux in official], sizes)
        row(f"round {round}, backbone after aggregation", backbone_difference(shared, (state, None)))
        row(f"round {round}, auxiliary head after aggregation", head_difference(shared, "auxiliary", g_aux))
        counter = "layers.1.num_batches_tracked"
        row("  BatchNorm's counter", f"official {state[counter].item():g}, here {shared[f'0.{counter}'].item()}")
        backbone.load_state_dict(state)
    model.load_state_dict({**model.state_dict(), **shared})
    tests = chosen(data, CLASSES * TESTS, range(CLASSES), "test")
    of_the_server(theirs, model, backbone, g_head, g_aux, tests)
    for client, examples in enumerate(clients):
        model.load_state_dict({**model.state_dict(), **personal[client]})
        of_a_client(theirs, model, backbone, (g_head, g_aux, l_heads[client]), client, examples, tests)


def heads_of(model: nn.Module) -> LocalGenericHeads:
    heads = model.get_submodule("1")
    assert isinstance(heads, LocalGenericHeads)
    return heads


def plain(head: nn.Linear) -> nn.Linear:
    linear = nn.Linear(head.in_features, head.out_features).double()
    linear.load_state_dict(head.state_dict())
    return linear


def own_part(model: nn.Module) -> State:
    return _copied(model, "1.personal")


def shared_part(model: nn.Module) -> State:
    return _copied(model, "0.", "1.auxiliary")


def _copied(model: nn.Module, *beginnings: str) -> State:
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if name.startswith(beginnings)}


def average(states: Sequence[State], clients: Sequence[Examples]) -> State:
    mean = RunningAverage()
    for state, examples in zip(states, clients, strict=True):
        mean.add(state, len(examples))
    return mean.result()


def backbone_difference(ours: State, official: tuple[State, object]) -> float:
    """Of weights and running statistics; a counter has no weight."""
    return max(largest(ours[f"0.{key}"], value) for key, value in official[0].items() if "num_batches" not in key)


def head_difference(ours: State, name: str, official: nn.Linear) -> float:
    return max(largest(ours[f"1.{name}.{key}"], value) for key, value in official.state_dict().items())
