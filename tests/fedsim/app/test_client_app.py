"""The door of a device: whom it answers, what it lets through, and what it keeps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fedsim.app.client_app import app
from fedsim.core.errors import UserError
from fedsim.deployment.partition_grid import PARTITION
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import (
    ARRAYS,
    CONFIG,
    DOMAIN,
    EVALUATE,
    EVALUATE_GLOBAL,
    KEEPS,
    METRICS,
    PART,
    QUERY_NODE,
    QUERY_STATE,
    ROUND,
    TRAIN,
    arrays_of,
)
from fedsim.methods.client_state import PERSONAL
from fedsim.methods.state_split import entries_of
from fedsim.server.preparation import prepare
from tests.conftest import SMALL, small_settings

WORDS = " ".join([*SMALL, "strategy=fedbn"])
OWN = "dataset=devices dataset.classes=2 dataset.image_size=8 split.num_clients=2 device=cpu strategy=fedbn"


@pytest.fixture(autouse=True)
def sender() -> None:
    InlineGrid(lambda device: None, 1, [torch.device("cpu")])  # type: ignore[arg-type,return-value]


def context_of(words: str = WORDS, **said: Any) -> Context:
    config = {"partition-id": 1, **{key.replace("_", "-"): value for key, value in said.items()}}
    return Context(run_id=12, node_id=5, node_config=config, state=RecordDict(), run_config={"overrides": words})


def shared() -> ArrayRecord:
    prepared = prepare(small_settings("strategy=fedbn"))
    personal = entries_of(prepared.model, (torch.nn.modules.batchnorm._BatchNorm,))
    state = prepared.model.state_dict()
    return to_record({name: tensor for name, tensor in state.items() if name not in personal})


def ask(context: Context, type_: str, *, keeps: bool = False, client: int = 1, **config: Any) -> Message:
    content = RecordDict(
        {ARRAYS: shared(), CONFIG: ConfigRecord({PARTITION: client, ROUND: 1, KEEPS: keeps, **config})}
    )
    return app(Message(content, 5, type_), context)


def train(context: Context, round: int = 1, *, keeps: bool = False) -> Message:
    return ask(context, TRAIN, keeps=keeps, **{ROUND: round})


def same(one: Message, other: Message) -> bool:
    first, second = (to_tensors(arrays_of(reply)) for reply in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def personal(context: Context) -> dict[str, torch.Tensor]:
    """What the client keeps, as it answers with share-personal."""
    reply = ask(context, QUERY_STATE)
    return to_tensors(reply.content.array_records[PERSONAL])


@pytest.mark.parametrize(
    ("type_", "config"), [(QUERY_STATE, {}), ("query.activations", {}), (EVALUATE_GLOBAL, {DOMAIN: "plain"})]
)
def test_a_device_does_not_answer_what_only_measuring_needs(type_: str, config: dict[str, str]) -> None:
    with pytest.raises(UserError, match=f"{type_} is not answered by a device without share-personal=true"):
        ask(context_of(), type_, **config)


def test_it_plays_its_own_client_alone() -> None:
    with pytest.raises(UserError, match="client 0 is not played by this node, whose partition-id is 1"):
        ask(context_of(), TRAIN, client=0)


def test_what_it_keeps_does_not_travel_and_is_there_the_next_time() -> None:
    context = context_of(share_personal=True)
    reply = train(context)
    kept = personal(context)
    assert not kept.keys() & to_tensors(arrays_of(reply)).keys()
    assert reply.content.config_records[CONFIG][KEEPS] is True
    train(context, 2, keeps=True)
    assert any(not torch.equal(tensor, kept[name]) for name, tensor in personal(context).items())


@pytest.mark.parametrize("disk", [False, True])
def test_a_training_whose_reply_was_lost_is_the_same_when_it_is_asked_again(tmp_path: Path, disk: bool) -> None:
    context = context_of(share_personal=True, **({"state_dir": str(tmp_path)} if disk else {}))
    train(context)
    first = train(context, 2, keeps=True)
    once = personal(context)
    again = train(context, 2, keeps=True)
    assert same(first, again)
    twice = personal(context)
    assert all(torch.equal(tensor, once[name]) for name, tensor in twice.items())


def test_a_new_process_goes_on_with_what_is_on_the_disk(tmp_path: Path) -> None:
    one, uninterrupted = context_of(state_dir=str(tmp_path)), context_of()
    train(one)
    assert not one.state  # it lies on the disk alone
    killed = context_of(state_dir=str(tmp_path))
    for context in (killed, uninterrupted):
        if context is uninterrupted:
            train(context)
        last = train(context, 2, keeps=True)
        context.state["last"] = last.content.array_records[ARRAYS]
    first, second = (to_tensors(each.state.array_records["last"]) for each in (killed, uninterrupted))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_client_that_has_lost_its_state_says_so_unless_it_may_begin_anew(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="client 1 has lost what it kept of this run"):
        train(context_of(), 2, keeps=True)
    assert train(context_of(state_afresh=True), 2, keeps=True).has_content()
    train(context_of(state_dir=str(tmp_path)))
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(b"damaged")
    with pytest.raises(UserError, match="client 1 cannot use the file of what it kept") as caught:
        train(context_of(state_dir=str(tmp_path)), 2, keeps=True)
    assert str(tmp_path) not in str(caught.value)
    assert train(context_of(state_dir=str(tmp_path), state_afresh=True), 2, keeps=True).has_content()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("train", "test"):
        for name in ("0", "1"):
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "patient_4711.png").write_bytes(b"no image")
    return tmp_path


@pytest.mark.parametrize("type_", [QUERY_NODE, EVALUATE, TRAIN])
def test_no_name_of_a_file_reaches_the_server(folder: Path, type_: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError) as caught:
        ask(context_of(OWN, data_dir=str(folder)), type_, **{PART: "TEST"})
    assert str(caught.value) == f"{type_} failed (UserError): the device's own log says why."
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "patient_4711.png cannot be read" in caplog.text


def test_the_server_learns_how_many_images_a_device_has_and_no_label(tmp_path: Path) -> None:
    images = np.zeros((5, 8, 8, 3), np.uint8)
    labels = np.array([1, 1, 1, 0, 1])
    np.savez(
        tmp_path / "data.npz",
        train_images=images,
        train_labels=labels,
        test_images=images[:2],
        test_labels=labels[:2],
    )
    reply = ask(context_of(OWN, data_dir=str(tmp_path), domain="b"), QUERY_NODE)
    told = dict(reply.content.config_records[CONFIG])
    assert told == {
        "partition": 1,
        "num_partitions": 0,
        "simulated": False,
        "shares_personal": False,
        "domain": "b",
        "images": [5, 0, 2],
    }
    assert METRICS not in reply.content


def test_a_misspelt_key_is_told(small_settings: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="node-config statedir=/s is not known"):
        ask(context_of(statedir="/s"), QUERY_NODE)


def test_a_run_that_would_be_resumed_is_not_answered(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match=r"^train failed \(UserError\): the device's own log says why\.$"):
        train(context_of("resume=outputs/run"))
    assert "resume=outputs/run is not possible with flwr run" in caplog.text
