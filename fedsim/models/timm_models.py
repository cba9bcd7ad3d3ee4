"""``model=timm/NAME``: the classifiers of timm (Wightman 2019), untrained."""

import difflib
from typing import Any

from torch import nn

from fedsim.core.errors import UserError


def timm_model(
    num_classes: int = 10, image_shape: tuple[int, int, int] = (3, 224, 224), network: str = "resnet50"
) -> nn.Module:
    """Build any of timm's classifiers by its name: ``model=timm/vit_small_patch16_224``.

    Networks of one size of images, such as vision transformers, are built for that of ``image_shape``.

    Raises:
        UserError: If timm has no network of this name, or cannot build it for these images and classes.
    """
    import timm  # which takes seconds

    known = timm.list_models()
    if network not in known:
        near = difflib.get_close_matches(network, known, n=5) or ["resnet18", "vit_tiny_patch16_224"]
        raise UserError(
            f"model=timm/{network} is not known: choose timm/NAME with NAME one of timm.list_models(), such as "
            f"{', '.join(near)}."
        )
    config = timm.get_pretrained_cfg(network)
    sized: dict[str, Any] = {"img_size": image_shape[1:]} if config is not None and config.fixed_input_size else {}
    try:
        built: nn.Module = timm.create_model(
            network, pretrained=False, num_classes=num_classes, in_chans=image_shape[0], **sized
        )
    except Exception as error:  # timm's constructors check with asserts, and some lack an option
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(".")
        raise UserError(
            f"model=timm/{network} cannot be built for images of {image_shape[1]}x{image_shape[2]} with "
            f"{image_shape[0]} channels ({reason}): choose another dataset.image_size or another model."
        ) from error
    return built
