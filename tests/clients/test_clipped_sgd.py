"""FedWon's client: the clipping happens in the local step, and only where it is asked for."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clients import ClippedSGD, LocalSGD
from clients.adaptive_clipping import all_but_last_linear, unitwise_norm
from datasets.federation import Examples
from fedsim.core.errors import UserError
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.training import LocalTraining
from fedsim.models import CNNSmall
from fedsim.norms import use_scaled_ws

ONE_STEP = LocalTraining(local_epochs=1, batch_size=16, lr=0.5, momentum=0.0)


def one_step(client: LocalSGD) -> tuple[nn.Module, nn.Module, Examples]:
    """The model before and after one step on one batch."""
    torch.manual_seed(0)
    data = Examples(torch.randint(0, 256, (16, 3, 28, 28), dtype=torch.uint8), torch.arange(16) % 10)
    before, after = use_scaled_ws(CNNSmall()), use_scaled_ws(CNNSmall())
    after.load_state_dict(before.state_dict())
    client.train(after, TrainingContext(data=data, generator=torch.Generator().manual_seed(0), round=1))
    return before, after, data


def test_no_unit_moves_further_than_lr_times_clip_times_its_norm() -> None:
    before, after, _ = one_step(ClippedSGD(ONE_STEP, clip=0.01))
    new = dict(after.named_parameters())
    clipped = {id(parameter) for parameter in all_but_last_linear(before)}
    at_the_limit = 0
    for name, old in before.named_parameters():
        if id(old) in clipped:
            limit = 0.5 * 0.01 * unitwise_norm(old).clamp(min=1e-3)
            moved = unitwise_norm(new[name] - old)
            assert (moved <= limit * 1.01 + 1e-7).all(), name
            at_the_limit += int((moved > limit * 0.99).sum())
    assert at_the_limit > 0  # else this test would pass without any clipping


def test_the_last_layer_takes_the_whole_gradient() -> None:
    before, after, data = one_step(ClippedSGD(ONE_STEP, clip=0.01))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    images, labels = data.batch(order)
    F.cross_entropy(before(images), labels).backward()
    expected = before.head.weight - 0.5 * before.head.weight.grad
    torch.testing.assert_close(after.head.weight, expected)


def test_the_classifier_is_clipped_row_by_row_where_it_is_asked_for() -> None:
    before, after, data = one_step(ClippedSGD(ONE_STEP, clip=0.01, clip_classifier=True))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    images, labels = data.batch(order)
    F.cross_entropy(before(images), labels).backward()
    for old, new, gradient in zip(before.head.weight, after.head.weight, before.head.weight.grad, strict=True):
        longest = 0.01 * max(old.norm().item(), 1e-3)
        shortened = gradient * min(1.0, longest / gradient.norm().item())
        torch.testing.assert_close(new, old - 0.5 * shortened)
    assert (before.head.weight.grad.norm(dim=1) > 0.01 * before.head.weight.norm(dim=1)).any()


def test_without_a_clip_it_is_plain_sgd() -> None:
    _, clipped, _ = one_step(ClippedSGD(ONE_STEP, clip=None))
    _, plain, _ = one_step(LocalSGD(ONE_STEP))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, clipped.state_dict()[name]), name


@pytest.mark.parametrize("clip", [0, -0.1, float("nan")])
def test_a_clip_that_cannot_be_is_refused(clip: float) -> None:
    with pytest.raises(UserError, match=r"strategy\.clip=.*choose a number above 0"):
        ClippedSGD(ONE_STEP, clip=clip)
