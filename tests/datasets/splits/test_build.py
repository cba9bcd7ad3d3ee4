"""What stands beside the steps: validation, empty clients, domains left out, and noise by number."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from datasets.federation import Federation
from datasets.partitions import Noise
from datasets.source import Part, Source
from datasets.splits.feature_noise import FeatureNoise
from fedsim.core.errors import UserError

Make, Split = Callable[..., Source], Callable[..., Federation]


@pytest.fixture
def validated(make_source: Make) -> Source:
    """A source that has validation images of its own, as FedBN's sets have: every fifth training image."""
    source = make_source(40, domains=3)
    parts = source.parts.copy()
    parts[np.flatnonzero(parts == Part.TRAIN)[::5]] = Part.VALIDATION
    return replace(source, parts=parts)


def test_a_client_is_validated_on_its_domains_own_validation_images(validated: Source, split: Split) -> None:
    for partition in split(validated, "domain", clients_per_domain=2).partitions:
        domain = validated.domain_names.index(partition.domain)
        assert partition.validation.tolist() == validated.indices(domain, Part.VALIDATION).tolist()


def test_mixed_clients_are_validated_on_all_domains_but_those_left_out(validated: Source, split: Split) -> None:
    for partition in split(validated, "iid", leave_out="domain1").partitions:
        expected = [validated.indices(domain, Part.VALIDATION) for domain in (0, 2)]
        assert partition.validation.tolist() == np.concatenate(expected).tolist()


def test_a_share_is_held_out_instead_of_the_sources_own_validation_images(validated: Source, split: Split) -> None:
    whole = split(validated, "iid", num_clients=3)
    held = split(validated, "iid", num_clients=3, validation=0.1)
    for one, other in zip(whole.partitions, held.partitions, strict=True):
        assert np.all(validated.parts[other.validation] == Part.TRAIN)
        assert len(other.validation) == len(one.train) // 10
        assert np.all(np.diff(other.train) > 0)
        assert np.all(np.diff(other.validation) > 0)


def test_clients_hold_out_different_places(make_source: Make, split: Split) -> None:
    federation = split(make_source(100, domains=3), "domain", validation=0.2)
    places = set()
    for partition in federation.partitions:
        both = np.sort(np.concatenate([partition.train, partition.validation]))
        places.add(tuple(np.flatnonzero(np.isin(both, partition.validation)).tolist()))
    assert len(places) == 3


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_what_is_no_share_is_not_held_out(share: float, make_source: Make, split: Split) -> None:
    with pytest.raises(
        UserError, match=rf"^split\.validation={share} is not possible: choose a number from 0 to below 1"
    ):
        split(make_source(), "iid", validation=share)


def test_clients_that_have_images_keep_them_and_their_noise_where_others_are_dropped(
    make_source: Make, split: Split
) -> None:
    """Numbers close up; the noise stays that of the number before."""
    steps, options = ("quantity", "feature_noise", "iid"), {"size_alpha": 0.05, "min_size": 0, "num_clients": 30}
    federation = split(make_source(), *steps, drop_empty=True, noise=0.29, **options)
    assert len(federation.partitions) < 30
    assert [partition.client for partition in federation.partitions] == list(federation.clients)
    sizes = [len(partition.train) for partition in federation.partitions]
    assert min(sizes) > 0
    assert sum(sizes) == 200
    deviations = [0.0 if each.noise is None else each.noise.deviation for each in federation.partitions]
    numbers = np.array(deviations) * 100
    assert numbers.tolist() == pytest.approx(numbers.round().tolist())
    assert np.all(np.diff(numbers) > 0.5)
    assert numbers.max() > len(numbers) - 0.5  # someone before the last was dropped


def test_where_nobody_has_images_dropping_is_no_way_out(make_source: Make, split: Split) -> None:
    with pytest.raises(UserError) as raised:
        split(make_source(), "iid", num_clients=201)
    assert str(raised.value) == (
        "split.drop_empty=false is not possible: 1 of 201 clients have no images; "
        "choose true, fewer clients or a less uneven split."
    )


def test_a_domain_without_training_images_is_refused_or_dropped_and_tested_by_mixed_clients(
    make_source: Make, split: Split
) -> None:
    source = make_source(domains=3)
    parts = np.where((source.domains == 1) & (source.parts == Part.TRAIN), Part.UNUSED, source.parts).astype(np.uint8)
    source = replace(source, parts=parts)
    with pytest.raises(
        UserError, match=r"^split=\[domain\] leaves the domain domain1 no training image: choose a split"
    ):
        split(source, "domain", clients_per_domain=2)
    by_domain = split(source, "domain", clients_per_domain=2, drop_empty=True)
    assert [partition.domain for partition in by_domain.partitions] == ["domain0"] * 2 + ["domain2"] * 2
    assert list(by_domain.domain_tests) == ["domain0", "domain2"]
    assert list(split(source, "iid").domain_tests) == ["domain0", "domain1", "domain2"]


@pytest.mark.parametrize("steps", [("iid",), ("domain",), ("dirichlet",), ("inner_dirichlet",), ("naturalid",)])
def test_leaving_out_all_that_could_be_trained_on_is_refused(
    steps: tuple[str, ...], make_source: Make, split: Split
) -> None:
    source = make_source()
    parts = np.where((source.domains == 1) & (source.parts == Part.TRAIN), Part.UNUSED, source.parts).astype(np.uint8)
    with pytest.raises(UserError) as raised:
        split(replace(source, parts=parts), *steps, leave_out="domain0", num_clients=4)
    assert str(raised.value) == (
        "split.leave_out=domain0 is not possible: there is no training image in domain1, "
        "so leave other domains out or choose another dataset."
    )


@pytest.mark.parametrize("leave_out", [7, [7], "7", ["7"], ["7", "7"]])
def test_a_domain_whose_name_is_a_number_can_be_left_out(leave_out: object, make_source: Make, split: Split) -> None:
    """On the command line ``split.leave_out=7`` is a number."""
    federation = split(replace(make_source(), domain_names=("3", "7")), "domain", leave_out=leave_out)
    assert [partition.domain for partition in federation.partitions] == ["3"]
    assert list(federation.unseen_tests) == ["7"]


def test_noisy_clients_are_not_said_to_be_tested_on_the_clean_images(make_source: Make, split: Split) -> None:
    federation = split(make_source(), "domain", "feature_noise")
    assert [federation.test_domains(client) for client in federation.clients] == [("domain0",), ()]
    noise = federation.partitions[1].noise
    assert noise is not None
    clean = federation.domain_examples("domain1").images
    for part, images in ((Part.TEST, clean), (Part.TRAIN, federation.examples(federation.partitions[1].train).images)):
        assert torch.equal(federation.examples_of(1, part).images, noise.added(images, part))
    assert not torch.equal(federation.examples_of(1, Part.TEST).images, clean)


def test_noise_is_in_units_of_the_pixels_range_and_rounded_to_the_nearest() -> None:
    images = torch.randint(256, (50, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    noise = Noise(0.15, 11)
    added = np.random.default_rng([11, int(Part.TEST)]).standard_normal((50, 3, 8, 8), np.float32)
    exact = images.numpy().astype(np.float64) + added.astype(np.float64) * 255 * 0.15
    noisy = noise.added(images, Part.TEST).numpy().astype(np.float64)
    assert np.abs(noisy - exact.clip(0, 255)).max() <= 0.5 + 1e-4
    assert {0.0, 255.0} <= set(noisy.flatten())
    assert np.array_equal(noisy, noise.added(images, Part.TEST).numpy())
    assert not np.array_equal(noisy, noise.added(images, Part.TRAIN).numpy())


@pytest.mark.parametrize("noise", [0.0, -0.1, float("inf"), float("nan")])
def test_noise_that_is_no_positive_number_is_refused(noise: float) -> None:
    with pytest.raises(UserError) as raised:
        FeatureNoise(noise)
    assert str(raised.value) == f"split.noise={noise} is not possible: choose a finite number above 0."


def test_a_share_that_holds_nothing_out_is_refused(make_source: Make, split: Split) -> None:
    source = make_source(5, domains=2)  # 20 images in each domain
    with pytest.raises(
        UserError,
        match=r"^split\.validation=0\.04 holds out no image, since no client has more than 20: choose a larger",
    ):
        split(source, "domain", validation=0.04)
    assert [len(each.validation) for each in split(source, "domain", validation=0.05).partitions] == [1, 1]


def test_clients_of_one_image_cannot_hold_any_out(make_source: Make, split: Split) -> None:
    with pytest.raises(UserError, match=r"since no client has more than 1: choose 0\.$"):
        split(make_source(5), "iid", num_clients=40, validation=0.9)
    with pytest.raises(UserError, match=r"since no client has more than 2: choose a larger share\.$"):
        split(make_source(5), "iid", num_clients=20, validation=0.4)


def test_clients_that_are_too_small_for_validation_are_counted(
    make_source: Make, split: Split, caplog: pytest.LogCaptureFixture
) -> None:
    source = make_source(25, domains=3)
    parts = source.parts.copy()
    parts[source.indices(1, Part.TRAIN)[4:]] = Part.UNUSED
    federation = split(replace(source, parts=parts), "domain", validation=0.1)
    assert [len(each.validation) for each in federation.partitions] == [10, 0, 10]
    assert "split.validation=0.1 holds out no image of 1 of 3 clients, which have too few" in caplog.text


def test_classes_that_are_trained_on_and_never_tested_are_told(
    make_source: Make, split: Split, caplog: pytest.LogCaptureFixture
) -> None:
    source = make_source(25, domains=3)
    split(source, "domain")
    assert not caplog.records
    parts = source.parts.copy()
    parts[(source.domains == 1) & (source.labels > 1) & (parts == Part.TEST)] = Part.UNUSED
    parts[(source.domains == 2) & (source.labels == 3)] = Part.UNUSED  # neither trained on nor tested
    split(replace(source, parts=parts), "domain")
    [record] = caplog.records
    assert record.getMessage().endswith("so no accuracy is about them: in domain1 (c, d)")
    caplog.clear()
    split(replace(source, parts=parts), "domain", leave_out="domain1")
    assert not caplog.records


@pytest.mark.parametrize(
    ("classes", "domains", "told"),
    [
        (2, 1, "in domain0 (a, b)"),
        (3, 1, "in domain0 (a, b, c)"),
        (4, 2, "in domain0 (a, b, c and 1 more), domain1 (a, b, c and 1 more)"),
        (1, 5, "in domain0 (a), domain1 (a), domain2 (a), domain3 (a), domain4 (a)"),
        (1, 6, "in domain0 (a), domain1 (a), domain2 (a), domain3 (a), domain4 (a) and 1 more domains"),
        (1, 7, "in domain0 (a), domain1 (a), domain2 (a), domain3 (a), domain4 (a) and 2 more domains"),
    ],
)
def test_the_first_few_classes_and_domains_are_named_and_the_others_counted(
    classes: int, domains: int, told: str, make_source: Make, split: Split, caplog: pytest.LogCaptureFixture
) -> None:
    source = make_source(5, domains=8)
    untested = (source.domains < domains) & (source.labels < classes) & (source.parts == Part.TEST)
    labels = source.labels.copy()
    for domain in range(domains):  # a domain needs a test image: one of a fifth class, which nobody trains
        labels[np.flatnonzero(untested & (source.domains == domain))[0]] = 4
    names = (*source.class_names, "e")
    parts = np.where(untested & (labels != 4), Part.UNUSED, source.parts).astype(np.uint8)
    split(replace(source, labels=labels, parts=parts, class_names=names), "domain")
    [record] = caplog.records
    assert record.getMessage().endswith(told)


def test_a_domain_that_a_step_leaves_nothing_is_refused_and_does_not_vanish(make_source: Make, split: Split) -> None:
    source = make_source(100, domains=2)
    parts = source.parts.copy()
    small = source.indices(1, Part.TRAIN)
    parts[small[source.labels[small] != 3]] = Part.UNUSED  # only of the class that the tail cuts to two images
    parts[small[source.labels[small] == 3][1:]] = Part.UNUSED  # and only one
    source = replace(source, parts=parts)
    seed = next(seed for seed in range(20) if not np.isin(small, kept_by_the_tail(source, split, seed)).any())
    tail = {"imbalance_factor": 0.02, "seed": seed}
    with pytest.raises(UserError, match=r"^split=\[longtail,domain\] leaves the domain domain1 no training image:"):
        split(source, "longtail", "domain", **tail)
    assert [each.domain for each in split(source, "longtail", "domain", drop_empty=True, **tail).partitions] == [
        "domain0"
    ]
    federation = split(source, "longtail", "domain", leave_out="domain1", **tail)
    assert len(federation.unseen_tests["domain1"]) == 40


def kept_by_the_tail(source: Source, split: Split, seed: int) -> np.ndarray:
    federation = split(source, "longtail", "iid", num_clients=1, imbalance_factor=0.02, seed=seed)
    return federation.partitions[0].train
