"""What a client tells, against the same computed layer by layer."""

import pytest
import torch
from torch import nn

from fedsim.diagnostics.activations import activation_statistics, class_scatter
from fedsim.models.classifier import note_classifier


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
        norm.weight.copy_(torch.tensor([1.0, 2.0, 0.5, 0.0]))
        norm.bias.copy_(torch.tensor([0.0, 1.0, -1.0, -3.0]))  # the last channel is -3 everywhere
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))


IMAGES = torch.randn(10, 3, 6, 6, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(10) % 3


def test_statistics_before_and_after_the_norm(model: nn.Sequential) -> None:
    told = activation_statistics(model, {"norm": model[1]}, IMAGES, LABELS, 3, as_in_training=True)
    model.eval()
    before = model[0](IMAGES).detach()
    torch.testing.assert_close(told["norm/before/mean"], before.mean((0, 2, 3)))
    torch.testing.assert_close(told["norm/before/variance"], before.var((0, 2, 3), correction=0))
    # In training each channel is normalized by the batch, so that its mean is the shift and its deviation the scale.
    torch.testing.assert_close(told["norm/training/mean"], model[1].bias.detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(told["norm/training/variance"], model[1].weight.detach() ** 2, atol=1e-3, rtol=0)
    assert told["norm/dead"].tolist() == [0, 0, 0, 1]
    assert set(told) == {
        *(f"norm/{place}/{what}" for place in ("before", "after", "training") for what in ("mean", "variance")),
        *("norm/dead", "features/sums", "features/counts", "images"),
    }


def test_statistics_after_the_norm_are_those_of_evaluation(model: nn.Sequential) -> None:
    model.eval()
    expected = model[:2](IMAGES).detach()
    told = activation_statistics(model, {"norm": model[1]}, IMAGES, LABELS, 3, as_in_training=True)
    torch.testing.assert_close(told["norm/after/mean"], expected.mean((0, 2, 3)))
    torch.testing.assert_close(told["norm/after/variance"], expected.var((0, 2, 3), correction=0))


def test_without_statistics_training_is_evaluation() -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(2, 4)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    told = activation_statistics(model, {"norm": norm}, IMAGES, LABELS, 3, as_in_training=True)
    assert torch.equal(told["norm/training/mean"], told["norm/after/mean"])
    assert torch.equal(told["norm/training/variance"], told["norm/after/variance"])


def test_frozen_statistics_are_those_of_training_too(model: nn.Sequential) -> None:
    told = activation_statistics(model, {"norm": model[1]}, IMAGES, LABELS, 3, as_in_training=False)
    assert torch.equal(told["norm/training/mean"], told["norm/after/mean"])


def test_features_are_summed_by_class(model: nn.Sequential) -> None:
    model.eval()
    features = model[:5](IMAGES).detach()
    told = activation_statistics(model, {}, IMAGES, LABELS, 4, as_in_training=True)
    assert told["features/counts"].tolist() == [4, 3, 3, 0]
    for label in range(4):
        torch.testing.assert_close(told["features/sums"][label], features[label == LABELS].sum(0))


def test_the_scatter_is_around_the_given_means(model: nn.Sequential) -> None:
    model.eval()
    features, predicted = model[:5](IMAGES).detach(), model(IMAGES).argmax(1)
    means, projection = torch.randn(4, 16), torch.randn(16, 2)
    means[3] = torch.inf  # nobody has that class
    told = class_scatter(model, IMAGES, LABELS, means, projection)
    scatter, disagreeing = 0.0, 0
    for feature, label, network in zip(features, LABELS, predicted, strict=True):
        scatter += ((feature - means[label]) @ projection).square().sum().item()
        disagreeing += int(network != (means[:3] - feature).norm(dim=1).argmin())
    assert told == pytest.approx({"scatter": scatter, "disagreeing": disagreeing, "images": 10}, rel=1e-5)


def test_statistics_of_tokens_are_over_images_and_tokens() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.embed, self.norm, self.head = nn.Linear(18, 4), nn.LayerNorm(4), nn.Linear(4, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.norm(self.embed(images.flatten(1).unflatten(1, (6, 18)))).mean(1))
            return logits

    model = Tokens()
    note_classifier(model, IMAGES)
    sites: dict[str, nn.Module] = {"norm": model.norm}
    told = activation_statistics(model, sites, IMAGES, LABELS, 3, as_in_training=True, channels_last={"norm"})
    tokens = model.embed(IMAGES.flatten(1).unflatten(1, (6, 18))).detach()
    for place, expected in (("before", tokens), ("after", model.norm(tokens).detach())):
        torch.testing.assert_close(told[f"norm/{place}/mean"], expected.mean((0, 1)))
        torch.testing.assert_close(told[f"norm/{place}/variance"], expected.var((0, 1), correction=0))
    assert told["norm/dead"].shape == (4,)
