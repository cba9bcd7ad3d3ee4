"""The server's half of each federated method, one file each, as Flower strategies.

They run in this simulator and in any Flower app: ``from strategies import FedBN; FedBN(model).start(grid, arrays)``.
"""

from strategies.fedavg import FedAvg
from strategies.fedbn import FedBN
from strategies.feddst import FedDST
from strategies.fedloge import FedLoGe
from strategies.fedper import FedPer
from strategies.fedprox import FedProx
from strategies.fedrep import FedRep
from strategies.fedtiny import FedTiny
from strategies.fedwon import FedWon
from strategies.local import Local
from strategies.pruned import Pruned
from strategies.prunefl import PruneFL

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
