"""Waits that a test can sit out, or that take no time at all."""

import pytest
import torch

from fedsim.engines import exchange, joining, roll
from fedsim.engines.inline import InlineGrid
from tests.fedsim.engines.nodes import Clock


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    InlineGrid(lambda device: None, 1, [torch.device("cpu")])  # type: ignore[arg-type,return-value]  # Flower's messages know their sender
    monkeypatch.setattr(roll, "REJOIN", 0.3)
    for name, value in (("POLL", 0.01), ("REFRESH", 0.0)):
        monkeypatch.setattr(exchange, name, value)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, impatient: None) -> Clock:
    """The seconds of a real run."""
    monkeypatch.setattr(roll, "REJOIN", 120.0)
    for name, value in (("POLL", 1.0), ("REFRESH", 3.0)):
        monkeypatch.setattr(exchange, name, value)
    clock = Clock()
    for module in (roll, exchange, joining):
        monkeypatch.setattr(module, "time", clock)
    return clock
