"""``split=domain``: every client belongs to one domain; clients of a domain share its images evenly."""

import numpy as np

from datasets.federation import Partition, Source
from fedsim.errors import UserError
from fedsim.seeding import numpy_generator


def split_by_domain(source: Source, clients_per_domain: int = 1, *, seed: int) -> list[Partition]:
    """Cuts each domain's training images at random into ``clients_per_domain`` parts whose sizes differ by at most one.

    Clients are numbered domain by domain. Each is tested on the whole test set of its domain.

    Errors: ``UserError`` if a part would be empty.
    """
    partitions: list[Partition] = []
    for domain, name in enumerate(source.domain_names):
        train = source.indices(domain, test=False)
        if not 1 <= clients_per_domain <= len(train):
            raise UserError(
                f"split.clients_per_domain={clients_per_domain} is not possible: "
                f"choose from 1 to {len(train)}, the training images of the domain {name}."
            )
        train = numpy_generator(seed, f"split/{name}").permutation(train)
        for part in np.array_split(train, clients_per_domain):
            partitions.append(Partition(len(partitions), name, np.sort(part), source.indices(domain, test=True)))
    return partitions
