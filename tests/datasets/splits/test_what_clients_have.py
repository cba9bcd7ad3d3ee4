"""Test sets, validation shares, noise and sizes of clients."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from datasets.federation import Federation
from datasets.partitions import Noise
from datasets.source import Part, Source
from datasets.splits.feature_noise import FeatureNoise
from datasets.splits.quantity import Quantity
from fedsim.core.errors import UserError

Make, Split = Callable[..., Source], Callable[..., Federation]


@pytest.mark.parametrize("steps", [("domain", "dirichlet"), ("dirichlet",)])
def test_matched_test_sets_have_the_clients_share_of_each_class(
    steps: tuple[str, ...], make_source: Make, split: Split
) -> None:
    source = make_source(100, 60)
    federation = split(source, *steps, test="matched", alpha=0.3)
    counts = federation.label_counts()
    for client, partition in enumerate(federation.partitions):
        assert partition.test is not None
        mine = [p.client for p in federation.partitions if p.domain == partition.domain]
        tests = np.concatenate([v for k, v in federation.domain_tests.items() if partition.domain in (k, None)])
        assert set(partition.test) <= set(tests)
        drawn = np.bincount(source.labels[partition.test], minlength=4)
        there = np.bincount(source.labels[tests], minlength=4)
        expected = [
            min(int(counts[client, label] / counts[mine].sum() * len(tests)), there[label]) for label in range(4)
        ]
        # The float of the reference may fall just below a whole number that the whole-number division reaches.
        assert np.abs(drawn - expected).max() <= 1
        assert drawn.sum() - sum(expected) <= 1
        assert len(np.unique(partition.test)) == len(partition.test)


def test_a_client_too_small_for_a_matched_test_gets_one_image_of_its_largest_class(
    make_source: Make, split: Split
) -> None:
    source = make_source(100, 1, domains=1)
    federation = split(source, "iid", num_clients=100, test="matched")
    for partition in federation.partitions:
        assert partition.test is not None
        [label] = source.labels[partition.test]
        held = np.bincount(source.labels[partition.train], minlength=4)
        assert held[label] == held.max()


def test_natural_test_sets_are_those_of_the_same_id(make_source: Make, split: Split) -> None:
    source = make_source()
    federation = split(source, "naturalid", test="natural")
    assert source.writers is not None
    for number, partition in enumerate(federation.partitions):
        expected = np.flatnonzero((source.writers == number) & (source.parts == Part.TEST))
        assert partition.test is not None
        assert partition.test.tolist() == expected.tolist()


def test_an_id_without_a_test_image_is_refused(make_source: Make, split: Split) -> None:
    with pytest.raises(UserError, match=r"^split\.test=natural leaves the id \d+ no test image: choose domain or"):
        split(make_source(tests=1, writers=40), "naturalid", test="natural")


def test_a_domain_without_a_test_image_is_refused(make_source: Make, split: Split) -> None:
    with pytest.raises(UserError, match=r"^the domain domain0 has no test image"):
        split(make_source(tests=0), "naturalid")


def test_the_validation_share_is_held_out_of_each_client(make_source: Make, split: Split) -> None:
    whole = split(make_source(), "domain", clients_per_domain=3)
    held = split(make_source(), "domain", clients_per_domain=3, validation=0.25)
    for one, other in zip(whole.partitions, held.partitions, strict=True):
        assert len(other.validation) == int(len(one.train) * 0.25)
        assert sorted([*other.train, *other.validation]) == one.train.tolist()
        assert not np.array_equal(other.validation, one.train[: len(other.validation)])
    assert held.validated == frozenset(range(6))
    assert whole.validated == frozenset()
    assert len(held.examples_of(2, Part.VALIDATION)) == len(held.partitions[2].validation)


def test_noise_grows_over_the_clients() -> None:
    assert FeatureNoise(0.2).deviations(5).tolist() == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert FeatureNoise(0.2).deviations(1).tolist() == [0]
    with pytest.raises(UserError, match=r"^split\.noise=0 is not possible"):
        FeatureNoise(0)


def test_noise_is_gaussian_rounded_and_cut_to_the_pixels_range() -> None:
    grey = torch.full((40, 3, 16, 16), 128, dtype=torch.uint8)
    noisy = Noise(0.1, 3).added(grey, Part.TRAIN)
    assert noisy.dtype == torch.uint8
    difference = noisy.double() - 128
    assert abs(difference.mean()) < 0.5
    assert difference.std().item() == pytest.approx(25.5, rel=0.02)
    black = Noise(0.1, 3).added(torch.zeros_like(grey), Part.TRAIN)
    assert 0.45 < (black == 0).double().mean() < 0.55
    assert (Noise(2.0, 3).added(grey, Part.TRAIN) == 255).any()


def test_noise_is_the_same_whenever_and_differs_between_clients_and_parts(make_source: Make, split: Split) -> None:
    federation = split(make_source(), "iid", "feature_noise", num_clients=3)
    clean = federation.examples(federation.partitions[1].train)
    assert torch.equal(
        federation.examples_of(0, Part.TRAIN).images, federation.examples(federation.partitions[0].train).images
    )
    one, again = (federation.examples_of(1, Part.TRAIN) for _ in range(2))
    assert torch.equal(one.images, again.images)
    assert not torch.equal(one.images, clean.images)
    assert torch.equal(one.labels, clean.labels)
    noises = [Noise(0.1, each.noise.seed) for each in federation.partitions[1:] if each.noise]
    grey = torch.full((1, 3, 8, 8), 128, dtype=torch.uint8)
    drawn = [noise.added(grey, part) for noise in noises for part in (Part.TRAIN, Part.TEST)]
    assert len({each.numpy().tobytes() for each in drawn}) == 4
    other = split(make_source(), "iid", "feature_noise", num_clients=3, seed=1)
    assert other.partitions[1].noise != federation.partitions[1].noise


def test_sizes_by_power_law_are_proportional_to_the_rank() -> None:
    weights = Quantity("power_law", size_exponent=2, min_size=0).weights(6, 1000, np.random.default_rng(0))
    assert weights.sum() == pytest.approx(1)
    ranked = np.sort(weights)[::-1]
    assert (ranked[0] / ranked).tolist() == pytest.approx([1, 4, 9, 16, 25, 36])
    assert not np.array_equal(weights, ranked)


def test_sizes_by_dirichlet_have_its_variance_and_its_minimum() -> None:
    quantity = Quantity("dirichlet", size_alpha=0.5, min_size=0)
    weights = np.stack([quantity.weights(4, 1000, np.random.default_rng(seed)) for seed in range(400)])
    assert weights.sum(axis=1).tolist() == pytest.approx([1] * 400)
    assert weights.var() == pytest.approx(3 / (16 * 3), rel=0.1)
    enough = Quantity("dirichlet", 0.5, min_size=50)
    assert min(enough.weights(4, 1000, np.random.default_rng(seed)).min() for seed in range(50)) >= 0.05


@pytest.mark.parametrize(
    ("quantity", "sentence"),
    [
        (lambda: Quantity("zipf"), r"split\.sizes=zipf is not possible: choose dirichlet or power_law"),
        (lambda: Quantity(size_alpha=0), r"split\.size_alpha=0 is not possible"),
        (lambda: Quantity(size_exponent=-1), r"split\.size_exponent=-1 is not possible"),
        (
            lambda: Quantity(min_size=300).weights(4, 1000, np.random.default_rng(0)),
            r"split\.min_size=300 is not met",
        ),
        (
            lambda: Quantity("power_law", min_size=100).weights(9, 1000, np.random.default_rng(0)),
            r"split\.min_size=100 is not met by split\.sizes=power_law for 9 clients and 1000 images",
        ),
    ],
)
def test_sizes_that_cannot_be_are_refused(quantity: object, sentence: str) -> None:
    with pytest.raises(UserError, match=f"^{sentence}"):
        quantity()  # type: ignore[operator]
