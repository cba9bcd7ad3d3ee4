"""The cosine head against cosines in float64."""

import math

import pytest
import torch
from torch.nn import functional as F

from fedsim.heads import CosineLinear, ETFLinear

FEATURES = torch.randn((4, 6), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_logits_are_scaled_cosines() -> None:
    torch.manual_seed(0)
    head = CosineLinear(6, 3, scale=7.5).double()
    logits = head(FEATURES)
    for image, feature in enumerate(FEATURES.tolist()):
        for label, weight in enumerate(head.weight.tolist()):
            dot = sum(w * f for w, f in zip(weight, feature, strict=True))
            assert logits[image, label].item() == pytest.approx(7.5 * dot / math.hypot(*weight) / math.hypot(*feature))


def test_lengths_do_not_matter() -> None:
    torch.manual_seed(0)
    head = CosineLinear(6, 3).double()
    logits = head(FEATURES).detach()
    torch.testing.assert_close(head(3 * FEATURES), logits)
    with torch.no_grad():
        head.weight *= torch.tensor([[2.0], [0.1], [50.0]])
    torch.testing.assert_close(head(FEATURES), logits)


def test_the_scale_is_trained_only_if_it_is_to_be() -> None:
    fixed, learnable = CosineLinear(6, 3, scale=4), CosineLinear(6, 3, scale=4, learnable=True)
    assert set(fixed.state_dict()) == {"weight"}
    assert set(learnable.state_dict()) == {"weight", "scale"}
    learnable.double().load_state_dict({"weight": fixed.weight, "scale": torch.tensor(4.0)})
    assert torch.equal(learnable(FEATURES), fixed.double()(FEATURES))
    learnable(FEATURES)[0, 1].backward()
    assert isinstance(learnable.scale, torch.Tensor)
    assert learnable.scale.grad == pytest.approx(learnable(FEATURES)[0, 1].item() / 4)


def surest(classes: int, scale: float) -> float:
    """The docstring's bound."""
    return 1 / (1 + (classes - 1) * math.exp(-scale * classes / (classes - 1)))


def test_the_scale_limits_how_sure_the_head_can_be() -> None:
    torch.manual_seed(0)
    best = ETFLinear(12, 10, scale=5).double()
    probabilities = best(best.weight).softmax(1).diagonal()  # features as far apart as the classes' directions
    torch.testing.assert_close(probabilities, torch.full((10,), surest(10, 5), dtype=torch.float64), rtol=1e-5, atol=0)
    # No other directions, with features of their own, do better for all classes at once.
    head = CosineLinear(12, 10, scale=5).double()
    features = torch.nn.Parameter(head.weight.detach() + 0.1)
    optimizer = torch.optim.Adam([head.weight, features], lr=0.05)
    labels = torch.arange(10)
    for _ in range(200):
        loss = F.cross_entropy(head(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() == pytest.approx(-math.log(surest(10, 5)), rel=1e-2)
    assert loss.item() > -math.log(surest(10, 5))
    assert surest(905, 16) > 0.9999 > surest(906, 16)
