"""``split=naturalid``: every client is one writer, hospital or device, as recorded in the data set."""

import numpy as np

from datasets.source import Indices, Part, Source
from datasets.splits.steps import Grouping, Pool
from fedsim.core.errors import UserError


class ByNaturalId(Grouping):
    """Makes one client for each id, in ascending order; ``split.test=natural`` tests it on its own test images."""

    def group(self, pool: Pool, source: Source) -> list[Pool]:
        if source.writers is None:
            raise UserError(
                "split=naturalid needs images with an id, which this dataset has not: choose another split."
            )
        tests = np.flatnonzero(source.parts == Part.TEST)
        tests_of = {tests_writer: np.sort(places) for tests_writer, places in _by_id(source.writers[tests], tests)}
        none = np.empty(0, np.int64)
        return [
            Pool(f"{pool.name}/{writer}", pool.domain, train, tests_of.get(writer, none))
            for writer, train in _by_id(source.writers[pool.train], pool.train)
        ]


def _by_id(ids: Indices, images: Indices) -> list[tuple[int, Indices]]:
    if not len(ids):
        return []
    order = np.argsort(ids, kind="stable")
    names, starts = np.unique(ids[order], return_index=True)
    return list(zip(names.tolist(), np.split(images[order], starts[1:]), strict=True))
