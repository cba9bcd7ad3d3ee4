"""What playing two rounds says about a method: against an ordinary run, and against the sizes of tensors."""

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from fedsim.config.settings import Settings
from fedsim.core.errors import RoundFailed
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from fedsim.server.traffic import modules_of, play

MakeSettings = Callable[..., Settings]


@pytest.mark.parametrize("words", [("strategy=scaffold",), ("strategy=pruned", "strategy.criterion=snip")])
def test_the_bytes_are_those_of_an_ordinary_run(
    small_settings: MakeSettings, tmp_path: Path, words: tuple[str, ...]
) -> None:
    settings = small_settings(*words, "engine=inline", "model=cnn_small")
    played = play(prepare(settings))
    rounds = run(prepare(settings), tmp_path / "run", Reporter()).rounds.set_index("round")
    for number, exchanged in ((1, played.first), (2, played.later)):
        assert 6 * exchanged.bytes_down == rounds.loc[number, "bytes_down"]
        assert 6 * exchanged.bytes_up == rounds.loc[number, "bytes_up"]


def test_where_one_client_trains_all_bytes_are_its_own(small_settings: MakeSettings) -> None:
    central, fedavg = (play(prepare(small_settings(f"strategy={name}"))) for name in ("central", "fedavg"))
    assert central.later.bytes_down == fedavg.later.bytes_down > 0
    assert central.later.bytes_up == fedavg.later.bytes_up > 0


def test_names_are_those_of_records_and_of_entries(small_settings: MakeSettings) -> None:
    scaffold = play(prepare(small_settings("strategy=scaffold")))
    assert scaffold.later.down == {"control"}
    assert scaffold.later.up == {"control", "num-examples (metrics)", "loss (metrics)", "accuracy (metrics)"}
    assert (scaffold.kept, scaffold.personal, scaffold.declared) == ({"control"}, (), {"control"})
    pruned = play(prepare(small_settings("strategy=pruned", "strategy.criterion=snip")))
    assert pruned.first.down == {"cached/masks"}
    assert pruned.first.queries == {"query.gradients"}
    assert (pruned.later.down, pruned.later.queries) == (frozenset(), frozenset())


def test_what_stays_are_modules_of_the_network(small_settings: MakeSettings) -> None:
    local = play(prepare(small_settings("strategy=local")))
    assert (local.model_travels, local.personal, local.later.bytes_up) == (False, ("whole model",), 0)
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    assert modules_of(network, ["3.bias", "1.running_mean"]) == ("BatchNorm2d", "Linear")
    assert modules_of(network, network.state_dict()) == ("whole model",)
    assert modules_of(network, []) == ()


def test_a_client_that_fails_ends_it(small_settings: MakeSettings) -> None:
    prepared = prepare(small_settings("strategy=scaffold"))
    prepared.strategy.reply_records = {}  # so that the reply is refused: it has a record that is not declared
    with pytest.raises(RoundFailed, match=r"client 0 failed: .*control"):
        play(prepared)
