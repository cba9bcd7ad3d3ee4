"""FedLoGe's state split: the personal classifier stays, the fixed one travels once, the rest is averaged."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from flwr.app import ConfigRecord, Error, Message
from safetensors.torch import load_file
from torch import nn

from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import CACHED, ENTRIES, arrays_of
from fedsim.methods.client_state import PERSONAL
from fedsim.methods.training import ServerTraining
from fedsim.models import build_model
from fedsim.output.progress import Reporter
from fedsim.server.preparation import Prepared, prepare
from fedsim.server.simulation import run
from strategies import FedLoGe
from tests.conftest import IMAGE_SHAPE

SMALL = ("strategy=fedloge", "head.steps=20", "engine=inline")
PERSONAL_HEAD = {"head.personal.weight", "head.personal.bias"}
FIXED_RECORD = f"{CACHED}{ENTRIES}"
FIXED = {"head.generic.weight", "head.generic.bias"}


@pytest.fixture
def prepared(small_settings: Callable[..., Settings]) -> Prepared:
    return prepare(small_settings(*SMALL, "fraction=0.5"))


@pytest.fixture
def grid(prepared: Prepared) -> InlineGrid:
    return InlineGrid(ClientAppFactory(prepared.settings, prepared.federation), 6, [torch.device("cpu")])


def arrays_in(prepared: Prepared) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in prepared.model.state_dict().items()}


def asked(prepared: Prepared, grid: InlineGrid, round: int, arrays: dict[str, torch.Tensor]) -> list[Message]:
    return list(prepared.strategy.configure_train(round, to_record(arrays), ConfigRecord(), grid))


def test_the_personal_classifier_is_in_no_message_and_the_fixed_one_in_each_clients_first(
    prepared: Prepared, grid: InlineGrid
) -> None:
    arrays = arrays_in(prepared)
    shared = set(arrays) - PERSONAL_HEAD - FIXED
    assert {"head.auxiliary.weight", "features.0.weight", "features.1.running_mean"} <= shared
    already: set[int] = set()
    for round in range(1, 5):
        messages = asked(prepared, grid, round, arrays)
        replies = list(grid.send_and_receive(messages))
        for message, reply in zip(messages, replies, strict=True):
            client = message.metadata.dst_node_id
            given = message.content.array_records.get(FIXED_RECORD, {})
            assert set(given) == (set() if client in already else FIXED)
            assert set(arrays_of(message)) == set(arrays_of(reply)) == shared
            assert list(reply.content.array_records) == ["arrays"]
        already |= {message.metadata.dst_node_id for message in messages}
        average, _ = prepared.strategy.aggregate_train(round, replies)
        assert average is not None
        arrays = {**arrays, **to_tensors(average)}
    assert len(already) > 3
    frame = prepared.model.state_dict()["head.generic.weight"]
    for client, state in grid.client_states().items():
        if client in already:
            assert torch.equal(to_tensors(state[FIXED_RECORD])["head.generic.weight"], frame)  # type: ignore[arg-type]
            assert set(state[PERSONAL]) == PERSONAL_HEAD
        else:
            assert not state


def test_a_client_that_failed_is_given_it_again(prepared: Prepared, grid: InlineGrid) -> None:
    messages = asked(prepared, grid, 1, arrays_in(prepared))
    replies = list(grid.send_and_receive(messages))
    failed = messages[0].metadata.dst_node_id
    replies[0] = Message(Error(0, "gone"), reply_to=messages[0])
    prepared.strategy.aggregate_train(1, replies)
    again = asked(prepared, grid, 1, arrays_in(prepared))
    given = {message.metadata.dst_node_id: FIXED_RECORD in message.content.array_records for message in again}
    assert given == {client: client == failed for client in given}


def test_who_was_given_it_is_restored(prepared: Prepared, grid: InlineGrid) -> None:
    strategy = prepared.strategy
    assert isinstance(strategy, FedLoGe)
    replies = list(grid.send_and_receive(asked(prepared, grid, 1, arrays_in(prepared))))
    strategy.aggregate_train(1, replies)
    other = FedLoGe(prepared.model, ServerTraining(fraction=0.5))
    other.load_state(strategy.state())
    assert (
        other.fixed_classifier.holders
        == strategy.fixed_classifier.holders
        == {reply.metadata.src_node_id for reply in replies}
    )
    fresh = FedLoGe(prepared.model)
    fresh.load_state(fresh.state())
    assert fresh.fixed_classifier.holders == set()


def test_the_rest_is_averaged_by_examples(prepared: Prepared, grid: InlineGrid) -> None:
    messages = asked(prepared, grid, 1, arrays_in(prepared))
    replies = list(grid.send_and_receive(messages))
    average, _ = prepared.strategy.aggregate_train(1, replies)
    assert average is not None
    sizes = [len(prepared.federation.partitions[reply.metadata.src_node_id].train) for reply in replies]
    for name in ("head.auxiliary.weight", "features.4.weight", "features.5.running_var"):
        trained = [to_tensors(arrays_of(reply))[name].double() for reply in replies]
        mean = sum(size * tensor for size, tensor in zip(sizes, trained, strict=True)) / sum(sizes)
        torch.testing.assert_close(to_tensors(average)[name], mean.float())


def test_the_server_makes_the_fixed_classifier_from_the_seed(small_settings: Callable[..., Settings]) -> None:
    def frame(seed: int) -> torch.Tensor:
        settings = small_settings(*SMALL, f"seed={seed}")
        model = build_model(settings, 10, IMAGE_SHAPE)
        assert model.state_dict()["head.generic.weight"].isnan().all()  # what a client begins with
        FedLoGe(model, ServerTraining(seed=seed))
        return model.state_dict()["head.generic.weight"]

    assert torch.equal(frame(3), frame(3))
    assert not torch.equal(frame(3), frame(4))


def test_a_personal_classifier_waits_bit_for_bit(small_settings: Callable[..., Settings], tmp_path: Path) -> None:
    words = (*SMALL, "rounds=4", "fraction=0.34", "split=[longtail,domain]")
    run(prepare(small_settings(*words)), tmp_path, Reporter())
    initial = build_model(small_settings(*words), 10, IMAGE_SHAPE).state_dict()
    ages = pd.read_csv(tmp_path / "rounds.csv")["personal_age_max"]
    assert ages.iloc[-1] == 4, "every client was drawn, so the test says nothing: choose another seed or fraction"
    kept = [load_file(tmp_path / f"clients/{client}.safetensors")["head.personal.weight"] for client in range(6)]
    untouched = [torch.equal(weight, initial["head.personal.weight"]) for weight in kept]
    assert any(untouched)
    assert not all(untouched)


@pytest.mark.nightly
@pytest.mark.parametrize("norm", ["bn", "gn", "sws", "none"])
def test_it_goes_with_norms_and_a_long_tail(small_settings: Callable[..., Settings], tmp_path: Path, norm: str) -> None:
    words = (
        *SMALL,
        f"norm={norm}",
        "split=[longtail,domain]",
        "split.test=matched",
        "mask_absent_classes=true",
        "pictures=true",
    )
    result = run(prepare(small_settings(*words)), tmp_path, Reporter())
    final = result.summary["final"]
    for name in (
        *("client_accuracy_mean", "realigned_client_accuracy_mean", "masked_client_accuracy_mean"),
        *("realigned_masked_client_accuracy_mean", "realigned_global_accuracy", "auxiliary_global_accuracy"),
        *("many", "medium", "few", "realigned_many", "auxiliary_few"),
    ):
        assert 0 <= final[name] <= 1
    assert (tmp_path / "plots" / "classes.png").stat().st_size > 10_000


@pytest.mark.nightly
@pytest.mark.parametrize(
    "words",
    [
        ("norm.policy=silobn",),
        ("norm.policy=fedbn",),
        ("tta=bn_batch",),
        ("tta=tent", "tta.batch_size=8"),
        ("diagnostics=true",),
    ],
    ids=" ".join,
)
def test_it_goes_with_policies_adaptation_and_diagnostics(
    small_settings: Callable[..., Settings], tmp_path: Path, words: tuple[str, ...]
) -> None:
    final = run(prepare(small_settings(*SMALL, "rounds=1", *words)), tmp_path, Reporter()).summary["final"]
    if words[0].startswith("tta"):
        assert 0 <= final["adapted_realigned_client_accuracy_mean"] <= 1
        assert 0 <= final["adapted_auxiliary_global_accuracy"] <= 1
    assert torch.isfinite(torch.tensor(final["global_loss"]))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("strategy=fedloge", "head=linear"),
            r"^strategy=fedloge needs a network that ends in its three classifiers",
        ),
        (
            ("strategy=fedloge", "train_only=norm"),
            r"^strategy=fedloge trains the network and two classifiers",
        ),
        (("strategy=fedloge", "head.sparsity=1"), r"^head\.sparsity=1 is not possible"),
        (("strategy=fedloge", "head.steps=0.5"), r"^head\.steps=0\.5 is not possible: choose a whole number\.$"),
        (("strategy=fedloge", "strategy.length=0"), r"^strategy\.length=0 is not possible"),
    ],
)
def test_what_cannot_work_is_refused(
    small_settings: Callable[..., Settings], words: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        prepare(small_settings(*words))


def test_a_model_without_the_three_classifiers_is_refused() -> None:
    with pytest.raises(UserError, match="needs a network that ends in its three classifiers"):
        FedLoGe(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
