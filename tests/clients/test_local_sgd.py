"""Plain local SGD against SGD written out by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clients import LocalSGD
from datasets.examples import images_of_pass
from datasets.federation import Examples
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.training import LocalTraining


def linear_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 5))


def examples(count: int) -> Examples:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8, generator=generator)
    return Examples(images, torch.arange(count) % 5)


def context(data: Examples) -> TrainingContext:
    return TrainingContext(data=data, generator=torch.Generator().manual_seed(7), round=1)


def test_two_epochs_with_momentum_equal_the_update_written_out() -> None:
    data, model, reference = examples(10), linear_model(), linear_model()
    LocalSGD(LocalTraining(local_epochs=2, batch_size=4, lr=0.1, momentum=0.9)).train(model, context(data))

    generator = torch.Generator().manual_seed(7)
    velocity = [torch.zeros_like(parameter) for parameter in reference.parameters()]
    for _ in range(2):
        for indices in torch.randperm(10, generator=generator).split(4):
            images = data.images[indices].float() / 127.5 - 1
            loss = F.cross_entropy(reference(images), data.labels[indices])
            gradients = torch.autograd.grad(loss, list(reference.parameters()))
            with torch.no_grad():
                for parameter, speed, gradient in zip(reference.parameters(), velocity, gradients, strict=True):
                    speed.mul_(0.9).add_(gradient)
                    parameter.sub_(0.1 * speed)
    for mine, expected in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, expected)


def test_metrics_of_training_are_means_over_images() -> None:
    data, model = examples(10), linear_model()
    with torch.no_grad():
        logits = model(data.images.float() / 127.5 - 1)
    # One batch of all images: the loss before the only step.
    metrics = LocalSGD(LocalTraining(1, 10, lr=0.1, momentum=0.0)).train(model, context(data))
    assert metrics["num-examples"] == 10
    assert metrics["loss"] == pytest.approx(F.cross_entropy(logits, data.labels).item(), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx((logits.argmax(1) == data.labels).float().mean().item())


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(10, 4, [4, 4, 2]), (9, 4, [4, 4]), (1, 4, [1]), (3, 1, [1, 1, 1]), (8, 4, [4, 4])],
    ids=["rest of two", "rest of one left out", "one image in all", "batches of one", "no rest"],
)
def test_a_last_batch_of_one_image_is_left_out(count: int, batch_size: int, sizes: list[int]) -> None:
    trainer = LocalSGD(LocalTraining(1, batch_size, 0.1, 0.0))
    batches = trainer.batches(count, torch.Generator().manual_seed(0))
    assert [len(batch) for batch in batches] == sizes
    assert trainer.batches_of_pass(count) == len(sizes)
    drawn = torch.cat(batches).tolist()
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(range(count))


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(11, 4, [4, 4]), (9, 4, [4, 4]), (3, 4, [3]), (1, 4, [1]), (3, 1, [1, 1, 1]), (8, 4, [4, 4])],
    ids=["rest of three", "rest of one", "the only batch", "one image in all", "batches of one", "no rest"],
)
def test_any_smaller_last_batch_is_left_out_where_that_is_asked_for(
    count: int, batch_size: int, sizes: list[int]
) -> None:
    trainer = LocalSGD(LocalTraining(1, batch_size, 0.1, 0.0, drop_last=True))
    passes = [trainer.batches(count, torch.Generator().manual_seed(seed)) for seed in range(20)]
    assert all([len(batch) for batch in batches] == sizes for batches in passes)
    assert trainer.batches_of_pass(count) == len(sizes)
    assert set(torch.cat([torch.cat(batches) for batches in passes]).tolist()) == set(range(count))  # others each time
    assert images_of_pass(count, batch_size, drop_last=True) == sum(sizes)
