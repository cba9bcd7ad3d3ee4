"""Seeds are the same numbers everywhere, depend on all that they name, and cohorts are drawn as the paper says."""

import numpy as np
import pytest
import torch

from fedsim.core.seeding import derive_seed, draw_cohort, global_seed, numpy_generator, torch_generator


def test_seeds_are_the_same_numbers_in_every_version() -> None:
    # Golden values: a change here makes every published run irreproducible.
    assert derive_seed(0, "model") == 1909721738288169047
    assert derive_seed(7, "batches", round=3, client=5) == 333759481012505050


def test_seeds_fit_into_63_bits_and_do_not_collide() -> None:
    seeds = {
        derive_seed(seed, purpose, round=round, client=client)
        for seed in (0, 1, 11)
        for purpose in ("model", "batches", "cohort")
        for round in (0, 1, 11, 111)
        for client in (-1, 0, 1, 11, 111)
    }
    assert len(seeds) == 3 * 3 * 4 * 5
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62


def test_generators_repeat_and_differ_between_clients() -> None:
    def draws(client: int) -> tuple[list[int], list[int]]:
        numbers = numpy_generator(3, "test", round=2, client=client).integers(1000, size=8)
        tensor = torch.randint(1000, (8,), generator=torch_generator(3, "test", round=2, client=client))
        return numbers.tolist(), tensor.tolist()

    assert draws(0) == draws(0)
    assert draws(0)[0] != draws(1)[0]
    assert draws(0)[1] != draws(1)[1]


def test_generators_leave_the_global_ones_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    torch.rand(2, generator=torch_generator(0, "test"))
    assert torch.equal(torch.rand(3), expected)


def test_global_seed_holds_inside_its_block_only() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with global_seed(1, "test"):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(inside, torch.rand(3, generator=torch_generator(1, "test")))


def test_global_seed_is_undone_after_an_error() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with pytest.raises(ZeroDivisionError), global_seed(1, "test"):
        raise ZeroDivisionError
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("clients", "fraction", "size"),
    [
        (6, 1.0, 6),
        (6, 0.5, 3),
        (6, 0.34, 2),
        (6, 0.01, 1),
        (100, 0.29, 29),
        (100, 0.1, 10),
        (6, 0.25, 2),  # a half is rounded up
        (10, 0.25, 3),  # not to the even number
        (50, 0.29, 15),  # 14.499999999999998 in binary
        (10, 0.97, 10),
        (1, 0.5, 1),
    ],
)
def test_the_cohort_has_the_share_of_the_clients(clients: int, fraction: float, size: int) -> None:
    cohort = draw_cohort(list(range(clients)), fraction, seed=0, round=1)
    assert len(set(cohort)) == len(cohort) == size
    assert cohort == sorted(cohort)
    assert set(cohort) <= set(range(clients))


def test_cohorts_are_the_same_in_every_version() -> None:
    assert draw_cohort(list(range(10)), 0.3, seed=0, round=1) == [0, 1, 3]
    assert draw_cohort(list(range(10)), 0.3, seed=0, round=2) == [1, 6, 8]


def test_the_cohort_does_not_depend_on_the_order_of_the_clients() -> None:
    shuffled = [7, 2, 9, 0, 4, 1, 8, 3, 6, 5]
    for round in range(1, 6):
        assert draw_cohort(shuffled, 0.4, 3, round) == draw_cohort(sorted(shuffled), 0.4, 3, round)
    assert draw_cohort(shuffled, 1.0, 3, 1) == sorted(shuffled)


def test_rounds_and_seeds_draw_different_cohorts_and_everyone_equally_often() -> None:
    cohorts = [tuple(draw_cohort(list(range(6)), 0.5, seed=1, round=round)) for round in range(400)]
    counts = np.bincount(np.ravel(cohorts), minlength=6)
    assert len(set(cohorts)) == 20  # all of 6 choose 3
    assert counts.sum() == 1200
    assert np.abs(counts - 200).max() < 50  # five standard deviations of the binomial
    assert cohorts != [tuple(draw_cohort(list(range(6)), 0.5, seed=2, round=round)) for round in range(400)]


def test_flowers_64_bit_node_ids_come_back_unchanged() -> None:
    nodes = [5, 17, 2**63 + 999, 2**63 + 12345, 2**64 - 1]
    for round in range(10):
        assert set(draw_cohort(nodes, 0.5, 0, round)) <= set(nodes)
