"""MOON (Li, He & Song, CVPR 2021, arXiv 2103.16257): the server's half, which is FedAvg's."""

from torch import nn

from fedsim.cost import Passes, Workload
from fedsim.methods.training import ServerTraining
from fedsim.models.classifier import classifier_of

from .fedavg import FedAvg


class MOON(FedAvg):
    """Averages as FedAvg does. What differs is the clients' loss (``clients/moon.py``), for which a device also keeps
    two models and lets every batch through them.

    Raises:
        UserError: If the model has no linear layer that makes the logits, whose inputs are the features.
    """

    def __init__(self, model: nn.Module, training: ServerTraining | None = None) -> None:
        super().__init__(model, training)
        classifier_of(model, "strategy=moon")

    _forward = Passes(trained=(), through=())
    training_load = Workload(passes=(Passes(), _forward, _forward), extra_vectors=2)
