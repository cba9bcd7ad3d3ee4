"""A small network, images and a context, for tests of trainers against loops written out."""

from collections.abc import Iterator

import torch
from flwr.app import RecordDict
from torch import nn

from datasets.examples import Examples
from fedsim.messages.arrays import to_record
from fedsim.methods.interfaces import TrainingContext


def network(seed: int = 0) -> nn.Module:
    """Return a convolution, BatchNorm and a linear layer for images of 1 x 4 x 4 and three classes, in float64."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3)
    ).double()


def examples(count: int = 12, seed: int = 2) -> Examples:
    """Return images of three classes, in float64 once they are in a batch."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, 4, 4), dtype=torch.uint8, generator=generator)
    return Examples(
        images, torch.randint(0, 3, (count,), generator=generator), lambda batch, _: batch.double() / 127.5 - 1
    )


def context(model: nn.Module, data: Examples, seed: int = 3, **more: object) -> TrainingContext:
    """Return what a client knows that was sent this model."""
    sent = RecordDict({"arrays": to_record({name: each.clone() for name, each in model.state_dict().items()})})
    return TrainingContext(data=data, generator=torch.Generator().manual_seed(seed), sent=sent, **more)  # type: ignore[arg-type]


def batches(data: Examples, epochs: int, size: int, seed: int = 3) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the batches that local SGD draws from the generator of ``context``."""
    yield from batches_of(torch.Generator().manual_seed(seed), data, epochs, size)


def batches_of(
    generator: torch.Generator, data: Examples, epochs: int, size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the batches of so many further passes."""
    for _ in range(epochs):
        for indices in torch.randperm(len(data), generator=generator).split(size):
            yield data.images[indices].double() / 127.5 - 1, data.labels[indices]
