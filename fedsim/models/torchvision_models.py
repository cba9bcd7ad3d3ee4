"""``model=vgg11``, ``model=mobilenet_v2`` and ``model=torchvision/NAME``: networks of torchvision, untrained."""

from typing import Any

from torch import nn

from fedsim.core.errors import UserError

WITH_AUXILIARY = ("googlenet", "inception_v3")


def vgg11(num_classes: int = 10, image_shape: tuple[int, int, int] = (3, 32, 32)) -> nn.Module:
    """Build VGG-11 with BatchNorm (Simonyan & Zisserman 2015, arXiv 1409.1556) and one linear layer, as for CIFAR.

    The eight convolutions are torchvision's; their output is averaged over the pixels. Takes (N, *image_shape) of at
    least 32x32 pixels.
    """
    from torchvision import models  # which takes seconds to import

    channels, _, _ = image_shape
    network: Any = models.vgg11_bn(num_classes=num_classes)
    if channels != 3:
        network.features[0] = nn.Conv2d(channels, 64, 3, padding=1)
    network.avgpool = nn.AdaptiveAvgPool2d(1)
    network.classifier = nn.Linear(512, num_classes)
    assert isinstance(network, nn.Module)
    return network


def torchvision_model(
    num_classes: int = 10, image_shape: tuple[int, int, int] = (3, 224, 224), network: str = "resnet50"
) -> nn.Module:
    """Build any of torchvision's classification networks by its name: ``model=torchvision/densenet121``.

    GoogLeNet and Inception are built without their auxiliary classifiers, so that they return one output in training,
    too.

    Raises:
        UserError: If torchvision has no network of this name, or images do not have three channels.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if network not in known:
        raise UserError(
            f"model=torchvision/{network} is not known: choose torchvision/NAME with NAME one of {', '.join(known)}."
        )
    if image_shape[0] != 3:
        raise UserError(
            f"model=torchvision/{network} is not possible for images of {image_shape[0]} channels: "
            "choose another model."
        )
    options = {"aux_logits": False, "init_weights": True} if network in WITH_AUXILIARY else {}
    built: nn.Module = models.get_model(network, weights=None, num_classes=num_classes, **options)
    return built


def mobilenet_v2(num_classes: int = 10, image_shape: tuple[int, int, int] = (3, 32, 32)) -> nn.Module:
    """Build MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381), for images below 64 pixels with a first stride of 1.

    It is torchvision's network with another first convolution.
    """
    from torchvision import models

    network: Any = models.mobilenet_v2(num_classes=num_classes)
    channels, height, width = image_shape
    stride = 1 if min(height, width) < 64 else 2
    network.features[0][0] = nn.Conv2d(channels, 32, 3, stride=stride, padding=1, bias=False)
    assert isinstance(network, nn.Module)
    return network
