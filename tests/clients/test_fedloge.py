"""FedLoGe's client against the authors' procedure written out: three losses, three optimizers, one pass."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clients import FedLoGe, LocalSGD
from clients.realignment import rescaled, with_lengths_of
from datasets.examples import Examples
from fedsim.core.errors import UserError
from fedsim.heads import LocalGenericHeads, local_generic_heads, use_local_generic
from fedsim.methods.interfaces import ClientContext, TrainingContext
from fedsim.methods.training import LocalTraining
from fedsim.metrics.scoring import score

TRAINING = LocalTraining(local_epochs=2, batch_size=4, lr=0.1, momentum=0.5)


def make_model() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    model = use_local_generic(nn.Sequential(*layers), norm=1.0, steps=10).double()
    heads_of(model).generic.make()
    return model


def heads_of(model: nn.Module) -> LocalGenericHeads:
    heads = local_generic_heads(model)
    assert heads is not None
    return heads


def examples(count: int = 12) -> Examples:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, 2, 2), dtype=torch.uint8, generator=generator)
    return Examples(images, torch.randint(0, 3, (count,), generator=generator), transform=as_doubles)  # type: ignore[arg-type]


def as_doubles(images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    return images.double() / 127.5 - 1


def context(data: Examples) -> TrainingContext:
    return TrainingContext(data=data, generator=torch.Generator().manual_seed(3), round=1)


def by_hand(model: nn.Module, data: Examples) -> None:
    """Three optimizers; the features are computed once, before the network's step."""
    heads, network = heads_of(model), model[:-1]  # type: ignore[index]
    optimizers = [
        torch.optim.SGD(part.parameters(), lr=0.1, momentum=0.5) for part in (network, heads.auxiliary, heads.personal)
    ]
    generator = torch.Generator().manual_seed(3)
    model.train()
    for _ in range(2):
        for indices in torch.randperm(len(data), generator=generator).split(4):
            images, labels = data.batch(indices)
            for optimizer in optimizers:
                optimizer.zero_grad()
            features = network(images)
            F.cross_entropy(heads.generic(features), labels).backward()
            optimizers[0].step()
            for head, optimizer in zip((heads.auxiliary, heads.personal), optimizers[1:], strict=True):
                F.cross_entropy(head(features.detach()), labels).backward()
                optimizer.step()


def test_training_is_that_of_three_optimizers_with_one_pass() -> None:
    model, expected, data = make_model(), make_model(), examples()
    metrics = FedLoGe(TRAINING).train(model, context(data))
    by_hand(expected, data)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected.state_dict()[name], msg=name)
    assert metrics["num-examples"] == 12


def test_the_heads_losses_never_reach_the_network() -> None:
    """Whatever the two trained heads are, the network becomes the same, bit for bit."""
    one, other, data = make_model(), make_model(), examples()
    with torch.no_grad():
        for head in (heads_of(other).auxiliary, heads_of(other).personal):
            head.weight.mul_(-7).add_(1)
    FedLoGe(TRAINING).train(one, context(data))
    FedLoGe(TRAINING).train(other, context(data))
    for name, tensor in one.state_dict().items():
        same = torch.equal(tensor, other.state_dict()[name])
        assert same == (not name.startswith(("4.auxiliary", "4.personal"))), name
    # and it is what training it for the fixed classifier alone gives
    alone = make_model()
    LocalSGD(TRAINING).train(alone, context(data))
    network = [name for name in one.state_dict() if name[0] < "4"]
    assert all(torch.equal(one.state_dict()[name], alone.state_dict()[name]) for name in network)


def test_the_fixed_classifier_stays_as_it_is() -> None:
    model = make_model()
    before = heads_of(model).generic.weight.clone()
    FedLoGe(TRAINING).train(model, context(examples()))
    assert torch.equal(heads_of(model).generic.weight, before)


def test_realignment_is_the_one_computed_by_hand() -> None:
    auxiliary = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    personal = torch.tensor([[1.0, 0.0], [5.0, 12.0]])
    torch.testing.assert_close(rescaled(auxiliary, 1.7), torch.tensor([[1.02, 1.36], [0.0, 1.7]]))
    assert with_lengths_of(auxiliary, personal).tolist() == [[3.0, 4.0], [0.0, 26.0]]
    assert rescaled(torch.zeros(1, 2), 1.7).tolist() == [[0.0, 0.0]]  # a row without a direction


def logits_by_hand(model: nn.Module, images: torch.Tensor, rule: str) -> dict[bool, dict[str, torch.Tensor]]:
    heads, network = heads_of(model), model.eval()[:-1]  # type: ignore[index]
    features = network(images)
    auxiliary, personal, bias = heads.auxiliary.weight, heads.personal.weight, heads.auxiliary.bias
    moved = torch.stack([personal[c].norm() * auxiliary[c] for c in range(3)])
    local = {
        "code": (features @ moved.T + bias) + heads.personal(features),
        "readme": (features @ moved.T + heads.personal.bias) + heads.auxiliary(features),
    }
    equal = torch.stack([2.5 / auxiliary[c].norm() * auxiliary[c] for c in range(3)])
    return {
        False: {
            "": heads.generic(features),
            "realigned": features @ equal.T + bias,
            "auxiliary": heads.auxiliary(features),
        },
        True: {"": heads.auxiliary(features) + heads.personal(features), "realigned": local[rule]},
    }


@pytest.mark.parametrize("rule", ["code", "readme"])
@pytest.mark.parametrize("own", [True, False], ids=["client", "global"])
def test_predictors_are_those_written_out(rule: str, own: bool) -> None:
    model = make_model()
    half = FedLoGe(TRAINING, length=2.5, local_rule=rule)
    half.train(model, context(examples()))
    images, _ = examples(50).batch(torch.arange(50))
    with torch.no_grad():
        expected = logits_by_hand(model, images, rule)[own]
        got = half.predict(model.eval(), images, ClientContext(own=own))
    assert list(got) == list(expected)
    for name in got:
        torch.testing.assert_close(got[name], expected[name])
    torch.testing.assert_close(model(images), heads_of(model).generic(model[:-1](images)))  # type: ignore[index]


def test_what_the_length_is_matters_beside_the_bias_alone() -> None:
    """Without a bias every length chooses the same classes."""
    model, data = make_model(), examples(50)
    with torch.no_grad():
        heads_of(model).auxiliary.bias.zero_()
    short, long = (
        score(FedLoGe(TRAINING, length=length), model, data, ClientContext(own=False)) for length in (0.1, 10.0)
    )
    assert short["realigned-correct"] == long["realigned-correct"]
    assert short["realigned-loss"] != long["realigned-loss"]


def test_a_client_without_the_fixed_classifier_says_so() -> None:
    model, half = use_local_generic(nn.Sequential(nn.Flatten(), nn.Linear(12, 3))), FedLoGe(TRAINING)
    for act in (
        lambda: half.train(model, context(examples())),
        lambda: score(half, model, examples(), ClientContext()),
    ):
        with pytest.raises(RuntimeError, match="the fixed classifier is missing: the server gives it to a client once"):
            act()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"length": 0.0}, r"^strategy\.length=0\.0 is not possible: choose a number above 0\.$"),
        ({"length": float("nan")}, r"^strategy\.length=nan is not possible"),
        ({"local_rule": "paper"}, r"^strategy\.local_rule=paper is not known: choose code or readme\.$"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        FedLoGe(TRAINING, **options)  # type: ignore[arg-type]
