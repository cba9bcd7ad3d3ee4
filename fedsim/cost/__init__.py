"""What a model costs a device and its network: floating point operations (FLOPs) and bytes, for any masks."""

from fedsim.cost.account import Densities, DeviceMemory, LayerCost, ModelCost
from fedsim.cost.budget import Budget
from fedsim.cost.device_classes import device_classes
from fedsim.cost.dry_run import model_cost
from fedsim.cost.sizes import pair_bytes, sparse_bytes
from fedsim.cost.workload import CostTracker, Passes, Workload

__all__ = [
    "Budget",
    "CostTracker",
    "Densities",
    "DeviceMemory",
    "LayerCost",
    "ModelCost",
    "Passes",
    "Workload",
    "device_classes",
    "model_cost",
    "pair_bytes",
    "sparse_bytes",
]
