"""The server's half of each federated method, one file each, as Flower strategies.

They run in this simulator and in any Flower app, which imports them as ``fedsim.strategies``:
``from fedsim.strategies import FedBN; FedBN(model).start(grid, arrays)``. So they import each other by relative names.
"""

from .fedavg import FedAvg
from .fedbn import FedBN
from .feddst import FedDST
from .fedloge import FedLoGe
from .fedper import FedPer
from .fedprox import FedProx
from .fedrep import FedRep
from .fedtiny import FedTiny
from .fedwon import FedWon
from .local import Local
from .pruned import Pruned
from .prunefl import PruneFL

__all__ = [
    "FedAvg",
    "FedBN",
    "FedDST",
    "FedLoGe",
    "FedPer",
    "FedProx",
    "FedRep",
    "FedTiny",
    "FedWon",
    "Local",
    "PruneFL",
    "Pruned",
]
