"""The server's half of each federated method, one file each, as Flower strategies.

They run in this simulator and in any Flower app: ``from strategies import FedBN; FedBN(model).start(grid, arrays)``.
"""

from strategies.fedavg import FedAvg
from strategies.fedbn import FedBN
from strategies.fedwon import FedWon
from strategies.local import Local

__all__ = ["FedAvg", "FedBN", "FedWon", "Local"]
