"""The client side of each federated method, where it differs from plain local SGD."""

from clients.clipped_sgd import ClippedSGD
from clients.feddst import FedDST
from clients.fedloge import FedLoGe
from clients.fedprox import FedProx
from clients.fedrep import FedRep
from clients.local_sgd import LocalSGD
from clients.masked_sgd import MaskedSGD
from clients.prunefl import PruneFL
from clients.scaffold import Scaffold

__all__ = ["ClippedSGD", "FedDST", "FedLoGe", "FedProx", "FedRep", "LocalSGD", "MaskedSGD", "PruneFL", "Scaffold"]
