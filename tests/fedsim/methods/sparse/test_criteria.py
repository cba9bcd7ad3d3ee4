"""Masks at the start: by hand, against sorting with NumPy, and SynFlow against its conservation law and the authors'
procedure."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedsim.core.errors import UserError
from fedsim.methods.sparse.criteria import (
    global_masks,
    magnitude_masks,
    random_masks,
    snip_scores,
    synflow_masks,
    synflow_scores,
)
from fedsim.methods.sparse.masks import kept, prunable_layers
from fedsim.models import CNNSmall, ResNet20
from fedsim.norms import use_group_norm, use_scaled_ws

SHAPE = (3, 16, 16)


def cnn(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return CNNSmall(image_shape=SHAPE)


def test_random_masks_keep_so_many_anywhere_and_come_again() -> None:
    shapes = {"a": torch.Size((4, 5)), "b": torch.Size((2, 3, 1, 1))}
    counts = {"a": 7, "b": 2}
    hits = torch.zeros(4, 5)
    for seed in range(2000):
        masks = random_masks(shapes, counts, torch.Generator().manual_seed(seed))
        assert kept(masks) == counts
        hits += masks["a"]
    # binomial with p = 7 / 20: four standard deviations of 2000 are 85
    assert (hits - 700).abs().max() < 85
    again = random_masks(shapes, counts, torch.Generator().manual_seed(1999))
    assert all(torch.equal(again[layer], masks[layer]) for layer in shapes)


def test_magnitude_is_about_absolute_values() -> None:
    masks = magnitude_masks({"a": torch.tensor([[-3.0, 1.0], [0.5, -0.1]]), "b": torch.ones(1, 3)}, {"a": 2, "b": 1})
    assert masks["a"].tolist() == [[True, True], [False, False]]
    assert masks["b"].tolist() == [[True, False, False]]


def test_snip_is_the_slope_of_the_loss_in_the_mask() -> None:
    """The paper's own definition: the derivative in c of the loss of the network of weights c * w, at c = 1."""
    torch.manual_seed(0)
    images, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    F.cross_entropy(net(images), labels).backward()
    weights = {"0": net[0].weight, "2": net[2].weight}
    scores = snip_scores(weights, {layer: weight.grad for layer, weight in weights.items() if weight.grad is not None})
    ones = {layer: torch.ones_like(weight, requires_grad=True) for layer, weight in weights.items()}
    hidden = F.linear(images, net[0].weight.detach() * ones["0"], net[0].bias).tanh()
    F.cross_entropy(F.linear(hidden, net[2].weight.detach() * ones["2"], net[2].bias), labels).backward()
    for layer, one in ones.items():
        assert one.grad is not None
        torch.testing.assert_close(scores[layer], one.grad.abs())
        assert not scores[layer].requires_grad


def test_a_ranking_of_all_layers_keeps_the_largest_and_of_each_layer_the_best() -> None:
    scores = {"a": torch.tensor([[5.0, 4.0], [3.0, 9.0]]), "b": torch.tensor([0.1, 0.2, 0.0]), "c": torch.zeros(2)}
    before = {layer: score.clone() for layer, score in scores.items()}
    masks = global_masks(scores, 5)
    assert masks["a"].tolist() == [[True, True], [False, True]]
    assert masks["b"].tolist() == [False, True, False]
    assert masks["c"].tolist() == [True, False]
    assert all(torch.equal(score, before[layer]) for layer, score in scores.items())
    assert kept(global_masks(scores, 9)) == {"a": 4, "b": 3, "c": 2}
    assert kept(global_masks(scores, 3)) == {"a": 1, "b": 1, "c": 1}


def test_a_ranking_of_all_layers_is_that_of_a_stable_sort() -> None:
    rng = np.random.default_rng(0)
    for total in (10, 57, 300, 599):
        flat = rng.integers(0, 6, 600).astype(np.float64)  # many are equal
        flat[[0, 200, 400]] = 6  # so that no layer needs help
        order = np.argsort(-flat, kind="stable")[:total]
        scores = torch.from_numpy(flat).split(200)
        masks = global_masks(dict(zip("abc", scores, strict=True)), total)
        assert np.flatnonzero(torch.cat(list(masks.values())).numpy()).tolist() == sorted(order)


@pytest.mark.parametrize("total", [1, 6])
def test_a_ranking_refuses_totals_that_are_not_possible(total: int) -> None:
    with pytest.raises(ValueError, match=f"{total} of 5 weights"):
        global_masks({"a": torch.ones(3), "b": torch.ones(2)}, total)


def test_a_ranking_refuses_what_is_not_a_number() -> None:
    with pytest.raises(ValueError, match="not a number"):
        global_masks({"a": torch.tensor([1.0, torch.nan])}, 1)


def test_synflow_of_two_layers_by_hand() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, -2.0], [-3.0, 0.5]]))
        net[3].weight.copy_(torch.tensor([[-4.0, 5.0]]))
    scores = synflow_scores(net, (2, 1, 1), ["1", "3"])
    # Each path is the product of its absolute weights: |1 * -4|, |-2 * -4|, |-3 * 5|, |0.5 * 5|.
    assert scores["1"].tolist() == [[4.0, 8.0], [15.0, 2.5]]
    assert scores["3"].tolist() == [[4.0 + 8.0, 15.0 + 2.5]]
    masks = synflow_masks(net, (2, 1, 1), ["1", "3"], density=0.5, iterations=1)
    assert masks["1"].tolist() == [[False, False], [True, False]]  # 15 is third, after 17.5 and before 12: 3 of 6
    assert masks["3"].tolist() == [[True, True]]


def test_the_flow_through_each_layer_is_the_same() -> None:
    """The conservation law, theorem 2 of the paper."""
    scores = synflow_scores(cnn(), SHAPE, prunable_layers(cnn(), dense=()))
    sums = torch.stack([score.sum() for score in scores.values()])
    torch.testing.assert_close(sums, sums[:1].expand(4), rtol=1e-12, atol=0)


@pytest.mark.parametrize("make", [cnn, lambda: ResNet20(image_shape=SHAPE)])
def test_at_initialization_it_is_what_the_authors_procedure_computes(make: type[nn.Module]) -> None:
    """Absolute values in place, a BatchNorm that evaluates, one image of ones, |gradient * weight|."""
    model = make()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)  # as the authors' networks begin
    layers = prunable_layers(model)
    scores = synflow_scores(model, SHAPE, layers)
    model = model.double().eval()
    with torch.no_grad():
        for value in model.state_dict().values():
            value.abs_()
    model(torch.ones(1, *SHAPE, dtype=torch.float64)).sum().backward()
    for name in layers:
        weight = model.get_parameter(f"{name}.weight")
        assert weight.grad is not None
        torch.testing.assert_close(scores[name], (weight.grad * weight).abs().detach(), rtol=1e-3, atol=0)


def test_the_model_stays_as_it_was() -> None:
    model = cnn().train()
    before = deepcopy(model.state_dict())
    synflow_masks(model, SHAPE, prunable_layers(model), density=0.1, iterations=3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.dtype == before[name].dtype for name, value in model.state_dict().items())
    assert model.training
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("density", [0.3, 0.01, 0.002])
def test_masks_have_the_density_and_prune_again_what_the_iterations_before_left(density: float) -> None:
    model = cnn()
    layers = prunable_layers(model)
    masks = synflow_masks(model, SHAPE, layers, density, iterations=4)
    total = sum(layer.weight.numel() for layer in layers.values())
    assert sum(kept(masks).values()) == round(density * total)
    # By hand: the same schedule, with weights that are zero where they were pruned.
    pruned = deepcopy(model)
    alive = {name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in layers.items()}
    for iteration in range(1, 5):
        scores = synflow_scores(pruned, SHAPE, layers)
        best = global_masks(scores, round(density ** (iteration / 4) * total))
        for name, mask in best.items():
            assert not (mask & ~alive[name]).any()  # nothing comes back
            pruned.get_parameter(f"{name}.weight").data.mul_(mask)
        alive = best
    assert all(torch.equal(mask, alive[name]) for name, mask in masks.items())


def test_a_weight_without_flow_is_kept_before_one_that_is_gone() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 2), nn.ReLU(), nn.Linear(2, 9))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.001] + 7 * [10.0], 8 * [1.0]]))
        net[3].weight.copy_(torch.tensor(9 * [[10.0, 1.0]]))
    # Flows of 0.09 and 7 of 900 into the first unit and 9 of 700 out of it, 8 of 9 into the second and 9 of 8 out of
    # it. Of 34 first 24 are kept: all but 0.09 and the 8s, so that the second unit has no flow any more. Then of 17
    # the last is one of its own.
    masks = synflow_masks(net, (8, 1, 1), ["1", "3"], density=(24 / 34) ** 2, iterations=2)
    assert masks["1"].tolist() == [[False] + 7 * [True], [True] + 7 * [False]]
    assert masks["3"].tolist() == 9 * [[True, False]]


def test_dropout_drops_nothing_even_if_the_model_is_training() -> None:
    dropping = nn.Sequential(nn.Dropout(0.9), cnn()).train()
    torch.testing.assert_close(
        synflow_scores(dropping, SHAPE, ["1.head"])["1.head"], synflow_scores(cnn(), SHAPE, ["head"])["head"]
    )


def test_after_many_iterations_a_flow_is_left_where_at_once_it_is_not() -> None:
    """The paper's point: without iterations whole layers collapse at densities where there is a path."""
    model = cnn()
    layers = prunable_layers(model)
    flows = []
    for iterations in (1, 50):
        pruned = deepcopy(model)
        for name, mask in synflow_masks(model, SHAPE, layers, density=0.0005, iterations=iterations).items():
            pruned.get_parameter(f"{name}.weight").data.mul_(mask)
        flows.append(sum(score.sum().item() for score in synflow_scores(pruned, SHAPE, layers).values()))
    assert flows[1] > 10 * flows[0]


def test_layers_that_normalize_by_their_own_input_change_nothing() -> None:
    plain, grouped = synflow_scores(cnn(), SHAPE, ["head"]), synflow_scores(use_group_norm(cnn()), SHAPE, ["head"])
    assert torch.equal(plain["head"], grouped["head"])


def test_networks_whose_output_does_not_grow_with_their_weights_are_refused() -> None:
    with pytest.raises(UserError, match="synflow is not possible with this network"):
        synflow_scores(use_scaled_ws(cnn()), SHAPE, ["features.4"])


@pytest.mark.parametrize(("density", "iterations", "key"), [(0.1, 0, "iterations=0"), (-0.5, 3, "density=-0.5")])
def test_settings_that_are_not_possible_are_refused(density: float, iterations: int, key: str) -> None:
    with pytest.raises(UserError, match=f"strategy.{key} is not possible"):
        synflow_masks(cnn(), SHAPE, ["head"], density, iterations)
