"""``quantity``: its weights are what every step that divides follows."""

from collections.abc import Callable

import numpy as np
import pytest

from datasets.federation import Federation
from datasets.source import Source
from datasets.splits.quantity import Quantity
from datasets.splits.steps import sizes
from fedsim.core.errors import UserError
from fedsim.core.seeding import numpy_generator

Make, Split = Callable[..., Source], Callable[..., Federation]
POWER = {"sizes": "power_law", "size_exponent": 2.0, "min_size": 0}


def drawn(pool: str, clients: int, images: int, seed: int) -> np.ndarray:
    """The weights of a pool, by the generator that belongs to it."""
    rng = numpy_generator(seed, f"split/quantity{pool}")
    return Quantity("power_law", size_exponent=2.0, min_size=0).weights(clients, images, rng)


@pytest.mark.parametrize("steps", [(), ("iid",), ("inner_dirichlet",), ("shards",)])
@pytest.mark.parametrize("domains", [False, True])
def test_the_client_of_each_weight_has_its_share(
    steps: tuple[str, ...], domains: bool, make_source: Make, split: Split
) -> None:
    steps = ("quantity", *(("domain",) if domains else ()), *steps)
    options = POWER | ({"clients_per_domain": 4} if domains else {"num_clients": 4})
    federation = split(make_source(100), *steps, seed=5, **options)
    pools = [("/domain0", 400), ("/domain1", 400)] if domains else [("", 800)]
    wanted = np.concatenate([sizes(images, drawn(pool, 4, images, 5)) for pool, images in pools])
    held = federation.label_counts().sum(axis=1)
    assert np.abs(held - wanted).max() <= (2 if "shards" in steps else 0)


def test_every_domain_has_weights_of_its_own(make_source: Make, split: Split) -> None:
    options = {**POWER, "clients_per_domain": 4}
    orders = []
    for seed in range(4):
        held = split(make_source(100), "domain", "quantity", seed=seed, **options).label_counts().sum(axis=1)
        assert sorted(held[:4]) == sorted(held[4:])
        orders.append(held[:4].tolist() == held[4:].tolist())
    assert not all(orders)


def test_classes_are_dealt_by_the_weights_too(make_source: Make, split: Split) -> None:
    """With a large alpha dirichlet deals each class, and pathological with all classes too, in these proportions."""
    weights = drawn("", 4, 800, 3)
    for step, options in (("dirichlet", {"alpha": 1e9}), ("pathological", {"classes_per_client": 4})):
        counts = split(make_source(100), "quantity", step, seed=3, num_clients=4, **POWER, **options).label_counts()
        assert np.abs(counts - 200 * weights[:, None]).max() < 1.01, step


def test_pathological_shares_a_class_by_the_weights_of_its_clients(make_source: Make, split: Split) -> None:
    weights = drawn("", 6, 800, 1)
    counts = split(
        make_source(100), "quantity", "pathological", seed=1, num_clients=6, classes_per_client=2, **POWER
    ).label_counts()
    for label in range(4):
        has = counts[:, label] > 0
        assert counts[has, label].tolist() == sizes(200, weights[has]).tolist()


def test_clients_of_no_weight_can_still_share_a_class(make_source: Make, split: Split) -> None:
    """Dir(0.001) has shares of exactly zero; the clients of a class may all have one."""
    for seed in range(5):
        options = {"size_alpha": 1e-3, "min_size": 0, "num_clients": 6, "classes_per_client": 1, "drop_empty": True}
        federation = split(make_source(), "quantity", "pathological", seed=seed, **options)
        assert federation.label_counts().sum() == 200


def test_a_minimum_that_is_just_met_is_met() -> None:
    rng = np.random.default_rng(0)
    assert Quantity("power_law", min_size=10).weights(1, 10, rng).tolist() == [1]
    assert Quantity("dirichlet", min_size=10).weights(1, 10, rng).tolist() == [1]


@pytest.mark.parametrize("key", ["size_alpha", "size_exponent"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_what_is_no_positive_number_is_refused(key: str, value: float) -> None:
    with pytest.raises(UserError) as raised:
        Quantity(**{key: value})  # type: ignore[arg-type]
    assert str(raised.value) == f"split.{key}={value} is not possible: choose a finite number above 0."
