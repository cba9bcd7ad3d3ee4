"""Columns of ``rounds.csv`` about devices, and budgets, for a network whose costs are counted by hand."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from datasets.federation import Federation
from fedsim.cost import Budget, CostTracker, Workload, model_cost
from fedsim.errors import UserError
from fedsim.settings import Settings
from fedsim.simulation import prepare

MODEL = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
"""12 weights, one position: a forward pass of an image is 24 FLOPs."""


@pytest.fixture
def tracker(make_federation: Callable[..., Federation], small_settings: Callable[..., Settings]) -> CostTracker:
    settings = small_settings("local_epochs=2", "batch_size=2", "momentum=0.9")
    return CostTracker(model_cost(MODEL, (1, 2, 2)), make_federation(3), settings)  # clients have 1, 2 and 3 images


def test_a_round_costs_three_forward_passes_of_each_image_seen(tracker: CostTracker) -> None:
    assert tracker.metrics(Workload(), [0, 1])["device_gflops"] == pytest.approx(2 * 2 * 3 * 24 / 1e9)
    assert tracker.most([Workload()])["device_gflops"] == pytest.approx(2 * 3 * 3 * 24 / 1e9)
    assert "density" not in tracker.most([Workload()])


def test_masks_dense_steps_and_a_selection_change_it(tracker: CostTracker) -> None:
    half = {"1": 0.5}
    assert tracker.most([Workload(half)]) == pytest.approx(
        {**tracker.most([Workload(half)]), "device_gflops": 6 * 3 * 12 / 1e9, "density": 0.5}
    )
    one_step = tracker.most([Workload(half, dense_layers=("1",), dense_steps=1, top_k=3)])
    assert one_step["device_gflops"] == pytest.approx((6 * 3 * 12 + 2 * 12) / 1e9)  # a batch of two
    once_more = tracker.most([Workload(half, dense_layers=("1",), dense_steps=1, top_k=3, extra_steps=1)])
    assert once_more["device_gflops"] == pytest.approx((8 * 3 * 12 + 2 * 12) / 1e9)
    asked = tracker.most([Workload(half, dense_question=True, share=0.5)])
    assert asked["device_gflops"] == pytest.approx((6 * 3 * 12 + 2 * 3 * 24) / 1e9)  # 2 of 3 images, dense
    every = tracker.most([Workload(half, dense_layers=("1",), dense_steps=None)])
    assert every["device_gflops"] == pytest.approx((6 * 3 * 12 + 6 * 12) / 1e9)
    chosen = tracker.most([Workload(half, selection=[half, {"1": 1.0}], share=0.5)])
    assert chosen["device_gflops"] == pytest.approx((6 * 3 * 12 + 2 * 2 * (12 + 24)) / 1e9)  # 2 of 3 images, twice


def test_of_several_workloads_the_largest_numbers_count(tracker: CostTracker) -> None:
    dense, sparse = Workload(), Workload({"1": 0.25}, selection=[{"1": 1.0}] * 9, share=1.0)
    most = tracker.most([dense, sparse])
    assert most["device_gflops"] == tracker.most([sparse])["device_gflops"] > tracker.most([dense])["device_gflops"]
    assert most["device_memory_mb"] == tracker.most([dense])["device_memory_mb"]


def test_memory_is_weights_gradients_momentum_and_activations(tracker: CostTracker) -> None:
    activations = tracker.cost.device_memory(2).activations
    dense = tracker.most([Workload()])["device_memory_mb"]
    assert dense == pytest.approx((3 * 4 * 12 + activations) / 1e6)
    sparse = tracker.most([Workload({"1": 0.25})])["device_memory_mb"]
    assert sparse == pytest.approx((3 * 4 * 3 + 2 + activations) / 1e6)  # 12 bits are two bytes
    pairs = tracker.most([Workload({"1": 0.25}, dense_layers=("1",), dense_steps=1, top_k=2)])["device_memory_mb"]
    assert pairs == pytest.approx(sparse + 2 * 8 / 1e6)
    held = tracker.most([Workload({"1": 0.25}, dense_layers=("1",), dense_steps=None)])["device_memory_mb"]
    assert held == pytest.approx(sparse + 9 * 4 / 1e6)


def test_an_open_density_is_the_largest_that_fits() -> None:
    def make(options: Any) -> float:
        density: float = options["density"]
        if density < 0.05:
            raise UserError("too sparse")
        return density

    def needs(density: float) -> dict[str, float]:
        return {"device_memory_mb": 10 * density, "device_gflops": 100 * density}

    assert Budget({"memory_mb": 20.0, "gflops": None}).densest({}, make, needs) == 1.0
    assert Budget({"memory_mb": 4.0, "gflops": None}).densest({}, make, needs) == pytest.approx(0.4)
    assert Budget({"memory_mb": 4.0, "gflops": 20.0}).densest({}, make, needs) == pytest.approx(0.2)
    with pytest.raises(UserError, match=r"^budget\.memory_mb=0\.4 is not possible: a device needs 0\.[56]"):
        Budget({"memory_mb": 0.4, "gflops": None}).densest({}, make, needs)
    with pytest.raises(
        UserError, match=r"^strategy\.density=null is not possible without a budget: choose a number, or"
    ):
        Budget({"memory_mb": None, "gflops": None}).densest({}, make, needs)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("budget.memory_mb=1",),
            r"^budget\.memory_mb=1 is not possible: a device needs .*, or a strategy that prunes\.$",
        ),
        (
            ("strategy=pruned", "budget.gflops=1e-3"),
            r"^budget\.gflops=0\.001 is not possible: .*, or a smaller strategy\.density\.$",
        ),
        (("strategy=pruned", "strategy.density=null"), r"^strategy\.density=null is not possible without a budget"),
    ],
)
def test_what_does_not_fit_is_refused(
    small_settings: Callable[..., Settings], words: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        prepare(small_settings(*words))


def test_every_candidate_fits_the_budget(small_settings: Callable[..., Settings]) -> None:
    prepared = prepare(small_settings("strategy=fedtiny", "strategy.density=null", "budget.gflops=0.2"))
    needs = [prepared.costs.most([each])["device_gflops"] for each in prepared.strategy.planned()]
    assert len(needs) == 10
    assert max(needs) <= 0.2
    assert needs[0] < max(needs)  # the uniform one is not the dearest


def test_a_budget_decides_the_density_of_a_run(small_settings: Callable[..., Settings]) -> None:
    prepared = prepare(small_settings("strategy=pruned", "strategy.density=null", "budget.gflops=0.2"))
    needs = prepared.costs.most(prepared.strategy.planned())
    assert 0.1999 < needs["device_gflops"] <= 0.2
    assert 0 < needs["density"] < 1
