"""SCAFFOLD's client (Karimireddy et al., ICML 2020, arXiv 1910.06378): gradients are corrected by control variates."""

import torch
from torch import nn

from clients.local_sgd import LocalSGD
from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.training import LocalTraining

CONTROL = "control"
"""The record of c in a message, of the client's :math:`c_i` in its state, and of the change of this in a reply."""
START, SERVER, OWN = "start", "server control", "own control"


class Scaffold(LocalSGD):
    r"""Trains by :math:`y \leftarrow y - \eta_l (g(y) - c_i + c)`, and after K steps updates its control variate to

    .. math:: c_i^+ = c_i - c + \frac{1}{K \eta_l} (x - y)

    (Algorithm 1, option II), where x is the model that the client received; :math:`c_i` starts at zero.

    Raises:
        UserError: If the optimizer is not SGD without momentum: steps of others are not a sum of gradients.
    """

    stackable = True

    def __init__(self, training: LocalTraining) -> None:
        super().__init__(training)
        if training.optimizer != "sgd" or training.momentum:
            raise UserError(
                f"optimizer={training.optimizer} with momentum={training.momentum:g} is not possible with "
                "strategy=scaffold, which takes the sum of the steps for that of the gradients: choose optimizer=sgd "
                "and momentum=0."
            )

    def begin(self, model: nn.Module, context: TrainingContext) -> None:
        """Store copies of the parameters and both control variates on the device."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        server = to_tensors(context.sent.array_records[CONTROL])
        kept = context.state.get(CONTROL)
        own = to_tensors(kept) if kept is not None else {}  # type: ignore[arg-type]
        context.scratch[SERVER] = {name: c.to(parameters[name].device) for name, c in server.items()}
        context.scratch[OWN] = {
            name: own[name].to(c.device) if name in own else torch.zeros_like(c)
            for name, c in context.scratch[SERVER].items()
        }
        context.scratch[START] = {name: parameters[name].detach().clone() for name in server}

    def before_step(self, model: nn.Module, context: TrainingContext) -> None:
        """Correct the gradients in place by ``c - c_i``."""
        server, own = context.scratch[SERVER], context.scratch[OWN]
        for name, parameter in model.named_parameters():
            if name in server and parameter.grad is not None:
                parameter.grad += server[name] - own[name]

    def end(self, model: nn.Module, context: TrainingContext) -> None:
        """Update the client's control variate in its state, and add the change to the reply."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        scale = 1 / (context.step * self.training.lr_in(context.round))
        own, new = context.scratch[OWN], {}
        for name, server in context.scratch[SERVER].items():
            moved = context.scratch[START][name] - parameters[name].detach()
            new[name] = own[name] - server + scale * moved
        context.state[CONTROL] = to_record(new)
        context.reply[CONTROL] = to_record({name: new[name] - own[name] for name in new})
