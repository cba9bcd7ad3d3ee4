"""The network, the data and the training, as they are without federated learning."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

CLASSES = 4
SIDE = 16
"""Of an image, in pixels."""
Examples = tuple[torch.Tensor, torch.Tensor]


def make_model() -> nn.Module:
    """Return a network for images (N, 1, 16, 16), with a BatchNorm behind each convolution."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(16, CLASSES)),
    )


def make_examples(client: int, part: str, images: int = 128) -> Examples:
    """Return stripes in four directions, as this client's camera takes them: its contrast, brightness and noise.

    Args:
        client: whose images; every third camera shows negatives.
        part: ``"train"`` or ``"test"``.
        images: how many.
    """
    generator = torch.Generator().manual_seed(1000 * client + (part == "test"))
    labels = torch.randint(CLASSES, (images,), generator=generator)
    angle = labels[:, None, None] * torch.pi / CLASSES
    row, column = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    phase = 2 * torch.pi * torch.rand((images, 1, 1), generator=generator)
    stripes = torch.sin(1.2 * (row * angle.cos() + column * angle.sin()) + phase)
    contrast = (-1 if client % 3 == 2 else 1) / (1 + client)
    noise = 0.3 * contrast * torch.randn(stripes.shape, generator=generator)
    return (contrast * stripes + noise + client)[:, None], labels


def train(model: nn.Module, examples: Examples, lr: float) -> float:
    """Train for one pass over the images, in their order; return the mean loss."""
    images, labels = examples
    optimizer = torch.optim.SGD(model.parameters(), lr)
    model.train()
    total = 0.0
    for batch, target in zip(images.split(16), labels.split(16), strict=True):
        optimizer.zero_grad()
        loss = cross_entropy(model(batch), target)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(target)
    return total / len(labels)


@torch.no_grad()
def accuracy(model: nn.Module, examples: Examples) -> float:
    """Return the share of images whose class is predicted."""
    images, labels = examples
    model.eval()
    return (model(images).argmax(1) == labels).float().mean().item()
