"""The networks, all with BatchNorm, which ``norm=`` replaces by type."""

from fedsim.models.alexnet import AlexNet
from fedsim.models.build import build_model
from fedsim.models.cnn6 import CNN6
from fedsim.models.cnn_small import CNNSmall
from fedsim.models.resnet import ResNet20, resnet18, resnet34
from fedsim.models.torchvision_models import mobilenet_v2, torchvision_model, vgg11

__all__ = [
    "CNN6",
    "AlexNet",
    "CNNSmall",
    "ResNet20",
    "build_model",
    "mobilenet_v2",
    "resnet18",
    "resnet34",
    "torchvision_model",
    "vgg11",
]
