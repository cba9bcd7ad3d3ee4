"""FedTAN's client (Wang, Shi & Chang 2023, arXiv 2301.02982): its first step is one of all clients together."""

from types import MappingProxyType

import torch
from flwr.app import ArrayRecord, ConfigRecord
from torch import nn
from torch.nn import functional as F

from clients.local_sgd import LocalSGD
from fedsim.client.optimizers import make_optimizer
from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import NUM_EXAMPLES
from fedsim.methods.interfaces import Answer, QueryContext, TrainingContext
from fedsim.methods.training import LocalTraining
from fedsim.norms.synchronized import (
    MEAN,
    MEAN_GRADIENT,
    VARIANCE,
    VARIANCE_GRADIENT,
    named_batch_norms,
    synchronized,
    through_statistics,
)

PARTS, SYNCHRONIZED, WANTED, FIRST = "statistics_parts", "synchronized", "wanted", "first"
MODEL, BATCH, INDICES = "model", "batch", "indices"
"""The records of the client's state, from the first query of a round to its training: the model and the batch."""


class FedTAN(LocalSGD):
    """Answers queries for its parts of the global statistics on one batch, makes a step on that batch with what the
    server has put together, and then trains as in FedAvg, with batches' own statistics.

    The batch is drawn in the first query of a round and not augmented. Running statistics move in the common step
    towards the global ones, the variance times n / (n - 1) for a batch of n images, as in the authors' code; dropout
    is off in it. The metrics are those of the passes after it, or without any those of the batch.

    Args:
        further_epochs: Passes over the images after the common step, at least 0; ``None`` for ``local_epochs``.
    """

    def __init__(self, training: LocalTraining, further_epochs: int | None = None) -> None:
        super().__init__(training)
        if further_epochs is not None and further_epochs < 0:
            raise UserError(
                f"strategy.further_epochs={further_epochs} is not possible: choose a whole number of at least 0."
            )
        self.further_epochs = training.local_epochs if further_epochs is None else further_epochs
        self.queries = MappingProxyType({PARTS: self.parts})

    def epochs(self) -> int:
        """Return the passes after the common step."""
        return self.further_epochs

    def parts(self, context: QueryContext) -> Answer:
        """Return this client's parts of a layer's statistics, or of the gradients by them."""
        known = dict(context.arrays)
        if context.config[FIRST]:
            order = torch.randperm(len(context.data), generator=context.generator_for(f"batch {context.round}"))
            context.state[BATCH] = ConfigRecord({INDICES: order[: self.training.batch_size].tolist()})
            context.state[MODEL] = to_record(known)
            known = {}
        entries = context.state[MODEL]
        assert isinstance(entries, ArrayRecord)
        context.load(to_tensors(entries))
        images, labels = context.data.batch(_indices(context.state[BATCH], context.data.labels.device))
        known = {name: tensor.to(images.device) for name, tensor in known.items()}
        names = [str(name) for name in context.config[WANTED]]  # type: ignore[union-attr]
        if names[0].endswith((MEAN, VARIANCE)):
            with torch.no_grad(), synchronized(context.model, known) as own:
                context.model(images)
            return Answer({NUM_EXAMPLES: len(context.data)}, {name: own[name] for name in names})
        layer = names[0].removesuffix(MEAN_GRADIENT)
        by = [known[layer + kind].requires_grad_() for kind in (MEAN, VARIANCE)]
        with synchronized(context.model, known) as own:
            logits = context.model(images)
        total = F.cross_entropy(logits, labels) + through_statistics(own, known).to(logits)
        gradients = torch.autograd.grad(total, by)
        return Answer(
            {NUM_EXAMPLES: len(context.data)},
            dict(zip((layer + MEAN_GRADIENT, layer + VARIANCE_GRADIENT), gradients, strict=True)),
        )

    def passes(self, model: nn.Module, context: TrainingContext) -> dict[str, float]:
        """Make the common step, then the passes."""
        context.steps += 1
        metrics = self.common_step(model, context)
        return self.fit(model, context, self.further_epochs) if self.further_epochs else metrics

    def common_step(self, model: nn.Module, context: TrainingContext) -> dict[str, float]:
        """Make the step on the batch of the queries, in which BatchNorm is that of all clients; return metrics."""
        indices = _indices(context.state.pop(BATCH), context.data.labels.device)
        context.state.pop(MODEL)
        images, labels = context.data.batch(indices)
        record = to_tensors(context.sent.array_records[SYNCHRONIZED])
        known = {name: tensor.to(images.device) for name, tensor in record.items()}
        optimizer = make_optimizer(model.parameters(), self.training, context.round)
        with synchronized(model, known) as own:
            logits = model(images)
        loss = self.loss(model, logits, labels, context)
        optimizer.zero_grad(set_to_none=True)
        (loss + through_statistics(own, known).to(loss)).backward()
        self.before_step(model, context)
        optimizer.step()
        context.step += 1
        self.after_step(model, optimizer, context)
        _move_running_statistics(model, known, len(labels))
        right = (logits.argmax(1) == labels).float().mean()
        return {NUM_EXAMPLES: len(context.data), "loss": loss.item(), "accuracy": right.item()}


@torch.no_grad()
def _move_running_statistics(model: nn.Module, known: dict[str, torch.Tensor], images: int) -> None:
    for name, layer in named_batch_norms(model).items():
        if layer.running_mean is not None and layer.running_var is not None and name + MEAN in known:
            momentum = 0.1 if layer.momentum is None else layer.momentum
            layer.running_mean.lerp_(known[name + MEAN], momentum)
            layer.running_var.lerp_(known[name + VARIANCE] * images / max(images - 1, 1), momentum)
            if layer.num_batches_tracked is not None:
                layer.num_batches_tracked += 1


def _indices(record: object, device: torch.device) -> torch.Tensor:
    assert isinstance(record, ConfigRecord)
    return torch.tensor(record[INDICES], device=device)
