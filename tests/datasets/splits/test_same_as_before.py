"""Splits are drawn as in versions before: the clients of a seed in somebody's results are those of the seed now."""

import hashlib
from collections.abc import Callable

import pytest

from datasets.federation import Federation
from datasets.source import Part, Source

Make, Split = Callable[..., Source], Callable[..., Federation]


def digest(federation: Federation) -> str:
    """The images of every client, in the order in which it has them; the same on every machine."""
    found = hashlib.sha256()
    for partition in federation.partitions:
        found.update(f"{partition.client} {partition.domain}\n".encode())
        for part in (Part.TRAIN, Part.VALIDATION, Part.TEST):
            found.update(f"{federation.indices(partition.client, part).tolist()}\n".encode())
        if partition.noise is not None:
            found.update(f"{partition.noise}\n".encode())
    return found.hexdigest()[:16]


@pytest.mark.parametrize(
    ("steps", "options", "expected"),
    [
        (["domain"], {}, "f7719e411f77d359"),
        (["domain"], {"validation": 0.2}, "20e73e4e7c9ef359"),
        (["iid"], {"num_clients": 7, "validation": 0.1}, "613256185cb1de1a"),
        (["shards"], {"num_clients": 5}, "8f39d2c97ecee444"),
        (["pathological"], {"num_clients": 6, "classes_per_client": 3}, "ba7565c7fa804a46"),
        (["dirichlet"], {"num_clients": 6, "alpha": 0.5}, "17fb466d426a9058"),
        (["dirichlet"], {"num_clients": 6, "alpha": 0.5, "assign": "sample"}, "7724a37c9ce9b8cc"),
        (["inner_dirichlet"], {"num_clients": 6, "alpha": 0.5}, "1b3106ebe8bd7040"),
        (["iid", "quantity"], {"num_clients": 6, "size_alpha": 1.0}, "9e39b3b3b41b37a6"),
        (["iid", "feature_noise"], {"num_clients": 3, "noise": 0.2}, "98bfc561f6ce772e"),
        (["longtail"], {"num_clients": 4, "imbalance_factor": 0.1}, "04ea7c4318e21739"),
        (["longtail"], {"num_clients": 4, "imbalance_factor": 0.1, "head": "permutation"}, "94cf4ce249dc17e0"),
        (["dirichlet", "longtail"], {"num_clients": 4, "alpha": 1, "imbalance_factor": 0.1}, "137ab677a79e259c"),
        (["domain", "dirichlet"], {"alpha": 1, "clients_per_domain": 3, "test": "matched"}, "881b268cf2de9272"),
        (["naturalid"], {"num_clients": 4, "test": "natural"}, "9814c5d21040709e"),
        (["domain", "naturalid"], {"leave_out": "domain1"}, "54d0bd05dee64eea"),
    ],
)
def test_a_seed_draws_the_clients_that_it_drew(
    steps: list[str], options: dict[str, object], expected: str, make_source: Make, split: Split
) -> None:
    assert digest(split(make_source(60, domains=3), *steps, seed=3, **options)) == expected
