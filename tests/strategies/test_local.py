"""Local training: nothing travels."""

from collections.abc import Callable

import torch
from flwr.app import ArrayRecord, ConfigRecord
from torch import nn

from datasets.federation import Federation
from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.settings import Settings
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import count_bytes
from fedsim.messages.schema import arrays_of
from fedsim.methods.client_state import PERSONAL
from fedsim.models import build_model
from strategies import Local


def test_everything_is_personal(make_model: Callable[..., nn.Module]) -> None:
    model = make_model()
    assert Local(model).personal == set(model.state_dict())


def test_messages_and_replies_carry_no_arrays(small_settings: Callable[..., Settings], federation: Federation) -> None:
    settings = small_settings("strategy=local", "engine=inline")
    grid = InlineGrid(ClientAppFactory(settings, federation), 6, [torch.device("cpu")])
    model = build_model(settings, 10)
    strategy = Local(model)
    messages = list(strategy.configure_train(1, ArrayRecord(model.state_dict()), ConfigRecord(), grid))
    replies = list(grid.send_and_receive(messages))
    assert [count_bytes(arrays_of(each)) for each in [*messages, *replies]] == [0] * 12
    arrays, metrics = strategy.aggregate_train(1, replies)
    assert arrays is not None
    assert len(arrays) == 0
    assert metrics is not None
    assert metrics["loss"] > 0
    for state in grid.client_states().values():
        assert set(state[PERSONAL]) == set(model.state_dict())
