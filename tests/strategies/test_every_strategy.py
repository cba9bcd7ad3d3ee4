"""What holds of every method that ``configs/strategy/`` names, and of one of Flower's own, in a small federation."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from safetensors.torch import load_file

from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.settings import Settings
from fedsim.deployment.devices.state import StateDir
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import (
    CACHED,
    EVALUATE,
    EVALUATE_GLOBAL,
    QUERY,
    QUERY_METHOD,
    TRAIN,
    arrays_of,
    config_of,
    metrics_of,
)
from fedsim.methods.sparse.masks import entry
from fedsim.methods.state_split import frozen_entries
from fedsim.output.progress import Reporter
from fedsim.server.preparation import Prepared, prepare
from fedsim.server.simulation import run
from tests.conftest import small_settings
from tests.methods import METHODS, OPTIONS, some_by_day

MASKS = frozenset({f"{CACHED}masks"})
CACHED_RECORDS: Mapping[str, frozenset[str]] = {
    "creff": frozenset({f"{CACHED}entries"}),
    "fedloge": frozenset({f"{CACHED}entries"}),
    **dict.fromkeys(("feddst", "fedtiny", "lotteryfl", "pruned", "prunefl"), MASKS),
}
"""What a method sends once."""
ROUND_RECORDS: Mapping[str, frozenset[str]] = {
    "fraug": frozenset({"generator"}),
    "fedproto": frozenset({"prototypes"}),
    "fedtan": frozenset({"synchronized"}),
    "scaffold": frozenset({"control"}),
}
"""What it sends beside the model, for one round."""
EVALUATION_RECORDS: Mapping[str, frozenset[str]] = {"fedproto": frozenset({"prototypes"})}
"""What it sends with a client's model to be evaluated, beside what is cached."""
QUERY_RECORDS: Mapping[str, frozenset[str]] = {"bn_statistics": frozenset({"masks"})}
"""What a query brings beside the arrays."""
QUERIES: Mapping[str, frozenset[str]] = {
    "fedtiny": frozenset({"bn_statistics", "candidate_loss"}),
    "fedtan": frozenset({"statistics_parts"}),
    "hbn": frozenset({"statistics"}),
    "pruned": frozenset({"gradients"}),
}
REPLY_RECORDS: Mapping[str, frozenset[str]] = {
    "creff": frozenset({"class_gradients"}),
    "feddst": frozenset({"masks"}),
    "fedproto": frozenset({"prototypes"}),
    "fedtiny": frozenset({"gradients"}),
    "fraug": frozenset({"generator"}),
    "hbn": frozenset({"statistics"}),
    "lotteryfl": frozenset({"masks"}),
    "prunefl": frozenset({"squares"}),
    "scaffold": frozenset({"control"}),
}
"""What replies have beside the model, in some of the rounds."""
REPLY_METRICS: Mapping[str, frozenset[str]] = {"fednova": frozenset({"normalizer"})}
"""What their metrics have beside those of every method."""
WITHOUT_POLICY = ("fbn", "fedbn", "fedproto", "fedwon", "fraug", "hbn", "local")
NOTHING: frozenset[str] = frozenset()
FIXED: Mapping[str, set[str]] = {
    "creff": {"head.retrained.weight", "head.retrained.bias"},
    "fedloge": {"head.generic.weight", "head.generic.bias"},
}
"""What clients do not train and the server sends nevertheless."""


class Watched(InlineGrid):
    """Keeps the messages that it passes on, and their replies."""

    def __init__(self, prepared: Prepared) -> None:
        super().__init__(ClientAppFactory(prepared.settings, prepared.federation), 6, prepared.devices)
        self.seen: list[tuple[Message, Message]] = []
        self.kept: dict[int, tuple[object, RecordDict]] = {}
        """By client the round in which it trained last, and what it kept of it."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for message in messages:
            (reply,) = super().send_and_receive([message])
            self.seen.append((message, reply))
            if message.metadata.message_type == TRAIN:
                client = message.metadata.dst_node_id
                self.kept[client] = config_of(message)["server-round"], copy.deepcopy(self.client_states()[client])
            yield reply

    def of(self, type_: str) -> list[tuple[Message, Message]]:
        return [pair for pair in self.seen if pair[0].metadata.message_type == type_]


@dataclass
class Straight:
    """A run of three rounds that nothing disturbed."""

    method: str
    prepared: Prepared
    grid: Watched
    folder: Path


def settings_of(method: str, *words: str) -> Settings:
    small = ("rounds=3", "fraction=0.5", "engine=inline")
    return small_settings(*small, f"strategy={method}", *OPTIONS.get(method, ()), *words)


@pytest.fixture(scope="module", params=some_by_day(METHODS))
def straight(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Straight:
    prepared, folder = prepare(settings_of(request.param)), tmp_path_factory.mktemp("straight")
    grid = Watched(prepared)
    run(prepared, folder, Reporter(), grid)
    return Straight(request.param, prepared, grid, folder)


def assert_same_run(folder: Path, other: Path) -> None:
    models = [path.relative_to(folder) for path in folder.rglob("*.safetensors") if path.parent.name != "checkpoints"]
    assert models
    for name in (Path("clients.csv"), Path("classes.csv"), *models):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name
    rows = [pd.read_csv(each / "rounds.csv").drop(columns="seconds") for each in (folder, other)]
    pd.testing.assert_frame_equal(*rows)


def test_a_run_that_was_stopped_goes_on_bit_for_bit(straight: Straight, tmp_path: Path) -> None:
    class Stops(Reporter):
        def round_done(self, round: int, metrics: object) -> None:
            if round == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(prepare(settings_of(straight.method)), tmp_path, Stops())
    run(prepare(settings_of(straight.method, f"resume={tmp_path}")), tmp_path, Reporter())
    assert_same_run(straight.folder, tmp_path)


def test_processes_give_the_same_bits(straight: Straight, tmp_path: Path) -> None:
    run(prepare(settings_of(straight.method, "engine=process", "engine.workers=2")), tmp_path, Reporter())
    assert_same_run(straight.folder, tmp_path)


def records_of(content: RecordDict) -> set[str]:
    """The names of the records, each of which is of one of Flower's three types, whose values are plain."""
    for record in content.values():
        assert isinstance(record, ArrayRecord | ConfigRecord | MetricRecord)
    assert [name for name in content if isinstance(content[name], ConfigRecord)] in ([], ["config"])
    return set(content)


def test_messages_hold_what_is_declared_and_nothing_else(straight: Straight) -> None:
    method, trained = straight.method, straight.grid.of(TRAIN)
    assert len(trained) == 3 * (1 if method == "central" else 3)
    found = [records_of(message.content) - {"arrays", "config"} for message, _ in trained]
    cached, for_the_round = CACHED_RECORDS.get(method, NOTHING), ROUND_RECORDS.get(method, NOTHING)
    assert all(for_the_round <= each <= cached | for_the_round for each in found)
    assert set().union(*found) == cached | for_the_round
    evaluated = straight.grid.of(EVALUATE)
    with_models = cached | EVALUATION_RECORDS.get(method, NOTHING)
    assert all(records_of(message.content) - {"arrays", "config"} == with_models for message, _ in evaluated)
    on_domains = straight.grid.of(EVALUATE_GLOBAL)
    assert all(records_of(message.content) == {"arrays", "config"} for message, _ in on_domains)
    asked = straight.grid.of(QUERY_METHOD)
    assert {config_of(message)[QUERY] for message, _ in asked} == QUERIES.get(method, NOTHING)
    for message, _ in asked:
        brought = QUERY_RECORDS.get(str(config_of(message)[QUERY]), NOTHING)
        assert records_of(message.content) - {"arrays", "config"} == brought
    assert len(straight.grid.seen) == len([*trained, *evaluated, *on_domains, *asked])


def test_a_cached_record_is_sent_to_a_client_once_until_it_changes(straight: Straight) -> None:
    for name in CACHED_RECORDS.get(straight.method, NOTHING):
        held: dict[int, RecordDict] = {}
        for message, _ in straight.grid.of(TRAIN):
            if name in message.content:
                client = message.metadata.dst_node_id
                record = RecordDict({name: message.content[name]})
                assert client not in held or not same(held[client], record)
                held[client] = record
        assert held


def test_replies_hold_what_is_declared_and_nothing_else(straight: Straight) -> None:
    declared, metrics = REPLY_RECORDS.get(straight.method, NOTHING), REPLY_METRICS.get(straight.method, NOTHING)
    assert set(straight.prepared.strategy.reply_records) == declared | ({"metrics"} if metrics else NOTHING)
    found = [records_of(reply.content) - {"arrays", "metrics", "config"} for _, reply in straight.grid.of(TRAIN)]
    assert all(each <= declared for each in found)
    assert set().union(*found) == declared
    for message, reply in straight.grid.of(TRAIN):
        assert set(arrays_of(reply)) == set(arrays_of(message))
        assert {"num-examples", "loss", "accuracy"} | metrics == set(metrics_of(reply))
    for type_ in (EVALUATE, EVALUATE_GLOBAL):
        assert all(records_of(reply.content) == {"metrics"} for _, reply in straight.grid.of(type_))
    for _, reply in straight.grid.of(QUERY_METHOD):
        assert records_of(reply.content) <= {"metrics", "arrays"}
    assert set(straight.prepared.strategy.queries) >= QUERIES.get(straight.method, NOTHING)


@pytest.mark.parametrize(
    ("words", "query", "record"),
    [
        (("strategy=prunefl", "strategy.interval=1"), None, "squares"),
        (("strategy=pruned", "strategy.criterion=snip"), "gradients", "arrays"),
        (("strategy=fedtiny", "strategy.candidates=2", "strategy.blocks=3"), "bn_statistics", "arrays"),
    ],
    ids=["squares", "gradients", "statistics"],
)
@pytest.mark.parametrize("kept", [0, 1])
def test_a_reply_that_lacks_some_of_it_is_refused_and_the_run_goes_on(
    words: tuple[str, ...], query: str | None, record: str, kept: int, tmp_path: Path
) -> None:
    """The first client to answer, so that what the others send is compared with that."""

    class Lacking(Watched):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
            for message in messages:
                (reply,) = super().send_and_receive([message])
                asked = message.metadata.dst_node_id == 0 and config_of(message).get(QUERY) == query
                if asked and record in reply.content.array_records:
                    tensors = to_tensors(reply.content.array_records[record])
                    reply.content[record] = to_record(dict(list(tensors.items())[:kept]))
                yield reply

    prepared = prepare(small_settings("engine=inline", "rounds=1", "min_fraction_success=0.5", *words))
    result = run(prepared, tmp_path, Reporter(), Lacking(prepared))
    faults = result.clients[result.clients["fault"].notna()]
    assert set(faults["client"]) == {0}
    assert faults["fault"].str.contains("of other entries than it was asked for").all()


def entries_in(grid: Watched, types: Iterable[str] = (TRAIN, EVALUATE, QUERY_METHOD)) -> set[str]:
    """The names of all arrays in messages and replies, and what a layer's name stands for."""
    records = [
        record
        for type_ in types
        for pair in grid.of(type_)
        for each in pair
        for record in each.content.array_records.values()
    ]
    names = {name for record in records for name in record}
    layers = {name.removesuffix("/places").removesuffix("/values") for name in names}
    return names | {entry(layer) for layer in layers}


def test_no_personal_entry_travels(straight: Straight) -> None:
    """But for the global model, whose average of them is measured (and is no message of the method)."""
    strategy, model = straight.prepared.strategy, straight.prepared.model
    travelling = set(model.state_dict()) - strategy.personal - frozen_entries(model)
    for message, _ in [*straight.grid.of(TRAIN), *straight.grid.of(EVALUATE)]:
        assert set(arrays_of(message)) == travelling
    assert not entries_in(straight.grid) & strategy.personal
    expected = {"fdse", "fedbn", "fedper", "fedproto", "fedrep", "fedrod", "fedsr", "fedloge", "fraug", "local"}
    assert bool(strategy.personal) == (straight.method in expected)


@pytest.mark.parametrize("method", some_by_day(method for method in METHODS if method not in WITHOUT_POLICY))
@pytest.mark.parametrize("policy", ["fedbn", "silobn"])
def test_nothing_that_a_policy_keeps_on_the_clients_travels(method: str, policy: str, tmp_path: Path) -> None:
    """The others have no statistics, nothing to share, or refuse to leave statistics to clients."""
    prepared = prepare(settings_of(method, f"norm.policy={policy}", "rounds=1"))
    grid = Watched(prepared)
    run(prepared, tmp_path, Reporter(), grid)
    assert {"features.1.running_mean", "features.1.running_var"} <= prepared.strategy.personal
    assert not entries_in(grid) & prepared.strategy.personal


def same(one: RecordDict, other: RecordDict) -> bool:
    """Whether two contents are, bit for bit."""
    if set(one) != set(other):
        return False
    for name, record in one.items():
        its = other[name]
        if not isinstance(record, ArrayRecord) or not isinstance(its, ArrayRecord):
            if type(record) is not type(its) or dict(record) != dict(its):
                return False
            continue
        tensors, others = to_tensors(record), to_tensors(its)
        if tensors.keys() != others.keys() or any(
            tensor.dtype != others[key].dtype or not tensor.equal(others[key]) for key, tensor in tensors.items()
        ):
            return False
    return True


def test_what_a_client_keeps_waits_for_the_next_round_in_which_it_trains(straight: Straight) -> None:
    """Neither rounds without it nor evaluations change a bit of it."""
    states, kept = straight.grid.client_states(), straight.grid.kept
    waited = [client for client, (round, _) in kept.items() if round != 3]
    assert waited or straight.method == "central"
    for client, (_, state) in kept.items():
        assert same(states[client], state)
    assert all(not state for client, state in states.items() if client not in kept)


def test_a_device_takes_back_what_it_has_stored(straight: Straight, tmp_path: Path) -> None:
    for client, state in straight.grid.client_states().items():
        StateDir(tmp_path, 12, straight.method).save(client, state)
        assert same(StateDir(tmp_path, 12, straight.method).load(client), state)


def test_what_the_server_keeps_is_taken_back(straight: Straight) -> None:
    """Another strategy with that state goes on as this one does, also before the first round."""
    strategy, other = straight.prepared.strategy, prepare(settings_of(straight.method)).strategy
    begun = other.state()
    other.load_state(begun)
    assert same(other.state(), begun)
    kept = strategy.state()
    other.load_state(kept)
    assert same(other.state(), kept)
    arrays = to_record(load_file(straight.folder / "model.safetensors"))
    sent = []
    for each in (strategy, other):
        messages = list(each.configure_train(4, arrays, ConfigRecord(), straight.grid))
        evaluations = list(each.configure_evaluate(4, arrays, ConfigRecord(), straight.grid))
        sent.append([*messages, *evaluations])
    assert len(sent[0]) == len(sent[1]) == (1 if straight.method == "central" else 3) + 6
    for one, two in zip(*sent, strict=True):
        assert one.metadata.dst_node_id == two.metadata.dst_node_id
        assert same(one.content, two.content)


def test_flowers_own_loop_comes_to_the_same_model(straight: Straight) -> None:
    prepared = prepare(settings_of(straight.method))
    grid = InlineGrid(ClientAppFactory(prepared.settings, prepared.federation), 6, prepared.devices)
    initial = {name: tensor.clone() for name, tensor in prepared.model.state_dict().items()}
    assert hasattr(prepared.strategy, "start")
    result = prepared.strategy.start(grid, to_record(initial), num_rounds=3)
    model = load_file(straight.folder / "model.safetensors")
    fixed = FIXED.get(straight.method, set())
    assert set(result.arrays) == (set(initial) - prepared.strategy.personal - frozen_entries(prepared.model)) | fixed
    assert all(torch.equal(tensor, model[name]) for name, tensor in to_tensors(result.arrays).items())
    moved = [name for name, tensor in to_tensors(result.arrays).items() if not tensor.equal(initial[name])]
    assert bool(moved) == (straight.method not in ("fedproto", "local"))
    assert set(result.train_metrics_clientapp) == {1, 2, 3}
    assert all(0 < metrics["loss"] < float("inf") for metrics in result.train_metrics_clientapp.values())
    assert {"loss", "correct"} <= set(result.evaluate_metrics_clientapp[3])
