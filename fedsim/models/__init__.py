"""The networks, with BatchNorm or LayerNorm, which ``norm=`` replaces by type."""

from fedsim.models.alexnet import AlexNet
from fedsim.models.build import build_model
from fedsim.models.cnn6 import CNN6
from fedsim.models.cnn_small import CNNSmall
from fedsim.models.resnet import ResNet20, resnet18, resnet34
from fedsim.models.timm_models import timm_model
from fedsim.models.torchvision_models import mobilenet_v2, torchvision_model, vgg11
from fedsim.models.vit import vit_tiny

__all__ = [
    "CNN6",
    "AlexNet",
    "CNNSmall",
    "ResNet20",
    "build_model",
    "mobilenet_v2",
    "resnet18",
    "resnet34",
    "timm_model",
    "torchvision_model",
    "vgg11",
    "vit_tiny",
]
