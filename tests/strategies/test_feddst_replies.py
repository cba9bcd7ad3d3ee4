"""FedDST's replies: those that the server must not see, and the form in which the others travel."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from safetensors.torch import load_file

from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.compression import RESIDUAL
from fedsim.messages.schema import ARRAYS, CONFIG, METRICS, MOVED_ENTRIES, ROUND, TRAIN, arrays_of, config_of
from fedsim.methods.reply_checks import ReplyChecks
from fedsim.methods.sparse.records import MASKS, REPLACE, check_masks
from fedsim.server.preparation import prepare
from tests.conftest import small_settings
from tests.strategies.feddst_runs import EVERY, SMALL, MakeSettings, Watched, watched


def nonsense(reply: Message, **codes: torch.Tensor | None) -> None:
    """Other masks, of a name with underscores for its dots; without those that are None."""
    told = to_tensors(reply.content.array_records[MASKS])
    changed = {**told, **{name.replace("_", "."): code for name, code in codes.items()}}
    reply.content[MASKS] = to_record({name: code for name, code in changed.items() if code is not None})


def told(reply: Message, layer: str) -> torch.Tensor:
    return to_tensors(reply.content.array_records[MASKS])[layer].clone()


def with_a_place(reply: Message, place: int) -> None:
    code = told(reply, "head")
    assert code.dtype == torch.int32
    code[0] = place
    nonsense(reply, head=code)


def a_billion(reply: Message) -> None:
    tensors = to_tensors(arrays_of(reply))
    tensors["head.weight"] = tensors["head.weight"].clone()
    tensors["head.weight"][0] = 1e9
    reply.content[ARRAYS] = to_record(tensors)


HARMS: dict[str, tuple[Callable[[Message], None], str]] = {
    "none": (lambda reply: reply.content.pop(MASKS), "it sent the masks of other layers than it was asked for"),
    "a layer less": (lambda reply: nonsense(reply, head=None), "it sent the masks of other layers than it was asked"),
    "a layer more": (
        lambda reply: nonsense(reply, features_0=told(reply, "head")),
        "masks of other layers than it was",
    ),
    "one weight less": (lambda reply: nonsense(reply, head=told(reply, "head")[1:]), "its mask of head keeps "),
    "one twice": (lambda reply: with_a_place(reply, int(told(reply, "head")[1])), "its mask of head keeps "),
    "a place too far": (lambda reply: with_a_place(reply, 10**6), "this is no mask of head, which has 2560 weights"),
    "before the first": (lambda reply: with_a_place(reply, -1), "this is no mask of head, which has 2560 weights"),
    "numbers": (lambda reply: nonsense(reply, head=told(reply, "head").float()), "this is no mask of head"),
    "of two dimensions": (lambda reply: nonsense(reply, head=told(reply, "head")[None]), "this is no mask of head"),
    "too many bits": (
        lambda reply: nonsense(reply, head=torch.full((999,), 255, dtype=torch.uint8)),
        "this is no mask",
    ),
    "all of them": (lambda reply: nonsense(reply, head=torch.full((320,), 255, dtype=torch.uint8)), "head keeps 2560"),
    "a billion": (a_billion, "it moved a number in head.weight by 1e+09, where update_limit=1000 allows 1"),
}
FEW = (*SMALL, *EVERY, "strategy.density=0.02", "rounds=1", "min_fraction_success=0.5")
"""So few weights that masks travel as places"""


@pytest.fixture(scope="module")
def without_client_2(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The model of a run in which its reply was lost."""
    folder = tmp_path_factory.mktemp("without")

    def lose(reply: Message) -> None:
        reply.content[ARRAYS] = ArrayRecord()  # refused whatever else there is

    watched(small_settings(*FEW), folder, lose)
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("harm", HARMS)
def test_nonsense_is_named_and_never_averaged(without_client_2: bytes, tmp_path: Path, harm: str) -> None:
    change, words = HARMS[harm]
    result, _ = watched(small_settings(*FEW), tmp_path / "run", change)
    faults = result.clients[result.clients["fault"].notna()]
    assert faults["client"].tolist() == [2]
    assert words in faults["fault"].item()

    assert (tmp_path / "run" / "model.safetensors").read_bytes() == without_client_2


def test_masks_that_nobody_asked_for_are_refused(small_settings: MakeSettings, tmp_path: Path) -> None:
    def add(reply: Message) -> None:
        reply.content[MASKS] = to_record({"head": torch.zeros(1, dtype=torch.int32)})

    settings = small_settings(*SMALL, "rounds=1", "min_fraction_success=0.5")
    result, _ = watched(settings, tmp_path / "run", add)
    assert result.clients["fault"].dropna().tolist() == ["it sent the masks of other layers than it was asked for"]


def test_the_limit_holds_wherever_a_number_came_from(small_settings: MakeSettings) -> None:
    """Sent are -2 and 3, of which nobody knows the places; a tenth of the largest is allowed."""
    prepared = prepare(small_settings(*SMALL))
    Watched(prepared)  # sets the sender
    checks = ReplyChecks(
        prepared.federation, {"head.weight": torch.zeros(2, 2)}, update_limit=0.1, reply_records={MASKS: check_masks}
    )
    config = ConfigRecord({ROUND: 1, f"{REPLACE}head": 1, MOVED_ENTRIES: ["head.weight"]})
    sent = to_record({"head.weight": torch.tensor([-2.0, 3.0])})
    message = Message(RecordDict({CONFIG: config, ARRAYS: sent}), 0, TRAIN)

    def fault(*weights: float) -> str | None:
        content = RecordDict(
            {
                METRICS: MetricRecord({"num-examples": 40, "loss": 0.5}),
                CONFIG: ConfigRecord({ROUND: 1}),
                ARRAYS: to_record({"head.weight": torch.tensor(weights)}),
                MASKS: to_record({"head": torch.tensor([0b01100000], dtype=torch.uint8)}),
            }
        )
        checked = checks.checked(message, Message(content, reply_to=message))
        return None if checked.has_content() else checked.error.reason

    assert fault(3.2, 0.0) is None  # the one that is left has moved by 0.2
    assert fault(0.1, -3.25) is None  # it may have come from anywhere
    assert "moved a number in head.weight by 0.5, where update_limit=0.1 allows 0.3" in str(fault(0.0, 3.5))
    assert "not finite" in str(fault(0.0, float("nan")))


@pytest.mark.parametrize("form", ["fp16", "int8"])
def test_where_weights_are_replaced_they_travel_as_they_are(
    small_settings: MakeSettings, tmp_path: Path, form: str
) -> None:
    words = (*SMALL, *EVERY, "rounds=1")
    plain, _ = watched(small_settings(*words), tmp_path / "plain")
    packed, grid = watched(small_settings(*words, f"compression={form}"), tmp_path / form)
    models = [load_file(tmp_path / name / "model.safetensors") for name in ("plain", form)]
    layers = [name.removeprefix(REPLACE) for name in config_of(grid.trained()[0][0]) if name.startswith(REPLACE)]
    assert len(layers) == 3
    for layer in layers:
        assert torch.equal(*(model[f"{layer}.weight"] for model in models))
    assert not torch.equal(*(model["features.0.weight"] for model in models))
    assert packed.summary["bytes_up"] < plain.summary["bytes_up"]
    states = grid.client_states()
    if form == "int8":  # an error that is still to be sent would be of other places
        assert not any(f"{layer}.weight" in state[RESIDUAL] for state in states.values() for layer in layers)


@pytest.mark.nightly
@pytest.mark.parametrize("form", ["fp16", "int8"])
def test_compression_goes_on_after_an_adjustment(small_settings: MakeSettings, tmp_path: Path, form: str) -> None:
    words = (*SMALL, "strategy.interval=2", "strategy.stop_round=4", "rounds=4")
    watched(small_settings(*words), tmp_path / "plain")
    _, grid = watched(small_settings(*words, f"compression={form}"), tmp_path / form)
    narrow = {"fp16": "float16", "int8": "int8"}[form]
    assert grid.forms[::6] == [narrow, "float32", narrow, narrow]  # in the second round weights are replaced
    models = [load_file(tmp_path / name / "model.safetensors") for name in ("plain", form)]
    first, second = (model["features.0.weight"] for model in models)
    assert 0 < (first - second).norm() / first.norm() < 0.05


def test_a_diagnosis_leaves_out_updates_that_are_not_alike(small_settings: MakeSettings, tmp_path: Path) -> None:
    settings = small_settings(
        *SMALL, "strategy.interval=2", "strategy.stop_round=4", "rounds=3", "diagnostics=true", "diagnostics_every=1"
    )
    result, _ = watched(settings, tmp_path / "run")
    assert result.diagnostics is not None
    told = result.diagnostics.groupby("round")["metric"].agg(set)
    assert {round for round in told.index if "update_cosine" in told[round]} == {1, 3}
    assert 2 in told.index
