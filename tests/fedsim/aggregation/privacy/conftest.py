"""Flower lets nobody make a message who is not in a run; a Grid is one."""

import pytest
import torch

from fedsim.engines.inline import InlineGrid
from tests.apps import counting_app


@pytest.fixture(autouse=True)
def in_a_run() -> InlineGrid:
    return InlineGrid(counting_app, 1, [torch.device("cpu")])
