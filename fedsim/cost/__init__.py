"""Costs of a model on a device and its network: floating point operations (FLOPs) and bytes."""

from fedsim.cost.account import DeviceMemory, LayerCost, ModelCost, Shares
from fedsim.cost.budget import Budget
from fedsim.cost.device_classes import device_classes
from fedsim.cost.dry_run import model_cost
from fedsim.cost.sizes import pair_bytes, partial_bytes
from fedsim.cost.workload import CostTracker, Passes, QueryPasses, Workload

__all__ = [
    "Budget",
    "CostTracker",
    "DeviceMemory",
    "LayerCost",
    "ModelCost",
    "Passes",
    "QueryPasses",
    "Shares",
    "Workload",
    "device_classes",
    "model_cost",
    "pair_bytes",
    "partial_bytes",
]
