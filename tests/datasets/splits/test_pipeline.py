"""The order of the steps, how many clients there are, and what is refused."""

from collections.abc import Callable

import numpy as np
import pytest

from datasets.federation import Federation
from datasets.source import Part, Source
from fedsim.core.errors import UserError

Make, Split = Callable[..., Source], Callable[..., Federation]


def by_domain(federation: Federation) -> dict[str, list[int]]:
    """Training images of each class in each domain."""
    counts: dict[str, np.ndarray] = {}
    for partition, row in zip(federation.partitions, federation.label_counts(), strict=True):
        counts[partition.domain] = counts.get(partition.domain, 0) + row
    return {domain: row.tolist() for domain, row in counts.items()}


def test_a_tail_before_the_domains_is_the_tail_of_all(make_source: Make, split: Split) -> None:
    federation = split(make_source(100), "longtail", "domain", imbalance_factor=0.1)
    assert federation.label_counts().sum(axis=0).tolist() == [int(200 * 0.1 ** (c / 3)) for c in range(4)]
    rows = by_domain(federation)
    assert rows["domain0"] != rows["domain1"]


def test_a_tail_after_the_domains_is_one_in_each(make_source: Make, split: Split) -> None:
    federation = split(make_source(100), "domain", "longtail", imbalance_factor=0.1)
    assert list(by_domain(federation).values()) == [[int(100 * 0.1 ** (c / 3)) for c in range(4)]] * 2
    permuted = split(make_source(100), "domain", "longtail", imbalance_factor=0.1, head="permutation", seed=3)
    rows = list(by_domain(permuted).values())
    assert [sorted(row) for row in rows] == [sorted(int(100 * 0.1 ** (c / 3)) for c in range(4))] * 2
    assert rows[0] != rows[1]


def test_a_tail_after_the_clients_is_one_in_each_client(make_source: Make, split: Split) -> None:
    federation = split(make_source(100), "iid", "longtail", imbalance_factor=0.1, num_clients=4)
    whole = split(make_source(100), "iid", num_clients=4)
    for counts, before in zip(federation.label_counts(), whole.label_counts(), strict=True):
        wanted = [max(1, int(before.max() * 0.1 ** (c / 3))) for c in range(4)]
        assert counts.tolist() == np.minimum(before, wanted).tolist()


def test_domains_come_before_the_clients_wherever_they_are_written(make_source: Make, split: Split) -> None:
    one = split(make_source(), "dirichlet", "domain", clients_per_domain=3)
    other = split(make_source(), "domain", "dirichlet", clients_per_domain=3)
    assert [p.train.tolist() for p in one.partitions] == [p.train.tolist() for p in other.partitions]
    assert [p.domain for p in one.partitions] == ["domain0"] * 3 + ["domain1"] * 3


@pytest.mark.parametrize(
    ("steps", "options", "clients"),
    [
        (["domain"], {}, 2),
        (["domain"], {"clients_per_domain": 4}, 8),
        (["domain"], {"num_clients": 6}, 6),
        (["domain"], {"num_clients": 6, "clients_per_domain": 3}, 6),
        (["domain", "iid"], {}, 10),
        (["domain", "quantity"], {"min_size": 0, "drop_empty": False, "sizes": "power_law"}, 10),
        (["iid"], {}, 10),
        (["longtail"], {}, 10),
        (["shards"], {"num_clients": 7}, 7),
        (["naturalid"], {}, 5),
        (["naturalid"], {"num_clients": 2}, 2),
        (["domain", "naturalid"], {}, 10),
    ],
)
def test_there_are_as_many_clients_as_asked_for(
    steps: list[str], options: dict[str, object], clients: int, make_source: Make, split: Split
) -> None:
    federation = split(make_source(), *steps, **options)
    assert [partition.client for partition in federation.partitions] == list(range(clients))


@pytest.mark.parametrize(
    ("steps", "options", "sentence"),
    [
        (
            ["dirichlet", "shards"],
            {},
            r"split=\[dirichlet,shards\] is not possible: choose one of dirichlet and",
        ),
        (["naturalid", "iid"], {}, "naturalid says what each client holds, so leave out iid"),
        (["quantity", "naturalid"], {}, "naturalid says what each client holds, so leave out quantity"),
        (["domain"], {"num_clients": 5}, r"split\.num_clients=5 is not possible for 2 domains: choose a multiple"),
        (
            ["domain"],
            {"num_clients": 4, "clients_per_domain": 3},
            "=4 with split.clients_per_domain=3",
        ),
        (["iid"], {"clients_per_domain": 3}, r"split\.clients_per_domain=3 is not possible without the step domain"),
        (["naturalid"], {"num_clients": 6}, r"split\.num_clients=6 is not possible: choose at most 5"),
        (
            ["iid"],
            {"num_clients": 0},
            r"split\.num_clients=0 is not possible: choose a whole number from 1 to 1000",
        ),
        (
            ["iid"],
            {"num_clients": 10**20},
            r"split\.num_clients=1(0){20} is not possible: choose a whole number",
        ),
        (["iid"], {"num_clients": 2.5}, r"split\.num_clients=2\.5 is not possible: choose a whole number or null"),
        (["iid"], {"alpha": 1}, r"split\.alpha=1 is not an option of"),
        (["iid"], {"test": "own"}, r"split\.test=own is not possible: choose domain, matched, natural"),
        (["iid"], {"test": "natural"}, r"split\.test=natural is not possible without split=naturalid"),
        (["iid"], {"validation": 1.0}, r"split\.validation=1\.0 is not possible: choose a number from 0 to below 1"),
        (
            ["iid"],
            {"leave_out": "mars"},
            r"split\.leave_out=mars is not possible: choose from domain0, domain1, but not all\.$",
        ),
        (["iid"], {"leave_out": ["domain0", "mars"]}, r"split\.leave_out=\['domain0', 'mars'\] is not possible"),
        (["iid"], {"leave_out": ["mars", "domain1"]}, r"split\.leave_out=\['mars', 'domain1'\] is not possible"),
        (
            ["iid"],
            {"leave_out": ["domain0", "domain1"]},
            r"split\.leave_out=\['domain0', 'domain1'\] is not possible: choose from domain0, domain1, but not all\.$",
        ),
        (
            ["iid"],
            {"num_clients": 300},
            r"split\.drop_empty=false is not possible: 100 of 300 clients have no images; choose true, fewer",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(
    steps: list[str], options: dict[str, object], sentence: str, make_source: Make, split: Split
) -> None:
    with pytest.raises(UserError, match=sentence) as raised:
        split(make_source(), *steps, **options)
    assert "\n" not in str(raised.value)


def test_empty_clients_are_left_out_only_if_asked_for(make_source: Make, split: Split) -> None:
    federation = split(make_source(), "iid", num_clients=300, drop_empty=True)
    assert [partition.client for partition in federation.partitions] == list(range(200))


def test_who_has_several_domains_is_mixed(make_source: Make, split: Split) -> None:
    federation = split(make_source(), "iid", num_clients=3)
    assert {partition.domain for partition in federation.partitions} == {None}
    assert federation.num_images(0, Part.TEST) == 80
    assert federation.test_domains(0) == ("domain0", "domain1")
    one = split(make_source(domains=1), "iid", num_clients=3)
    assert {partition.domain for partition in one.partitions} == {"domain0"}
    left = split(make_source(), "iid", num_clients=3, leave_out="domain1")
    assert {partition.domain for partition in left.partitions} == {"domain0"}


def test_a_domain_that_is_left_out_is_only_tested(make_source: Make, split: Split) -> None:
    source = make_source(domains=3)
    for leave_out in ("domain1", ["domain1"]):
        federation = split(source, "domain", leave_out=leave_out)
        assert [partition.domain for partition in federation.partitions] == ["domain0", "domain2"]
        assert list(federation.domain_tests) == ["domain0", "domain2"]
        assert list(federation.unseen_tests) == ["domain1"]
        tested = federation.unseen_tests["domain1"]
        assert set(source.domains[tested]) == {1}
        assert set(source.parts[tested]) == {Part.TEST}
        assert len(federation.domain_examples("domain1")) == len(tested) == 40


def test_weights_reach_whatever_divides(make_source: Make, split: Split) -> None:
    for step in ("iid", "shards", "inner_dirichlet"):
        options = {"num_clients": 4, "sizes": "power_law", "size_exponent": 1.0}
        federation = split(make_source(100), "quantity", step, **options)
        held = sorted((len(partition.train) for partition in federation.partitions), reverse=True)
        expected = 800 / np.arange(1, 5) / (1 / np.arange(1, 5)).sum()
        assert np.abs(held - expected).max() < 3, step
