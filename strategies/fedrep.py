"""FedRep (Collins et al., ICML 2021, arXiv 2102.07078): FedPer's split, with the two parts trained one by one."""

from torch import nn

from fedsim.core.errors import UserError
from fedsim.cost import Passes, Workload
from fedsim.methods.training import ServerTraining

from .fedper import FedPer


class FedRep(FedPer):
    """The body is averaged and the classifier is personal, as in FedPer.

    Local training differs (``clients/fedrep.py``): it begins with ``head_epochs`` passes for the head alone. Replies
    are weighted by examples, as in the official code; the paper's Algorithm 1 weighs all clients the same.

    Raises:
        UserError: As ``FedPer``, and if there is nothing to train before the classifier.
    """

    name = "fedrep"

    def __init__(self, model: nn.Module, training: ServerTraining | None = None, *, head_epochs: int = 10) -> None:
        super().__init__(model, training)
        if not any(each.requires_grad for name, each in model.named_parameters() if name not in self.personal):
            raise UserError(
                "strategy=fedrep needs something to train in front of the classifier, and this network has nothing: "
                "choose another model, or strategy=local."
            )
        head = {entry.rpartition(".")[0] for entry in self.personal}
        body = {name.rpartition(".")[0] for name, _ in model.named_parameters()} - head
        self.training_load = Workload(passes=(Passes(head_epochs, head, through=()), Passes(trained=body)))
