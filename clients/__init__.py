"""The client's half of each federated method, only where it differs from plain local SGD."""

from clients.clipped_sgd import ClippedSGD
from clients.local_sgd import LocalSGD

__all__ = ["ClippedSGD", "LocalSGD"]
