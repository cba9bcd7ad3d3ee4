"""The server side of each federated method, one file each, as Flower strategies.

They run in this simulator and in any Flower app, which imports them as ``fedsim.strategies``:
``from fedsim.strategies import FedBN; FedBN(model).start(grid, arrays)``. Therefore they import each other by relative
names.
"""

from .ditto import Ditto
from .fbn import FBN
from .fdse import FDSE
from .fedadagrad import FedAdagrad
from .fedadam import FedAdam
from .fedavg import FedAvg
from .fedavgm import FedAvgM
from .fedbn import FedBN
from .feddst import FedDST
from .feddyn import FedDyn
from .fedloge import FedLoGe
from .fednova import FedNova
from .fedper import FedPer
from .fedprox import FedProx
from .fedrep import FedRep
from .fedsam import FedSAM
from .fedtan import FedTAN
from .fedtiny import FedTiny
from .fedwon import FedWon
from .fedyogi import FedYogi
from .flower import FlowerStrategy
from .hbn import HBN
from .local import Local
from .moon import MOON
from .pruned import Pruned
from .prunefl import PruneFL
from .scaffold import Scaffold

__all__ = [
    "FBN",
    "FDSE",
    "HBN",
    "MOON",
    "Ditto",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedBN",
    "FedDST",
    "FedDyn",
    "FedLoGe",
    "FedNova",
    "FedPer",
    "FedProx",
    "FedRep",
    "FedSAM",
    "FedTAN",
    "FedTiny",
    "FedWon",
    "FedYogi",
    "FlowerStrategy",
    "Local",
    "PruneFL",
    "Pruned",
    "Scaffold",
]
