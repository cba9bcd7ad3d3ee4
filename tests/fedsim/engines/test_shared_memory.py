"""Objects through shared memory: equal on the other side, large buffers not through the pipe, no descriptor left."""

import gc
import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import RecordDict

from fedsim.engines.shared_memory import Packed, pack, receive, send
from fedsim.messages.arrays import to_record, to_tensors


@pytest.fixture
def pipe() -> tuple[Connection, Connection]:
    return multiprocessing.Pipe()


def through(pipe: tuple[Connection, Connection], value: object, *, copy: bool = False) -> object:
    send(pipe[0], pack(value), os.getpid())
    return receive(pipe[1], copy=copy)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("copy", [False, True])
def test_records_arrive_equal(pipe: tuple[Connection, Connection], copy: bool) -> None:
    tensors = {
        "weight": torch.randn(300, 200),
        "transposed": torch.randn(20, 30).t(),
        "scalar": torch.tensor(3),
        "half": torch.randn(5).half(),
        "empty": torch.zeros(0, 4),
        "flags": torch.tensor([True, False]),
    }
    arrived = through(pipe, RecordDict({"arrays": to_record(tensors)}), copy=copy)
    assert isinstance(arrived, RecordDict)
    got = to_tensors(arrived.array_records["arrays"])
    assert list(got) == list(tensors)
    for name, tensor in tensors.items():
        assert got[name].dtype == tensor.dtype
        assert torch.equal(got[name], tensor), name
        got[name].zero_()  # both ways of receiving give memory that may be written to


def test_an_object_without_buffers_needs_no_file(pipe: tuple[Connection, Connection]) -> None:
    assert pack({"a": 1}).file is None
    assert through(pipe, {"a": [1, 2.5, "x"]}) == {"a": [1, 2.5, "x"]}


def test_only_empty_buffers_arrive_too(pipe: tuple[Connection, Connection]) -> None:
    arrived = through(pipe, np.zeros((0, 3)))
    assert isinstance(arrived, np.ndarray)
    assert arrived.shape == (0, 3)


def test_the_pipe_carries_no_large_buffer() -> None:
    packed = pack(np.ones(1_000_000))
    assert packed.sizes == [8_000_000]
    assert len(packed.pickled) < 1000


def test_one_pack_can_be_sent_to_many(pipe: tuple[Connection, Connection]) -> None:
    packed: Packed = pack(np.arange(1000))
    for _ in range(3):
        send(pipe[0], packed, os.getpid())
    received = [receive(pipe[1]) for _ in range(3)]
    assert all(np.array_equal(each, np.arange(1000)) for each in received)


def test_the_array_outlives_the_pack(pipe: tuple[Connection, Connection]) -> None:
    arrived = through(pipe, np.arange(100_000))
    assert isinstance(arrived, np.ndarray)
    assert arrived.sum() == 100_000 * 99_999 // 2


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")
def test_copies_hold_no_descriptors(pipe: tuple[Connection, Connection]) -> None:
    gc.collect()  # what earlier tests left would be let go of in between
    before = open_descriptors()
    kept = [through(pipe, np.full(1000, number), copy=True) for number in range(50)]
    assert open_descriptors() == before
    assert [int(each[0]) for each in kept] == list(range(50))  # type: ignore[index]


def test_a_closed_pipe_is_an_error(pipe: tuple[Connection, Connection]) -> None:
    pipe[0].close()
    with pytest.raises(EOFError):
        receive(pipe[1])
