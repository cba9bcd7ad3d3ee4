"""FedProx (Li et al., MLSys 2020, arXiv 1812.06127): the server side, which is that of FedAvg."""

from fedsim.cost import Workload

from .fedavg import FedAvg


class FedProx(FedAvg):
    """FedAvg on the server; only the clients' loss differs (``clients/fedprox.py``).

    For that loss a device also holds the parameters with which it starts the round.
    """

    training_load = Workload(extra_vectors=1)
