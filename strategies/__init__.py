"""The server side of each federated method, one file each, as Flower strategies.

They run in this simulator and in any Flower app, which imports them as ``fedsim.strategies``:
``from fedsim.strategies import FedBN; FedBN(model).start(grid, arrays)``. Therefore they import each other by relative
names.
"""

from .fedadam import FedAdam
from .fedavg import FedAvg
from .fedavgm import FedAvgM
from .fedbn import FedBN
from .feddst import FedDST
from .fedloge import FedLoGe
from .fedper import FedPer
from .fedprox import FedProx
from .fedrep import FedRep
from .fedtiny import FedTiny
from .fedwon import FedWon
from .flower import FlowerStrategy
from .local import Local
from .pruned import Pruned
from .prunefl import PruneFL
from .scaffold import Scaffold

__all__ = [
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedBN",
    "FedDST",
    "FedLoGe",
    "FedPer",
    "FedProx",
    "FedRep",
    "FedTiny",
    "FedWon",
    "FlowerStrategy",
    "Local",
    "PruneFL",
    "Pruned",
    "Scaffold",
]
