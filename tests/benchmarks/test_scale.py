"""The prediction of `python benchmarks/scale.py`, on rounds whose costs are known."""

import pytest

from benchmarks.scale import Costs, Measured, errors, fit, predictions

KNOWN = Costs(client=0.02, server=0.001, fixed=0.05)


def rows_of(cores: int) -> list[Measured]:
    return [
        Measured(100, workers, KNOWN.seconds(100, workers, cores), 100 * KNOWN.server, 100 * KNOWN.client)
        for workers in (1, 2, 4)
    ]


def test_a_round_by_hand() -> None:
    assert KNOWN.seconds(100, 3) == pytest.approx(0.05 + 34 * 0.02)
    assert KNOWN.seconds(100, 1000) == pytest.approx(0.05 + 100 * 0.001)
    assert KNOWN.seconds(100, 50, cores=2) == pytest.approx(0.05 + 100 * 0.021 / 2)
    assert KNOWN.most_workers == pytest.approx(20)


def test_the_fit_finds_what_made_the_rows_and_then_predicts_without_error() -> None:
    found = fit(rows_of(2), 2)
    assert (found.client, found.server, found.fixed) == pytest.approx((0.02, 0.001, 0.05))
    assert errors(rows_of(2), 2)["error"].abs().max() < 1e-12


def test_a_number_of_workers_that_does_not_fit_has_an_error() -> None:
    slow = [row._replace(seconds=2 * row.seconds) if row.workers == 4 else row for row in rows_of(2)]
    table = errors(slow, 2).set_index("workers")
    assert table["error"][4] == pytest.approx(-0.5)


def test_the_bottleneck_is_named() -> None:
    table = predictions(KNOWN, [10_000]).set_index("workers")
    assert table["bound_by"].tolist() == ["workers", "server", "server", "server"]
    assert table["rounds_per_hour"][10] == pytest.approx(3600 / (0.05 + 1000 * 0.02))
    assert table["rounds_per_hour"][10_000] == table["rounds_per_hour"][100]
    assert table["workers_busy"][10] == pytest.approx(200 / 200.5)
