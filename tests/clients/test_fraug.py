"""FRAug's client against its three steps written out, and what it keeps."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, RecordDict
from torch import nn
from torch.nn import functional as F

from clients import FRAug, LocalSGD
from datasets.examples import Examples
from fedsim.client.lr_schedule import LearningRateSchedule
from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.interfaces import Record, TrainingContext
from fedsim.methods.training import LocalTraining
from fedsim.models.feature_networks import FeatureGenerator, FeatureTransform
from tests.clients.small import batches, examples, network

ROUNDS = 8
TRAINING = LocalTraining(
    local_epochs=1, batch_size=5, lr=0.1, momentum=0.5, schedule=LearningRateSchedule(rounds=ROUNDS)
)
FEATURES, LATENT, CLASSES = 5, 2, 3
State = dict[str, Record]
Tensors = dict[str, torch.Tensor]


class Noise:
    """In the place of ``torch.rand``: draws of one generator, in float64."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.float64).uniform_(generator=self.generator)


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda seed: monkeypatch.setattr("torch.rand", Noise(seed))


def sent_generator(seed: int = 4) -> Tensors:
    torch.manual_seed(seed)
    state = FeatureGenerator(FEATURES, LATENT, CLASSES).double().state_dict()
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}


def context(data: Examples, state: State, generator: Tensors, round: int = 1, seed: int = 3) -> TrainingContext:
    sent = RecordDict({"generator": to_record({name: each.clone() for name, each in generator.items()})})
    draws = torch.Generator().manual_seed(seed)
    return TrainingContext(data=data, generator=draws, sent=sent, state=state, round=round)


def told(mine: TrainingContext) -> Tensors:
    return to_tensors(mine.reply.array_records["generator"])


def kept(state: State, name: str) -> Tensors:
    record = state[name]
    assert isinstance(record, ArrayRecord)
    return to_tensors(record)


def loaded(layers: list[nn.Module], tensors: Tensors) -> nn.Sequential:
    """These layers with the weights of one of our networks, which has the same in the same order."""
    written = nn.Sequential(*layers).double()
    named = {name.removeprefix("layers."): tensor for name, tensor in tensors.items()}
    written.load_state_dict({**written.state_dict(), **named})
    return written


def with_labels(inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.cat([inputs, torch.eye(CLASSES, dtype=torch.float64)[labels]], dim=1)


def pairwise(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """MMD with the differences of all pairs."""
    both = torch.cat([one, other])
    distances = (both[:, None] - both[None]).square().sum(2)
    mean = distances.detach().sum() / (len(both) * (len(both) - 1))
    kernel = sum(torch.exp(-distances / (mean / 4 * 2**place)) for place in range(5))
    assert isinstance(kernel, torch.Tensor)
    n = len(one)
    return (kernel[:n, :n] + kernel[n:, n:] - kernel[:n, n:] - kernel[n:, :n]).mean()


class ByHand:
    """The procedure of the authors' code: three networks, three optimizers that live for as long as the client."""

    def __init__(self, model: nn.Module, transform: Tensors, options: dict[str, Any]) -> None:
        self.model, self.options = model, options
        generator = [nn.Linear(LATENT + CLASSES, FEATURES), nn.BatchNorm1d(FEATURES), nn.ReLU()]
        self.generator = loaded([*generator, nn.Linear(FEATURES, FEATURES), nn.BatchNorm1d(FEATURES), nn.ReLU()], {})
        layers = [nn.Linear(FEATURES + CLASSES, LATENT), nn.BatchNorm1d(LATENT), nn.ReLU()]
        self.transform = loaded([*layers, nn.Linear(LATENT, FEATURES), nn.BatchNorm1d(FEATURES)], transform)
        self.means = torch.zeros(CLASSES, FEATURES, dtype=torch.float64)
        self.optimizers = [
            torch.optim.SGD(each.parameters(), lr=lr, momentum=0.5)
            for each, lr in ((model, 0.1), (self.generator, 0.03), (self.transform, 0.02))
        ]

    def made(self, labels: torch.Tensor) -> torch.Tensor:
        drawn = torch.rand(len(labels), LATENT)
        made: torch.Tensor = self.generator(with_labels(drawn, labels))
        return made

    def moved(self, reference: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            made = self.made(labels)
        moved: torch.Tensor = reference + self.transform(with_labels(made, labels))
        return moved

    def round(self, number: int, generator: Tensors, data: Examples, seed: int) -> None:
        state = self.generator.state_dict()
        self.generator.load_state_dict({**state, **{name.removeprefix("layers."): t for name, t in generator.items()}})
        found = list(batches(data, 1, 5, seed))
        rho = math.exp(self.options["gamma"] * (number - 1 - ROUNDS))
        for step, (images, labels) in enumerate(found):
            first = ((number - 1) * len(found) + step) * len(labels) % CLASSES
            order = [*range(first, CLASSES), *range(first)]
            balanced = torch.tensor([order[place % CLASSES] for place in range(len(labels))])
            self.step(images, labels, balanced, rho)

    def step(self, images: torch.Tensor, labels: torch.Tensor, balanced: torch.Tensor, rho: float) -> None:
        head, of_model, of_generator, of_transform = self.model[-1], *self.optimizers  # type: ignore[index]
        self.model.train()
        self.generator.eval()
        self.transform.eval()
        features = self.model[:-1](images)  # type: ignore[index]
        for label in labels.unique():
            self.means[label] = 0.6 * self.means[label] + 0.4 * features.detach()[labels == label].mean(0)
        with torch.no_grad():
            first = self.moved(self.means[balanced], balanced)
            second = self.moved(features, labels)
            if self.options["interpolate"]:
                first = rho * first + (1 - rho) * self.means[balanced]
                second = rho * second + (1 - rho) * features
        generated = (F.cross_entropy(head(first), balanced) + F.cross_entropy(head(second), labels)) / 2
        share = min(0.5, rho)
        self.minimize(of_model, share * generated + (1 - share) * F.cross_entropy(head(features), labels))

        self.model.eval()
        features = self.model[:-1](images).detach()  # type: ignore[index]
        self.generator.train()
        made = self.made(balanced)
        if self.options["generator_distance"] == "mmd":
            far = pairwise(made, features)
        else:
            far = (made - self.means[balanced]).square().mean()
        self.minimize(of_generator, F.cross_entropy(head(made), balanced) - 0.7 * far)
        self.generator.eval()

        self.transform.train()
        losses = []
        for reference, each in ((self.means[balanced], balanced), (features, labels)):
            moved = self.moved(reference, each)
            probabilities = head(moved).softmax(1)
            entropy = -(probabilities * probabilities.log()).sum(1).mean()
            if self.options["transform_distance"] == "mmd":
                near = pairwise(moved, reference)
            else:
                near = (moved - reference).abs().mean()
            losses.append(-entropy + 1.3 * near)
        self.minimize(of_transform, (losses[0] + losses[1]) / 2)

    def minimize(self, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        for each in self.optimizers:
            each.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize(
    "options",
    [
        {"generator_distance": "l2", "transform_distance": "mmd", "interpolate": True, "gamma": 0.05},
        {"generator_distance": "mmd", "transform_distance": "l1", "interpolate": False, "gamma": 0.2},
    ],
    ids=["interpolated", "not"],
)
def test_two_rounds_are_those_written_out(options: dict[str, Any], noise: Callable[[int], None]) -> None:
    """Twelve images in batches of five, five and two; what is kept serves in the second round, momentum included."""
    data, model = examples(), network()
    state: State = {}
    weights = {"lam_generator": 0.7, "lam_transform": 1.3, "lr_generator": 0.03, "lr_transform": 0.02}
    trainer = FRAug(TRAINING, mean_momentum=0.4, **weights, **options)
    torch.manual_seed(8)
    transform = FeatureTransform(FEATURES, LATENT, CLASSES).double().state_dict()
    state["transform"] = to_record(transform)
    expected = ByHand(copy.deepcopy(model), transform, options)
    generator = sent_generator()
    for round in (2, 3):
        mine = context(data, state, generator, round, seed=round)
        noise(round)
        trainer.train(model, mine)
        noise(round)
        expected.round(round, generator, data, seed=round)
        same = {
            "model": (model.state_dict(), expected.model.state_dict()),
            "generator": (told(mine), expected.generator.state_dict()),
            "transform": (kept(state, "transform"), expected.transform.state_dict()),
            "class means": (kept(state, "class means"), {"class means": expected.means}),
        }
        for what, (ours, written) in same.items():
            for name, tensor in ours.items():
                wanted = written[name.removeprefix("layers.")]
                torch.testing.assert_close(tensor, wanted, rtol=1e-7, atol=1e-9, msg=f"{what} {name} {round}")
        generator = {name: tensor.clone() for name, tensor in told(mine).items()}


def test_without_a_share_of_generated_features_it_is_local_sgd() -> None:
    """Bit for bit; the generator is trained all the same."""
    data, model, plain, generator = examples(), network(), network(), sent_generator()
    mine = context(data, {}, generator)
    metrics = FRAug(TRAINING, gamma=1e9).train(model, mine)
    assert metrics == LocalSGD(TRAINING).train(plain, context(data, {}, generator))
    assert all(tensor.equal(plain.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert not told(mine)["layers.0.weight"].equal(generator["layers.0.weight"])
    other = network()
    FRAug(TRAINING, gamma=0.0).train(other, context(data, {}, generator))
    assert not other[-1].weight.equal(plain[-1].weight)  # type: ignore[index]


def test_generated_features_train_the_classifier_alone() -> None:
    """After one step; later steps of the network go through another classifier."""
    data, once = examples(5), replace(TRAINING, momentum=0.0)
    models = [network(), network()]
    for model, gamma in zip(models, (0.0, 1e9), strict=True):
        FRAug(once, gamma=gamma).train(model, context(data, {}, sent_generator()))
    moved, plain = (
        {name: each - network().state_dict()[name] for name, each in m.state_dict().items()} for m in models
    )
    for name in ("0.weight", "1.weight", "4.weight"):
        torch.testing.assert_close(moved[name], plain[name] / 2, rtol=1e-9, atol=1e-12)  # rho is 1, its share 1/2
    assert not torch.allclose(moved["6.weight"], plain["6.weight"] / 2, rtol=1e-3)


def test_the_share_of_generated_features_by_round() -> None:
    by_name = {name: FRAug(TRAINING, schedule=name, gamma=0.5) for name in ("exponential", "half", "hyperbolic")}
    shares = {name: [trainer.share_in(round) for round in (1, 3, ROUNDS)] for name, trainer in by_name.items()}
    assert shares["exponential"] == pytest.approx([math.exp(-4), math.exp(-3), math.exp(-0.5)])
    assert shares["half"] == [0.5] * 3
    assert shares["hyperbolic"] == pytest.approx([0, 1 - 1 / 2, 1 - 1 / 4.5])


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_a_round_may_have_a_number_of_batches(steps: int) -> None:
    """Of twelve images in batches of five, five and two; the first pass comes to its end before the next begins."""
    trainer, data = FRAug(TRAINING, local_steps=steps), examples()
    assert trainer.batches_of_pass(len(data)) == len(trainer.batches(len(data), torch.Generator()))
    drawn = trainer.batches(len(data), torch.Generator().manual_seed(3))
    again = torch.Generator().manual_seed(3)
    passes = [batch for _ in range(3) for batch in LocalSGD(TRAINING).batches(len(data), again)]
    assert [batch.tolist() for batch in drawn] == [batch.tolist() for batch in passes[:steps]]
    mine = context(data, {}, sent_generator())
    assert trainer.train(network(), mine)["num-examples"] == 12
    assert mine.step == mine.steps == steps


def test_what_the_server_does_not_send_of_the_generator_stays_and_comes_back() -> None:
    data, model = examples(), network()
    state: State = {}
    generator = {name: each for name, each in sent_generator().items() if name.split(".")[1] in "03"}
    mine = context(data, state, generator)
    FRAug(TRAINING).train(model, mine)
    assert set(told(mine)) == set(generator) == {f"layers.{n}.{e}" for n in (0, 3) for e in ("weight", "bias")}
    own = kept(state, "generator")
    assert set(own) == {f"layers.{n}.{entry}" for n in (1, 4) for entry in nn.BatchNorm1d(1).state_dict()}
    assert not own["layers.1.weight"].equal(torch.ones(FEATURES, dtype=torch.float64))
    before = {name: each.clone() for name, each in own.items()}
    quiet = LocalTraining(1, 5, 0.1, 0.0, schedule=LearningRateSchedule(rounds=ROUNDS))
    trainer = FRAug(quiet, lr_generator=1e-300)  # so small that nothing moves but running statistics
    trainer.train(model, context(data, state, generator, round=2))
    after = kept(state, "generator")
    assert all(after[name].equal(before[name]) for name in ("layers.1.weight", "layers.4.bias"))
    assert after["layers.1.num_batches_tracked"] == 2 * before["layers.1.num_batches_tracked"] == 6


def test_means_are_those_of_the_classes_that_were_seen() -> None:
    data, state = examples(), State()
    two = Examples(data.images, data.labels.clamp(max=1), data.transform)
    FRAug(TRAINING).train(network(), context(two, state, sent_generator()))
    means = kept(state, "class means")["class means"]
    assert means[2].count_nonzero() == 0
    assert means[:2].count_nonzero() > 0


def test_a_single_image_trains_the_model_and_neither_generator_nor_transformation() -> None:
    state, generator, model = State(), sent_generator(), nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, 3))
    model = model.double()
    before = copy.deepcopy(model.state_dict())
    mine = context(examples(1), state, generator)
    FRAug(TRAINING).train(model, mine)
    assert not model.state_dict()["1.weight"].equal(before["1.weight"])
    assert all(each.equal(generator[name]) for name, each in told(mine).items())
    assert {name.partition("/")[0] for name in kept(state, "momentum")} == {"model"}


@pytest.mark.parametrize("keep", [True, False])
def test_momentum_is_kept_if_it_is_to_be(keep: bool) -> None:
    state: State = {}
    FRAug(TRAINING, keep_momentum=keep).train(network(), context(examples(), state, sent_generator()))
    assert ("momentum" in state) == keep
    if keep:
        networks = {"model": network(), "generator": FeatureGenerator(1, 1, 1), "transform": FeatureTransform(1, 1, 1)}
        names = {f"{what}/{name}" for what, each in networks.items() for name, _ in each.named_parameters()}
        assert set(kept(state, "momentum")) == names


def test_modes_and_gradients_of_the_model_are_as_before() -> None:
    """What trains afterwards is not disturbed: all layers in training mode, all parameters with gradients."""
    model = network()
    FRAug(TRAINING).train(model, context(examples(), {}, sent_generator()))
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"noise": "x"}, r"^strategy\.noise=x is not known: choose uniform or normal\.$"),
        ({"generator_distance": "x"}, r"^strategy\.generator_distance=x is not known: choose l1, l2, mean_cov or mmd"),
        ({"transform_distance": "x"}, r"^strategy\.transform_distance=x is not known: choose l1, l2, mean_cov or mmd"),
        ({"transform_loss": "x"}, r"^strategy\.transform_loss=x is not known: choose entropy or non_saturating\.$"),
        ({"labels": "x"}, r"^strategy\.labels=x is not known: choose both, balanced or batch\.$"),
        ({"schedule": "x"}, r"^strategy\.schedule=x is not known: choose exponential, half or hyperbolic\.$"),
        ({"lr_generator": 0.0}, r"^strategy\.lr_generator=0\.0 is not possible: choose a number above 0\.$"),
        ({"lr_transform": math.inf}, r"^strategy\.lr_transform=inf is not possible"),
        ({"lam_generator": -1.0}, r"^strategy\.lam_generator=-1\.0 is not possible: choose a number of at least 0\.$"),
        ({"lam_transform": math.nan}, r"^strategy\.lam_transform=nan is not possible"),
        ({"gamma": -0.1}, r"^strategy\.gamma=-0\.1 is not possible"),
        (
            {"mean_momentum": 0.0},
            r"^strategy\.mean_momentum=0\.0 is not possible: choose a number above 0 and at most 1",
        ),
        ({"local_steps": 0}, r"^strategy\.local_steps=0 is not possible: choose a whole number of at least 1, or null"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        FRAug(TRAINING, **options)
