"""The server side of each federated method, one file each, as Flower strategies.

They run in this simulator and in any Flower app, which imports them as ``fedsim.strategies``:
``from fedsim.strategies import FedBN; FedBN(model).start(grid, arrays)``. Therefore they import each other by relative
names.
"""

from .apfl import APFL
from .central import Central
from .creff import CReFF
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
from .fedetf import FedETF
from .fedloge import FedLoGe
from .fednova import FedNova
from .fedper import FedPer
from .fedproto import FedProto
from .fedprox import FedProx
from .fedrep import FedRep
from .fedrod import FedRoD
from .fedsam import FedSAM
from .fedsr import FedSR
from .fedtan import FedTAN
from .fedtiny import FedTiny
from .fedwon import FedWon
from .fedyogi import FedYogi
from .flower import FlowerStrategy
from .fraug import FRAug
from .hbn import HBN
from .local import Local
from .lotteryfl import LotteryFL
from .moon import MOON
from .pruned import Pruned
from .prunefl import PruneFL
from .scaffold import Scaffold

__all__ = [
    "APFL",
    "FBN",
    "FDSE",
    "HBN",
    "MOON",
    "CReFF",
    "Central",
    "Ditto",
    "FRAug",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedBN",
    "FedDST",
    "FedDyn",
    "FedETF",
    "FedLoGe",
    "FedNova",
    "FedPer",
    "FedProto",
    "FedProx",
    "FedRep",
    "FedRoD",
    "FedSAM",
    "FedSR",
    "FedTAN",
    "FedTiny",
    "FedWon",
    "FedYogi",
    "FlowerStrategy",
    "Local",
    "LotteryFL",
    "PruneFL",
    "Pruned",
    "Scaffold",
]
