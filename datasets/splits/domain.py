"""``split=domain``: every client belongs to one domain."""

from datasets.source import Source
from datasets.splits.steps import Grouping, Pool


class ByDomain(Grouping):
    """Makes one pool for each domain. A step that divides a pool further makes ``split.clients_per_domain`` clients."""

    def group(self, pool: Pool, source: Source) -> list[Pool]:
        domains = source.domains[pool.train]
        return [
            Pool(f"{pool.name}/{name}", name, pool.train[domains == number])
            for number, name in enumerate(source.domain_names)
            if (domains == number).any()
        ]
