"""Waits that a test can sit out, or that take no time at all."""

import pytest
import torch

from fedsim.deployment import delivery, joining, node_registry
from fedsim.engines.inline import InlineGrid
from tests.fedsim.deployment.nodes import Clock


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    InlineGrid(lambda device: None, 1, [torch.device("cpu")])  # type: ignore[arg-type,return-value]  # Flower's messages know their sender
    monkeypatch.setattr(node_registry, "REJOIN", 0.3)
    for name, value in (("POLL", 0.01), ("REFRESH", 0.0)):
        monkeypatch.setattr(delivery, name, value)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, impatient: None) -> Clock:
    """The seconds of a real run."""
    monkeypatch.setattr(node_registry, "REJOIN", 120.0)
    for name, value in (("POLL", 1.0), ("REFRESH", 3.0)):
        monkeypatch.setattr(delivery, name, value)
    clock = Clock()
    for module in (node_registry, delivery, joining):
        monkeypatch.setattr(module, "time", clock)
    return clock
