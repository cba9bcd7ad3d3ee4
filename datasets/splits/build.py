"""From ``split.*`` and a source to the federation."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from datasets.federation import Federation
from datasets.partitions import Noise, Partition
from datasets.source import Indices, Part, Source
from datasets.splits.options import SplitOptions
from datasets.splits.own_tests import matched_tests, natural_tests
from datasets.splits.pipeline import Pipeline
from datasets.splits.steps import Disturbing, Pool, Step
from fedsim.config.binding import bind, locate, refuse_unused_options
from fedsim.core.errors import UserError
from fedsim.core.rounding import whole_share
from fedsim.core.seeding import derive_seed, numpy_generator

log = logging.getLogger(__name__)


def build_split(source: Source, split: Mapping[str, Any], seed: int) -> Federation:
    """Make the steps that ``split["steps"]`` names, each with those of the options that it takes, and run them.

    Raises:
        UserError: If options are wrong or contradict each other, or a client has no images.
    """
    named = split.get("steps") or {}
    if not isinstance(named, Mapping):
        raise UserError(f"split.steps={named} is not possible: leave it out, and choose steps by split=[NAME,NAME].")
    factories = {name: locate("split", f"steps.{name}", target) for name, target in named.items()}
    refuse_unused_options("split", split, [SplitOptions, *factories.values()], structure=("steps",))
    steps = {name: bind("split", split, factory) for name, factory in factories.items()}
    return split_source(source, steps, bind("split", split, SplitOptions), seed)


def split_source(source: Source, steps: Mapping[str, Step], options: SplitOptions, seed: int) -> Federation:
    """Run the steps in the order of the mapping and return the federation.

    Raises:
        UserError: If a domain has no test image, steps contradict each other, or a client has no images.
    """
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
    _check_validation(options.validation, partitions)
    _tell_of_untested_classes(source, partitions, seen)
    return Federation(source, partitions, unseen, pooled=options.pooled)


def _check_validation(share: float, partitions: Sequence[Partition]) -> None:
    """Refuse a share that holds nothing out, and warn if it leaves some clients without validation images.

    Raises:
        UserError: If no client has a validation image.
    """
    without = sum(not len(partition.validation) for partition in partitions)
    if not share or not without:
        return
    if without == len(partitions):
        most = max(len(partition.train) for partition in partitions)
        raise UserError(
            f"split.validation={share} holds out no image, since no client has more than {most}: choose "
            f"{'a larger share' if most > 1 else '0'}."
        )
    log.warning(
        "split.validation=%s holds out no image of %d of %d clients, which have too few",
        share,
        without,
        len(partitions),
    )


def _tell_of_untested_classes(source: Source, partitions: Sequence[Partition], seen: Sequence[str]) -> None:
    """Warn of classes that are trained on in a domain and have no test image there."""
    train = np.concatenate([partition.train for partition in partitions])
    found = []
    for name in seen:
        number = source.domain_names.index(name)
        trained = np.unique(source.labels[train[source.domains[train] == number]])
        missing = np.setdiff1d(trained, source.labels[source.indices(number, Part.TEST)])
        if len(missing):
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            found.append(f"{name} ({', '.join(source.class_names[label] for label in missing[:3])}{more})")
    if found:
        log.warning(
            "no test image shows some classes that are trained on, so no accuracy is about them: in %s%s",
            *(", ".join(found[:5]), f" and {len(found) - 5} more domains" if len(found) > 5 else ""),
        )


def _deviations(steps: Mapping[str, Step], clients: int) -> npt.NDArray[np.float64]:
    disturbing = [step for step in steps.values() if isinstance(step, Disturbing)]
    return sum((step.deviations(clients) for step in disturbing), np.zeros(clients))


def _not_empty(clients: Sequence[Pool], *, drop: bool) -> list[int]:
    """Return the indices of the clients that have images.

    Raises:
        UserError: If a client has none and is not to be dropped, or if no client has any.
    """
    kept = [number for number, pool in enumerate(clients) if len(pool.train)]
    empty = len(clients) - len(kept)
    if empty and (not drop or not kept):
        raise UserError(
            f"split.drop_empty={str(drop).lower()} is not possible: {empty} of {len(clients)} clients have no images; "
            f"choose {'true, ' if kept else ''}fewer clients or a less uneven split."
        )
    return kept


def _by_domain(source: Source, seen: Sequence[str], part: Part) -> dict[str | None, Indices]:
    """Return the images of that part for each domain, and under ``None`` all of them, for mixed clients."""
    images: dict[str | None, Indices] = {name: source.indices(source.domain_names.index(name), part) for name in seen}
    return images | {None: np.concatenate(list(images.values()))}


def _held_out(train: Indices, share: float, rng: np.random.Generator) -> tuple[Indices, Indices]:
    """Return training and validation images: a random share of the client's, rounded down, is held out."""
    shuffled = rng.permutation(train)
    held = whole_share(share, len(train))
    return np.sort(shuffled[held:]), np.sort(shuffled[:held])
