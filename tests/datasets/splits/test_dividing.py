"""What each way to divide a pool promises, counted by hand."""

import numpy as np
import pytest

from datasets.splits.dirichlet import Dirichlet
from datasets.splits.iid import Iid
from datasets.splits.inner_dirichlet import InnerDirichlet
from datasets.splits.pathological import Pathological
from datasets.splits.shards import Shards
from datasets.splits.steps import Dividing, even, sizes
from fedsim.core.errors import UserError

LABELS = np.random.default_rng(7).choice(10, 20_000, p=np.arange(1, 11) / 55)
WEIGHTS = np.array([0.5, 0.25, 0.125, 0.125])


def counts(step: Dividing, weights: np.ndarray, seed: int = 0, labels: np.ndarray = LABELS) -> np.ndarray:
    """Images of each client and class."""
    owner = step.divide(labels, weights, np.random.default_rng(seed))
    assert owner.shape == labels.shape
    table = np.zeros((len(weights), labels.max() + 1), int)
    np.add.at(table, (owner, labels), 1)
    return table


@pytest.mark.parametrize("images", [1, 7, 10, 1003])
def test_sizes_by_weight_leave_nothing_over(images: int) -> None:
    assert sizes(images, WEIGHTS).sum() == images
    assert np.abs(sizes(images, WEIGHTS) - images * WEIGHTS).max() < 1
    equal = sizes(images, even(6))
    assert equal.tolist() == [len(part) for part in np.array_split(np.arange(images), 6)]


@pytest.mark.parametrize("step", [Iid(), InnerDirichlet(0.3), Shards(3)])
def test_clients_are_as_large_as_their_weights_say(step: Dividing) -> None:
    weights = even(8)
    assert set(counts(step, weights).sum(axis=1)) <= {2499, 2500, 2501}
    by_weight = counts(step, WEIGHTS).sum(axis=1)
    assert np.abs(by_weight - 20_000 * WEIGHTS).max() <= 3


def test_iid_clients_have_the_classes_of_all() -> None:
    shares = counts(Iid(), even(5)) / 4000
    assert np.abs(shares - np.bincount(LABELS) / 20_000).max() < 0.02


@pytest.mark.parametrize("assign", ["cut", "sample"])
def test_dirichlet_shares_follow_their_distribution(assign: str) -> None:
    """Over many draws, the shares p_ck have the mean 1/K and the variance (K-1)/(K^2 (K alpha + 1))."""
    clients, alpha = 4, 0.5
    class_sizes = np.bincount(LABELS)
    shares = np.stack(
        [counts(Dirichlet(alpha, min_size=0, assign=assign), even(clients), seed) / class_sizes for seed in range(120)]
    )
    assert shares.mean() == pytest.approx(1 / clients)
    assert np.abs(shares.mean(axis=(0, 2)) - 1 / clients).max() < 0.03
    expected = (clients - 1) / (clients**2 * (clients * alpha + 1))
    assert shares.var() == pytest.approx(expected, rel=0.1)


def test_cut_rounds_the_shares_and_sample_does_not() -> None:
    """With a large alpha and a weight for each client the shares are known."""
    class_sizes = np.bincount(LABELS)
    exact = WEIGHTS[:, None] * class_sizes
    cut = counts(Dirichlet(1e9, assign="cut"), WEIGHTS) - exact
    sampled = counts(Dirichlet(1e9, assign="sample"), WEIGHTS) - exact
    assert np.abs(cut).max() < 1.01
    assert np.abs(sampled).max() > 5
    assert np.abs(sampled).max() < 6 * np.sqrt(class_sizes.max()) / 2


def test_every_client_can_get_an_image_of_a_class_with_fewer_images_than_clients() -> None:
    labels = np.repeat(np.arange(50), 20)
    first = [counts(Dirichlet(100.0, min_size=0), even(100), seed, labels)[0].sum() for seed in range(40)]
    assert np.mean(first) == pytest.approx(10, abs=2)


def test_balance_gives_nothing_more_to_a_client_that_holds_its_share() -> None:
    labels = np.repeat(np.arange(10), 100)
    for seed in range(10):
        free = counts(Dirichlet(0.1, min_size=0), even(5), seed, labels)
        held = counts(Dirichlet(0.1, min_size=0, balance=True), even(5), seed, labels)
        before = np.cumsum(held, axis=1) - held
        assert not held[before >= 200].any()
        assert held.sum(axis=1).max() < 200 + 100
        assert held.sum(axis=1).std() < free.sum(axis=1).std()


def test_the_minimum_is_met_or_refused_after_a_while() -> None:
    labels = np.repeat(np.arange(10), 100)
    for seed in range(5):
        assert counts(Dirichlet(0.3, min_size=20), even(10), seed, labels).sum(axis=1).min() >= 20
    with pytest.raises(UserError, match=r"^split\.min_size=90 was not met in 200 draws of 1000 images for 10 clients"):
        Dirichlet(0.05, min_size=90).divide(labels, even(10), np.random.default_rng(0))
    with pytest.raises(
        UserError, match=r"^split\.min_size=101 is not possible: 1000 images are too few for 10 clients"
    ):
        Dirichlet(100, min_size=101).divide(labels, even(10), np.random.default_rng(0))


def test_a_tiny_alpha_gives_a_class_to_one_client() -> None:
    table = counts(Dirichlet(1e-3, min_size=0), even(6))
    assert ((table > 0).sum(axis=0) <= 2).all()
    assert (table.max(axis=0) > 0.99 * table.sum(axis=0)).mean() >= 0.8


def test_inner_dirichlet_mixes_classes_by_alpha() -> None:
    many = counts(InnerDirichlet(1000), even(8), labels=np.repeat(np.arange(10), 2000))
    few = counts(InnerDirichlet(0.05), even(8), labels=np.repeat(np.arange(10), 2000))
    assert np.abs(many / 2500 - 0.1).max() < 0.02
    assert np.sort(few, axis=1)[:, -2:].sum() > 0.6 * few.sum()


def test_inner_dirichlet_first_serves_what_was_wished_for() -> None:
    """Where there is enough of every class the mixtures are the clients' own draws, with the variance of Dir(alpha)."""
    shares = np.concatenate(
        [counts(InnerDirichlet(0.5), np.array([0.01] * 5 + [0.95]), seed)[:5] / 200 for seed in range(60)]
    )
    assert shares.mean() == pytest.approx(0.1)
    assert shares.var() == pytest.approx(0.9 * 0.1 / (10 * 0.5 + 1), rel=0.2)


@pytest.mark.parametrize("k", [1, 2, 3, 10])
def test_pathological_clients_hold_exactly_k_classes(k: int) -> None:
    table = counts(Pathological(k), even(12))
    assert ((table > 0).sum(axis=1) == k).all()
    holders = (table > 0).sum(axis=0)
    assert holders.max() - holders.min() <= 1
    for label in range(10):
        shared = table[table[:, label] > 0, label]
        assert shared.max() - shared.min() <= 1


def test_a_class_is_shared_by_the_weights_of_those_who_hold_it() -> None:
    table = counts(Pathological(10), WEIGHTS)
    assert np.abs(table - WEIGHTS[:, None] * np.bincount(LABELS)).max() < 1


@pytest.mark.parametrize(
    ("k", "clients", "sentence"),
    [(11, 12, "choose at most 10, the classes that there are"), (2, 4, "4 clients hold at most 8 of 10")],
)
def test_classes_that_cannot_be_dealt_are_refused(k: int, clients: int, sentence: str) -> None:
    with pytest.raises(UserError, match=rf"^split\.classes_per_client={k} .*{sentence}"):
        Pathological(k).divide(LABELS, even(clients), np.random.default_rng(0))


def test_shards_hold_neighbouring_classes() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 100))
    table = counts(Shards(2), even(10), labels=labels)  # 20 shards of 50 images, two for each class
    assert set(table.flatten()) <= {0, 50, 100}
    assert ((table > 0).sum(axis=1) <= 2).all()
    owner = Shards(2).divide(labels, even(10), np.random.default_rng(0))
    places = np.flatnonzero(owner == 0)
    assert 200 < places.mean() < 800  # the images of a class are taken at random, not in their order


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Dirichlet(0), r"split\.alpha=0 is not possible"),
        (lambda: InnerDirichlet(-1), r"split\.alpha=-1 is not possible"),
        (lambda: Dirichlet(min_size=-1), r"split\.min_size=-1 is not possible"),
        (lambda: Dirichlet(assign="deal"), r"split\.assign=deal is not possible: choose cut or sample"),
        (lambda: Pathological(0), r"split\.classes_per_client=0 is not possible"),
        (lambda: Shards(0), r"split\.shards_per_client=0 is not possible"),
    ],
)
def test_options_that_mean_nothing_are_refused(make: object, sentence: str) -> None:
    with pytest.raises(UserError, match=f"^{sentence}"):
        make()  # type: ignore[operator]
