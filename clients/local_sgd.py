"""Plain local SGD, the base of all local trainers.

A method overrides the hook that differs and inherits the rest. In the order of a round: ``unpack``, ``begin``,
``optimizer``, and for each step ``loss``, ``before_step``, ``after_step``; then ``end``, ``reported`` and ``pack``;
``predict`` at evaluation. One trainer serves all clients, so the data of a single client is in the context and never on
``self``. The simulator loads the model, stores the personal part and builds the reply (``fedsim/client/host.py``).
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import nn
from torch.nn import functional as F

from datasets.examples import batches_of_pass, training_batches
from fedsim.client.finite_loss import FiniteLoss
from fedsim.client.optimizers import make_optimizer
from fedsim.methods.interfaces import PLAIN, ClientContext, QueryHandler, TrainingContext
from fedsim.methods.training import LocalTraining

Tensors = Mapping[str, torch.Tensor]


class LocalSGD:
    """``local_epochs`` passes of the optimizer over the client's images, with a new optimizer in every round.

    The metrics are ``loss`` and ``accuracy``, means over all images of all passes, and ``num-examples``, the number of
    the client's images, whatever the number of passes.
    """

    queries: Mapping[str, QueryHandler] = MappingProxyType({})
    """The handlers of the queries that the method's server strategy declares."""
    stackable = True
    """Whether several clients can be trained at once (``fedsim.methods.stackable``); a subclass says it again."""

    def __init__(self, training: LocalTraining) -> None:
        self.training = training

    def train(self, model: nn.Module, context: TrainingContext) -> dict[str, float]:
        """Train the model in place and return the metrics."""
        self.start(model, context)
        return self.finish(model, context, self.passes(model, context))

    def start(self, model: nn.Module, context: TrainingContext) -> None:
        """Count the steps of the round, and prepare for the first one."""
        context.steps = self.epochs() * self.batches_of_pass(len(context.data))
        model.train()
        self.begin(model, context)

    def finish(self, model: nn.Module, context: TrainingContext, metrics: dict[str, float]) -> dict[str, float]:
        """Write the results, after the last step, and return the metrics of the reply from those of the passes."""
        self.end(model, context)
        return self.reported(metrics, context)

    def epochs(self) -> int:
        """Return the number of passes over the images in all parts of the training."""
        return self.training.local_epochs

    def passes(self, model: nn.Module, context: TrainingContext) -> dict[str, float]:
        """Make the passes over the images and return the metrics."""
        return self.fit(model, context, self.training.local_epochs)

    def fit(self, model: nn.Module, context: TrainingContext, epochs: int) -> dict[str, float]:
        """Make ``epochs`` passes with a new optimizer for the parameters that require gradients; return the metrics.

        Raises:
            Diverged: If a loss is not finite.
        """
        optimizer = self.optimizer(model, context)
        data, device = context.data, context.data.labels.device
        # Sums stay on the device, so that there is no synchronization with a GPU in every batch.
        loss_sum, correct = torch.zeros((), device=device), torch.zeros((), device=device)
        seen, finite = 0, FiniteLoss(context)
        for _ in range(epochs):
            for indices in self.batches(len(data), context.generator):
                images, labels = context.batch = data.batch(indices.to(device, non_blocking=True), context.generator)
                optimizer.zero_grad(set_to_none=True)
                logits = model(images)
                loss = self.loss(model, logits, labels, context)
                finite.see(loss)
                loss.backward()
                self.before_step(model, context)
                optimizer.step()
                context.step += 1
                self.after_step(model, optimizer, context)
                loss_sum += loss.detach() * len(labels)
                correct += (logits.detach().argmax(1) == labels).sum()
                seen += len(labels)
            finite.settle()
        return {"num-examples": len(data), "loss": loss_sum.item() / seen, "accuracy": correct.item() / seen}

    def optimizer(self, model: nn.Module, context: TrainingContext) -> torch.optim.Optimizer:
        """Return the optimizer of the passes, a new one."""
        return make_optimizer(model.parameters(), self.training, context.round)

    def batches(self, examples: int, generator: torch.Generator) -> list[torch.Tensor]:
        """Return the indices of one pass in random order, divided into batches by ``training_batches``.

        An override that makes another number of batches overrides ``batches_of_pass``, too.
        """
        order, training = torch.randperm(examples, generator=generator), self.training
        return training_batches(order, training.batch_size, drop_last=training.drop_last)

    def batches_of_pass(self, examples: int) -> int:
        """Return how many batches ``batches`` makes, without drawing them: ``context.steps`` is counted by it."""
        return batches_of_pass(examples, self.training.batch_size, drop_last=self.training.drop_last)

    def begin(self, model: nn.Module, context: TrainingContext) -> None:
        """Prepare for the first step; the model has its values at the start of the round."""

    def loss(
        self, model: nn.Module, logits: torch.Tensor, labels: torch.Tensor, context: TrainingContext
    ) -> torch.Tensor:
        """Return the loss of a batch: logits (N, classes), labels (N,)."""
        return F.cross_entropy(logits, labels)

    def before_step(self, model: nn.Module, context: TrainingContext) -> None:
        """Change gradients (``parameter.grad``) between backward and the optimizer's step."""

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, context: TrainingContext) -> None:
        """Change the weights, or do other work, after the optimizer's step."""

    def end(self, model: nn.Module, context: TrainingContext) -> None:
        """Write results to ``context.state`` and ``context.reply`` after the last step."""

    def reported(self, metrics: dict[str, float], context: TrainingContext) -> dict[str, float]:
        """Return the metrics of the reply, from those of the passes."""
        return metrics

    def unpack(self, arrays: Tensors, model: nn.Module, context: ClientContext) -> Tensors:
        """Return the entries of the model from the received arrays, for training or evaluation."""
        return arrays

    def pack(self, entries: Tensors, model: nn.Module, context: TrainingContext) -> Tensors:
        """Return the trained entries in the form in which they are sent, under the same names."""
        return entries

    def predict(self, model: nn.Module, images: torch.Tensor, context: ClientContext) -> dict[str, torch.Tensor]:
        """Return the logits (N, classes) of each predictor."""
        return {PLAIN: model(images)}
