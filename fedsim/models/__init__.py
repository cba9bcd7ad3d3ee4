"""The networks, one file each, written with BatchNorm; ``norm=`` replaces it by type."""

from fedsim.models.build import build_model
from fedsim.models.cnn6 import CNN6
from fedsim.models.cnn_small import CNNSmall

__all__ = ["CNN6", "CNNSmall", "build_model"]
