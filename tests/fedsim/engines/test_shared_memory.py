"""Objects through shared memory: equal on the other side, large buffers not through the pipe, no descriptor left."""

import gc
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, RecordDict

from fedsim.engines.shared_memory import Channel, Packed
from fedsim.messages.arrays import to_record, to_tensors

Ends = tuple[Channel, Channel]


@pytest.fixture
def ends() -> Ends:
    ours, theirs = multiprocessing.Pipe()
    return Channel(ours, os.getpid()), Channel(theirs, os.getpid())


def through(ends: Ends, value: object, *, shared: bool = False) -> object:
    if shared:
        ends[0].send_shared(Packed(value))
    else:
        ends[0].send(value)
    return ends[1].receive()[0]


def open_descriptors() -> int:
    gc.collect()  # what earlier tests left would be let go of in between
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("shared", [False, True])
def test_records_arrive_equal(ends: Ends, shared: bool) -> None:
    tensors = {
        "weight": torch.randn(300, 200),
        "transposed": torch.randn(20, 30).t(),
        "scalar": torch.tensor(3),
        "half": torch.randn(5).half(),
        "empty": torch.zeros(0, 4),
        "flags": torch.tensor([True, False]),
    }
    arrived = through(ends, RecordDict({"arrays": to_record(tensors)}), shared=shared)
    assert isinstance(arrived, RecordDict)
    got = to_tensors(arrived.array_records["arrays"])
    assert list(got) == list(tensors)
    for name, tensor in tensors.items():
        assert got[name].dtype == tensor.dtype
        assert torch.equal(got[name], tensor), name
        got[name].zero_()  # both ways of receiving give memory that may be written to


@pytest.mark.parametrize("shared", [False, True])
def test_an_object_without_buffers_needs_no_file(ends: Ends, shared: bool) -> None:
    assert Packed({"a": 1}).file is None
    assert through(ends, {"a": [1, 2.5, "x"]}, shared=shared) == {"a": [1, 2.5, "x"]}


@pytest.mark.parametrize("shared", [False, True])
def test_only_empty_buffers_arrive_too(ends: Ends, shared: bool) -> None:
    arrived = through(ends, np.zeros((0, 3)), shared=shared)
    assert isinstance(arrived, np.ndarray)
    assert arrived.shape == (0, 3)


def test_the_pipe_carries_no_large_buffer(ends: Ends) -> None:
    assert len(Packed(np.ones(1_000_000)).head) < 1000
    ends[0].send(np.ones(1_000_000))  # would wait for a reader if it were in the pipe
    assert np.array_equal(ends[1].receive()[0], np.ones(1_000_000))


def test_one_pack_can_be_sent_to_many(ends: Ends) -> None:
    packed = Packed(np.arange(1000))
    for _ in range(3):
        ends[0].send_shared(packed)
    received = [ends[1].receive()[0] for _ in range(3)]
    assert all(np.array_equal(each, np.arange(1000)) for each in received)


def test_the_array_outlives_the_pack(ends: Ends) -> None:
    arrived = through(ends, np.arange(100_000), shared=True)
    assert isinstance(arrived, np.ndarray)
    assert arrived.sum() == 100_000 * 99_999 // 2


def test_what_was_received_stays_what_it_was_when_more_comes(ends: Ends) -> None:
    """Smaller and larger objects go through one file, which is replaced when it is too small; the pack is apart."""
    sizes = [1000, 10, 3000, 3000, 1]
    shared = through(ends, np.full(50, -1.0), shared=True)
    arrived = [
        through(ends, [np.full(size, float(number)), np.full(3, -float(number))]) for number, size in enumerate(sizes)
    ]
    assert np.array_equal(shared, np.full(50, -1))  # type: ignore[arg-type]
    for number, (size, pair) in enumerate(zip(sizes, arrived, strict=True)):
        assert isinstance(pair, list)
        assert np.array_equal(pair[0], np.full(size, number))
        assert np.array_equal(pair[1], np.full(3, -number))


def test_messages_that_wait_have_files_of_their_own_and_the_pipe_has_room_for_them(ends: Ends) -> None:
    """Neither side reads before both have sent; the pickles alone are larger than what a pipe holds."""
    words = ["x" * 1000 + str(number) for number in range(1000)]
    for number in range(2):
        ends[0].send([words, np.full(1000, number)], number)
        ends[1].send([words, np.full(1000, -number)], number)
    for end, sign in ((ends[1], 1), (ends[0], -1)):
        for expected in range(2):
            (got, array), number = end.receive()
            assert number == expected
            assert got == words
            assert np.array_equal(array, np.full(1000, sign * expected))


def test_a_long_object_without_arrays_does_not_fill_the_pipe(ends: Ends) -> None:
    words = ["x" * 1000 + str(number) for number in range(1000)]
    for _ in range(3):
        ends[0].send_shared(Packed(words))  # would wait for a reader if it were in the pipe
    assert [ends[1].receive() for _ in range(3)] == [(words, 0)] * 3


def test_a_file_that_could_not_be_announced_is_not_used(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    through(ends, np.full(10, 1.0))

    def fails(*_: object) -> None:
        raise BrokenPipeError

    with monkeypatch.context() as broken:
        broken.setattr(ends[0], "_announce", fails)
        with pytest.raises(BrokenPipeError):
            ends[0].send(np.full(1000, 2.0))
    assert np.array_equal(through(ends, np.full(1000, 3.0)), np.full(1000, 3.0))  # type: ignore[arg-type]


@pytest.mark.parametrize("shared", [False, True])
def test_arrays_lie_as_tensors_do(ends: Ends, shared: bool) -> None:
    sent = {str(size): torch.ones(size) for size in (1, 3, 17, 1000, 1001)}
    arrived = through(ends, to_record(sent), shared=shared)
    assert isinstance(arrived, ArrayRecord)
    assert all(tensor.data_ptr() % 64 == 0 for tensor in to_tensors(arrived).values())


def test_both_directions_have_files_of_their_own(ends: Ends) -> None:
    ends[0].send(np.zeros(100))
    ends[1].send(np.ones(100))
    assert np.array_equal(ends[1].receive()[0], np.zeros(100))
    assert np.array_equal(ends[0].receive()[0], np.ones(100))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")
def test_descriptors_do_not_become_more(ends: Ends) -> None:
    through(ends, np.zeros(1000))
    before = open_descriptors()
    kept = [through(ends, np.full(1000 + number, float(number))) for number in range(50)]  # a larger file each time
    assert open_descriptors() == before
    assert [int(each[0]) for each in kept] == list(range(50))  # type: ignore[index]
    packed = through(ends, np.zeros(1000), shared=True)
    assert open_descriptors() == before + 1  # as long as the array is there
    del packed
    assert open_descriptors() == before


def test_a_closed_pipe_is_an_error(ends: Ends) -> None:
    ends[0].close()
    with pytest.raises(EOFError):
        ends[1].receive()
