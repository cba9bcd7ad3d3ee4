"""Balanced softmax against its formula and against that of its authors' code, in float64."""

import pytest
import torch
from torch.nn import functional as F

from clients.balanced_softmax import check_gamma, log_prior
from fedsim.core.errors import UserError

LABELS = torch.tensor([0, 0, 0, 2, 2, 3])
"""Three images of class 0, none of class 1, two of class 2 and one of class 3."""
LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_the_loss_is_the_formula(gamma: float) -> None:
    found = F.cross_entropy(LOGITS + log_prior(LABELS, 4, gamma), LABELS)
    counts = [3, 0, 2, 1]
    expected = 0.0
    for row, label in zip(LOGITS.exp().tolist(), LABELS.tolist(), strict=True):
        weighted = [n**gamma * value for n, value in zip(counts, row, strict=True)]
        expected -= torch.tensor(weighted[label] / sum(weighted), dtype=torch.float64).log().item() / 6
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("least", [0, 1])
def test_it_is_the_one_of_the_authors_code(least: int) -> None:
    """``logits + log(sample_per_class)``; with 1 in place of 0 in FedETF's code."""
    spc = LABELS.bincount(minlength=4)
    spc = torch.where(spc > 0, spc, least)
    logits = LOGITS + spc.type_as(LOGITS).unsqueeze(0).expand(LOGITS.shape[0], -1).log()
    found = F.cross_entropy(LOGITS + log_prior(LABELS, 4, 1.0, least), LABELS)
    torch.testing.assert_close(found, F.cross_entropy(input=logits, target=LABELS), rtol=1e-12, atol=0)


def test_a_class_without_images_gets_no_gradient_and_gamma_0_changes_nothing() -> None:
    logits = LOGITS.clone().requires_grad_()
    F.cross_entropy(logits + log_prior(LABELS, 4, 1.0), LABELS).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad[:, 1], torch.zeros(6, dtype=torch.float64))
    assert torch.equal(LOGITS + log_prior(LABELS, 4, 0.0), LOGITS)


@pytest.mark.parametrize("gamma", [-0.1, float("inf"), float("nan")])
def test_an_impossible_gamma_is_refused(gamma: float) -> None:
    with pytest.raises(UserError, match=r"^strategy\.gamma=.* is not possible: choose a number of at least 0\.$"):
        check_gamma(gamma)
