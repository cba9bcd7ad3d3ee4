"""Ditto (Li et al., ICML 2021, arXiv 2012.04221): the server's half, which is FedAvg's."""

from fedsim.cost import Passes, Workload

from .fedavg import FedAvg


class Ditto(FedAvg):
    """Averages as FedAvg does. What differs is on the clients (``clients/ditto.py``): each trains a model of its own
    beside the shared one, and is evaluated with that."""

    training_load = Workload(passes=(Passes(), Passes()), extra_vectors=2)  # the shared model and its start
    own_models = True
