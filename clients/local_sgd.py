"""Plain local SGD: what every client does unless its method says otherwise.

A method overrides the hook that differs and inherits the rest. In the order of a round: ``unpack``, ``begin``, and for
each step ``loss``, ``before_step``, ``after_step``; then ``end`` and ``pack``; ``predict`` when it is evaluated. One
trainer serves all clients, so what belongs to one of them is in the context and never on ``self``. Loading the model,
keeping the personal part and building the reply are the simulator's work (``fedsim/client/host.py``).
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import nn
from torch.nn import functional as F

from datasets.examples import training_batches
from fedsim.client.optimizers import make_optimizer
from fedsim.methods.interfaces import PLAIN, ClientContext, QueryHandler, TrainingContext
from fedsim.methods.training import LocalTraining

Tensors = Mapping[str, torch.Tensor]


class LocalSGD:
    """``local_epochs`` passes of the optimizer over the client's images, with a new optimizer in every round.

    Metrics: ``loss`` and ``accuracy``, means over the images, and ``num-examples`` (the images, not the passes).
    """

    queries: Mapping[str, QueryHandler] = MappingProxyType({})
    """How the queries that the method's server strategy declares are answered."""

    def __init__(self, training: LocalTraining) -> None:
        self.training = training

    def train(self, model: nn.Module, context: TrainingContext) -> dict[str, float]:
        """Train in place and return the metrics."""
        context.steps = self.epochs() * len(self.batches(len(context.data), torch.Generator()))
        model.train()
        self.begin(model, context)
        metrics = self.passes(model, context)
        self.end(model, context)
        return metrics

    def epochs(self) -> int:
        """Return how often the images are passed over, in all parts of the training."""
        return self.training.local_epochs

    def passes(self, model: nn.Module, context: TrainingContext) -> dict[str, float]:
        """Make the passes over the images and return the metrics."""
        return self.fit(model, context, self.training.local_epochs)

    def fit(self, model: nn.Module, context: TrainingContext, epochs: int) -> dict[str, float]:
        """Make so many passes, with an optimizer of their own, over what needs a gradient; the metrics are theirs."""
        optimizer = make_optimizer(model.parameters(), self.training)
        data, device = context.data, context.data.labels.device
        # Sums stay on the device, so that a GPU is not made to wait for every batch.
        loss_sum, correct = torch.zeros((), device=device), torch.zeros((), device=device)
        seen = 0
        for _ in range(epochs):
            for indices in self.batches(len(data), context.generator):
                images, labels = context.batch = data.batch(indices.to(device, non_blocking=True), context.generator)
                optimizer.zero_grad(set_to_none=True)
                logits = model(images)
                loss = self.loss(model, logits, labels, context)
                loss.backward()
                self.before_step(model, context)
                optimizer.step()
                context.step += 1
                self.after_step(model, optimizer, context)
                loss_sum += loss.detach() * len(labels)
                correct += (logits.detach().argmax(1) == labels).sum()
                seen += len(labels)
        return {"num-examples": len(data), "loss": loss_sum.item() / seen, "accuracy": correct.item() / seen}

    def batches(self, examples: int, generator: torch.Generator) -> list[torch.Tensor]:
        """Return the indices of one pass in random order, in the batches of ``training_batches``."""
        return training_batches(torch.randperm(examples, generator=generator), self.training.batch_size)

    def begin(self, model: nn.Module, context: TrainingContext) -> None:
        """Prepare for the first step; the model is as the round starts with it."""

    def loss(
        self, model: nn.Module, logits: torch.Tensor, labels: torch.Tensor, context: TrainingContext
    ) -> torch.Tensor:
        """Return the loss of a batch: logits (N, classes), labels (N,)."""
        return F.cross_entropy(logits, labels)

    def before_step(self, model: nn.Module, context: TrainingContext) -> None:
        """Change gradients, which stand in ``parameter.grad``, between backward and the optimizer's step."""

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, context: TrainingContext) -> None:
        """Work on the weights, once the optimizer has changed them."""

    def end(self, model: nn.Module, context: TrainingContext) -> None:
        """Put into ``context.state`` and ``context.reply`` what the last step leaves; the model is trained."""

    def unpack(self, arrays: Tensors, model: nn.Module, context: ClientContext) -> Tensors:
        """Return the entries of the model that arrived, for training or evaluation."""
        return arrays

    def pack(self, entries: Tensors, model: nn.Module, context: TrainingContext) -> Tensors:
        """Return the form in which trained entries travel; the names stay."""
        return entries

    def predict(self, model: nn.Module, images: torch.Tensor, context: ClientContext) -> dict[str, torch.Tensor]:
        """Return logits (N, classes) by predictor."""
        return {PLAIN: model(images)}
