"""What a method asks before it trains: who is asked, who is heard, and who is not waited for."""

import logging
from collections.abc import Iterable, Iterator

import pytest
import torch
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedsim.core.errors import RoundFailed
from fedsim.engines.grid_wrappers import FaultGrid
from fedsim.engines.inline import InlineGrid
from fedsim.messages.schema import CONFIG, METRICS, QUERY, QUERY_METHOD
from fedsim.methods.queries import ask


class Answering(InlineGrid):
    """Clients of ``failing`` do not answer."""

    def __init__(self, *failing: int) -> None:
        super().__init__(lambda device: None, 4, [torch.device("cpu")])  # type: ignore[arg-type,return-value]
        self.failing = failing
        self.received: list[Message] = []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for each in messages:
            self.received.append(each)
            if each.metadata.dst_node_id in self.failing:
                yield Message(Error(0, "no time\nand details"), reply_to=each)
            else:
                yield Message(RecordDict({METRICS: MetricRecord({"num-examples": 1})}), reply_to=each)


def test_each_is_asked_by_name_and_those_who_share_a_content_share_it() -> None:
    grid = Answering()
    shared = RecordDict({CONFIG: ConfigRecord({"share": 0.5})})
    contents = {0: shared, 1: shared, 2: RecordDict()}
    assert [reply.metadata.src_node_id for reply in ask(grid, "gradients", contents)] == [0, 1, 2]
    assert {each.metadata.message_type for each in grid.received} == {QUERY_METHOD}
    configs = [dict(each.content.config_records[CONFIG]) for each in grid.received]
    assert configs == [{"share": 0.5, QUERY: "gradients"}] * 2 + [{QUERY: "gradients"}]
    assert grid.received[0].content is grid.received[1].content
    assert QUERY not in shared.config_records[CONFIG]  # what the method made is as it was


def test_who_fails_is_named_and_the_others_are_heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    noting = FaultGrid(Answering(1))
    for _ in range(2):
        replies = ask(noting, "gradients", dict.fromkeys(range(3), RecordDict()))
        assert [reply.metadata.src_node_id for reply in replies] == [0, 2]
    assert "client 1 failed: no time" in caplog.text
    assert "details" not in caplog.text
    list(ask(noting, "statistics", {1: RecordDict(), 2: RecordDict()}))
    assert noting.faults == [(1, "query.gradients", "no time"), (1, "query.statistics", "no time")]


def test_if_nobody_answers_the_round_has_failed() -> None:
    with pytest.raises(RoundFailed, match=r"^all 2 clients that were asked before training failed$"):
        list(ask(Answering(0, 1), "gradients", {0: RecordDict(), 1: RecordDict()}))
