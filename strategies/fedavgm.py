"""FedAvgM (Hsu, Qi & Brown 2019, arXiv 1909.06335): the server's step towards the average has momentum."""

import torch
from flwr.app import RecordDict
from torch import nn

from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.training import ServerTraining

from .fedavg import FedAvg, Tensors

MOMENTUM = "server momentum"


class FedAvgM(FedAvg):
    r"""FedAvg with :math:`v \leftarrow \beta v + (w - \bar w)` and :math:`w \leftarrow w - \eta v`,

    where :math:`\bar w` is the average of the replies. Only parameters take this step; running statistics are averaged
    plainly.

    Args:
        server_momentum: :math:`\beta`, from 0 to below 1.
        server_lr: :math:`\eta`, above 0. With ``server_momentum=0 server_lr=1`` it is FedAvg.

    Raises:
        UserError: If an option is out of its range.
    """

    def __init__(
        self,
        model: nn.Module,
        training: ServerTraining | None = None,
        *,
        server_momentum: float = 0.9,
        server_lr: float = 1.0,
    ) -> None:
        super().__init__(model, training)
        if not 0 <= server_momentum < 1:
            raise UserError(
                f"strategy.server_momentum={server_momentum} is not possible: choose a number from 0 to below 1."
            )
        if not 0 < server_lr < float("inf"):
            raise UserError(f"strategy.server_lr={server_lr} is not possible: choose a number above 0.")
        self.server_momentum, self.server_lr = server_momentum, server_lr
        self.velocity: Tensors = {}

    def server_update(self, server_round: int, before: Tensors, average: Tensors) -> Tensors:
        """Return the parameters after the step with momentum."""
        if self.server_momentum == 0 and self.server_lr == 1:
            return average  # to the last bit, which differences would round
        updated: Tensors = {}
        for name, start in before.items():
            step = start - average[name].to(start)
            velocity = self.velocity.get(name, torch.zeros_like(start)).to(start)
            self.velocity[name] = self.server_momentum * velocity + step
            updated[name] = start - self.server_lr * self.velocity[name]
        return updated

    def state(self) -> RecordDict:
        """Return the inherited state and the velocity."""
        return RecordDict({**super().state(), MOMENTUM: to_record(self.velocity)})

    def load_state(self, state: RecordDict) -> None:
        """Restore what ``state`` returned."""
        super().load_state(state)
        self.velocity = to_tensors(state.array_records[MOMENTUM])
