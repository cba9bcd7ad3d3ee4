"""Plain local SGD: what every client does unless its method says otherwise.

A method overrides the step that differs (``loss``, ``before_step``, ``train``, ``predict``) and inherits the rest.
Loading the model, keeping the personal part and building the reply are the simulator's work
(``fedsim/client/host.py``).
"""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from datasets.examples import Examples, training_batches
from fedsim.client.optimizers import make_optimizer
from fedsim.methods.interfaces import PLAIN, LocalTraining, Turn


class LocalSGD:
    """``local_epochs`` passes of the optimizer over the client's images, with a new optimizer in every round.

    Metrics: ``loss`` and ``accuracy``, means over the images, and ``num-examples`` (the images, not the passes).
    """

    def __init__(self, training: LocalTraining) -> None:
        self.training = training

    def train(self, model: nn.Module, data: Examples, turn: Turn) -> dict[str, float]:
        return self.fit(model, data, turn, self.training.local_epochs)

    def fit(self, model: nn.Module, data: Examples, turn: Turn, epochs: int) -> dict[str, float]:
        """So many passes, with an optimizer of their own, over what needs a gradient; the metrics are theirs."""
        model.train()
        optimizer = make_optimizer(model.parameters(), self.training)
        device = data.labels.device
        # Sums stay on the device, so that a GPU is not made to wait for every batch.
        loss_sum, correct = torch.zeros((), device=device), torch.zeros((), device=device)
        seen = 0
        for _ in range(epochs):
            for indices in self.batches(len(data), turn.generator):
                images, labels = data.batch(indices.to(device, non_blocking=True), turn.generator)
                optimizer.zero_grad(set_to_none=True)
                logits = model(images)
                loss = self.loss(model, logits, labels)
                loss.backward()
                self.before_step(model)
                optimizer.step()
                self.after_step(model, optimizer)
                loss_sum += loss.detach() * len(labels)
                correct += (logits.detach().argmax(1) == labels).sum()
                seen += len(labels)
        return {"num-examples": len(data), "loss": loss_sum.item() / seen, "accuracy": correct.item() / seen}

    def batches(self, examples: int, generator: torch.Generator) -> list[torch.Tensor]:
        """Return the indices of one pass in random order, in the batches of ``training_batches``."""
        return training_batches(torch.randperm(examples, generator=generator), self.training.batch_size)

    def loss(self, model: nn.Module, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, labels)

    def before_step(self, model: nn.Module) -> None:
        """Between backward and the optimizer's step; the gradients stand in ``parameter.grad``."""

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Once the optimizer has changed the weights."""

    def unpack(self, arrays: Mapping[str, torch.Tensor], model: nn.Module, turn: Turn) -> Mapping[str, torch.Tensor]:
        return arrays

    def pack(self, entries: Mapping[str, torch.Tensor], model: nn.Module, turn: Turn) -> Mapping[str, torch.Tensor]:
        return entries

    def predict(self, model: nn.Module, images: torch.Tensor, *, own: bool) -> dict[str, torch.Tensor]:
        return {PLAIN: model(images)}
