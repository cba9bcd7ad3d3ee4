"""FedSAM (Caldarola et al., ECCV 2022, arXiv 2203.11834; Qu et al., ICML 2022, arXiv 2206.02618): FedAvg's server."""

from fedsim.cost import Passes, Workload

from .fedavg import FedAvg


class FedSAM(FedAvg):
    """Averages as FedAvg does. What differs is the clients' steps (``clients/fedsam.py``), of two passes each."""

    training_load = Workload(passes=(Passes(), Passes()), extra_vectors=1)  # what the weights were moved by
