"""CReFF's federated features: features whose gradients are those of the clients' images, and a classifier of them."""

import math
from collections.abc import Mapping

import torch

Linear = tuple[torch.Tensor, torch.Tensor]
"""Weight (classes, features) and bias (classes,) of a classifier, or the gradients of the two."""
SMALL = 1e-6
"""What is added to the product of the lengths, as in the official code."""


def gradients_of(features: torch.Tensor, labels: torch.Tensor, classifier: Linear) -> Linear:
    """Return the gradients of the mean cross entropy of the features of each class.

    Args:
        features: (groups, n, features): n of each group, all of one class.
        labels: (groups,): these classes.
        classifier: What the cross entropy is of.

    Returns:
        The gradients of the weight, (groups, classes, features), and of the bias, (groups, classes).
    """
    weight, bias = classifier
    one_hot = torch.eye(len(weight), dtype=weight.dtype)[labels][:, None]
    errors = ((features @ weight.T + bias).softmax(-1) - one_hot) / features.shape[1]
    return errors.transpose(1, 2) @ features, errors.sum(1)


def distance(one: Linear, other: Linear) -> torch.Tensor:
    r"""Return :math:`\sum_c (1 - \cos(w_c, w'_c))` over the rows of the weights' gradients, and the same of the biases
    as one row (``distance_wb`` of the official code), added up over the groups.
    """

    def apart(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        lengths = first.norm(dim=-1) * second.norm(dim=-1)
        total: torch.Tensor = (1 - (first * second).sum(-1) / (lengths + SMALL)).sum()
        return total

    return apart(one[0], other[0]) + apart(one[1], other[1])


def matched(
    features: torch.Tensor, gradients: Mapping[int, Linear], classifier: Linear, *, steps: int, lr: float
) -> torch.Tensor:
    """Return the features (classes, n, features) after gradient descent on the distance between their gradients and
    those of the clients' images; classes without ``gradients`` keep theirs."""
    labels = torch.tensor(list(gradients))
    real = torch.stack([weight for weight, _ in gradients.values()]), torch.stack([b for _, b in gradients.values()])
    moving = features[labels].clone()
    for _ in range(steps):
        moving.requires_grad_(True)
        with torch.enable_grad():
            loss = distance(gradients_of(moving, labels, classifier), real)
        (slope,) = torch.autograd.grad(loss, moving)
        moving = moving.detach() - lr * slope
    return features.index_copy(0, labels, moving)


def retrained(features: torch.Tensor, *, epochs: int, lr: float, batch_size: int, generator: torch.Generator) -> Linear:
    """Return a classifier that SGD has trained on features (classes, n, features), from a linear layer's usual random
    weights on."""
    classes, each, size = features.shape
    bound = 1 / math.sqrt(size)
    weight = torch.empty(classes, size, dtype=features.dtype).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(classes, dtype=features.dtype).uniform_(-bound, bound, generator=generator)
    flat, one_hot = features.flatten(0, 1), torch.eye(classes, dtype=features.dtype).repeat_interleave(each, 0)
    for _ in range(epochs):
        for batch in torch.randperm(len(flat), generator=generator).split(batch_size):
            images = flat[batch]
            errors = (torch.addmm(bias, images, weight.T).softmax(-1) - one_hot[batch]) / len(batch)
            weight -= lr * (errors.T @ images)
            bias -= lr * errors.sum(0)
    return weight, bias
