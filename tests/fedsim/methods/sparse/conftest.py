"""Both ways to find the largest gradients."""

from collections.abc import Callable, Mapping

import pytest
from torch import nn

from fedsim.methods.sparse.gradients import (
    BatchLoss,
    Found,
    dense_largest_gradients,
    sliced_largest_gradients,
)
from fedsim.methods.sparse.masks import Masks

Find = Callable[[nn.Module, BatchLoss, Masks, Mapping[str, int]], Found]


@pytest.fixture(params=[dense_largest_gradients, sliced_largest_gradients], ids=["dense", "sliced"])
def find(request: pytest.FixtureRequest) -> Find:
    """Both ways, of which all tests hold but for what they say."""
    chosen: Find = request.param
    return chosen
