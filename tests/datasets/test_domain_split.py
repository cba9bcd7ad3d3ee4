"""Clients of one domain each: nothing lost, nothing twice."""

import numpy as np
import pytest

from datasets.domain_split import split_by_domain
from datasets.federation import Source
from fedsim.errors import UserError


def source_of(train: tuple[int, ...], test: int = 3) -> Source:
    """Domains with the given numbers of training images; pictures and labels do not matter here."""
    domains = np.repeat(np.arange(len(train)), [count + test for count in train])
    is_test = np.concatenate([np.arange(count + test) >= count for count in train])
    count = len(domains)
    names = tuple(f"domain{number}" for number in range(len(train)))
    return Source(np.zeros((count, 1, 2, 2), np.uint8), np.arange(count) % 2, domains, is_test, names, 2)


@pytest.mark.parametrize("clients_per_domain", [1, 2, 3, 7])
def test_each_domain_is_partitioned_evenly(clients_per_domain: int) -> None:
    source = source_of((7, 20))
    partitions = split_by_domain(source, clients_per_domain, seed=0)
    assert [p.client for p in partitions] == list(range(2 * clients_per_domain))
    for domain, name in enumerate(source.domain_names):
        mine = [p for p in partitions if p.domain == name]
        dealt = np.concatenate([p.train for p in mine])
        assert sorted(dealt) == source.indices(domain, test=False).tolist()
        sizes = [len(p.train) for p in mine]
        assert max(sizes) - min(sizes) <= 1
        assert all(np.array_equal(p.test, source.indices(domain, test=True)) for p in mine)


def test_the_seed_decides_the_cut() -> None:
    def cut(seed: int) -> list[list[int]]:
        return [p.train.tolist() for p in split_by_domain(source_of((40, 40)), 2, seed=seed)]

    assert cut(0) == cut(0)
    assert cut(0) != cut(1)


@pytest.mark.parametrize("clients_per_domain", [0, -1, 8])
def test_an_empty_client_is_refused(clients_per_domain: int) -> None:
    with pytest.raises(UserError, match=r"split\.clients_per_domain=.*from 1 to 7, .* domain0"):
        split_by_domain(source_of((7, 20)), clients_per_domain, seed=0)
