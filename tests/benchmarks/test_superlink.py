"""Light SuperNodes beside a real SuperLink; ``python benchmarks/superlink.py`` has a hundred of them."""

import pytest

from benchmarks.superlink import measured


@pytest.mark.devices
def test_light_nodes_play_a_run() -> None:
    row = measured(3, 3, ["dataset.train_per_domain=20", "dataset.test_per_domain=10"])
    assert row["nodes"] == 3
    # A node asks for messages every three seconds, and waits for nothing else.
    assert 0 < row["seconds_of_a_round"] < row["seconds_of_the_run"]
    assert 0 < row["superlink_cpu_seconds"] <= row["all_cpu_seconds"]
    assert row["peak_mb"] > 100


@pytest.mark.devices
def test_a_run_that_fails_is_told() -> None:
    with pytest.raises(SystemExit, match=r"the run has failed:\n[\s\S]*error: rounds=0 is not possible"):
        measured(1, 1, ["rounds=0"])
