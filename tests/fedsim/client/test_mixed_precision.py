"""``precision=bf16``: what is computed in bfloat16, and what stays in float32."""

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from clients.fdse import _channel_means as channel_means
from fedsim.client.mixed_precision import training_in
from fedsim.core.errors import UserError
from fedsim.models.classifier import classifier_of, note_classifier
from fedsim.norms.statistics import averages_of_batches
from fedsim.norms.synchronized import synchronized
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from tests.conftest import small_settings
from tests.fedsim.norms.test_every_norm import IMAGES, LABELS, every_norm, small, step
from tests.methods import METHODS, OPTIONS, some_by_day
from tests.strategies.test_every_strategy import assert_same_run

NOISE = 2.0**-8
"""The relative error of rounding to bfloat16."""


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 5))
    note_classifier(model, IMAGES)
    return model


def rounded(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.bfloat16().float()


def test_a_convolution_takes_rounded_numbers_and_the_classifier_does_not(network: nn.Module) -> None:
    convolution, norm, _, _, classifier = network.train()
    features = rounded(F.conv2d(rounded(IMAGES), rounded(convolution.weight), rounded(convolution.bias)))
    features = rounded(F.batch_norm(features, None, None, norm.weight, norm.bias, training=True))
    expected = F.linear(features.relu().flatten(1), classifier.weight, classifier.bias)
    with training_in("bf16", network):
        logits = network(IMAGES)
    assert logits.dtype == torch.float32
    # Sums in another order may be rounded to the neighbour.
    torch.testing.assert_close(logits, expected, atol=4 * NOISE, rtol=0)
    assert not torch.equal(logits, network(IMAGES))


def test_gradients_are_those_of_float32_but_for_rounding(network: nn.Module) -> None:
    def gradients(precision: str) -> Iterator[torch.Tensor]:
        network.zero_grad()
        with training_in(precision, network):
            F.cross_entropy(network(IMAGES), LABELS).backward()
        return (parameter.grad.clone() for parameter in network.parameters())

    names = [name for name, _ in network.named_parameters()]
    for name, exact, found in zip(names, [*gradients("float32")], [*gradients("bf16")], strict=True):
        assert found.dtype == torch.float32, name
        assert not torch.equal(found, exact), name
        floor = 1e-3 * (name == "0.bias")  # in front of BatchNorm it has no gradient but of rounding
        assert (found - exact).norm() <= 10 * NOISE * exact.norm() + floor, name


def test_nothing_is_left_behind_the_block_even_after_an_error(network: nn.Module) -> None:
    before = network.eval()(IMAGES)
    with pytest.raises(RuntimeError), training_in("bf16", network):
        network(IMAGES[:, :1])  # of one channel
    assert not torch.is_autocast_enabled("cpu")
    assert all(not layer._forward_hooks and not layer._forward_pre_hooks for layer in network.modules())
    assert torch.equal(network(IMAGES), before)


def test_copies_compute_as_their_originals(network: nn.Module) -> None:
    with training_in("bf16", network.eval()):
        copied = copy.deepcopy(network)
        assert torch.equal(copied(IMAGES), network(IMAGES))
        with torch.no_grad():
            copied[0].weight.zero_()
        assert not torch.equal(copied(IMAGES), network(IMAGES))


def test_features_are_float32(network: nn.Module) -> None:
    seen: list[torch.Tensor] = []
    with training_in("bf16", network):
        # As a method does that needs the features, behind the hooks of the precision.
        classifier_of(network, "the test")[1].register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
        network(IMAGES)
    assert [each.dtype for each in seen] == [torch.float32]


def test_statistics_that_a_method_takes_are_exact_ones_of_rounded_inputs(network: nn.Module) -> None:
    norm = network.train()[1]
    nn.init.constant_(network[0].bias, 3)  # far from zero, so that bfloat16 would round the means visibly
    inputs: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []
    with training_in("bf16", network):
        norm.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
        with synchronized(network, {}) as own, channel_means([norm]) as seen, averages_of_batches(network):
            network(IMAGES)
        known = {name: own[name].detach() for name in own}
        with synchronized(network, known) as own:
            network(IMAGES)
        known = {name: own[name].detach() for name in own}
        with synchronized(network, known):
            norm.register_forward_hook(lambda _, args, output: outputs.append(output))
            network(IMAGES)
    assert inputs[0].dtype == outputs[0].dtype == torch.bfloat16
    pixels = inputs[0].double().movedim(1, 0).flatten(1).numpy()
    for mean in (norm.running_mean, seen[0], known["1/mean"]):
        np.testing.assert_allclose(mean.detach().double().numpy(), pixels.mean(1), rtol=1e-6)
    for variance in (norm.running_var, known["1/variance"]):
        np.testing.assert_allclose(variance.double().numpy(), pixels.var(1), rtol=1e-5)


@every_norm
def test_every_norm_keeps_its_state_in_float32(name: str) -> None:
    exact, model = small(name), small(name)
    for each in (exact, model):
        note_classifier(each, IMAGES)
    expected = step(exact)
    with training_in("bf16", model):
        found = step(model)
    assert found.dtype == torch.float32
    assert (found - expected).norm() <= 20 * NOISE * expected.norm()
    for (entry, one), (_, other) in zip(exact.state_dict().items(), model.state_dict().items(), strict=True):
        assert one.dtype == other.dtype, entry
        if one.dtype == torch.float32:
            assert torch.isfinite(other).all(), entry
            assert (other - one).norm() <= 20 * NOISE * one.norm() + 0.05, entry


def words_of(method: str, precision: str) -> list[str]:
    return ["rounds=3", "fraction=0.5", f"strategy={method}", *OPTIONS.get(method, ()), f"precision={precision}"]


@pytest.mark.parametrize("method", some_by_day(METHODS))
def test_every_method_trains(method: str, tmp_path: Path) -> None:
    folders = {}
    for precision in ("float32", "bf16"):
        folders[precision] = tmp_path / precision
        run(prepare(small_settings(*words_of(method, precision), "engine=inline")), folders[precision], Reporter())
    exact, mixed = (pd.read_csv(folder / "clients.csv") for folder in folders.values())
    first = exact["round"] == 0
    # What is tested is computed in float32, so that the same model has the same numbers.
    pd.testing.assert_frame_equal(exact[first], mixed[first])
    losses = [pd.read_csv(folder / "rounds.csv")["train_loss"][1] for folder in folders.values()]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    models = [load_file(folder / "model.safetensors") for folder in folders.values()]
    assert {name: each.dtype for name, each in models[0].items()} == {
        name: each.dtype for name, each in models[1].items()
    }
    assert any(not torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_processes_give_the_same_bits(tmp_path: Path) -> None:
    for engine in ("inline", "process"):
        run(prepare(small_settings(*words_of("fedbn", "bf16"), f"engine={engine}")), tmp_path / engine, Reporter())
    assert_same_run(tmp_path / "inline", tmp_path / "process")


def test_the_vectorized_engine_does_the_same_but_for_rounding(tmp_path: Path) -> None:
    def trained(*words: str) -> torch.Tensor:
        prepared = prepare(small_settings(*words, "rounds=1"))
        folder = tmp_path / "_".join(words)
        run(prepared, folder, Reporter())
        tensors = load_file(folder / "model.safetensors")
        return torch.cat([tensors[name].flatten() for name, _ in prepared.model.named_parameters()])

    alone, together = (trained("precision=bf16", f"engine={engine}") for engine in ("inline", "vectorized"))
    # As far from each other as rounding to bfloat16 brings one of them from float32.
    assert 0 < (together - alone).norm() <= 1.5 * (trained("engine=inline") - alone).norm()


def test_the_first_line_says_it() -> None:
    assert "sgd with lr 0.05 in bf16, " in str(prepare(small_settings("precision=bf16")))
    assert "bf16" not in str(prepare(small_settings()))


def test_other_precisions_are_refused() -> None:
    with pytest.raises(UserError, match=r"^precision=fp16 is not possible: choose float32 or bf16\.$"):
        small_settings("precision=fp16")
