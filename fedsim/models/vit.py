"""``model=vit_tiny``: a small pre-LN vision transformer (Dosovitskiy et al., ICLR 2021, arXiv 2010.11929)."""

from math import gcd

from torch import nn

from fedsim.core.errors import UserError

PATCHES = ((64, 4), (128, 8))
"""Below the first number of pixels, a patch has at most the second number of pixels on each side; else ``LARGE``."""
LARGE = 16


def vit_tiny(
    num_classes: int = 10,
    image_shape: tuple[int, int, int] = (3, 28, 28),
    patch: int | None = None,
    width: int = 192,
    depth: int = 6,
    heads: int = 3,
) -> nn.Module:
    """Build timm's vision transformer in the width of ViT-Tiny (arXiv 2012.12877), with half of its 12 blocks.

    Takes (N, *image_shape), returns logits (N, num_classes). It has 2.7 million parameters, with ``depth=12`` 5.4
    million. The tokens are the patches alone, without a class token; their mean behind the last LayerNorm goes to the
    classifier (arXiv 2205.01580), so that every LayerNorm sees (N, tokens, width).

    Args:
        num_classes: The number of logits.
        image_shape: (channels, height, width) of the images.
        patch: The side of a square patch in pixels, which divides height and width; ``None`` for ``patch_for``.
        width: The size of a token, a multiple of ``heads``.
        depth: The number of blocks.
        heads: The number of heads of each attention.

    Raises:
        UserError: If an option is not possible, or does not fit the images.
    """
    from timm.models.vision_transformer import VisionTransformer  # timm takes seconds to import

    channels, height, image_width = image_shape
    for key, value in (("width", width), ("depth", depth), ("heads", heads)):
        if value < 1:
            raise UserError(f"model.{key}={value} is not possible: choose a whole number of 1 or more.")
    if width % heads:
        raise UserError(f"model.heads={heads} does not divide model.width={width}: choose a divisor of {width}.")
    side = patch_for(height, image_width) if patch is None else patch
    if side < 1 or height % side or image_width % side:
        raise UserError(
            f"model.patch={side} does not divide images of {height}x{image_width}: choose a divisor of "
            f"{gcd(height, image_width)}, or null."
        )
    return VisionTransformer(
        img_size=(height, image_width),
        patch_size=side,
        in_chans=channels,
        num_classes=num_classes,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        class_token=False,
        global_pool="avg",
        fc_norm=False,
    )


def patch_for(height: int, width: int) -> int:
    """Return the patch for images of this size: the largest of at most 4, 8 or 16 pixels that divides both sides.

    These are for images below 64, below 128 and from 128 pixels: 49 patches of images of 28 pixels, 64 of 32, 64 and
    128 pixels, 196 of 224.

    Raises:
        UserError: If that is less than half as many, so that there would be very many tokens.
    """
    most = next((side for below, side in PATCHES if min(height, width) < below), LARGE)
    side = max(side for side in range(1, most + 1) if gcd(height, width) % side == 0)
    if 2 * side < most:
        raise UserError(
            f"model=vit_tiny has no patch of about {most} pixels that divides images of {height}x{width}: choose a "
            "dataset.image_size that is a multiple of 4, or model.patch."
        )
    return side
