"""The small network, counted and computed by hand."""

import torch
from torch.nn import functional as F

from fedsim.models import CNNSmall


def test_it_has_the_layers_it_says() -> None:
    convolutions = (3 * 9 + 1) * 32 + (32 * 9 + 1) * 64 + (64 * 9 + 1) * 64
    norms, head = 2 * (32 + 64 + 64), (64 * 3 * 3 + 1) * 10
    assert sum(parameter.numel() for parameter in CNNSmall().parameters()) == convolutions + norms + head


def test_the_logits_are_those_of_the_layers_written_out() -> None:
    torch.manual_seed(0)
    model = CNNSmall(num_classes=4)  # in training mode, where BatchNorm uses the batch
    images = torch.randn(5, 3, 28, 28)
    state = model.state_dict()
    values = images
    for index in (0, 4, 8):
        values = F.conv2d(values, state[f"features.{index}.weight"], state[f"features.{index}.bias"], padding=1)
        mean, variance = values.mean((0, 2, 3), keepdim=True), values.var((0, 2, 3), correction=0, keepdim=True)
        values = F.max_pool2d(((values - mean) / (variance + 1e-5).sqrt()).relu(), 2)
    expected = F.linear(values.flatten(1), state["head.weight"], state["head.bias"])
    assert expected.shape == (5, 4)
    torch.testing.assert_close(model(images).detach(), expected, rtol=1e-4, atol=1e-5)
