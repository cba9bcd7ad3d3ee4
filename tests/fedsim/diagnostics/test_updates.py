"""Running sums against all pairs at once."""

from itertools import combinations

import pytest
import torch

from fedsim.diagnostics.updates import UpdateStatistics

NAMES = ("a.weight", "a.bias", "b.weight")


def random_weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a.weight": (4, 3), "a.bias": (4,), "b.weight": (2, 4), "a.running_mean": (4,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def flat(weights: dict[str, torch.Tensor], layer: str) -> torch.Tensor:
    return torch.cat([weights[name].double().flatten() for name in NAMES if name.startswith(layer)])


def test_cosines_and_distances_are_those_of_all_pairs() -> None:
    before, replies = random_weights(0), [random_weights(seed) for seed in (1, 2, 3)]
    statistics = UpdateStatistics(before, NAMES)
    for reply in replies:
        statistics.add(reply)
    metrics = statistics.metrics()
    assert list(metrics) == ["a", "b"]
    for layer, values in metrics.items():
        updates = [flat(reply, layer) - flat(before, layer) for reply in replies]
        cosines = [torch.cosine_similarity(one, other, dim=0) for one, other in combinations(updates, 2)]
        assert values["update_cosine"] == pytest.approx(torch.stack(cosines).mean().item(), rel=1e-9)
        weights = torch.stack([flat(reply, layer) for reply in replies])
        mean = weights.mean(0)
        distance = (weights - mean).norm(dim=1).square().mean().sqrt() / mean.norm()
        assert values["weight_distance"] == pytest.approx(distance.item(), rel=1e-9)


def test_a_client_that_did_not_move_counts_with_cosine_zero() -> None:
    before, moved = random_weights(0), random_weights(1)
    statistics = UpdateStatistics(before, NAMES)
    for reply in (before, moved, moved):
        statistics.add(reply)
    assert statistics.metrics()["a"]["update_cosine"] == pytest.approx(1 / 3)  # one of three pairs agrees


def test_what_did_not_travel_and_single_clients_have_no_numbers() -> None:
    before = random_weights(0)
    alone = UpdateStatistics(before, NAMES)
    alone.add(random_weights(1))
    assert alone.metrics() == {}
    del before["b.weight"]
    pair = UpdateStatistics(before, NAMES)
    pair.add(random_weights(1))
    pair.add(random_weights(2))
    assert list(pair.metrics()) == ["a"]
