"""The prediction of `python benchmarks/scale.py`, on rounds whose costs are known."""

import pytest

from benchmarks.scale import Costs, Measured, errors, fit, grouped_share, predictions

KNOWN = Costs(client=0.02, server=0.001, grouped=0.0002, fixed=0.05)


def rows_of(cores: int) -> list[Measured]:
    return [
        Measured(100, workers, KNOWN.seconds(100, workers, cores), KNOWN.serving(100, workers), 100 * KNOWN.client)
        for workers in (1, 2, 4)
    ]


def test_a_round_by_hand() -> None:
    assert KNOWN.seconds(100, 3) == pytest.approx(0.05 + 34 * 0.02)
    assert KNOWN.seconds(100, 1000) == pytest.approx(0.05 + 100 * 0.001)
    assert KNOWN.seconds(100, 50, cores=2) == pytest.approx(0.05 + 100 * 0.021 / 2)
    assert KNOWN.most_workers == pytest.approx(100)


def test_the_share_of_groups_by_hand() -> None:
    """Of 100 clients and two workers, groups of four until fewer than 16 are left; clients of 51 ms come alone."""
    assert grouped_share(100, 2, 0.02) == pytest.approx(0.84)
    assert grouped_share(100, 50, 0.02) == 0
    assert grouped_share(100, 2, 0.051) == 0
    assert KNOWN.serving(100, 2) == pytest.approx(84 * 0.0002 + 16 * 0.001)
    assert Costs(client=0.06, server=0.001, grouped=0.0002).most_workers == pytest.approx(60)


def test_the_fit_finds_what_made_the_rows_and_then_predicts_without_error() -> None:
    found = fit(rows_of(2), 2)
    assert (found.client, found.server, found.grouped, found.fixed) == pytest.approx((0.02, 0.001, 0.0002, 0.05))
    assert errors(rows_of(2), 2)["error"].abs().max() < 1e-12


def test_a_number_of_workers_that_does_not_fit_has_an_error() -> None:
    slow = [row._replace(seconds=2 * row.seconds) if row.workers == 4 else row for row in rows_of(2)]
    table = errors(slow, 2).set_index("workers")
    assert table["error"][4] == pytest.approx(-0.5)


def test_noise_gives_no_negative_costs() -> None:
    for served in ((0.018, 0.03, 0.06, 0.2), (0.05, 0.045, 0.03, 0.01)):
        rows = [Measured(100, w, 1.0, each, 2.0) for w, each in zip((1, 2, 4, 12), served, strict=True)]
        found = fit(rows, 2)
        assert min(found.server, found.grouped) >= 0
        assert found.most_workers > 0
        assert len(errors(rows, 2)) == 4


def test_the_bottleneck_is_named() -> None:
    table = predictions(KNOWN, [10_000]).set_index("workers")
    assert table["bound_by"].tolist() == ["workers", "server", "server", "server"]
    assert table["rounds_per_hour"][10] == pytest.approx(3600 / (0.05 + 1000 * 0.02))
    assert table["rounds_per_hour"][100] == pytest.approx(3600 / (0.05 + 9200 * 0.0002 + 800 * 0.001))
    assert table["rounds_per_hour"][10_000] == pytest.approx(3600 / (0.05 + 10_000 * 0.001))
    assert table["workers_busy"][10] == pytest.approx(200 / 200.5)
