"""The layout changes where numbers lie, not which they are."""

import torch

from fedsim.models.memory_format import fast_layout


def test_channels_are_last_in_memory_and_second_in_shape() -> None:
    images = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    turned = fast_layout(images)
    assert torch.equal(turned, images)
    assert turned.is_contiguous(memory_format=torch.channels_last)
