"""Partitions are what they were made of, in a few arrays, also in another process."""

import pickle

import numpy as np
import pytest

from datasets.federation import Federation
from datasets.partitions import Noise, Partition, Partitions
from datasets.source import Part, Source
from fedsim.engines.pickling import dump, load

CLIENTS = 1000


def many() -> list[Partition]:
    """Return clients of two domains and of both, some with test images or noise of their own, of 0 to 6 images."""
    rng = np.random.default_rng(0)
    validation = {"a": np.array([3, 5]), "b": np.array([], np.int64), None: np.array([3, 5, 7])}
    made = []
    for client in range(CLIENTS):
        domain = ("a", "b", None)[client % 3]
        own = rng.integers(20, size=client % 4) if client % 5 == 0 else None
        noise = Noise(0.1, client) if client % 7 == 0 else None
        made.append(Partition(client, domain, rng.integers(20, size=client % 7), own, validation[domain], noise))
    return made


def federation_of(partitions: list[Partition]) -> Federation:
    images = np.arange(20 * 12, dtype=np.uint8).reshape(20, 3, 2, 2)
    domains = np.arange(20) % 2
    parts = np.where(np.arange(20) < 16, Part.TRAIN, Part.TEST).astype(np.uint8)
    return Federation(Source(images, np.arange(20) % 5, domains, parts, ("a", "b"), tuple("vwxyz")), partitions)


def assert_same(one: Partition, other: Partition) -> None:
    assert (one.client, one.domain, one.noise) == (other.client, other.domain, other.noise)
    assert (one.test is None) == (other.test is None)
    for mine, its in ((one.train, other.train), (one.validation, other.validation), (one.test, other.test)):
        assert np.array_equal([] if mine is None else mine, [] if its is None else its)


def test_each_partition_is_the_one_that_was_given() -> None:
    given = many()
    kept = Partitions(given)
    assert len(kept) == CLIENTS
    for one, other in zip(given, kept, strict=True):
        assert_same(one, other)
    assert_same(kept[-1], given[-1])
    assert [each.client for each in kept[997:]] == [997, 998, 999]
    with pytest.raises(IndexError):
        kept[CLIENTS]


def test_numbers_of_images_are_those_of_the_lists() -> None:
    given = many()
    federation = federation_of(given)
    tests = {"a": [16, 18], "b": [17, 19], None: [16, 18, 17, 19]}
    for client, each in enumerate(given):
        own_or_shared = tests[each.domain] if each.test is None else each.test
        assert np.array_equal(federation.indices(client, Part.TEST), own_or_shared)
        lists = {Part.TRAIN: each.train, Part.VALIDATION: each.validation, Part.TEST: own_or_shared}
        assert {part: federation.num_images(client, part) for part in lists} == {
            part: len(indices) for part, indices in lists.items()
        }
    assert federation.validated == {client for client, each in enumerate(given) if each.domain != "b"}
    assert np.array_equal(federation.partitions.train.joined(), np.concatenate([each.train for each in given]))
    counts = [np.bincount(each.train % 5, minlength=5) for each in given]
    assert np.array_equal(federation.label_counts(), counts)


def test_another_process_is_sent_a_few_arrays_and_no_list_twice() -> None:
    given = many()
    federation = federation_of(given)
    sent, buffers = dump(federation, files_by_name=True)
    assert len(buffers) < 30
    assert sum(buffer.nbytes for buffer in buffers) < 8 * (CLIENTS * 12)  # 3 + 0.3 indices and 6 places for each
    received = load(sent, buffers)
    for one, other in zip(given, received.partitions, strict=True):
        assert_same(one, other)
    again = pickle.loads(pickle.dumps(federation.partitions))
    assert_same(again[35], given[35])


@pytest.mark.parametrize("clients", [[1, 0], [0, 2], [1]])
def test_clients_count_from_zero(clients: list[int]) -> None:
    with pytest.raises(ValueError, match="count from zero"):
        Partitions([Partition(client, "a", np.arange(2)) for client in clients])
