"""The client side of each federated method, where it differs from plain local SGD."""

from clients.apfl import APFL
from clients.clipped_sgd import ClippedSGD
from clients.creff import CReFF
from clients.ditto import Ditto
from clients.fbn import FBN
from clients.fdse import FDSE
from clients.feddst import FedDST
from clients.feddyn import FedDyn
from clients.fedetf import FedETF
from clients.fedloge import FedLoGe
from clients.fednova import FedNova
from clients.fedproto import FedProto
from clients.fedprox import FedProx
from clients.fedrep import FedRep
from clients.fedrod import FedRoD
from clients.fedsam import FedSAM
from clients.fedsr import FedSR
from clients.fedtan import FedTAN
from clients.fraug import FRAug
from clients.hbn import HBN
from clients.local_sgd import LocalSGD
from clients.lotteryfl import LotteryFL
from clients.masked_sgd import MaskedSGD
from clients.moon import MOON
from clients.prunefl import PruneFL
from clients.scaffold import Scaffold

__all__ = [
    "APFL",
    "FBN",
    "FDSE",
    "HBN",
    "MOON",
    "CReFF",
    "ClippedSGD",
    "Ditto",
    "FRAug",
    "FedDST",
    "FedDyn",
    "FedETF",
    "FedLoGe",
    "FedNova",
    "FedProto",
    "FedProx",
    "FedRep",
    "FedRoD",
    "FedSAM",
    "FedSR",
    "FedTAN",
    "LocalSGD",
    "LotteryFL",
    "MaskedSGD",
    "PruneFL",
    "Scaffold",
]
