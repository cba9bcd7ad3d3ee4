"""Masks that shrink by a percentile, against LotteryFL's code in numpy."""

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord

from fedsim.methods.reply_records import Question, ReplyFault
from fedsim.methods.sparse.masks import encode
from fedsim.methods.sparse.tickets import all_ones, check_tickets, without_percentile


@pytest.mark.parametrize("share", [0.2, 0.37, 0.5])
def test_three_prunings_are_those_of_the_official_code(share: float) -> None:
    """``prune_by_percentile``: of what is left, and of what is not zero."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(7, 9, generator=generator, dtype=torch.float64)
    masks, official = {"layer": torch.ones(7, 9, dtype=torch.bool)}, np.ones((7, 9))
    for _ in range(3):
        tensor = weight.numpy() * official
        alive = tensor[np.nonzero(tensor)]
        official = np.where(abs(tensor) < np.percentile(abs(alive), 100 * share), 0, official)
        masks = without_percentile({"layer": weight}, masks, share)
        assert np.array_equal(masks["layer"].numpy(), official.astype(bool))
        weight = weight + torch.randn(7, 9, generator=generator, dtype=torch.float64)
    assert masks["layer"].sum() == pytest.approx(63 * (1 - share) ** 3, abs=3)


def test_what_became_zero_is_pruned_and_a_layer_of_zeros_stays() -> None:
    weight = torch.tensor([0.0, 1.0, -2.0, 3.0, 4.0])
    masks = {"layer": torch.tensor([True, True, True, True, False])}
    # Active and not zero are 1, 2 and 3, half way is 2.
    assert without_percentile({"layer": weight}, masks, 0.5)["layer"].tolist() == [False, False, True, True, False]
    assert without_percentile({"layer": torch.zeros(5)}, masks, 0.5)["layer"].equal(masks["layer"])


def test_masks_that_are_no_part_of_what_was_sent_are_refused() -> None:
    initial = {"a.weight": torch.zeros(2, 8), "b.weight": torch.zeros(8)}
    question = Question(ConfigRecord(), {"a.weight": torch.zeros(10), "b.weight": torch.zeros(8)}, initial)
    masks = all_ones({"a": torch.Size([2, 8]), "b": torch.Size([8])})
    masks["a"][0, :6] = False
    check_tickets(encode(masks), question, ["a", "b"])
    check_tickets({}, question, ["a", "b"])
    masks["a"][0, 0] = True
    with pytest.raises(ReplyFault, match=r"^its mask of a keeps 11 weights of 10$"):
        check_tickets(encode(masks), question, ["a", "b"])
    masks["a"][:] = False
    with pytest.raises(ReplyFault, match=r"^its mask of a keeps 0 weights of 10$"):
        check_tickets(encode(masks), question, ["a", "b"])
    with pytest.raises(ReplyFault, match=r"^it sent masks of other entries than it was asked for \(b\)$"):
        check_tickets(encode({"a": masks["a"]}), question, ["a", "b"])
