"""Hybrid Batch Normalisation against numpy: forward, all gradients, evaluation, and what ``mixtures_seen`` reads."""

import numpy as np
import pytest
import torch
from torch import nn

from fedsim.core.errors import UserError
from fedsim.norms import HybridBatchNorm, hybrid_layers, mixtures_seen, use_norm

SHAPES = [(5, 4, 3, 2), (6, 4), (3, 4, 5)]


def random_layer(seed: int) -> HybridBatchNorm:
    generator = torch.Generator().manual_seed(seed)
    layer = HybridBatchNorm(4, eps=1e-3).double()
    with torch.no_grad():
        for tensor in (*layer.parameters(), layer.global_mean, layer.running_mean):
            tensor.copy_(torch.randn(4, generator=generator))
        for tensor in (layer.global_var, layer.running_var):
            tensor.copy_(0.1 + torch.rand(4, generator=generator))
    return layer


def arrays(layer: HybridBatchNorm) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in layer.state_dict().items()}


def normalized(x: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
    """Training, channels last: the sum that its gradients are differentiated from, numerically."""
    a = 1 / (1 + np.exp(-state["mix"]))
    flat = x.reshape(-1, 4)
    mean = (1 - a) * state["global_mean"] + a * flat.mean(0)
    variance = (1 - a) * state["global_var"] + a * flat.var(0)
    return (x - mean) / np.sqrt(variance + 1e-3) * state["weight"] + state["bias"]


def channels_last(tensor: torch.Tensor) -> np.ndarray:
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


@pytest.mark.parametrize("shape", SHAPES)
def test_training_and_its_gradients_are_the_formulas(shape: tuple[int, ...]) -> None:
    generator, layer = torch.Generator().manual_seed(1), random_layer(2)
    x = (2 * torch.randn(shape, generator=generator) + 0.5).double().requires_grad_()
    dy = torch.randn(shape, generator=generator).double()
    y = layer(x)
    y.backward(dy)
    state, given, back = arrays(layer), channels_last(x), channels_last(dy)
    np.testing.assert_allclose(channels_last(y), normalized(given, state), rtol=1e-12, atol=1e-12)

    def along(place: tuple[int, ...], of: np.ndarray) -> float:
        """The derivative of sum(dy y) by one number, by central differences."""
        kept, ends = of[place], []
        for step in (1e-5, -1e-5):
            of[place] = kept + step
            ends.append((back * normalized(given, state)).sum())
        of[place] = kept
        return float(ends[0] - ends[1]) / 2e-5

    given = given.copy()
    state = {name: each.copy() for name, each in state.items()}
    assert x.grad is not None
    by_input = channels_last(x.grad)
    for place in np.ndindex(given.shape):
        assert along(place, given) == pytest.approx(by_input[place], rel=1e-6, abs=1e-7)
    for name in ("mix", "weight", "bias"):
        gradient = layer.get_parameter(name).grad
        assert gradient is not None
        assert np.abs(gradient.numpy()).max() > 1e-3
        for channel in range(4):
            assert along((channel,), state[name]) == pytest.approx(gradient[channel].item(), rel=1e-6, abs=1e-7)


def test_training_changes_no_statistics_and_evaluation_uses_the_running_ones() -> None:
    layer, x = random_layer(3), torch.randn(6, 4, 2, 2, generator=torch.Generator().manual_seed(4)).double()
    before = {name: tensor.clone() for name, tensor in layer.named_buffers()}
    layer.train()(x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.named_buffers())
    state = arrays(layer)
    expected = (channels_last(x) - state["running_mean"]) / np.sqrt(state["running_var"] + 1e-3)
    expected = expected * state["weight"] + state["bias"]
    np.testing.assert_allclose(channels_last(layer.eval()(x)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("mix", "as_if"), [(50.0, "batch"), (-50.0, "global")])
def test_at_its_ends_the_factor_chooses_one_of_both(mix: float, as_if: str) -> None:
    layer, x = HybridBatchNorm(4).double(), torch.randn(8, 4, 3, 3, dtype=torch.float64)
    other = nn.BatchNorm2d(4).double()
    with torch.no_grad():
        layer.mix.fill_(mix)
        for name, value in (("mean", 2.0), ("var", 9.0)):
            layer.get_buffer(f"global_{name}").fill_(value)
            other.get_buffer(f"running_{name}").fill_(value)
    torch.testing.assert_close(layer.train()(x), other.train(as_if == "batch")(x), rtol=1e-12, atol=1e-12)


def test_mixtures_are_those_of_training_without_dropout() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 4))
    model = use_norm(nn.Sequential(model, nn.BatchNorm1d(4)), "hbn").double().train()
    images = torch.randn(7, 1, 4, 4, dtype=torch.float64)
    assert list(hybrid_layers(model)) == ["0.1", "1"]
    with mixtures_seen(model) as seen, torch.no_grad():
        model(images)
    assert all(module.training for module in model.modules())
    inner, last = model[0], model[1]
    with torch.no_grad():
        first = inner[0](images)
        statistics = inner[1].train().mixture(first)
        features = inner[4](inner[3](inner[1](first)))
    expected = dict(zip(("0.1.running_mean", "0.1.running_var"), statistics, strict=True))
    expected |= dict(zip(("1.running_mean", "1.running_var"), last.mixture(features), strict=True))
    assert seen.keys() == expected.keys()
    for name, tensor in seen.items():
        torch.testing.assert_close(tensor, expected[name].detach(), rtol=1e-12, atol=1e-12)


def test_what_it_takes_over_from_batch_norm() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, eps=0.1), nn.BatchNorm2d(4, affine=False))
    nn.init.zeros_(model[1].weight)
    use_norm(model, "hbn")
    one, two = hybrid_layers(model).values()
    assert (one.eps, two.eps) == (0.1, 1e-5)
    assert not one.weight.any()
    assert not isinstance(two.weight, nn.Parameter)
    assert next(iter(hybrid_layers(use_norm(nn.BatchNorm1d(2), "hbn", eps=0.5)).values())).eps == 0.5


def test_wrong_options_and_networks_are_refused() -> None:
    with pytest.raises(UserError, match=r"^norm\.eps=0 is not possible: choose a number above 0\.$"):
        use_norm(nn.BatchNorm1d(2), "hbn", eps=0)
    with pytest.raises(UserError, match=r"^norm=hbn replaces BatchNorm, and this network has none"):
        use_norm(nn.Linear(2, 2), "hbn")
