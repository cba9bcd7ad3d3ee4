"""FedAdam (Reddi et al., ICLR 2021, arXiv 2003.00295): the server takes Adam's step towards the average."""

import torch
from flwr.app import RecordDict
from torch import nn

from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.training import ServerTraining

from .fedavg import FedAvg, Tensors

FIRST, SECOND = "server first moment", "server second moment"


class FedAdam(FedAvg):
    r"""With :math:`\Delta = \bar w - w`, where :math:`\bar w` is the average of the replies (Algorithm 2):

    .. math:: m \leftarrow \beta_1 m + (1 - \beta_1) \Delta, \quad v \leftarrow \beta_2 v + (1 - \beta_2) \Delta^2,
              \quad w \leftarrow w + \eta \, m / (\sqrt v + \tau)

    m starts at zero and v at :math:`\tau^2`; as in the paper there is no bias correction. Only parameters take this
    step; running statistics are averaged plainly, since such a step could make a variance negative.

    Args:
        server_lr: The server's learning rate :math:`\eta`, above 0.
        beta_1: Decay rate of the first moment, from 0 to below 1.
        beta_2: Decay rate of the second moment, from 0 to below 1.
        tau: The degree of adaptivity, above 0.

    Raises:
        UserError: If an option is out of its range.
    """

    def __init__(
        self,
        model: nn.Module,
        training: ServerTraining | None = None,
        *,
        server_lr: float = 0.01,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        tau: float = 0.001,
    ) -> None:
        super().__init__(model, training)
        for key, value in (("server_lr", server_lr), ("tau", tau)):
            if not 0 < value < float("inf"):
                raise UserError(f"strategy.{key}={value} is not possible: choose a number above 0.")
        for key, value in (("beta_1", beta_1), ("beta_2", beta_2)):
            if not 0 <= value < 1:
                raise UserError(f"strategy.{key}={value} is not possible: choose a number from 0 to below 1.")
        self.server_lr, self.beta_1, self.beta_2, self.tau = server_lr, beta_1, beta_2, tau
        self.first: Tensors = {}
        self.second: Tensors = {}

    def server_update(self, server_round: int, before: Tensors, average: Tensors) -> Tensors:
        """Return the parameters after Adam's step from the model before the round towards the average."""
        updated: Tensors = {}
        for name, start in before.items():
            change = average[name].to(start) - start
            first = self.first.get(name, torch.zeros_like(start)).to(start)
            second = self.second.get(name, torch.full_like(start, self.tau**2)).to(start)
            self.first[name] = self.beta_1 * first + (1 - self.beta_1) * change
            self.second[name] = self.second_moment(second, change.square())
            updated[name] = start + self.server_lr * self.first[name] / (self.second[name].sqrt() + self.tau)
        return updated

    def second_moment(self, second: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
        r"""Return the new v of one entry, of the old one and :math:`\Delta^2`."""
        return self.beta_2 * second + (1 - self.beta_2) * square

    def state(self) -> RecordDict:
        """Return the inherited state and both moments."""
        return RecordDict({**super().state(), FIRST: to_record(self.first), SECOND: to_record(self.second)})

    def load_state(self, state: RecordDict) -> None:
        """Restore what ``state`` returned."""
        super().load_state(state)
        self.first, self.second = (to_tensors(state.array_records[name]) for name in (FIRST, SECOND))
