"""Packed records: one array each, from which the same arrays come out in the same order."""

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.packing import PACKED, Packer, unpacked

TYPES = (torch.float32, torch.float64, torch.float16, torch.int64, torch.int8, torch.uint8, torch.bool)
SHAPES = st.lists(st.integers(0, 3), max_size=3)


@given(st.dictionaries(st.text(max_size=8), st.tuples(SHAPES, st.sampled_from(TYPES)), min_size=1, max_size=5))
def test_the_same_arrays_come_out_in_the_same_order(entries: dict[str, tuple[list[int], torch.dtype]]) -> None:
    tensors = {name: torch.randn(shape).mul(100).to(dtype) for name, (shape, dtype) in entries.items()}
    packed = Packer()(RecordDict({"arrays": to_record(tensors)}))
    assert list(packed.array_records["arrays"]) == [PACKED]
    received = to_tensors(unpacked(packed).array_records["arrays"])
    assert list(received) == list(tensors)
    for name, tensor in tensors.items():
        assert received[name].dtype == tensor.dtype
        assert torch.equal(received[name], tensor)


def test_an_array_may_lie_in_memory_in_any_order() -> None:
    images = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    tensors = {"strided": torch.arange(12.0).reshape(3, 4)[:, ::2], "turned": torch.randn(3, 4).T, "last": images}
    received = to_tensors(unpacked(Packer()(RecordDict({"a": to_record(tensors)}))).array_records["a"])
    assert all(torch.equal(received[name], tensor) for name, tensor in tensors.items())
    received["strided"] += 1  # it is the receiver's own memory, which can be written


def test_records_without_arrays_stay_as_they_are_and_the_message_is_not_changed() -> None:
    content = RecordDict(
        {"arrays": to_record({"w": torch.ones(2)}), "none": ArrayRecord(), "c": ConfigRecord({"a": 1})}
    )
    packed = Packer()(content)
    assert packed["none"] == ArrayRecord()
    assert packed["c"] is content["c"]
    assert list(content.array_records["arrays"]) == ["w"]
    assert unpacked(content)["arrays"] is content["arrays"]


def test_what_messages_share_is_packed_once() -> None:
    tensors, pack = to_record({"w": torch.ones(2), "b": torch.zeros(1)}), Packer()
    again = ArrayRecord()
    for name, array in tensors.items():
        again[name] = array
    first = pack(RecordDict({"arrays": tensors}))["arrays"]
    assert pack(RecordDict({"arrays": again}))["arrays"] is first
    other = to_record({"w": torch.full((2,), 2.0), "b": torch.zeros(1)})
    received = to_tensors(unpacked(pack(RecordDict({"arrays": other}))).array_records["arrays"])
    assert received["w"].tolist() == [2, 2]


NOT_NUMBERED, WHOLE = save({"w": torch.ones(2).numpy()}), save({"0 w": torch.ones(2).numpy()})


@pytest.mark.parametrize("data", [b"", b"abc", b"\xff" * 8 + b"{}", NOT_NUMBERED, WHOLE[:-1]])
def test_what_is_no_packed_record_is_an_error(data: bytes) -> None:
    record = ArrayRecord()
    record[PACKED] = Array(dtype="uint8", shape=(len(data),), stype=PACKED, data=data)
    with pytest.raises(ValueError, match=r"^no packed arrays: "):
        unpacked(RecordDict({"arrays": record}))
