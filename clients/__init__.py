"""The client side of each federated method, where it differs from plain local SGD."""

from clients.clipped_sgd import ClippedSGD
from clients.ditto import Ditto
from clients.fbn import FBN
from clients.fdse import FDSE
from clients.feddst import FedDST
from clients.feddyn import FedDyn
from clients.fedloge import FedLoGe
from clients.fednova import FedNova
from clients.fedprox import FedProx
from clients.fedrep import FedRep
from clients.fedsam import FedSAM
from clients.fedtan import FedTAN
from clients.hbn import HBN
from clients.local_sgd import LocalSGD
from clients.masked_sgd import MaskedSGD
from clients.moon import MOON
from clients.prunefl import PruneFL
from clients.scaffold import Scaffold

__all__ = [
    "FBN",
    "FDSE",
    "HBN",
    "MOON",
    "ClippedSGD",
    "Ditto",
    "FedDST",
    "FedDyn",
    "FedLoGe",
    "FedNova",
    "FedProx",
    "FedRep",
    "FedSAM",
    "FedTAN",
    "LocalSGD",
    "MaskedSGD",
    "PruneFL",
    "Scaffold",
]
