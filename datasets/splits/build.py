"""From ``split.*`` and a source to the federation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from datasets.federation import Federation, Noise, Partition
from datasets.source import Indices, Part, Source
from datasets.splits.options import SplitOptions
from datasets.splits.own_tests import matched_tests, natural_tests
from datasets.splits.pipeline import Pipeline
from datasets.splits.steps import Disturbing, Pool, Step
from fedsim.binding import bind, locate, refuse_unused_options
from fedsim.errors import UserError
from fedsim.seeding import derive_seed, numpy_generator


def build_split(source: Source, split: Mapping[str, Any], seed: int) -> Federation:
    """Makes the steps that ``split["steps"]`` names, each with those of the options that it takes, and runs them.

    Errors: ``UserError`` for options that are wrong or do not go together, or for a client without images.
    """
    named: Mapping[str, str] = split.get("steps") or {}
    factories = {name: locate("split", f"steps.{name}", target) for name, target in named.items()}
    refuse_unused_options("split", split, [SplitOptions, *factories.values()], structure=("steps",))
    steps = {name: bind("split", split, factory) for name, factory in factories.items()}
    return split_source(source, steps, bind("split", split, SplitOptions), seed)


def split_source(source: Source, steps: Mapping[str, Step], options: SplitOptions, seed: int) -> Federation:
    """The federation that the steps make, in the order of the mapping."""
    for number, name in enumerate(source.domain_names):
        if not len(source.indices(number, Part.TEST)):
            raise UserError(f"the domain {name} has no test image, so no accuracy could be measured: leave it out.")
    clients = Pipeline(source, steps, options, seed).clients()
    noise = _deviations(steps, len(clients))
    kept = _not_empty(clients, drop=options.drop_empty)
    clients, noise = [clients[number] for number in kept], noise[kept]
    unseen = options.left_out(source.domain_names)
    seen = [name for name in source.domain_names if name not in unseen]
    tests: Sequence[Indices | None] = [None] * len(clients)
    if options.test == "matched":
        tests = matched_tests(clients, source, _by_domain(source, seen, Part.TEST), seed)
    elif options.test == "natural":
        tests = natural_tests(clients)
    own_validation = _by_domain(source, seen, Part.VALIDATION)
    partitions = []
    for number, (pool, test, deviation) in enumerate(zip(clients, tests, noise, strict=True)):
        train, validation = np.sort(pool.train), own_validation[pool.domain]
        if options.validation:
            train, validation = _held_out(train, options.validation, numpy_generator(seed, f"split/held{pool.name}"))
        disturbed = Noise(float(deviation), derive_seed(seed, f"split/noise{pool.name}")) if deviation else None
        partitions.append(Partition(number, pool.domain, train, test, validation, disturbed))
    return Federation(source, partitions, unseen)


def _deviations(steps: Mapping[str, Step], clients: int) -> npt.NDArray[np.float64]:
    disturbing = [step for step in steps.values() if isinstance(step, Disturbing)]
    return sum((step.deviations(clients) for step in disturbing), np.zeros(clients))


def _not_empty(clients: Sequence[Pool], *, drop: bool) -> list[int]:
    """The clients that have images. Errors: ``UserError`` if one has none and is not to be dropped."""
    kept = [number for number, pool in enumerate(clients) if len(pool.train)]
    empty = len(clients) - len(kept)
    if empty and (not drop or not kept):
        raise UserError(
            f"split.drop_empty={str(drop).lower()} is not possible: {empty} of {len(clients)} clients have no images; "
            f"choose {'true, ' if kept else ''}fewer clients or a less uneven split."
        )
    return kept


def _by_domain(source: Source, seen: Sequence[str], part: Part) -> dict[str | None, Indices]:
    """The images of that part for each domain, and all of them (None) for the clients that are mixed."""
    images: dict[str | None, Indices] = {name: source.indices(source.domain_names.index(name), part) for name in seen}
    return images | {None: np.concatenate(list(images.values()))}


def _held_out(train: Indices, share: float, rng: np.random.Generator) -> tuple[Indices, Indices]:
    """Training and validation images: a random share of the client's, rounded down, is held out."""
    shuffled = rng.permutation(train)
    held = int(len(train) * share)
    return np.sort(shuffled[held:]), np.sort(shuffled[:held])
