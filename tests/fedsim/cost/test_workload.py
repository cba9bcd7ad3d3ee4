"""Columns of ``rounds.csv`` about devices, for a network whose costs are counted by hand."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from torch import nn

from datasets.federation import Federation
from fedsim.config.settings import Settings
from fedsim.cost import CostTracker, Passes, QueryPasses, Workload, model_cost

MODEL = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
"""12 weights, one position: a forward pass of an image is 24 FLOPs."""


@pytest.fixture
def tracker(make_federation: Callable[..., Federation], small_settings: Callable[..., Settings]) -> CostTracker:
    settings = small_settings("local_epochs=2", "batch_size=2", "momentum=0.9")
    return CostTracker(model_cost(MODEL, (1, 2, 2)), make_federation(3), settings)  # clients have 1, 2 and 3 images


# Of three images in batches of two a pass leaves one out, so that two passes see four.


def most(tracker: CostTracker, *workloads: Workload) -> Mapping[str, float]:
    return tracker.most(workloads, range(3))


def test_a_round_costs_three_forward_passes_of_each_image_seen(tracker: CostTracker) -> None:
    assert tracker.metrics(lambda client: Workload(), [0, 1])["device_gflops"] == pytest.approx(2 * 2 * 3 * 24 / 1e9)
    assert most(tracker, Workload())["device_gflops"] == pytest.approx(2 * 2 * 3 * 24 / 1e9)
    assert most(tracker, Workload()).keys() == {"device_gflops", "device_memory_mb"}


def test_shares_steps_with_all_gradients_and_queries_change_it(tracker: CostTracker) -> None:
    half = {"1": 0.5}
    assert most(tracker, Workload(half, columns={"density": 0.5})) == pytest.approx(
        {**most(tracker, Workload(half)), "device_gflops": 4 * 3 * 12 / 1e9, "density": 0.5}
    )
    one = Workload(half, full_gradient_layers=("1",), full_gradient_steps=1, top_k=3)
    one_step = most(tracker, one)
    assert one_step["device_gflops"] == pytest.approx((4 * 3 * 12 + 2 * 12) / 1e9)  # a batch of two
    once_more = most(tracker, replace(one, extra_steps=1))
    assert once_more["device_gflops"] == pytest.approx((6 * 3 * 12 + 2 * 12) / 1e9)
    asked = most(tracker, Workload(half, queries=[QueryPasses(0.5, gradients=True)]))
    assert asked["device_gflops"] == pytest.approx((4 * 3 * 12 + 2 * 3 * 24) / 1e9)  # 2 of 3 images, all weights
    every = most(tracker, Workload(half, full_gradient_layers=("1",), full_gradient_steps=None))
    assert every["device_gflops"] == pytest.approx((4 * 3 * 12 + 4 * 12) / 1e9)
    queries = [QueryPasses(0.5, shares, passes=2) for shares in (half, {"1": 1.0})]
    chosen = most(tracker, Workload(half, queries=queries))
    assert chosen["device_gflops"] == pytest.approx((4 * 3 * 12 + 2 * 2 * (12 + 24)) / 1e9)  # 2 of 3 images, twice


def test_parts_may_be_batches_and_have_work_and_numbers_outside_of_the_network(tracker: CostTracker) -> None:
    steps = most(tracker, Workload(passes=(Passes(steps=5),)))
    assert steps["device_gflops"] == pytest.approx(5 * 2 * 3 * 24 / 1e9)  # of a batch of two
    again = most(tracker, Workload(passes=(Passes(), Passes(steps=5, trained=(), through=()))))
    assert again["device_gflops"] == pytest.approx((4 * 3 * 24 + 10 * 24) / 1e9)  # a forward pass
    other = most(tracker, Workload(passes=(Passes(other_flops=7),), other_numbers=100))
    assert other["device_gflops"] == pytest.approx(4 * (3 * 24 + 7) / 1e9)
    more = other["device_memory_mb"] - most(tracker, Workload())["device_memory_mb"]
    assert more == pytest.approx(4 * 100 / 1e6)


def test_of_several_workloads_the_largest_numbers_count(tracker: CostTracker) -> None:
    dense, sparse = Workload(), Workload({"1": 0.25}, queries=[QueryPasses(1.0, {"1": 1.0}, passes=2)] * 9)
    both = most(tracker, dense, sparse)
    assert both["device_gflops"] == most(tracker, sparse)["device_gflops"] > most(tracker, dense)["device_gflops"]
    assert both["device_memory_mb"] == most(tracker, dense)["device_memory_mb"]


def test_memory_is_weights_gradients_momentum_and_activations(tracker: CostTracker) -> None:
    activations = tracker.cost.device_memory(2).activations
    dense = most(tracker, Workload())["device_memory_mb"]
    assert dense == pytest.approx((3 * 4 * 12 + activations) / 1e6)
    sparse = most(tracker, Workload({"1": 0.25}))["device_memory_mb"]
    assert sparse == pytest.approx((3 * 4 * 3 + 2 + activations) / 1e6)  # 12 bits are two bytes
    pairs = most(tracker, Workload({"1": 0.25}, full_gradient_layers=("1",), full_gradient_steps=1, top_k=2))[
        "device_memory_mb"
    ]
    assert pairs == pytest.approx(sparse + 2 * 8 / 1e6)
    held = most(tracker, Workload({"1": 0.25}, full_gradient_layers=("1",), full_gradient_steps=None))[
        "device_memory_mb"
    ]
    assert held == pytest.approx(sparse + 9 * 4 / 1e6)
