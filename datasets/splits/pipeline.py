"""Runs the steps of ``split=``: from all training images to the images of each client.

The steps run in the order in which they are written, with one exception: steps that group come before the one that
divides, since clients are made inside the groups. So ``[longtail,domain]`` makes the whole data set long-tailed and
``[domain,longtail]`` each domain, while ``[dirichlet,domain]`` is the same as ``[domain,dirichlet]``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from datasets.source import Part, Source
from datasets.splits.domain import ByDomain
from datasets.splits.iid import Iid
from datasets.splits.naturalid import ByNaturalId
from datasets.splits.options import SplitOptions
from datasets.splits.steps import Dividing, Grouping, Keeping, Pool, Step, Weighing, even
from fedsim.core.errors import UserError
from fedsim.core.seeding import numpy_generator

NUM_CLIENTS = 10
CLIENTS_PER_DOMAIN = 5
"""The numbers of clients for null: in all without ``domain``, and in each domain if a step divides it."""


@dataclass(frozen=True)
class Pipeline:
    """The steps by name, for one source and seed."""

    source: Source
    steps: Mapping[str, Step]
    options: SplitOptions
    seed: int

    def clients(self) -> list[Pool]:
        """Return one pool for each client, in the order of the groups; some may be empty.

        Raises:
            UserError: If steps or options contradict each other.
        """
        self._check()
        pools, divided = [self._everything()], False
        for name, step in self._ordered():
            if isinstance(step, Grouping):
                pools = [part for pool in pools for part in step.group(pool, self.source)]
                if isinstance(step, ByDomain):
                    self._check_domains(pools)
            elif isinstance(step, Keeping):
                pools = [self._thin(name, step, pool) for pool in pools]
            elif isinstance(step, Dividing):
                pools, divided = self._divide(name, step, pools), True
        if self._has(ByNaturalId):
            return self._chosen(pools)
        return pools if divided else self._divide("iid", Iid(), pools)

    def _check(self) -> None:
        together = f"split=[{','.join(self.steps)}] is not possible"
        for kind in (Dividing, Weighing):
            same = [name for name, step in self.steps.items() if isinstance(step, kind)]
            if len(same) > 1:
                raise UserError(f"{together}: choose one of {' and '.join(same)}.")
            if same and self._has(ByNaturalId):
                raise UserError(f"{together}: naturalid says what each client holds, so leave out {same[0]}.")

    def _ordered(self) -> list[tuple[str, Step]]:
        """Return the steps in the order in which they run: groupings after the dividing step are moved before it."""
        steps = list(self.steps.items())
        divides = next((at for at, (_, step) in enumerate(steps) if isinstance(step, Dividing)), len(steps))
        late = [item for item in steps[divides:] if isinstance(item[1], Grouping)]
        return [*steps[:divides], *late, *(item for item in steps[divides:] if item not in late)]

    def _has(self, kind: type[Step]) -> bool:
        return any(isinstance(step, kind) for step in self.steps.values())

    def _rng(self, step: str, pool: Pool) -> np.random.Generator:
        return numpy_generator(self.seed, f"split/{step}{pool.name}")

    def _everything(self) -> Pool:
        names = self.source.domain_names
        unseen = self.options.left_out(names)
        seen = [name for name in names if name not in unseen]
        left_out = [names.index(name) for name in unseen]
        train = np.flatnonzero((self.source.parts == Part.TRAIN) & ~np.isin(self.source.domains, left_out))
        if not len(train):
            if not unseen:
                raise UserError(f"there is no training image in {', '.join(seen)}: choose more of them, or other ones.")
            raise UserError(
                f"split.leave_out={self.options.leave_out} is not possible: there is no training image in "
                f"{', '.join(seen)}, so leave other domains out or choose another dataset."
            )
        return Pool("", seen[0] if len(seen) == 1 else None, train)

    def _check_domains(self, pools: list[Pool]) -> None:
        """Refuse a split under which a domain, and with it its test images, would vanish from the federation.

        Raises:
            UserError: If a domain has no training image, is not left out, and ``drop_empty`` is false.
        """
        unseen = self.options.left_out(self.source.domain_names)
        held = {pool.domain for pool in pools}
        gone = [name for name in self.source.domain_names if name not in held and name not in unseen]
        if gone and not self.options.drop_empty:
            raise UserError(
                f"split=[{','.join(self.steps)}] leaves the domain {gone[0]} no training image: choose a split that "
                "keeps some, split.leave_out for a domain that is only tested on, or split.drop_empty=true to do "
                "without it."
            )

    def _thin(self, name: str, step: Keeping, pool: Pool) -> Pool:
        if not len(pool.train):
            return pool
        kept = step.keep(self.source.labels[pool.train], self.source.num_classes, self._rng(name, pool))
        return replace(pool, train=pool.train[kept])

    def _divide(self, name: str, step: Dividing, pools: list[Pool]) -> list[Pool]:
        weighing = next(((key, other) for key, other in self.steps.items() if isinstance(other, Weighing)), None)
        count = self._clients_in_each(len(pools), explicit=name in self.steps or weighing is not None)
        clients = []
        for pool in pools:
            weights = even(count)
            if weighing is not None:
                weights = weighing[1].weights(count, len(pool.train), self._rng(weighing[0], pool))
            owner = step.divide(self.source.labels[pool.train], weights, self._rng(name, pool))
            by_owner = pool.train[np.argsort(owner, kind="stable")]
            shares = np.split(by_owner, np.cumsum(np.bincount(owner, minlength=count))[:-1])
            clients += [Pool(f"{pool.name}/{number}", pool.domain, train) for number, train in enumerate(shares)]
        return clients

    def _clients_in_each(self, pools: int, *, explicit: bool) -> int:
        """Return the number of clients of each pool; ``explicit`` is whether the user has written a dividing step.

        A step that weighs counts as one, too.
        """
        in_all, in_each = self.options.num_clients, self.options.clients_per_domain
        if not self._has(ByDomain):
            if in_each is not None:
                raise UserError(f"split.clients_per_domain={in_each} is not possible without the step domain: add it.")
            return in_all or NUM_CLIENTS
        if in_all is None:
            return in_each or (CLIENTS_PER_DOMAIN if explicit else 1)
        if in_all % pools or in_each not in (None, in_all // pools):
            also = "" if in_each is None else f" with split.clients_per_domain={in_each}"
            raise UserError(
                f"split.num_clients={in_all}{also} is not possible for {pools} domains: "
                "choose a multiple of the domains, or clients_per_domain alone."
            )
        return in_all // pools

    def _chosen(self, pools: list[Pool]) -> list[Pool]:
        """Return the pools of all natural ids, or of ``num_clients`` of them, drawn at random."""
        in_each = self.options.clients_per_domain
        if in_each is not None:
            raise UserError(
                f"split.clients_per_domain={in_each} is not possible with naturalid, where every id is a client: "
                "choose num_clients."
            )
        wanted = self.options.num_clients or len(pools)
        if wanted > len(pools):
            raise UserError(
                f"split.num_clients={wanted} is not possible: choose at most {len(pools)}, the ids that there are."
            )
        chosen = numpy_generator(self.seed, "split/naturalid").choice(len(pools), wanted, replace=False)
        return [pools[number] for number in np.sort(chosen)]
