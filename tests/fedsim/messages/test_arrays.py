"""Tensors in Flower's records: the same bytes, the same values, and no copy where none is needed."""

import copy
import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fedsim.messages.arrays import TensorArray, count_bytes, select, to_record, to_tensor, to_tensors

TENSORS = {
    "float32": torch.linspace(-1, 1, 12).reshape(3, 4),
    "float64": torch.tensor([1 / 3, 1e-300], dtype=torch.float64),
    "float16": torch.tensor([0.1, 6e4], dtype=torch.float16),
    "int64": torch.tensor(2**62 + 1),
    "uint8": torch.arange(256, dtype=torch.uint8),
    "bool": torch.tensor([[True], [False]]),
    "empty": torch.zeros(0, 3),
    "transposed": torch.arange(6.0).reshape(2, 3).t(),
}


@pytest.mark.parametrize("name", TENSORS)
def test_the_bytes_are_those_of_flowers_own_array(name: str) -> None:
    array, plain = TensorArray(TENSORS[name]), Array.from_numpy_ndarray(TENSORS[name].numpy())
    assert (array.dtype, array.shape, array.stype) == (plain.dtype, plain.shape, plain.stype)
    assert array.data == plain.data
    assert np.array_equal(np.load(io.BytesIO(array.data)), TENSORS[name].numpy())


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("make", [TensorArray, lambda tensor: Array.from_numpy_ndarray(tensor.numpy())])
def test_a_tensor_comes_back_as_it_was(name: str, make: type[TensorArray]) -> None:
    back = to_tensor(make(TENSORS[name]))
    assert back.dtype == TENSORS[name].dtype
    assert torch.equal(back, TENSORS[name])


def test_the_bytes_are_made_once_and_only_when_read() -> None:
    array = TensorArray(torch.ones(3))
    assert "data" not in vars(array)
    assert array.data is array.data
    with pytest.raises(AttributeError, match="date"):
        _ = array.date


def test_gradients_do_not_travel() -> None:
    array = TensorArray(torch.ones(3, requires_grad=True))
    assert not array.tensor.requires_grad
    assert array.numpy().tolist() == [1, 1, 1]


def test_a_tensor_array_is_shared_and_a_plain_one_copied() -> None:
    tensor = torch.ones(3)
    shared = to_tensor(TensorArray(tensor))
    copied = to_tensor(Array.from_numpy_ndarray(tensor.numpy()))
    tensor.mul_(5)
    assert shared.tolist() == [5, 5, 5]
    assert copied.tolist() == [1, 1, 1]


def test_records_pass_through_flowers_record_dict() -> None:
    record = to_record(TENSORS)
    content = RecordDict({"arrays": record, "metrics": MetricRecord({"n": 1})}).copy()
    assert list(content["arrays"]) == list(TENSORS)
    for name, tensor in to_tensors(content["arrays"]).items():
        assert tensor is not None
        assert tensor.data_ptr() == TENSORS[name].data_ptr()
        assert torch.equal(tensor, TENSORS[name])


def test_flowers_array_record_reads_and_copies_ours() -> None:
    record = to_record(TENSORS)
    for name, tensor in record.to_torch_state_dict().items():
        assert torch.equal(tensor, TENSORS[name])
    plain = ArrayRecord(dict(record))  # its constructor turns every entry into a plain Array
    assert {type(array) for array in plain.values()} == {Array}
    for name, tensor in to_tensors(plain).items():
        assert torch.equal(tensor, TENSORS[name])


def test_records_survive_flowers_wire_format() -> None:
    """What HttpGrid does between a SuperLink and its SuperNodes."""
    content = RecordDict({"arrays": to_record({"weight": torch.arange(6.0).reshape(2, 3)})})
    sent = {name: each.deflate() for name, each in get_all_nested_objects(content).items()}
    received = inflate_object_from_contents(content.object_id, sent)
    assert torch.equal(to_tensors(received["arrays"])["weight"], torch.arange(6.0).reshape(2, 3))


def test_pickling_hands_the_buffers_over_without_a_copy() -> None:
    record = to_record(TENSORS)
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(record, protocol=5, buffer_callback=buffers.append)
    values = sum(tensor.numel() * tensor.element_size() for tensor in TENSORS.values())
    assert sum(len(buffer.raw()) for buffer in buffers) == values
    back = to_tensors(pickle.loads(pickled, buffers=buffers))
    for name, tensor in TENSORS.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)
    assert back["float32"].data_ptr() == TENSORS["float32"].data_ptr()


@pytest.mark.parametrize("protocol", [2, 5])
def test_pickling_in_band_gives_a_tensor_of_its_own(protocol: int) -> None:
    tensor = torch.ones(3)
    back = pickle.loads(pickle.dumps(TensorArray(tensor), protocol=protocol))
    back.tensor.mul_(2)
    assert back.tensor.tolist() == [2, 2, 2]
    assert tensor.tolist() == [1, 1, 1]


def test_read_only_memory_is_accepted_and_copied() -> None:
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(TensorArray(torch.arange(4.0)), protocol=5, buffer_callback=buffers.append)
    frozen = [bytes(buffer.raw()) for buffer in buffers]  # as they lie in Ray's object store
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of memory that it must not write to
        back = pickle.loads(pickled, buffers=frozen)
        back.tensor.add_(1)
    assert back.tensor.tolist() == [1, 2, 3, 4]
    assert np.frombuffer(frozen[0], np.float32).tolist() == [0, 1, 2, 3]


def test_a_deep_copy_has_its_own_memory() -> None:
    original = TensorArray(torch.ones(2))
    twin = copy.deepcopy(original)
    twin.tensor.zero_()
    assert isinstance(twin, TensorArray)
    assert original.tensor.tolist() == [1, 1]


def test_selected_entries_come_in_the_order_asked_for_and_are_shared() -> None:
    record = to_record(TENSORS)
    chosen = select(record, ["int64", "float32"])
    assert list(chosen) == ["int64", "float32"]
    assert chosen["float32"] is record["float32"]
    with pytest.raises(KeyError):
        select(record, ["nothing"])


def test_bytes_are_those_of_the_values() -> None:
    assert count_bytes(to_record(TENSORS)) == 12 * 4 + 2 * 8 + 2 * 2 + 8 + 256 + 2 + 0 + 6 * 4
    assert count_bytes(ArrayRecord(TENSORS)) == count_bytes(to_record(TENSORS))
    assert count_bytes(ArrayRecord()) == 0


def test_counting_bytes_serializes_nothing() -> None:
    record = to_record({"weight": torch.ones(3)})
    count_bytes(record)
    assert "data" not in vars(record["weight"])
