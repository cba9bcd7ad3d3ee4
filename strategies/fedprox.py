"""FedProx (Li et al., MLSys 2020, arXiv 1812.06127): the server's half, which is FedAvg's."""

from fedsim.cost import Workload

from .fedavg import FedAvg


class FedProx(FedAvg):
    """Averages as FedAvg does. What differs is the clients' loss (``clients/fedprox.py``), for which a device also
    keeps the model that it was sent."""

    training_load = Workload(extra_vectors=1)
