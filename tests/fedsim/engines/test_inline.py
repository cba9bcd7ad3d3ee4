"""The inline engine does what the pool does, in this process."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict

from fedsim.engines.inline import InlineGrid
from fedsim.engines.vectorized import VectorizedGrid
from fedsim.messages.arrays import to_record
from fedsim.messages.schema import metrics_of
from tests.apps import broken_app, counting_app

CPU = [torch.device("cpu")]


def messages(config: dict[str, int]) -> list[Message]:
    content = RecordDict({"arrays": to_record({"w": torch.zeros(3)}), "config": ConfigRecord(config)})
    return [Message(content, client, "train") for client in range(3)]


def test_clients_are_run_only_as_replies_are_asked_for() -> None:
    grid = InlineGrid(counting_app, 3, CPU)
    replies = iter(grid.send_and_receive(messages({})))
    next(replies)
    assert [len(state) for state in grid.client_states().values()] == [2, 0, 0]


def test_a_client_that_raises_keeps_the_state_it_had() -> None:
    grid = InlineGrid(counting_app, 3, CPU)
    list(grid.send_and_receive(messages({})))
    replies = list(grid.send_and_receive(messages({"raise": 1})))
    assert [reply.has_error() for reply in replies] == [False, True, False]
    assert [state["calls"]["n"] for state in grid.client_states().values()] == [2, 1, 2]  # type: ignore[index]
    assert metrics_of(replies[2])["calls"] == 2


def test_threads_are_restored_when_it_ends() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with InlineGrid(counting_app, 1, CPU):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("engine", "factory"), [(InlineGrid, broken_app), (VectorizedGrid, SimpleNamespace(host=broken_app))]
)
def test_threads_are_as_before_where_the_app_cannot_be_made(engine: type[InlineGrid], factory: Any) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="cannot be built"):
            engine(factory, 3, CPU)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
