"""``split.pooled``: all clients train on one pool of images, and are clients in everything else."""

from collections.abc import Callable

import numpy as np
import torch

from datasets.federation import Federation
from datasets.source import Part, Source

Make, Split = Callable[..., Source], Callable[..., Federation]


def test_every_client_trains_on_what_all_have_together(make_source: Make, split: Split) -> None:
    source = make_source(40, domains=3)
    options = {"validation": 0.1, "imbalance_factor": 0.2}
    pooled = split(source, "longtail", "domain", pooled=True, **options)
    apart = split(source, "longtail", "domain", **options)
    union = sorted(index for partition in apart.partitions for index in partition.train)
    assert pooled.pooled
    assert not apart.pooled
    for client in pooled.clients:
        assert pooled.indices(client, Part.TRAIN).tolist() == union
        assert pooled.num_images(client, Part.TRAIN) == len(union) < len(source.images)
        examples = pooled.examples_of(client, Part.TRAIN)
        assert np.array_equal(examples.images.numpy(), source.images[union])
        assert np.array_equal(examples.labels.numpy(), source.labels[union])
        for part in (Part.TEST, Part.VALIDATION):
            assert pooled.indices(client, part).tolist() == apart.indices(client, part).tolist()
    # What a table says about who has which classes is about the clients.
    assert np.array_equal(pooled.label_counts(), apart.label_counts())


def test_the_pool_has_each_clients_own_noise(make_source: Make, split: Split) -> None:
    source = make_source(20, domains=2)
    pooled = split(source, "feature_noise", num_clients=3, noise=0.3, pooled=True)
    apart = split(source, "feature_noise", num_clients=3, noise=0.3)
    found = pooled.examples_of(1, Part.TRAIN)
    places = {index: place for place, index in enumerate(pooled.indices(1, Part.TRAIN).tolist())}
    for client in apart.clients:
        own = [places[index] for index in apart.indices(client, Part.TRAIN).tolist()]
        assert torch.equal(found.images[own], apart.examples_of(client, Part.TRAIN).images)
        assert torch.equal(found.labels[own], apart.examples_of(client, Part.TRAIN).labels)
        assert torch.equal(pooled.examples_of(client, Part.TEST).images, apart.examples_of(client, Part.TEST).images)
    assert not np.array_equal(found.images.numpy(), source.images[pooled.indices(1, Part.TRAIN)])
