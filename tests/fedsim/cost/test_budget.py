"""Budgets: the classes of devices, and the sizes that they leave, of a network whose costs are counted by hand."""

from collections.abc import Callable, Sequence

import pytest
from torch import nn

from datasets.federation import Federation
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.cost import Budget, CostTracker, Workload, device_classes, model_cost
from fedsim.server.preparation import prepare

MakeSettings = Callable[..., Settings]
MODEL = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
"""12 weights, one position: three passes of an image are six FLOPs for each weight that is kept."""


@pytest.fixture
def make_tracker(
    make_federation: Callable[..., Federation], small_settings: MakeSettings
) -> Callable[..., CostTracker]:
    def make(*words: str) -> CostTracker:  # clients have 1, 2 and 3 images
        return CostTracker(model_cost(MODEL, (1, 2, 2)), make_federation(3), small_settings("batch_size=3", *words))

    return make


def plan(whole: float, part: float) -> Sequence[Workload]:
    """Of the 12 weights as many as the part keeps, but no more than the whole does; less than two are not possible."""
    kept = min(round(12 * whole), round(12 * part))
    if kept < 2:
        raise UserError("too sparse")
    return [Workload({"1": kept / 12})]


def test_an_open_size_is_the_largest_that_fits(make_tracker: Callable[..., CostTracker]) -> None:
    def sizes(*words: str) -> list[float]:
        return Budget(make_tracker(*words)).sizes("strategy.density", plan)

    # The client with three images needs 3 x 6 FLOPs for each weight.
    assert sizes("budget.flops=216") == [1.0]
    assert sizes("budget.flops=100") == [pytest.approx(5.5 / 12)]  # from there on, six weights are kept
    activations = make_tracker().cost.device_memory(3).activations
    # Memory for each weight: its value, its gradient, and two bytes of mask in all.
    assert sizes(f"budget.memory_mb={(activations + 8 * 4 + 2) / 1e6}") == [pytest.approx(4.5 / 12)]
    both = ("budget.flops=100", f"budget.memory_mb={(activations + 8 * 4 + 2) / 1e6}")
    assert sizes(*both) == [pytest.approx(4.5 / 12)]
    with pytest.raises(
        UserError, match=r"^budget\.flops=20 is not possible: a device needs 36; choose more, a smaller"
    ):
        sizes("budget.flops=20")
    with pytest.raises(
        UserError, match=r"^strategy\.density=null is not possible without a budget: choose a number, or budget"
    ):
        sizes()


def test_each_class_has_what_its_largest_client_affords(make_tracker: Callable[..., CostTracker]) -> None:
    words = "budget.classes={small:{clients:[0,1],flops:60},large:{clients:[2]}}"
    tracker = make_tracker(words, "budget.flops=180")
    budget = Budget(tracker)
    assert [each.name for each in tracker.classes] == ["small", "large"]
    assert budget.sizes("strategy.density", plan) == [pytest.approx(5.5 / 12), pytest.approx(10.5 / 12)]

    def uneven(whole: float, part: float) -> Sequence[Workload]:
        """A part of a network costs more than a network of that density: it has a weight more."""
        kept = min(12, round(12 * part) + (0 if whole == part else 1))
        return [Workload({"1": kept / 12})]

    assert budget.sizes("strategy.density", uneven) == [pytest.approx(4.5 / 12), pytest.approx(10.5 / 12)]
    budget.check(plan(0.4, 0.4), "less")
    with pytest.raises(
        UserError,
        match=r"^budget\.classes\.small\.flops=60 is not possible: a device needs 72; choose .*, or less\.$",
    ):
        budget.check(plan(0.5, 0.5), "less")


def test_rounds_tell_what_each_class_needed(make_tracker: Callable[..., CostTracker]) -> None:
    tracker = make_tracker("budget.classes={small:{clients:[0,1]}}")
    loads = {
        client: Workload({"1": share}, columns={"density": share}) for client, share in enumerate((0.25, 0.5, 1.0))
    }
    row = tracker.metrics(loads.__getitem__, [0, 1, 2])
    assert row["device_gflops"] == pytest.approx(3 * 6 * 12 / 1e9)
    assert row["device_gflops_small"] == pytest.approx(2 * 6 * 6 / 1e9)
    assert (row["density"], row["density_small"]) == (1.0, 0.5)
    assert row["device_memory_mb"] > row["device_memory_mb_small"] > 0
    cohort = tracker.metrics(loads.__getitem__, [0])
    assert cohort["device_gflops"] == cohort["device_gflops_small"] == pytest.approx(6 * 3 / 1e9)
    assert "device_gflops_small" not in tracker.metrics(loads.__getitem__, [2])


def test_a_share_is_drawn_from_those_that_no_list_names() -> None:
    budget = {
        "memory_mb": 5,
        "flops": None,
        "classes": {"a": {"clients": 0.3}, "b": {"clients": [0, 1], "memory_mb": 2}},
    }
    drawn = [device_classes(budget, range(10), seed) for seed in range(50)]
    for rest, a, b in drawn:
        assert (rest.name, a.name, b.name) == ("", "a", "b")
        assert list(b.clients) == [0, 1]
        assert len(a.clients) == 3
        assert sorted([*rest.clients, *a.clients, *b.clients]) == list(range(10))
        assert (rest.limits, a.limits, b.limits) == ({"memory_mb": 5}, {"memory_mb": 5}, {"memory_mb": 2})
    assert {client for _, a, _ in drawn for client in a.clients} == set(range(2, 10))
    assert device_classes(budget, range(10), 7) == drawn[7]
    everyone = device_classes({"classes": {"all": {"clients": 1}}}, range(4), 0)
    assert [(each.name, list(each.clients)) for each in everyone] == [("all", [0, 1, 2, 3])]


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        ("{a:5}", r"^budget\.classes\.a=5 is not possible: choose \{clients: \.\.\., memory_mb: "),
        ("{a:{flops:1e9}}", r"^budget\.classes\.a=.* is not possible: choose \{clients: "),
        ("{a:{clients:[0],gflops:1}}", r"^budget\.classes\.a=.* is not possible: choose \{clients: "),
        ("{a b:{clients:[0]}}", r"^budget\.classes\.a b is not possible: choose a name of letters, digits and"),
        (
            "{a:{clients:[0],flops:0}}",
            r"^budget\.classes\.a\.flops=0 is not possible: choose a number above 0, or null",
        ),
        ("{a:{clients:[6]}}", r"^budget\.classes\.a\.clients=\[6\] .* there is no client 6, choose from 0 to 5\.$"),
        ("{a:{clients:[0]},b:{clients:[1,0]}}", r"^budget\.classes\.b\.clients=\[1, 0\] .* client 0 is named already"),
        ("{a:{clients:many}}", r"^budget\.classes\.a\.clients=many is not possible: choose a list of clients, or a"),
        ("{a:{clients:1.5}}", r"^budget\.classes\.a\.clients=1\.5 is not possible: choose a list of clients, or a"),
        (
            "{a:{clients:0.5},b:{clients:0.6}}",
            r"^budget\.classes\.b\.clients=0\.6 .* 4 of 6 clients are wanted and 3 are",
        ),
    ],
)
def test_classes_that_cannot_be_are_refused(small_settings: MakeSettings, classes: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        prepare(small_settings(f"budget.classes={classes}"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("budget.memory_mb=1",),
            r"^budget\.memory_mb=1 is not possible: a device needs .*, or a strategy that trains a smaller network\.$",
        ),
        (
            ("strategy=pruned", "budget.flops=1e6"),
            r"^budget\.flops=1e\+06 is not possible: .*, or a smaller strategy\.density\.$",
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
    prepared = prepare(small_settings("strategy=fedtiny", "strategy.density=null", "budget.flops=2e8"))
    needs = [prepared.costs.most([each], range(6))["device_gflops"] for each in prepared.strategy.planned()]
    assert len(needs) == 10
    assert max(needs) <= 0.2
    assert needs[0] < max(needs)  # the uniform one is not the dearest


def test_a_budget_decides_the_density_of_a_run(small_settings: Callable[..., Settings]) -> None:
    prepared = prepare(small_settings("strategy=pruned", "strategy.density=null", "budget.flops=2e8"))
    needs = prepared.costs.most(prepared.strategy.planned(), range(6))
    assert 0.1999 < needs["device_gflops"] <= 0.2
    assert 0 < needs["density"] < 1
