"""The memory layout of images in a network."""

import torch


def fast_layout(images: torch.Tensor) -> torch.Tensor:
    """Return images (N, C, H, W) in channels-last layout if they are on the CPU, else unchanged.

    On the CPU, training steps of this folder's networks took 0.77 to 0.88 of the time with channels first. Each network
    decides whether it uses this, since one that flattens with ``view`` cannot compute in this layout.
    """
    if images.device.type != "cpu":
        return images
    # What contiguous(memory_format=torch.channels_last) does, which is not implemented inside vmap.
    return images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
