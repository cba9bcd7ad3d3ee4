"""The client side of a diagnosis: one or two forward passes, and statistics of them."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from torch import nn

from fedsim.models.classifier import classifier_of, features_seen
from fedsim.norms.policy import layers_with_statistics
from fedsim.norms.shapes import all_but_channels, per_channel

Tensors = dict[str, torch.Tensor]
BEFORE, AFTER, TRAINING = "before", "after", "training"
"""Places: before and after a norm layer at evaluation, and after it as in training."""
SUMS, COUNTS = "features/sums", "features/counts"
NUM_IMAGES = "images"


@torch.no_grad()
def activation_statistics(
    model: nn.Module,
    sites: Mapping[str, nn.Module],
    images: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    *,
    as_in_training: bool,
    channels_last: Collection[str] = (),
) -> Tensors:
    """Return mean and biased variance of every channel over these images, before and after each site, and feature sums.

    Entries: ``SITE/before/mean``, ``SITE/before/variance``, the same for ``after`` and ``training``, ``SITE/dead`` (1
    for a channel that is not above zero anywhere after the site, so that a ReLU blocks it completely),
    ``features/sums`` (classes, features), ``features/counts`` (classes,) and ``images``, the number of images.

    Args:
        model: The network; it is set to eval mode.
        sites: The norm layers, or what replaces them, by name.
        images: Images (N, channels, height, width).
        labels: Labels (N,).
        num_classes: Number of classes.
        as_in_training: Whether layers with running statistics normalize by the batch in training; this changes their
            buffers.
        channels_last: The sites of tokens (N, L, C), whose statistics are over the images and their tokens.
    """
    model.eval()
    with _observed(sites, (BEFORE, AFTER), channels_last) as statistics, _features_of(model) as seen:
        model(images)
    one_hot = nn.functional.one_hot(labels, num_classes).to(seen[0].dtype)
    statistics |= {SUMS: one_hot.T @ seen[0], COUNTS: one_hot.sum(0), NUM_IMAGES: torch.tensor(float(len(labels)))}
    layers = layers_with_statistics(model).values()
    if layers and as_in_training:
        for layer in layers:
            layer.train()
        with _observed(sites, (TRAINING,), channels_last) as training:
            model(images)
        return statistics | {name: tensor for name, tensor in training.items() if not name.endswith("dead")}
    # No layer behaves differently in training.
    return statistics | {
        f"{site}/{TRAINING}/{each}": statistics[f"{site}/{AFTER}/{each}"]
        for site in sites
        for each in ("mean", "variance")
    }


def _features_of(model: nn.Module) -> AbstractContextManager[list[torch.Tensor]]:
    return features_seen(classifier_of(model, "diagnostics=true")[1])


@contextmanager
def _observed(
    sites: Mapping[str, nn.Module], places: tuple[str, ...], channels_last: Collection[str]
) -> Iterator[Tensors]:
    """Yield a dictionary that receives the statistics of forward passes in the block, of the last one if several."""
    statistics: Tensors = {}

    def hook(site: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
        def observe(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            input = inputs[0]
            if site in channels_last:
                input, output = input.movedim(-1, 1), output.movedim(-1, 1)
            for place in places:
                tensor = input if place == BEFORE else output
                mean, variance = _moments(tensor)
                statistics[f"{site}/{place}/mean"], statistics[f"{site}/{place}/variance"] = mean, variance
            statistics[f"{site}/dead"] = (output.amax(all_but_channels(output)) <= 0).to(output.dtype)

        return observe

    with ExitStack() as stack:
        for name, layer in sites.items():
            stack.callback(layer.register_forward_hook(hook(name)).remove)
        yield statistics


def _moments(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and biased variance of each channel; ``torch.var_mean`` took four to eight times as long on a CPU."""
    over = all_but_channels(tensor)
    mean = tensor.mean(over)
    return mean, (tensor - per_channel(mean, tensor)).square_().mean(over)


@torch.no_grad()
def class_scatter(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, means: torch.Tensor, projection: torch.Tensor
) -> dict[str, float]:
    r"""Return one client's contribution to NC1 and NC4, given the class means over all clients.

    ``scatter`` is :math:`\sum_i \| P^\top (h_i - \mu_{y_i}) \|^2` with the features h, class means (classes, features)
    and the projection P (features, rank); ``disagreeing`` is the number of images for which the predicted class is not
    that of the nearest mean; ``images`` is the number of images. A class without images has a row of infinity in
    ``means`` and is never the nearest.
    """
    model.eval()
    with _features_of(model) as seen:
        predicted = model(images).argmax(1)
    features = seen[0].to(means.dtype)
    nearest = torch.cdist(features, means.nan_to_num(posinf=1e30)).argmin(1)
    scatter = ((features - means[labels]) @ projection).square().sum()
    return {
        "scatter": scatter.item(),
        "disagreeing": float((predicted != nearest).sum()),
        NUM_IMAGES: float(len(labels)),
    }
