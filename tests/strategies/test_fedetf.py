"""FedETF's server: FedAvg with the head that it brings with it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from strategies import FedETF

HEAD = ("head=projected_etf",)


def test_with_gamma_0_it_is_fedavg_with_that_head_bit_for_bit(
    small_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    common = ("split=[longtail,domain]", "split.imbalance_factor=0.1", "engine=inline")
    for name, words in {
        "neutral": ("strategy=fedetf", "strategy.gamma=0"),
        "fedetf": ("strategy=fedetf",),
        "fedavg": HEAD,
    }.items():
        run(prepare(small_settings(*words, *common)), tmp_path / name, Reporter())
    neutral, etf, plain = (load_file(tmp_path / each / "model.safetensors") for each in ("neutral", "fedetf", "fedavg"))
    assert neutral.keys() == etf.keys() == plain.keys()
    assert all(torch.equal(neutral[name], tensor) for name, tensor in plain.items())
    assert not torch.equal(etf["head.projection.weight"], plain["head.projection.weight"])
    assert torch.equal(etf["head.frame.weight"], plain["head.frame.weight"])
    assert plain["head.frame.scale"] != 1


def test_another_head_is_refused() -> None:
    with pytest.raises(UserError, match=r"^strategy=fedetf needs a fixed classifier: leave head out, or choose "):
        FedETF(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
