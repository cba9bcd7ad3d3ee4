"""A federation's fingerprint is that of its pixels, labels and clients, and of nothing else."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.federation import Federation
from datasets.fingerprint import Fingerprint
from datasets.partitions import Noise, Partition
from datasets.source import Part, Source

Change = Callable[[Source, list[Partition]], Federation]


def parts() -> tuple[Source, list[Partition]]:
    """Two domains of six training and two test images each, and a client in each."""
    source = Source(
        images=np.random.default_rng(0).integers(0, 256, (16, 1, 4, 4)).astype(np.uint8),
        labels=np.tile([0, 1], 8),
        domains=np.repeat([0, 1], 8),
        parts=np.tile(np.repeat(np.array([Part.TRAIN, Part.TEST], np.uint8), [6, 2]), 2),
        domain_names=("a", "b"),
        class_names=("cat", "dog"),
    )
    return source, [Partition(0, "a", np.arange(6)), Partition(1, "b", np.arange(8, 14))]


def with_pixel(source: Source, place: int) -> Source:
    images = source.images.copy()
    images[place, 0, 0, 0] ^= 1
    return replace(source, images=images)


def with_label(source: Source, place: int) -> Source:
    labels = source.labels.copy()
    labels[place] ^= 1
    return replace(source, labels=labels)


def swapped(source: Source) -> Source:
    order = np.arange(16)
    order[[0, 2]] = [2, 0]  # of one class
    return replace(source, images=source.images[order])


def without_last(each: Partition) -> Partition:
    return replace(each, train=each.train[:-1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s, p: Federation(with_pixel(s, 8), p), ["client 1 is of b, other images or labels"]),
        (lambda s, p: Federation(with_label(s, 0), p), ["client 0 is of a, other images or labels"]),
        (lambda s, p: Federation(swapped(s), p), ["client 0 is of a, other images or labels"]),
        (lambda s, p: Federation(with_pixel(s, 15), p), ["client 1 is of b, other images or labels"]),  # of its test
        (lambda s, p: Federation(s, [p[0], without_last(p[1])]), ["client 1 is of b, 5 training images instead of 6"]),
        (
            lambda s, p: Federation(s, [replace(p[0], noise=Noise(0.1, seed=3)), p[1]]),
            ["client 0 is of a, other images or labels"],
        ),
        (
            lambda s, p: Federation(s, [replace(p[1], client=0), replace(p[0], client=1)]),
            ["client 0 is of b instead of a", "client 1 is of a instead of b"],
        ),
        (lambda s, p: Federation(s, p[:1]), ["1 clients instead of 2", "other test images of b"]),
        (lambda s, p: Federation(s, p[:1], ("b",)), ["1 clients instead of 2"]),  # the domain is tested nevertheless
        (lambda s, p: Federation(replace(s, class_names=("cat", "dog", "emu")), p), ["3 classes instead of 2"]),
        (lambda s, p: Federation(replace(s, class_names=("dog", "cat")), p), ["the classes have other names"]),
        (
            lambda s, p: Federation(replace(s, images=s.images.reshape(16, 1, 2, 8)), p),
            ["images of 1x2x8 instead of 1x4x4"],
        ),
    ],
)
def test_every_change_is_found_and_named(change: Change, words: list[str]) -> None:
    before = Fingerprint.of(Federation(*parts()))
    after = Fingerprint.of(change(*parts()))
    assert before.differences(after) == words
    assert Fingerprint.from_json(before.to_json()) == before


def test_where_and_when_the_images_were_written_does_not_matter(tmp_path: Path) -> None:
    source, partitions = parts()
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "images.npy", source.images)
    found = [
        Fingerprint.of(Federation(replace(source, images=np.load(folder / "images.npy", mmap_mode="r")), partitions))
        for folder in sorted(tmp_path.iterdir())
    ]
    assert found[0] == found[1] == Fingerprint.of(Federation(source, partitions))


def test_what_nobody_uses_does_not_matter() -> None:
    source, partitions = parts()
    fewer = [without_last(each) for each in partitions]
    before, after = (Fingerprint.of(Federation(each, fewer)) for each in (source, with_pixel(source, 5)))
    assert before.differences(after) == []


def test_of_many_clients_a_few_are_named() -> None:
    source, _ = parts()
    partitions = [Partition(client, "a", np.array([client % 6])) for client in range(50)]
    before = Fingerprint.of(Federation(source, partitions))
    after = Fingerprint.of(Federation(source, [replace(each, train=np.array([5])) for each in partitions]))
    differences = before.differences(after)
    changed = [client for client in range(50) if client % 6 != 5]
    assert differences[:3] == [f"client {client} is of a, other images or labels" for client in changed[:3]]
    assert differences[3:] == [f"and so on for {len(changed)} clients"]
