"""A stack of clients against each client's own ``train``, in float64, and one step against its formula."""

from collections.abc import Callable
from copy import deepcopy
from types import MappingProxyType

import pytest
import torch
from torch import nn

from clients import ClippedSGD, FedDyn, FedNova, FedProx, LocalSGD
from fedsim.client.stack import Lane, Stack, picked, stacked
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.stackable import is_stackable
from fedsim.methods.training import LocalTraining
from fedsim.models.classifier import note_classifier
from tests.clients.small import context, examples, network

TRAINING = LocalTraining(local_epochs=2, batch_size=4, lr=0.1, momentum=0.9, weight_decay=0.01)
SIZES = (12, 7, 4, 10)
"""Images of the clients: 6, 4, 2 and 6 steps, and last batches of 4, 3 and 2."""
TRAINERS: dict[str, Callable[[LocalTraining], LocalSGD]] = {
    "plain": LocalSGD,
    "proximal": lambda training: FedProx(training, mu=0.5),
    "clipped": lambda training: ClippedSGD(training, clip=0.01, clip_classifier=True),
    "all but the last layer clipped": lambda training: ClippedSGD(training, clip=0.01),
    "dynamic": lambda training: FedDyn(training, alpha=0.3),
    "normalized": FedNova,
}


def noted(model: nn.Module) -> nn.Module:
    """Return the model, whose classifier is known from now on, as that of every network of a run is."""
    note_classifier(model.eval(), torch.zeros(2, 1, 4, 4, dtype=torch.float64))
    return model


def clients() -> list[tuple[nn.Module, TrainingContext]]:
    """Each with a network and images of its own."""
    made = []
    for number, size in enumerate(SIZES):
        model = noted(network(number))
        made.append((model, context(model, examples(size, seed=number), seed=number, round=1, client=number)))
    return made


def trained_together(trainer: LocalSGD) -> list[tuple[dict[str, torch.Tensor], dict[str, float]]]:
    assert is_stackable(trainer)
    lanes, model = [], noted(network())
    for own, known in clients():
        trainer.start(own, known)
        lanes.append(Lane.of(own, known))
    before = {name: each.clone() for name, each in model.state_dict().items()}
    Stack(model.train(), trainer, lanes).train()
    assert all(each.equal(before[name]) for name, each in model.state_dict().items())
    results = []
    for lane in lanes:
        lane.load(model)
        metrics = trainer.finish(model, lane.context, lane.metrics)
        results.append(({name: each.clone() for name, each in model.state_dict().items()}, metrics))
    return results


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "amsgrad", "adamw"])
def test_every_client_is_trained_as_it_is_alone(optimizer: str) -> None:
    """The gradient of a bias in front of BatchNorm consists of rounding errors, which Adam divides by their length."""
    trainer = LocalSGD(LocalTraining(2, 4, 0.05, 0.9 if optimizer == "sgd" else 0.0, optimizer, 0.01))
    agrees_with_each_alone(trainer, 1e-11 if optimizer == "sgd" else 1e-8)


@pytest.mark.parametrize("name", TRAINERS)
def test_every_trainer_does_what_it_does_alone(name: str) -> None:
    agrees_with_each_alone(TRAINERS[name](TRAINING))


def agrees_with_each_alone(trainer: LocalSGD, tolerance: float = 1e-11) -> None:
    for (model, known), (state, metrics) in zip(clients(), trained_together(trainer), strict=True):
        expected = trainer.train(model, known)
        assert metrics == pytest.approx(expected, rel=1e-6)  # sums of losses have 32 bits
        for entry, tensor in model.state_dict().items():
            torch.testing.assert_close(state[entry], tensor, rtol=tolerance, atol=tolerance)
        assert known.step == {12: 6, 7: 4, 4: 2, 10: 6}[len(known.data)]


def test_running_statistics_count_the_batches_of_their_client() -> None:
    counts = [int(state["1.num_batches_tracked"]) for state, _ in trained_together(LocalSGD(TRAINING))]
    assert counts == [6, 4, 2, 6]


def test_one_step_is_that_of_softmax_regression() -> None:
    """The gradient of the mean loss is (p - y) x' / n, here of two clients with 3 and 2 images."""
    lanes, expected = [], []
    trainer = LocalSGD(LocalTraining(local_epochs=1, batch_size=3, lr=0.5, momentum=0.0))
    for number, count in enumerate((3, 2)):
        torch.manual_seed(number)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
        known = context(model, examples(count, seed=number), round=1)
        trainer.start(model, known)
        lanes.append(Lane.of(model, known))
        pixels, weight = known.data.images.flatten(1).double() / 127.5 - 1, model[1].weight.detach()
        wrong = (pixels @ weight.T + model[1].bias.detach()).softmax(1) - torch.eye(3)[known.data.labels]
        expected.append(weight - 0.5 * wrong.T @ pixels / count)
    Stack(deepcopy(model), trainer, lanes).train()
    for lane, weight in zip(lanes, expected, strict=True):
        torch.testing.assert_close(lane.parameters["1.weight"], weight, rtol=1e-12, atol=1e-12)


def test_a_loss_that_is_not_finite_ends_its_client_alone() -> None:
    trainer, lanes = LocalSGD(TRAINING), []
    for number, (model, known) in enumerate(clients()):
        if number == 1:
            with torch.no_grad():
                model[0].weight[0] = torch.inf
        trainer.start(model, known)
        lanes.append(Lane.of(model, known))
    Stack(network().train(), trainer, lanes).train()
    assert str(lanes[1].error).startswith("its training loss is nan in step 1 of 4 of round 1")
    for number, (model, known) in enumerate(clients()):
        if number != 1:
            assert lanes[number].error is None
            trainer.train(model, known)
            torch.testing.assert_close(lanes[number].parameters["6.weight"], model[6].weight.detach())


def test_a_hook_can_read_nothing_that_is_one_clients_alone() -> None:
    class Curious(LocalSGD):
        stackable = True

        def loss(
            self, model: nn.Module, logits: torch.Tensor, labels: torch.Tensor, context: TrainingContext
        ) -> torch.Tensor:
            return super().loss(model, logits, labels, context) * len(context.data)

    class Writing(Curious):
        stackable = True

        def loss(
            self, model: nn.Module, logits: torch.Tensor, labels: torch.Tensor, context: TrainingContext
        ) -> torch.Tensor:
            context.scratch["sum"] = logits.sum()
            return logits.sum()

    with pytest.raises(AttributeError, match="data"):
        trained_together(Curious(TRAINING))
    with pytest.raises(TypeError, match="does not support item assignment"):
        trained_together(Writing(TRAINING))


def test_what_a_class_inherits_does_not_make_it_stackable() -> None:
    class Other(LocalSGD):
        def end(self, model: nn.Module, context: TrainingContext) -> None:
            pass

    assert is_stackable(LocalSGD(TRAINING))
    assert not is_stackable(Other(TRAINING))


def test_constants_are_stacked_and_picked_where_they_are() -> None:
    parts = [
        {"a": torch.tensor([n]), "b": MappingProxyType({"c": (torch.tensor(n), torch.tensor(-n))})} for n in range(3)
    ]
    whole = stacked(parts)
    assert whole["a"].tolist() == [[0], [1], [2]]
    assert whole["b"]["c"][1].tolist() == [0, -1, -2]
    some = picked(whole, torch.tensor([2, 0]))
    assert some["b"]["c"][0].tolist() == [2, 0]
    for wrong in ([{"a": 1}], [{"a": torch.zeros(1)}, {"b": torch.zeros(1)}], [(torch.zeros(1),), ()]):
        with pytest.raises(TypeError, match="constants have to be tensors"):
            stacked(wrong)


def test_a_client_with_one_image_makes_one_step() -> None:
    lanes, trainer = [], LocalSGD(LocalTraining(1, 4, 0.1, 0.0))
    for count in (1, 6):
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
        known = context(model, examples(count), round=1)
        trainer.start(model, known)
        lanes.append(Lane.of(model, known))
    Stack(model, trainer, lanes).train()
    assert [lane.context.step for lane in lanes] == [1, 2]
