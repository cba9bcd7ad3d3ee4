"""One message for each client and round: what it evaluates before it trains is what it would have been asked for."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from flwr.app import Error, Message

from datasets.federation import Federation
from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.settings import Settings
from fedsim.core.errors import RoundFailed
from fedsim.engines.inline import InlineGrid
from fedsim.messages.schema import EVALUATE, EVALUATE_GLOBAL, TRAIN
from fedsim.output.progress import Reporter
from fedsim.output.results import Result
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from tests.methods import some_by_day

OPTIONS = {
    "apfl": ("fraction=0.5",),
    "central": (),
    "creff": ("strategy.match_steps=3", "strategy.retrain_epochs=2", "fraction=0.5"),
    "ditto": ("fraction=0.5",),
    "fedadagrad": ("tta=tent",),
    "fedadam": ("mask_absent_classes=true",),
    "fedavg": ("mask_absent_classes=true",),
    "fedavgm": ("tta=tent",),
    "fedbn": ("tta=tent", "split.validation=0.2", "metrics=[ece,balanced_accuracy]"),
    "feddst": ("strategy.interval=2", "norm.policy=fedbn"),
    "feddyn": ("fraction=0.5",),
    "fedetf": ("split=[longtail,domain]",),
    "fedloge": ("head.steps=20",),
    "fednova": ("mask_absent_classes=true",),
    "fedper": ("evaluate_every=2",),
    "fedprox": ("norm=gn",),
    "fedproto": ("fraction=0.5",),
    "fedrep": (),
    "fedrod": ("fraction=0.5", "mask_absent_classes=true"),
    "fedsam": ("norm.policy=silobn",),
    "fedtiny": ("strategy.candidates=2", "strategy.interval=1", "norm.policy=fedbn"),
    "fedwon": ("mask_absent_classes=true",),
    "fedyogi": ("norm.policy=fedbn",),
    "flower/FedYogi": ("norm.policy=fedbn",),
    "fraug": ("strategy.latent=8", "fraction=0.5"),
    "local": (),
    "lotteryfl": ("strategy.accuracy=0", "fraction=0.5"),
    "moon": ("fraction=0.5",),
    "pruned": ("strategy.criterion=snip", "norm.policy=silobn"),
    "prunefl": ("strategy.interval=1", "fraction=0.5", "mask_absent_classes=true"),
    "scaffold": ("norm.policy=fedbn", "fraction=0.5"),
}


class Folding(InlineGrid):
    """Counts the messages by round, as far as the run has come, and may ask for evaluations to be folded in."""

    def __init__(self, *args: object, folds: bool) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.folds = folds
        self.sent: list[tuple[str, int]] = []

    @property
    def folds_evaluation(self) -> bool:
        return self.folds

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        messages = list(messages)
        self.sent += [(each.metadata.message_type, each.metadata.dst_node_id) for each in messages]
        return super().send_and_receive(messages, timeout=timeout)


def played(settings: Settings, run_dir: Path, *, folds: bool) -> tuple[Result, Folding]:
    prepared = prepare(settings)
    factory = ClientAppFactory(settings, prepared.federation)
    grid = Folding(factory, len(prepared.federation.clients), prepared.devices, folds=folds)
    return run(prepared, run_dir, Reporter(), grid), grid


@pytest.mark.parametrize("strategy", some_by_day(OPTIONS))
def test_every_number_is_the_same(small_settings: Callable[..., Settings], tmp_path: Path, strategy: str) -> None:
    settings = small_settings(f"strategy={strategy}", "rounds=3", *OPTIONS[strategy])
    plain, _ = played(settings, tmp_path / "plain", folds=False)
    folded, grid = played(settings, tmp_path / "folded", folds=True)
    for file in ("clients.csv", "classes.csv", "model.safetensors"):
        assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "folded" / file).read_bytes(), file
    without_time = [each.rounds.drop(columns="seconds") for each in (plain, folded)]
    pd.testing.assert_frame_equal(*without_time)
    asked = Counter(client for type_, client in grid.sent if type_ in (TRAIN, EVALUATE))
    # The first and the last model are evaluated apart; with validation images on two parts. Clients that all use the
    # server's model need not be asked.
    apart = {**dict.fromkeys(("central", "fedetf", "fedprox"), 0), "fedbn": 4}.get(strategy, 2)
    if "fraction=0.5" not in OPTIONS[strategy]:
        assert set(asked.values()) == {3 + apart}
    assert EVALUATE_GLOBAL in {type_ for type_, _ in grid.sent}


@pytest.mark.nightly
@pytest.mark.parametrize("first", [True, False])
def test_clients_may_be_asked_for_different_parts(
    small_settings: Callable[..., Settings], tmp_path: Path, first: bool
) -> None:
    """One client, the first or a later one, has no validation images."""
    settings = small_settings("strategy=fedbn", "rounds=3", "split.validation=0.2")
    runs = {}
    for folds in (False, True):
        prepared = prepare(settings)
        partitions = list(prepared.federation.partitions)
        odd = 0 if first else 3
        partitions[odd] = replace(partitions[odd], validation=partitions[odd].validation[:0])
        prepared = replace(prepared, federation=Federation(prepared.federation.source, partitions))
        grid = Folding(ClientAppFactory(settings, prepared.federation), 6, prepared.devices, folds=folds)
        runs[folds] = run(prepared, tmp_path / str(folds), Reporter(), grid)
    assert (tmp_path / "True" / "clients.csv").read_bytes() == (tmp_path / "False" / "clients.csv").read_bytes()
    validated = runs[True].clients.query("split == 'validation'")
    assert validated.groupby("round").size().tolist() == [5, 5, 5, 5]


def test_the_round_before_one_that_fails_is_recorded(small_settings: Callable[..., Settings], tmp_path: Path) -> None:
    class Failing(Folding):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
            for reply in super().send_and_receive(messages, timeout=timeout):
                config = reply.content.config_records.get("config", {})
                if config.get("server-round") == 3 and reply.metadata.src_node_id == 4:
                    yield Message(Error(0, "gone"), reply_to=reply)
                else:
                    yield reply

    settings = small_settings("strategy=fedbn", "rounds=3")
    prepared = prepare(settings)
    grid = Failing(ClientAppFactory(settings, prepared.federation), 6, prepared.devices, folds=True)
    with pytest.raises(RoundFailed, match="failed in round 3: gone"):
        run(prepared, tmp_path / "run", Reporter(), grid)
    rounds, clients = (pd.read_csv(tmp_path / "run" / f"{name}.csv") for name in ("rounds", "clients"))
    assert rounds["round"].tolist() == [0, 1, 2]
    assert rounds["train_loss"].notna().tolist() == [False, True, True]
    assert rounds["client_accuracy_mean"].notna().tolist() == [True, True, False]  # not all have told
    assert clients.query("round == 2")["client"].tolist() == [0, 1, 2, 3]


def test_a_round_that_is_not_evaluated_asks_for_nothing(
    small_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = small_settings("strategy=fedbn", "rounds=3", "evaluate_every=3")
    result, grid = played(settings, tmp_path / "run", folds=True)
    assert result.rounds["client_accuracy_mean"].notna().tolist() == [True, False, False, True]
    assert Counter(type_ for type_, _ in grid.sent)[EVALUATE] == 12
