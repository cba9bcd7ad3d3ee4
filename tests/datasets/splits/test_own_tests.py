"""Test sets of clients' own, against a loop over clients and classes."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from math import floor

import numpy as np
import pytest

from datasets.federation import Federation
from datasets.source import Part, Source

Make, Split = Callable[..., Source], Callable[..., Federation]


def expected(federation: Federation, client: int) -> list[int]:
    """floor(n_kc / N * T) of each class, at most what is there, and one image where that is nothing."""
    source, mine = federation.source, federation.partitions[client]
    together = [each for each in federation.partitions if each.domain == mine.domain]
    images = sum(len(each.train) for each in together)
    names = list(federation.domain_tests) if mine.domain is None else [mine.domain]
    tests = [
        place
        for place in range(len(source.labels))
        if source.parts[place] == Part.TEST and source.domain_names[source.domains[place]] in names
    ]
    held = [int(np.sum(source.labels[mine.train] == label)) for label in range(source.num_classes)]
    there = [sum(int(source.labels[place] == label) for place in tests) for label in range(source.num_classes)]
    wanted = [min(floor(Fraction(count, images) * len(tests)), most) for count, most in zip(held, there, strict=True)]
    if not any(wanted):
        can = [count if most else -1 for count, most in zip(held, there, strict=True)]
        wanted[can.index(max(can))] = 1
    return wanted


@pytest.mark.parametrize("tests", [1, 7, 60])
@pytest.mark.parametrize(
    ("steps", "options"),
    [
        (("domain", "dirichlet"), {"alpha": 0.3}),
        (("dirichlet",), {"alpha": 0.3}),
        (("longtail", "iid"), {"num_clients": 7}),
        (("domain",), {}),
        (("naturalid",), {"num_clients": 3}),
        (("iid",), {"leave_out": "domain1"}),
        (("iid",), {"leave_out": ["domain0", "domain2"]}),
        (("domain", "pathological"), {"leave_out": "domain2", "clients_per_domain": 2}),
    ],
)
def test_matched_tests_are_those_of_a_loop(
    steps: tuple[str, ...], options: dict[str, object], tests: int, make_source: Make, split: Split
) -> None:
    federation = split(make_source(30, tests, domains=3), *steps, test="matched", **options)
    allowed = np.concatenate(list(federation.domain_tests.values()))
    for client, partition in enumerate(federation.partitions):
        assert partition.test is not None
        assert np.all(np.diff(partition.test) > 0)  # in ascending order, none twice
        assert set(partition.test) <= set(allowed)
        if partition.domain is not None:
            assert set(partition.test) <= set(federation.domain_tests[partition.domain])
        assert np.bincount(federation.source.labels[partition.test], minlength=4).tolist() == expected(
            federation, client
        )


def test_mixed_clients_are_tested_on_several_domains_but_not_on_one_left_out(make_source: Make, split: Split) -> None:
    source = make_source(60, 60, domains=3)
    federation = split(source, "iid", num_clients=3, test="matched", leave_out="domain1")
    for partition in federation.partitions:
        assert partition.domain is None
        assert partition.test is not None
        assert set(source.domains[partition.test]) == {0, 2}


def test_every_client_draws_its_own_images_at_random(make_source: Make, split: Split) -> None:
    """Two domains that are alike draw different places, and so does another seed."""
    one = make_source(40, 40, domains=1)
    both = {
        field: np.concatenate([getattr(one, field)] * 2)
        for field in ("images", "labels", "domains", "parts", "writers")
    }
    both["domains"] = np.repeat([0, 1], len(one.labels))
    source = replace(one, **both, domain_names=("domain0", "domain1"))
    taken = [
        tuple((p.test % len(one.labels)).tolist())  # type: ignore[operator]
        for seed in range(2)
        for p in split(source, "domain", "iid", test="matched", clients_per_domain=2, seed=seed).partitions
    ]
    assert len(set(taken)) == len(taken) == 8


def test_a_client_whose_classes_are_never_tested_is_tested_on_what_there_is(make_source: Make, split: Split) -> None:
    source = make_source(10, 10, domains=1)
    parts = source.parts.copy()
    parts[(source.parts == Part.TEST) & (source.labels != 2)] = Part.UNUSED
    source = replace(source, parts=parts)
    federation = split(source, "pathological", num_clients=4, classes_per_client=1, test="matched")
    for partition in federation.partitions:
        assert partition.test is not None
        [held] = set(source.labels[partition.train])
        assert source.labels[partition.test].tolist() == [2] * (2 if held == 2 else 1)


def test_natural_tests_are_in_ascending_order_and_of_the_test_part(make_source: Make, split: Split) -> None:
    source = make_source(40, 20, domains=1)
    parts = source.parts.copy()
    parts[::7] = Part.UNUSED
    parts[1::7] = Part.VALIDATION
    source = replace(source, parts=parts)
    assert source.writers is not None
    chosen = split(source, "naturalid", num_clients=3, test="natural")
    for partition in chosen.partitions:
        [writer] = set(source.writers[partition.train])
        mine = [place for place in range(len(parts)) if source.writers[place] == writer and parts[place] == Part.TEST]
        assert partition.test is not None
        assert partition.test.tolist() == mine
