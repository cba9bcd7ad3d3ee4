"""Training of many clients at once, in which each computes what it would compute alone (``engine=vectorized``).

Their models are stacked, one row for each client. Nothing is padded: in each step the clients whose batches have the
same size are computed together, so no sample that is not the client's enters a loss or a statistic. A client that has
made its last step is taken out with its row; what becomes of the row afterwards is not looked at.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fedsim.client.finite_loss import FiniteLoss
from fedsim.client.optimizers import make_optimizer
from fedsim.client.stacked_step import StackedStep, Stacks
from fedsim.core.errors import FedsimError
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.stackable import StackableTrainer

Batch = tuple[torch.Tensor, torch.Tensor]
Rows = slice | torch.Tensor
"""Some rows of a stack: all of them, or the indices of some."""


@dataclass(eq=False)
class Lane:
    """A client in a stack: its model before the training, and after it."""

    context: TrainingContext
    parameters: Stacks
    buffers: Stacks
    metrics: dict[str, float] = field(default_factory=dict)
    """The metrics of the passes."""
    error: FedsimError | None = None
    """The error that has ended the training, if any."""

    @classmethod
    def of(cls, model: nn.Module, context: TrainingContext) -> "Lane":
        """Return the lane of a client whose model is loaded."""
        return cls(
            context,
            {name: tensor.detach().clone() for name, tensor in model.named_parameters()},
            {name: tensor.detach().clone() for name, tensor in model.named_buffers()},
        )

    @torch.no_grad()
    def load(self, model: nn.Module) -> None:
        """Put the client's model into ``model``."""
        own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for name, tensor in {**self.parameters, **self.buffers}.items():
            own[name].copy_(tensor)


class Stack:
    """The stacked models of clients of the same round."""

    def __init__(self, model: nn.Module, trainer: StackableTrainer, lanes: Sequence[Lane]) -> None:
        self._trainer, self._lanes = trainer, lanes
        contexts = [lane.context for lane in lanes]
        (round,) = {context.round for context in contexts}
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        parameters: Stacks = stacked([lane.parameters for lane in lanes])
        self._parameters = {name: each.requires_grad_(name in trained) for name, each in parameters.items()}
        self._buffers: Stacks = stacked([lane.buffers for lane in lanes])
        for lane in lanes:  # not twice in memory
            lane.parameters, lane.buffers = {}, {}
        self._constants: Mapping[str, Any] = stacked([context.scratch for context in contexts])
        self._step = StackedStep(model, trainer, round)
        self._optimizer = make_optimizer(
            [parameter for parameter in self._parameters.values() if parameter.requires_grad], trainer.training, round
        )
        device = contexts[0].data.labels.device
        self._watches = [FiniteLoss(context) for context in contexts]
        self._loss_sums, self._correct = torch.zeros(2, len(lanes), device=device)
        self._seen = [0] * len(lanes)

    def train(self) -> None:
        """Make all passes of all clients, and write models and metrics, or the error, to the lanes."""
        batches = {row: self._batches(row) for row in range(len(self._lanes))}
        while batches:
            drawn: dict[int, Batch] = {}
            for row in list(batches):
                try:
                    drawn[row] = next(batches[row])
                except StopIteration:
                    self._take_out(row)
                except FedsimError as error:
                    self._lanes[row].error = error
                if row not in drawn:
                    del batches[row]
            if drawn:
                self._make_step(drawn)
            for row in [row for row in drawn if self._lanes[row].error is not None]:
                del batches[row]

    def _batches(self, row: int) -> Iterator[Batch]:
        """Yield the client's batches as ``LocalSGD.fit`` draws them.

        Raises:
            Diverged: If a loss of a pass is not finite, and was not looked at in its step.
        """
        context = self._lanes[row].context
        data, device = context.data, context.data.labels.device
        for _ in range(self._trainer.training.local_epochs):
            for indices in self._trainer.batches(len(data), context.generator):
                yield data.batch(indices.to(device, non_blocking=True), context.generator)
            self._watches[row].settle()

    def _make_step(self, drawn: Mapping[int, Batch]) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        by_size: dict[torch.Size, list[int]] = {}
        for row, (images, _) in drawn.items():
            by_size.setdefault(images.shape, []).append(row)
        losses = [self._losses(rows, [drawn[row] for row in rows]) for rows in by_size.values()]
        torch.cat(losses).sum().backward()  # of each client, the gradient of its own
        gradients = {name: each.grad for name, each in self._parameters.items() if each.grad is not None}
        parameters = {name: each.detach() for name, each in self._parameters.items()}
        for name, gradient in self._step.changed(parameters, gradients, self._constants).items():
            self._parameters[name].grad = gradient
        self._optimizer.step()
        for row in drawn:
            self._lanes[row].context.step += 1

    def _losses(self, rows: list[int], batches: Sequence[Batch]) -> torch.Tensor:
        """Return the losses (K,) of clients whose batches have the same size; update buffers and metrics."""
        images, labels = (torch.stack(each) for each in zip(*batches, strict=True))
        at = slice(None) if len(rows) == len(self._lanes) else torch.tensor(rows, device=labels.device)
        losses, predicted, buffers = self._step.forward(
            picked(self._parameters, at), picked(self._buffers, at), picked(self._constants, at), images, labels
        )
        for name, buffer in buffers.items():  # not in place: backward may need what is there
            old = self._buffers[name]
            self._buffers[name] = buffer if isinstance(at, slice) else old.index_copy(0, at, buffer)
        seen = losses.detach()
        self._loss_sums[at] += seen * labels.shape[1]
        self._correct[at] += (predicted == labels).sum(1)
        for row, loss in zip(rows, seen, strict=True):
            self._seen[row] += labels.shape[1]
            try:
                self._watches[row].see(loss)
            except FedsimError as error:
                self._lanes[row].error = error
        return losses

    def _take_out(self, row: int) -> None:
        lane, seen = self._lanes[row], self._seen[row]
        lane.parameters = {name: each.detach()[row].clone() for name, each in self._parameters.items()}
        lane.buffers = {name: each[row].clone() for name, each in self._buffers.items()}
        lane.metrics = {
            "num-examples": len(lane.context.data),
            "loss": self._loss_sums[row].item() / seen,
            "accuracy": self._correct[row].item() / seen,
        }


def stacked(parts: Sequence[Any]) -> Any:
    """Return the stacks of tensors that have the same places in dictionaries and tuples.

    Raises:
        TypeError: If there is something else than tensors, or they are in other places.
    """
    first = parts[0]
    if isinstance(first, torch.Tensor):
        return torch.stack(list(parts))
    if isinstance(first, Mapping) and all(each.keys() == first.keys() for each in parts):
        return {key: stacked([each[key] for each in parts]) for key in first}
    if isinstance(first, tuple) and all(len(each) == len(first) for each in parts):
        return tuple(stacked(each) for each in zip(*parts, strict=True))
    raise TypeError(f"constants have to be tensors of the same names for all clients, and {first!r} is not")


def picked(stacks: Any, rows: Rows) -> Any:
    """Return some rows of stacks."""
    if isinstance(stacks, torch.Tensor):
        return stacks[rows]
    if isinstance(stacks, Mapping):
        return {key: picked(each, rows) for key, each in stacks.items()}
    return tuple(picked(each, rows) for each in stacks)
