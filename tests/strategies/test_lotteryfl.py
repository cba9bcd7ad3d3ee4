"""LotteryFL's server: each weight is averaged over the clients that hold it, against the official code."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from torch import nn

from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import arrays_of
from fedsim.methods.sparse.masks import decode, encode
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from strategies import LotteryFL

MASKS = {
    0: torch.tensor([[1, 1, 0, 0], [1, 0, 0, 1]]).bool(),
    1: torch.tensor([[1, 0, 0, 0], [1, 1, 0, 1]]).bool(),
}
"""Of the second client it stays whole."""


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))


def official(weights: list[np.ndarray], masks: list[np.ndarray], before: np.ndarray) -> np.ndarray:
    """``average_weights_with_masks`` and ``mix_global_weights``."""
    total, mask = sum(weights), sum(masks)
    average = np.where(mask < 1, 0, total / np.maximum(mask, 1e-30))
    return np.where(mask < 1, before, average)


def test_two_rounds_are_those_of_the_official_code(make_grid: Callable[[], InlineGrid]) -> None:
    model = network()
    server, arrays = LotteryFL(model), to_record(dict(model.state_dict()))
    for round, cohort in ((1, (0, 1, 2)), (2, (0, 1))):
        before = to_tensors(arrays)
        messages = list(server.configure_train(round, arrays, ConfigRecord(), make_grid()))
        replies, weights, masks, biases = [], [], [], []
        for message in [each for each in messages if each.metadata.dst_node_id in cohort]:
            client = message.metadata.dst_node_id
            mask = MASKS.get(client, torch.ones(2, 4, dtype=torch.bool))
            form = torch.ones(2, 4, dtype=torch.bool) if round == 1 else mask
            sent = to_tensors(arrays_of(message))
            # Its masks come with the first message, and with the next once they have changed.
            given = message.content.array_records.get("cached/masks")
            assert given is not None
            assert torch.equal(decode(to_tensors(given), {"1": form.shape})["1"], form)
            assert torch.equal(sent["1.weight"], before["1.weight"][form])
            trained = torch.where(mask, before["1.weight"] * (client + 2) + round, 0)
            bias = sent["1.bias"] + client
            content = {
                "metrics": MetricRecord({"num-examples": 10 * (client + 1), "loss": 1.0}),
                "arrays": to_record({"1.weight": trained[form], "1.bias": bias}),
            }
            if round == 1 and client in MASKS:
                content["masks"] = to_record(encode({"1": mask}))
            replies.append(Message(RecordDict(content), reply_to=message))
            weights.append(trained.double().numpy())
            masks.append(mask.numpy().astype(float))
            biases.append(bias)
        found, _ = server.aggregate_train(round, replies)
        assert found is not None
        after = to_tensors(found)
        expected = torch.from_numpy(official(weights, masks, before["1.weight"].double().numpy())).float()
        torch.testing.assert_close(after["1.weight"], expected)
        torch.testing.assert_close(after["1.bias"], torch.stack(biases).mean(0))
        # Where neither of the two holds a weight it stays, to the last bit.
        assert torch.equal(after["1.weight"][:, 2], before["1.weight"][:, 2]) == (round == 2)
        restored = LotteryFL(network())
        restored.load_state(server.state())
        server, arrays = restored, found
    assert [int(server.masks_of(client)["1"].sum()) for client in range(3)] == [4, 4, 8]
    again = list(server.configure_train(3, arrays, ConfigRecord(), make_grid()))
    given = [message.metadata.dst_node_id for message in again if "cached/masks" in message.content.array_records]
    assert given == [2]  # which has not answered in the second round
    assert server.workload(0).columns["density"] == 0.5
    assert server.workload(2).columns["density"] == 1.0


def test_bytes_fall_with_the_prunings(small_settings: Callable[..., Settings], tmp_path: Path) -> None:
    words = ("strategy=lotteryfl", "strategy.accuracy=0", "strategy.rate=0.5", "strategy.density=0.3")
    result = run(prepare(small_settings(*words, "rounds=4", "engine=inline")), tmp_path, Reporter())
    density, down = result.rounds["density"].dropna(), result.rounds["bytes_down"].dropna()
    assert density.tolist()[0] == 1
    assert density.tolist()[2] == pytest.approx(0.25, abs=0.02)
    assert density.tolist()[3] == density.tolist()[2]
    assert down.iloc[2] < 0.35 * down.iloc[0]


def test_a_frozen_layer_is_refused() -> None:
    model = network()
    model.get_parameter("1.weight").requires_grad_(False)
    with pytest.raises(UserError, match=r"^strategy\.dense=\[\] has the layer 1 pruned, which is frozen: name "):
        LotteryFL(model)
