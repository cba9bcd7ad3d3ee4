"""The checks of replies, for the federation of the tests."""

from collections.abc import Callable
from functools import partial

import pytest
import torch

from datasets.build import build_federation
from fedsim.config.settings import Settings
from fedsim.engines.inline import InlineGrid
from fedsim.methods.reply_checks import ReplyChecks
from fedsim.methods.reply_records import model_entries
from fedsim.methods.sparse.records import BN_STATISTICS, GRADIENTS, SQUARES, check_largest_gradients, check_squares
from tests.fedsim.server.replies import SENT


@pytest.fixture
def checks(small_settings: Callable[..., Settings]) -> ReplyChecks:
    InlineGrid(lambda device: None, 2, [torch.device("cpu")])  # type: ignore[arg-type,return-value]  # sets the sender
    return ReplyChecks(
        build_federation(small_settings()),
        SENT,
        update_limit=1000.0,
        reply_records={GRADIENTS: check_largest_gradients, SQUARES: partial(check_squares, layers=["head"])},
        queries={BN_STATISTICS: model_entries},
    )
