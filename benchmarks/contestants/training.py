"""What a client does, for the contestants that have no local training of their own."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.contestants.cases import BATCH_SIZE, LEARNING_RATE, Task
from benchmarks.contestants.images import read

TEST_BATCH = 512


class Clients:
    """The clients' images, normalized as fedsim does it."""

    def __init__(self, task: Task) -> None:
        self.task, self.case = task, task.what
        self.train, self.test = read(task.data, "train"), read(task.data, "test")

    def examples(self, client: int, server_round: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what a client trains on in a round, in an order of that round."""
        generator = torch.Generator().manual_seed((self.task.seed * 1009 + server_round) * 1_000_003 + client)
        order = torch.randperm(self.case.images, generator=generator)
        images, labels = _part(self.train, client, self.case.images)
        return normalized(images[order]), labels[order]

    def tests(self, client: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a client's share of the test images."""
        images, labels = _part(self.test, client, self.case.tests // self.case.clients)
        return normalized(images), labels

    def cohorts(self) -> Iterator[list[int]]:
        """Return the clients of each round: the next in line, as they would be drawn without replacement."""
        first = 0
        while True:
            yield [(first + place) % self.case.clients for place in range(self.case.cohort)]
            first += self.case.cohort


def _part(arrays: tuple[np.ndarray, np.ndarray], client: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = (torch.from_numpy(np.array(each[client * size : (client + 1) * size])) for each in arrays)
    return images, labels


def normalized(images: torch.Tensor) -> torch.Tensor:
    return images.float().div_(127.5).sub_(1)


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[int, float]:
    """Train one pass of SGD; return the number of images and the sum of their losses."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    seen, total = 0, torch.zeros(())
    for batch, target in zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True):
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(batch), target)
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(target)
        seen += len(target)
    return seen, float(total)


@torch.no_grad()
def tested(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Return the sum of the losses and the number of images that are right."""
    model.eval()
    total, right = torch.zeros(()), torch.zeros(())
    for batch, target in zip(images.split(TEST_BATCH), labels.split(TEST_BATCH), strict=True):
        logits = model(batch)
        total += F.cross_entropy(logits, target, reduction="sum")
        right += (logits.argmax(1) == target).sum()
    return float(total), float(right)
