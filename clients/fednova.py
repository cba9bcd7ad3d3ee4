"""FedNova's client (Wang et al., NeurIPS 2020, arXiv 2007.07481): it reports by how much its steps add up."""

from clients.local_sgd import LocalSGD
from fedsim.core.errors import UserError
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.training import LocalTraining

NORMALIZER = "normalizer"


class FedNova(LocalSGD):
    r"""Reports :math:`a = \lVert \mathbf a \rVert_1` of its :math:`\tau` steps: :math:`\tau` itself for SGD, and with
    momentum :math:`\rho`

    .. math:: a = \frac{1}{1 - \rho} \Big( \tau - \frac{\rho (1 - \rho^\tau)}{1 - \rho} \Big)

    since the gradient of a step goes on in the steps after it (section 4.1 of the paper).

    Raises:
        UserError: For another optimizer than SGD, whose steps are no weighted sum of gradients.
    """

    stackable = True

    def __init__(self, training: LocalTraining) -> None:
        super().__init__(training)
        if training.optimizer != "sgd":
            raise UserError(
                f"optimizer={training.optimizer} is not possible with strategy=fednova, which takes local steps for a "
                "sum of gradients: choose optimizer=sgd."
            )

    def reported(self, metrics: dict[str, float], context: TrainingContext) -> dict[str, float]:
        """Add the normalizer to the metrics."""
        rho, steps = self.training.momentum, context.step
        return {**metrics, NORMALIZER: (steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho)}
