"""Test images of each client other than the test set of its domain: ``split.test=matched|natural``."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from datasets.source import Indices, Source
from datasets.splits.steps import Pool, places_by_class
from fedsim.core.errors import UserError
from fedsim.core.seeding import numpy_generator


def matched_tests(
    clients: Sequence[Pool], source: Source, test_of: Mapping[str | None, Indices], seed: int
) -> list[Indices]:
    """Return FedLoGe's local test sets, in which classes are distributed as in the client's training images.

    Client k gets floor(n_kc / N * T) test images of class c, but not more than exist: n_kc is the number of its
    training images of the class, N the number of training images of all clients of its domain (of all mixed clients if
    it is mixed) and T the number of test images of the domain (of all domains). They are drawn without replacement,
    separately for each client. A client that would have none gets one image of the class of which it has most training
    images, among those with test images. ``test_of`` has the test images of each domain and, under ``None``, those of
    mixed clients.
    """
    train_images = Counter[str | None]()
    for pool in clients:
        train_images[pool.domain] += len(pool.train)
    by_class = {domain: _by_class(test_of[domain], source) for domain in train_images}
    tests = []
    for pool in clients:
        members = by_class[pool.domain]
        there = np.array([len(images) for images in members])
        held = np.bincount(source.labels[pool.train], minlength=source.num_classes)
        counts = np.minimum(held * there.sum() // train_images[pool.domain], there)
        if not counts.any():
            largest = int(np.where(there > 0, held, -1).argmax())
            counts[largest] = min(1, there[largest])
        rng = numpy_generator(seed, f"split/matched{pool.name}")
        drawn = [rng.choice(members[label], counts[label], replace=False) for label in np.flatnonzero(counts)]
        tests.append(np.sort(np.concatenate(drawn)))
    return tests


def natural_tests(clients: Sequence[Pool]) -> list[Indices]:
    """Return the test images of each client's own id.

    Raises:
        UserError: If there are no ids, or an id has no test image.
    """
    for pool in clients:
        if pool.natural_test is None:
            raise UserError("split.test=natural is not possible without split=naturalid: choose domain or matched.")
        if not len(pool.natural_test):
            raise UserError(
                f"split.test=natural leaves the id {pool.name.rpartition('/')[2]} no test image: "
                "choose domain or matched."
            )
    return [pool.natural_test for pool in clients if pool.natural_test is not None]


def _by_class(test: Indices, source: Source) -> list[Indices]:
    return [test[places] for places in places_by_class(source.labels[test], source.num_classes)]
