"""``naturalid``: which of the ids become clients."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from datasets.federation import Federation
from datasets.source import Part, Source
from fedsim.core.errors import UserError

Make, Split = Callable[..., Source], Callable[..., Federation]


def ids(federation: Federation) -> list[int]:
    assert federation.source.writers is not None
    return [int(federation.source.writers[partition.train[0]]) for partition in federation.partitions]


def test_ids_are_drawn_at_random_and_stand_in_ascending_order(make_source: Make, split: Split) -> None:
    source = make_source(100, writers=30)
    drawn = [ids(split(source, "naturalid", num_clients=8, seed=seed)) for seed in range(5)]
    assert all(each == sorted(set(each)) for each in drawn)
    assert len({tuple(each) for each in drawn}) == 5
    assert set().union(*drawn) > set(range(10))
    assert max(map(max, drawn)) > 15


def test_ids_need_not_be_counted_from_zero(make_source: Make, split: Split) -> None:
    source = make_source()
    assert source.writers is not None
    gaps = replace(source, writers=source.writers * 1000 + 17)
    one, other = split(source, "naturalid"), split(gaps, "naturalid")
    assert ids(other) == [17, 1017, 2017, 3017, 4017]
    assert [p.train.tolist() for p in one.partitions] == [p.train.tolist() for p in other.partitions]


def test_an_id_that_is_only_tested_is_no_client(make_source: Make, split: Split) -> None:
    source = make_source()
    assert source.writers is not None
    parts = np.where((source.writers == 2) & (source.parts == Part.TRAIN), Part.UNUSED, source.parts).astype(np.uint8)
    assert ids(split(replace(source, parts=parts), "naturalid")) == [0, 1, 3, 4]


def test_an_id_in_two_domains_is_two_clients_with_domain(make_source: Make, split: Split) -> None:
    source = make_source()
    for steps in (("domain", "naturalid"), ("naturalid", "domain")):
        federation = split(source, *steps)
        told = {
            (number, partition.domain) for number, partition in zip(ids(federation), federation.partitions, strict=True)
        }
        assert told == {(number, f"domain{domain}") for number in range(5) for domain in range(2)}


def test_a_tail_thins_each_id(make_source: Make, split: Split) -> None:
    whole = split(make_source(100), "naturalid").label_counts()
    thinned = split(make_source(100), "naturalid", "longtail", imbalance_factor=0.1).label_counts()
    for before, after in zip(whole, thinned, strict=True):
        wanted = [max(1, int(before.max() * 0.1 ** (label / 3))) for label in range(4)]
        assert after.tolist() == np.minimum(before, wanted).tolist()


def test_a_dataset_without_ids_is_refused(make_source: Make, split: Split) -> None:
    with pytest.raises(UserError, match=r"^split=naturalid needs images with an id, which this dataset has not"):
        split(replace(make_source(), writers=None), "naturalid")


@pytest.mark.parametrize("steps", [("naturalid",), ("domain", "naturalid")])
def test_clients_in_each_domain_cannot_be_asked_for(steps: tuple[str, ...], make_source: Make, split: Split) -> None:
    with pytest.raises(UserError) as raised:
        split(make_source(), *steps, clients_per_domain=3)
    assert str(raised.value) == (
        "split.clients_per_domain=3 is not possible with naturalid, where every id is a client: choose num_clients."
    )
