"""Each adaptation against an independent computation, and the model that is left behind."""

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import timm.layers
import torch
from torch import nn

from fedsim.config.composition import choices, compose
from fedsim.core.errors import UserError
from fedsim.tta import CAFA, AlphaBN, BatchStatistics, Tent, adaptation_of

CLASSES = 4


def small_model(norm: type[nn.Module] = nn.BatchNorm2d) -> nn.Module:
    """In float64, with running statistics and an affine part that are not the initial ones."""
    torch.manual_seed(0)
    layer = norm(6) if norm is nn.BatchNorm2d else nn.GroupNorm(2, 6)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), layer, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    model.double()
    with torch.no_grad():
        layer.weight.uniform_(0.5, 1.5)
        layer.bias.uniform_(-0.5, 0.5)
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-1, 1)
            layer.running_var.uniform_(0.5, 2)
    return model.eval()


def images(count: int = 12, seed: int = 1) -> torch.Tensor:
    return 3 * torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 1


def source() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for seed in (5, 6):
        yield images(20, seed), torch.arange(20) % CLASSES


def nothing() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    raise AssertionError("this adaptation must not ask for training images")


def by_statistics(model: nn.Module, batch: torch.Tensor, share: float) -> np.ndarray:
    """The network with BatchNorm written out in numpy; ``share`` is the weight of the batch's statistics."""
    convolution, norm, _, _, _, head = model
    hidden = convolution(batch).detach().numpy()
    mean, variance = hidden.mean((0, 2, 3)), hidden.var((0, 2, 3))
    mean = share * mean + (1 - share) * norm.running_mean.numpy()
    variance = share * variance + (1 - share) * norm.running_var.numpy()
    column = (slice(None), None, None)
    normed = (hidden - mean[column]) / np.sqrt(variance[column] + norm.eps)
    normed = normed * norm.weight.detach().numpy()[column] + norm.bias.detach().numpy()[column]
    features = np.maximum(normed, 0).mean((2, 3))
    return features @ head.weight.detach().numpy().T + head.bias.detach().numpy()


@pytest.mark.parametrize(
    ("adaptation", "share"), [(BatchStatistics(64), 1.0), (AlphaBN(0.1, 64), 0.1), (AlphaBN(0.0, 64), 0.0)]
)
def test_statistics_of_the_test_batch_are_mixed_in(adaptation: AlphaBN | BatchStatistics, share: float) -> None:
    model, batch = small_model(), images()
    with adaptation.adapting(model, nothing), torch.no_grad():
        logits = model(batch)
    np.testing.assert_allclose(logits.numpy(), by_statistics(model, batch, share), rtol=1e-10)


@pytest.mark.parametrize(("adaptation", "share"), [(BatchStatistics(64), 1.0), (AlphaBN(0.1, 64), 0.1)])
def test_timms_norms_keep_their_activation(adaptation: AlphaBN | BatchStatistics, share: float) -> None:
    model, batch = small_model(), images()
    with_activation = timm.layers.BatchNormAct2d(6).double().eval()
    with_activation.load_state_dict(model[1].state_dict())
    one = nn.Sequential(model[0], with_activation, *model[3:])
    with adaptation.adapting(one, nothing), torch.no_grad():
        logits = one(batch)
    np.testing.assert_allclose(logits.numpy(), by_statistics(model, batch, share), rtol=1e-10)


def test_tent_takes_adams_steps_down_the_entropy() -> None:
    """Two batches of one step each: the second is answered by scales and shifts that the first has moved."""
    model, batch, lr = small_model(), images(8), 0.01
    norm = model[1]
    weight, bias = norm.weight.detach().clone(), norm.bias.detach().clone()

    def answer(part: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        hidden = model[0](part)
        variance, mean = torch.var_mean(hidden, (0, 2, 3), correction=0, keepdim=True)
        hidden = (hidden - mean) / (variance + norm.eps).sqrt() * weight[:, None, None] + bias[:, None, None]
        features: torch.Tensor = model[5](hidden.relu().mean((2, 3)))
        return features

    expected, moments = [], [(0.0, 0.0), (0.0, 0.0)]
    for step in (1, 2):
        weight.requires_grad_(True)
        bias.requires_grad_(True)
        logits = answer(batch[step - 1 :: 2], weight, bias)
        expected.append(logits.detach())
        probabilities = logits.exp() / logits.exp().sum(1, keepdim=True)
        entropy = -(probabilities * probabilities.log()).sum() / len(logits)
        gradients = torch.autograd.grad(entropy, (weight, bias))
        stepped = []
        for number, (parameter, gradient) in enumerate(zip((weight, bias), gradients, strict=True)):
            first, second = moments[number]
            moments[number] = (0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2)
            first, second = moments[number][0] / (1 - 0.9**step), moments[number][1] / (1 - 0.999**step)
            stepped.append((parameter - lr * first / (second**0.5 + 1e-8)).detach())
        weight, bias = stepped

    with Tent(lr=lr, steps=1, batch_size=4).adapting(model, nothing), torch.no_grad():
        torch.testing.assert_close(model(batch[0::2]), expected[0])
        torch.testing.assert_close(model(batch[1::2]), expected[1])


def test_tent_lowers_the_entropy_of_what_it_has_seen() -> None:
    def entropy(logits: torch.Tensor) -> float:
        return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean().item()

    model, batch = small_model(), images(16)
    with Tent(lr=0.05, steps=1, batch_size=16).adapting(model, nothing), torch.no_grad():
        values = [entropy(model(batch)) for _ in range(10)]
    assert all(later < earlier for earlier, later in pairwise(values))


def test_cafas_loss_is_the_log_ratio_of_mahalanobis_distances() -> None:
    model, batch, shrinkage = small_model(), images(6), 0.2
    model[5].bias.data[3] = 10.0  # every image is taken for class 3
    adaptation = CAFA(lr=0.01, steps=1, batch_size=64, shrinkage=shrinkage)
    logits, loss = adaptation.loss(model, model.forward, source)(batch)

    features = nn.Sequential(*list(model)[:5])
    known = np.concatenate([features(part).detach().numpy() for part, _ in source()])
    labels = np.concatenate([truth.numpy() for _, truth in source()])
    means = np.stack([known[labels == each].mean(0) for each in range(CLASSES)])
    covariance = sum(np.outer(f - means[y], f - means[y]) for f, y in zip(known, labels, strict=True)) / len(known)
    covariance = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / 6 * np.eye(6)
    expected = []
    for feature in features(batch).detach().numpy():
        distances = [(feature - mean) @ np.linalg.inv(covariance) @ (feature - mean) for mean in means]
        expected.append(math.log(distances[3] / sum(distances)))
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-8)
    assert logits.argmax(1).tolist() == [3] * 6


def test_cafa_knows_only_the_classes_its_client_has() -> None:
    def some() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield images(20, 5), 2 * (torch.arange(20) % 2)  # classes 0 and 2

    model = small_model()
    model[5].bias.data[3] = 10.0
    with CAFA(lr=0.01, steps=2, batch_size=64, shrinkage=0.5).adapting(model, some), torch.no_grad():
        assert model(images()).isfinite().all()


ALL = {name: adaptation_of(compose([f"tta={name}"])["tta"]) for name in choices("tta")}


@pytest.mark.parametrize("name", [name for name, made in ALL.items() if made is not None])
def test_the_model_is_left_as_it_was(name: str) -> None:
    adaptation, model = ALL[name], small_model()
    assert adaptation is not None
    model[0].weight.requires_grad_(False)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with torch.no_grad():
        plain = model(images())
    with adaptation.adapting(model, source), torch.no_grad():
        adapted = model(images())
        again = model(images())
    assert not torch.equal(adapted, plain)
    assert (not torch.equal(again, adapted)) == (name in ("tent", "cafa"))  # those go on learning
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, *[True] * 5]
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        assert torch.equal(model(images()), plain)


def test_the_model_is_left_as_it_was_when_an_evaluation_fails() -> None:
    model = small_model()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}

    def interrupted_evaluation() -> None:
        with Tent(lr=0.1, steps=1, batch_size=8).adapting(model, nothing), torch.no_grad():
            model(images())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted_evaluation()
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert "forward" not in vars(model)


def test_group_norms_scales_can_be_trained_and_have_no_statistics_to_replace() -> None:
    model = small_model(nn.GroupNorm)
    Tent(lr=0.1, steps=1, batch_size=8).check(model)
    for adaptation in (BatchStatistics(8), AlphaBN(0.5, 8)):
        with pytest.raises(UserError, match=r"BatchNorm's running statistics, and this network has none"):
            adaptation.check(model)
    with pytest.raises(UserError, match=r"tta=cafa trains the scales and shifts of norm layers, and this network has"):
        CAFA(lr=0.1, steps=1, batch_size=8, shrinkage=0.1).check(nn.Sequential(nn.Conv2d(3, 4, 3)))


@pytest.mark.parametrize(
    "override",
    [
        *("tta=tent tta.lr=0", "tta=tent tta.steps=0", "tta=bn_batch tta.batch_size=1"),
        *("tta=alpha_bn tta.alpha=1.5", "tta=cafa tta.shrinkage=0"),
    ],
)
def test_wrong_options_are_refused(override: str) -> None:
    key = override.split()[1].partition("=")[0]
    with pytest.raises(UserError, match=rf"^{key}=\S+ is not possible: choose"):
        adaptation_of(compose(override.split())["tta"])
