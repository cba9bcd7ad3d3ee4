"""What holds for every split, over random sources, steps in any order and random options."""

from functools import cache

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from datasets.federation import Federation
from datasets.source import Part, Source
from datasets.splits.build import build_split
from fedsim.config.composition import compose
from fedsim.core.errors import UserError

DIVIDING = ("iid", "dirichlet", "inner_dirichlet", "pathological", "shards")
CLASSES, DOMAINS = 5, 3
COMMON = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def source_of(rng: np.random.Generator, images: int, domain_order: tuple[int, ...] = (0, 1, 2)) -> Source:
    """Imbalanced classes and domains; the pixel of an image is its own number, so that images can be told apart."""
    classes = rng.dirichlet(np.ones(CLASSES))
    domains = rng.integers(DOMAINS, size=images)
    place_of = np.argsort(domain_order)
    return Source(
        images=np.zeros((images, 1, 1, 1), np.uint8),
        labels=rng.choice(CLASSES, images, p=classes),
        domains=place_of[domains],
        parts=rng.choice([Part.TRAIN, Part.TEST, Part.VALIDATION, Part.UNUSED], images, p=[0.6, 0.2, 0.1, 0.1]).astype(
            np.uint8
        ),
        domain_names=tuple(f"domain{number}" for number in domain_order),
        class_names=tuple(map(str, range(CLASSES))),
        writers=rng.integers(8, size=images),
    )


@cache
def composed(steps: tuple[str, ...]) -> dict[str, object]:
    group: dict[str, object] = compose([f"split=[{','.join(steps)}]"])["split"]
    return group


def split(source: Source, steps: list[str], seed: int = 0, **options: object) -> Federation:
    """Options that none of the steps has are left out."""
    group = composed(tuple(steps))
    chosen = {key: value for key, value in options.items() if key in group}
    return build_split(source, {**group, **chosen}, seed)


compositions = st.tuples(
    st.sampled_from([None, *DIVIDING]),
    st.lists(st.sampled_from(["domain", "longtail", "quantity", "feature_noise"]), unique=True),
    st.randoms(use_true_random=False),
).map(lambda drawn: drawn[2].sample(both := [*drawn[1], *([drawn[0]] if drawn[0] else [])], len(both)))
options = st.fixed_dictionaries(
    {
        "alpha": st.sampled_from([0.05, 0.5, 10.0]),
        "balance": st.booleans(),
        "assign": st.sampled_from(["cut", "sample"]),
        "classes_per_client": st.integers(1, 3),
        "imbalance_factor": st.sampled_from([0.05, 0.5, 1.0]),
        "head": st.sampled_from(["order", "permutation"]),
        "sizes": st.sampled_from(["dirichlet", "power_law"]),
        "min_size": st.sampled_from([0, 1]),
        "num_clients": st.sampled_from([None, 6, 9]),
        "test": st.sampled_from(["domain", "matched"]),
        "leave_out": st.sampled_from([None, "domain1"]),
        "validation": st.sampled_from([0.0, 0.3]),
        "drop_empty": st.booleans(),
    }
)


@COMMON
@given(steps=compositions, options=options, seed=st.integers(0, 2**31))
def test_nothing_is_lost_or_dealt_twice_and_the_seed_decides(
    steps: list[str], options: dict[str, object], seed: int
) -> None:
    assume(steps)
    source = source_of(np.random.default_rng(seed), 400)
    try:
        federation = split(source, steps, seed, **options)
    except UserError:
        assume(False)
    assert [partition.client for partition in federation.partitions] == list(federation.clients)
    held_out = [p.validation for p in federation.partitions] if options["validation"] else []
    dealt = np.concatenate([*(p.train for p in federation.partitions), *held_out])
    assert len(np.unique(dealt)) == len(dealt)
    expected = source.parts == Part.TRAIN
    if options["leave_out"]:
        expected &= source.domains != 1
    assert set(dealt) <= set(np.flatnonzero(expected))
    if "longtail" not in steps:
        assert set(dealt) == set(np.flatnonzero(expected))
    for client, partition in enumerate(federation.partitions):
        assert len(partition.train)
        assert np.all(source.parts[federation.indices(client, Part.TEST)] == Part.TEST)
        if "domain" in steps:
            assert set(source.domains[partition.train]) == {source.domain_names.index(partition.domain)}
        if not options["validation"] and len(partition.validation):
            assert np.all(source.parts[partition.validation] == Part.VALIDATION)
        if options["test"] == "matched":
            assert federation.test_domains(client) == ()
    again = split(source, steps, seed, **options)
    for one, other in zip(federation.partitions, again.partitions, strict=True):
        assert np.array_equal(one.train, other.train)
        assert np.array_equal(one.validation, other.validation)
        assert (one.test is None and other.test is None) or np.array_equal(one.test, other.test)  # type: ignore[arg-type]


@COMMON
@given(steps=compositions, options=options, seed=st.integers(0, 2**31), order=st.permutations(range(DOMAINS)))
def test_a_domain_is_cut_alike_in_whatever_order_the_domains_are_listed(
    steps: list[str], options: dict[str, object], seed: int, order: list[int]
) -> None:
    """Where the domains are told apart before anything is drawn."""
    steps = ["domain", *(step for step in steps if step != "domain")]
    options = {**options, "validation": 0.0, "test": "domain", "num_clients": None}
    try:
        first = split(source_of(np.random.default_rng(seed), 300), steps, seed, **options)
        other = split(source_of(np.random.default_rng(seed), 300, tuple(order)), steps, seed, **options)
    except UserError:
        assume(False)
    cuts = [[(p.domain, p.train.tolist()) for p in each.partitions] for each in (first, other)]
    assert sorted(cuts[0]) == sorted(cuts[1])


@COMMON
@given(seed=st.integers(0, 2**31), chosen=st.sampled_from([None, 3]), order=st.permutations(["domain", "naturalid"]))
def test_natural_clients_hold_all_of_their_id(seed: int, chosen: int | None, order: list[str]) -> None:
    source = source_of(np.random.default_rng(seed), 400)
    federation = split(source, order[:1] if order[0] == "naturalid" else order, seed, num_clients=chosen)
    assert source.writers is not None
    for partition in federation.partitions:
        [writer] = set(source.writers[partition.train])
        mine = (source.writers == writer) & (source.parts == Part.TRAIN)
        if partition.domain is not None:
            mine &= source.domains == source.domain_names.index(partition.domain)
        assert partition.train.tolist() == np.flatnonzero(mine).tolist()
    if chosen is not None:
        assert len(federation.partitions) == chosen


def test_another_seed_is_another_split() -> None:
    source = source_of(np.random.default_rng(0), 600)
    for step in DIVIDING:
        one, other = (split(source, [step], seed, min_size=0, drop_empty=True) for seed in (1, 2))
        assert [p.train.tolist() for p in one.partitions] != [p.train.tolist() for p in other.partitions], step
