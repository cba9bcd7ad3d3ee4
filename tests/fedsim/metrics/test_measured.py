"""What a client answers becomes a value that merges: results on several test sets are that of their union."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import MetricRecord
from torch import nn

from clients import LocalSGD
from datasets.examples import Examples
from fedsim.methods.interfaces import ClientContext
from fedsim.methods.training import LocalTraining
from fedsim.metrics.measured import Measured, pool
from fedsim.metrics.registry import FURTHER_METRICS
from fedsim.metrics.scoring import score

SIZES = (700, 1, 40)
"""The first in two batches"""


def test_results_of_several_test_sets_merge_into_that_of_their_union() -> None:
    torch.manual_seed(0)
    model, half = nn.Sequential(nn.Flatten(), nn.Linear(4, 5)), LocalSGD(LocalTraining(1, 10, 0.1, 0.0))
    sets = [
        Examples(torch.randint(0, 256, (size, 1, 2, 2), dtype=torch.uint8), torch.randint(0, 4, (size,)))
        for size in SIZES
    ]
    union = Examples(torch.cat([each.images for each in sets]), torch.cat([each.labels for each in sets]))
    held = torch.tensor([True, True, False, True, True])

    def measured(data: Examples, own: bool) -> Measured:
        scores = score(half, model, data, ClientContext(own=own), held=held, metrics=FURTHER_METRICS)
        return Measured.from_metrics(MetricRecord({**scores}))

    for own in (True, False):
        merged, whole = pool(measured(each, own) for each in sets), measured(union, own)
        assert (merged.num_examples, merged.correct, merged.by_class) == (741, whole.correct, whole.by_class)
        assert merged.by_class == () if own else merged.by_class
        for one, other in ((merged, whole), (merged.others["masked"], whole.others["masked"])):
            assert list(one.sums) == list(FURTHER_METRICS)
            for name, sums in one.sums.items():
                np.testing.assert_allclose(sums, other.sums[name], rtol=1e-6)
                assert one.values[name] == pytest.approx(other.values[name], rel=1e-6)
        assert merged.values != merged.others["masked"].values


def test_what_only_some_sets_have_is_pooled_over_these() -> None:
    parts = [Measured(2, 1, 0.5, by_class=((2, 1), (0, 0))), Measured(4, 3, 2.0)]
    assert pool(parts) == Measured(6, 4, (1 + 8) / 6, by_class=((2, 1), (0, 0)))
    assert pool([replace(parts[1], others={"adapted": parts[0]})]).others == {"adapted": parts[0]}


def test_without_further_metrics_there_are_no_sums() -> None:
    measured = Measured.from_metrics(MetricRecord({"num-examples": 3, "correct": 1, "loss": 0.5}))
    assert measured == Measured(3, 1, 0.5)
    assert (measured.sums, measured.values, pool([measured, measured]).values) == ({}, {}, {})
