"""A checkpoint gives back exactly what it was given, and only a complete one is ever read."""

import json
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from safetensors import safe_open
from safetensors.torch import save_file

from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.compression import RESIDUAL
from fedsim.messages.schema import CACHED, ENTRIES
from fedsim.methods.cached_broadcast import CachedBroadcast
from fedsim.methods.client_state import PERSONAL, TRAINED, ClientState
from fedsim.methods.sparse.records import MASKS, SQUARES
from fedsim.output.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

ARRAYS = {
    "conv.weight": torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(0)),
    "bn.num_batches_tracked": torch.tensor(2**40 + 1),
    "half": torch.tensor([1.5, -0.0], dtype=torch.float16),
    "double": torch.tensor([1 / 3], dtype=torch.float64),
    "mask": torch.tensor([True, False]),
    "transposed": torch.arange(6.0).reshape(2, 3).t(),
    "empty": torch.zeros(0, 4),
    "odd|name/é": torch.ones(1),
}
METRICS = {"count": 3, "large": 2**62, "loss": 0.1, "tiny": 5e-324, "infinite": float("inf"), "list": [1.5, 2.0, -0.25]}
SCALARS = {"text": "größer", "raw": b"\x00\xff{}", "yes": True, "no": False, "one": 1, "half": 0.5}
CONFIG = {**SCALARS, "texts": ["a", "b"], "flags": [True, False], "numbers": [1, 2]}


def checkpoint(round: int = 3) -> Checkpoint:
    client = RecordDict({PERSONAL: to_record({"weight": torch.full((2,), 7.0)}), "method/empty": ArrayRecord()})
    server = RecordDict({"momentum": to_record({"conv.weight": torch.ones(2)}), "config": ConfigRecord(CONFIG)})
    clients = {0: client, 1: RecordDict(), 2: RecordDict({"method/counts": MetricRecord(METRICS)})}
    return Checkpoint(round, to_record(ARRAYS), server, clients)


def loaded(folder: Path) -> Checkpoint:
    found = load_checkpoint(folder)
    assert found is not None
    return found


def types_of(record: MetricRecord | ConfigRecord) -> list[type]:
    values = [value if isinstance(value, list) else [value] for value in record.values()]
    return [type(each) for value in values for each in value]


def test_arrays_come_back_with_every_bit_and_type(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint())
    back = to_tensors(loaded(tmp_path).arrays)
    assert list(back) == list(ARRAYS)  # also their order, in which noise is drawn
    for name, tensor in ARRAYS.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].shape == tensor.shape
        assert back[name].numpy().tobytes() == tensor.numpy().tobytes()


def test_records_come_back_with_their_types(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint())
    found = loaded(tmp_path)
    assert found.round == 3
    config, metrics = found.strategy["config"], found.clients[2]["method/counts"]
    assert isinstance(config, ConfigRecord)
    assert isinstance(metrics, MetricRecord)
    assert dict(config) == CONFIG
    assert dict(metrics) == METRICS
    assert types_of(config) == types_of(ConfigRecord(CONFIG))  # True == 1 == 1.0
    assert types_of(metrics) == types_of(MetricRecord(METRICS))


def test_states_come_back_to_whom_they_belong(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint())
    found = loaded(tmp_path)
    assert list(found.clients) == [0, 1, 2]
    assert list(found.clients[0]) == [PERSONAL, "method/empty"]
    assert to_tensors(found.clients[0][PERSONAL])["weight"].tolist() == [7, 7]
    assert isinstance(found.clients[0]["method/empty"], ArrayRecord)
    assert len(found.clients[0]["method/empty"]) == 0
    assert len(found.clients[1]) == 0
    assert list(found.strategy) == ["momentum", "config"]
    assert to_tensors(found.strategy["momentum"])["conv.weight"].tolist() == [1, 1]


def test_a_strategy_without_a_state_has_none_afterwards(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Checkpoint(0, ArrayRecord(), RecordDict(), {}))
    found = loaded(tmp_path)
    assert (found.round, len(found.arrays), len(found.strategy), found.clients) == (0, 0, 0, {})


def test_a_loaded_checkpoint_can_be_trained_on_without_changing_the_file(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint())
    to_tensors(loaded(tmp_path).arrays)["conv.weight"].zero_()
    assert torch.equal(to_tensors(loaded(tmp_path).arrays)["conv.weight"], ARRAYS["conv.weight"])


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    folder = tmp_path / "checkpoints"
    for last in range(8, 12):
        save_checkpoint(folder, checkpoint(last), keep)
        assert rounds_in(folder) == list(range(8, last + 1))[-keep:]
    assert loaded(folder).round == 11


def rounds_in(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("round_")) for path in folder.iterdir())


def flip_a_bit(path: Path) -> None:
    """Of the largest numbers, without making the file any shorter."""
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def test_a_changed_bit_is_noticed_and_the_checkpoint_before_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for round in (8, 9, 10):
        save_checkpoint(tmp_path, checkpoint(round), keep=3)
    newest = tmp_path / "round_00010.safetensors"
    flip_a_bit(newest)
    assert loaded(tmp_path).round == 9
    assert caplog.messages == [
        f"{newest} cannot be read (its checksum is that of another content). The run goes on from the checkpoint of "
        "round 9."
    ]
    flip_a_bit(tmp_path / "round_00009.safetensors")
    assert loaded(tmp_path).round == 8
    flip_a_bit(tmp_path / "round_00008.safetensors")
    with pytest.raises(UserError, match=rf"^{newest} cannot be read \(its checksum .*remove {tmp_path} to begin"):
        load_checkpoint(tmp_path)


def test_what_is_written_after_a_damaged_one_takes_its_place(tmp_path: Path) -> None:
    """Else the damaged one, which has the larger number, would be asked first for ever."""
    for round in (8, 9, 10):
        save_checkpoint(tmp_path, checkpoint(round), keep=2)
    flip_a_bit(tmp_path / "round_00010.safetensors")
    save_checkpoint(tmp_path, checkpoint(9), keep=2)  # by the clock, a round earlier than before
    assert rounds_in(tmp_path) == [9]


def test_a_checkpoint_without_a_checksum_is_one_of_an_older_version(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint())
    path = tmp_path / "round_00003.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    described = json.loads(metadata["fedsim"])
    del described["checksum"]
    save_file(tensors, path, described)
    assert loaded(tmp_path).round == 3


def test_the_same_checkpoint_has_the_same_bytes(tmp_path: Path) -> None:
    """Of several entries in its metadata safetensors writes now one first and now another."""
    found = set()
    for _ in range(20):
        save_checkpoint(tmp_path, checkpoint())
        found.add((tmp_path / "round_00003.safetensors").read_bytes())
    assert len(found) == 1


def test_of_two_the_newer_is_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(9))
    older = (tmp_path / "round_00009.safetensors").read_bytes()
    save_checkpoint(tmp_path, checkpoint(10))
    (tmp_path / "round_00009.safetensors").write_bytes(older)  # as if killed before it was removed
    assert loaded(tmp_path).round == 10


def test_what_a_kill_left_half_written_is_ignored(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(3))
    (tmp_path / ".round_00004.safetensors.new").write_bytes(b"half")
    assert loaded(tmp_path).round == 3
    save_checkpoint(tmp_path, checkpoint(4))
    assert [path.name for path in tmp_path.iterdir()] == ["round_00004.safetensors"]


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "nothing") is None


def test_a_strategy_may_keep_the_arrays_it_has_sent(tmp_path: Path) -> None:
    arrays = to_record({"weight": torch.ones(2)})
    save_checkpoint(tmp_path, Checkpoint(1, arrays, RecordDict({"previous": arrays}), {}))
    assert to_tensors(loaded(tmp_path).strategy["previous"])["weight"].tolist() == [1, 1]


def test_a_list_of_bytes_comes_back(tmp_path: Path) -> None:
    state = RecordDict({"config": ConfigRecord({"keys": [b"\x00", b"\xff"]})})
    save_checkpoint(tmp_path, Checkpoint(1, ArrayRecord(), state, {}))
    assert loaded(tmp_path).strategy["config"]["keys"] == [b"\x00", b"\xff"]


def test_the_name_of_a_record_may_hold_the_separator(tmp_path: Path) -> None:
    state = RecordDict({"a|b": to_record({"weight": torch.ones(1)})})
    save_checkpoint(tmp_path, Checkpoint(1, ArrayRecord(), state, {}))
    assert list(loaded(tmp_path).strategy["a|b"]) == ["weight"]


OLD = {
    "personal": to_record({"bn.weight": torch.tensor([7.0])}),
    "trained": ConfigRecord({"server-round": 3}),
    "residual": to_record({"conv.weight": torch.tensor([0.5])}),
    "given": to_record({"head.weight": torch.tensor([2.0])}),
    "masks": to_record({"conv": torch.tensor([5], dtype=torch.uint8)}),
    "squares": to_record({"conv": torch.tensor([1.5])}),
    "squares-since": ConfigRecord({"server-round": 2}),
}
"""What a client kept before each owner of its state had a namespace."""


def test_the_states_of_older_checkpoints_are_read_under_the_names_of_now(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Checkpoint(3, to_record(ARRAYS), RecordDict(), {0: RecordDict(OLD), 1: RecordDict()}))
    records = loaded(tmp_path).clients[0]
    names = {
        PERSONAL: "personal",
        TRAINED: "trained",
        RESIDUAL: "residual",
        f"{CACHED}{ENTRIES}": "given",
        f"{CACHED}{MASKS}": "masks",
        f"method/{SQUARES}": "squares",
        "method/squares-since": "squares-since",
    }
    assert records.keys() == names.keys()
    for name, old in names.items():
        assert records[name] == OLD[old]
    state = ClientState(records)
    assert {name: tensor.tolist() for name, tensor in state.personal.items()} == {"bn.weight": [7]}
    assert state.trained == 3
    assert {name: tensor.tolist() for name, tensor in state.fixed_entries.items()} == {"head.weight": [2]}
    assert state.cached(RecordDict()) == {ENTRIES: OLD["given"], MASKS: OLD["masks"]}
    assert dict(state.method) == {"squares": OLD["squares"], "squares-since": OLD["squares-since"]}
    # Once more, as the checkpoint after it has them.
    save_checkpoint(tmp_path, Checkpoint(4, to_record(ARRAYS), RecordDict(), {0: records}))
    assert loaded(tmp_path).clients[0] == records


def test_what_a_strategy_sends_once_is_found_in_older_checkpoints(tmp_path: Path) -> None:
    """FedLoGe's fixed classifier was called otherwise; who holds it was not."""
    holders = ConfigRecord({"clients": ["0", "2"]})
    state = RecordDict({"given": OLD["given"], "holders": holders, "masks": OLD["masks"], "masks/1": OLD["masks"]})
    save_checkpoint(tmp_path, Checkpoint(3, to_record(ARRAYS), state, {}))
    found = loaded(tmp_path).strategy
    assert found.keys() == {ENTRIES, "holders", "masks", "masks/1"}
    broadcast = CachedBroadcast(ENTRIES)
    broadcast.load_state(found)
    assert (broadcast.record, broadcast.holders) == (OLD["given"], {0, 2})
