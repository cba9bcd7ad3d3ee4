"""What the simulator does for each client beside its training, in calls of functions, which no busy machine changes."""

from cProfile import Profile
from pathlib import Path

from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from tests.conftest import small_settings

CLIENTS = 30
TOY = (
    *("engine=inline", "split=iid", f"split.num_clients={CLIENTS}", "checkpoint_every=0", "evaluate_every=10"),
    *("model._target_=benchmarks.contestants.networks.OneLayer", "batch_size=40", "lr=0.01"),
)
"""Clients that make one step each with a network of one layer."""
MOST = 2700
"""A third more than the 2078 that it was when this was written, about 2 ms, the step among them."""


def calls(rounds: int, folder: Path) -> int:
    prepared = prepare(small_settings(*TOY, f"rounds={rounds}"))
    profile = Profile()
    profile.runcall(run, prepared, folder, Reporter())
    return sum(entry.callcount for entry in profile.getstats())


def test_a_client_takes_few_calls(tmp_path: Path) -> None:
    calls(2, tmp_path / "warm")  # what is imported, and computed once
    few, more = calls(2, tmp_path / "few"), calls(4, tmp_path / "more")
    assert (more - few) / (2 * CLIENTS) <= MOST
