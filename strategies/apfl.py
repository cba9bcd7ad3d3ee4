"""APFL (Deng, Kamani & Mahdavi 2020, arXiv 2003.13461): the server's half, which is FedAvg's."""

from fedsim.cost import Passes, Workload

from .fedavg import FedAvg


class APFL(FedAvg):
    """Averages as FedAvg does. What differs is on the clients (``clients/apfl.py``): each trains a model of its own in
    a mixture with the shared one, and is evaluated with the mixture."""

    # The client's own model, the mixture and its gradient.
    training_load = Workload(passes=(Passes(), Passes()), extra_vectors=3)
    own_models = True
