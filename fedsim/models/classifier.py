"""The classifier of a network: the linear layer that produces its logits, whatever the order of its layers.

It is found in a forward pass (``note_classifier``), by following the autograd graph backwards from the logits, through
operations without weights (views, scales, sums, pooling), to the first layers with weights. The result is stored as an
attribute of the model once, when it is built, so that later calls cost nothing; copies and pickles of the model have
it, too.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from fedsim.core.errors import UserError
from fedsim.models.restored import undisturbed

NOTE = "_ends_of"
"""The attribute of a model that holds its ``Ends``."""
RESHAPES = ("TBackward0", "TransposeBackward0", "PermuteBackward0", "ViewBackward0", "UnsafeViewBackward0")
"""Autograd's names of operations that only change the shape of a matrix."""
LIKELY_SIZES = (28, 32, *range(1, 65), 96, 128, 160, 192, 224, 256, 299)
"""Sizes of images, in pixels, that are tried in this order with a model without stored ``Ends``."""


@dataclass(frozen=True)
class Ends:
    """The layers with weights at both ends of a network, by name."""

    first: str | None
    """The layer that is computed first."""
    last: tuple[str, ...]
    """The layers of any type that produce the logits; one in most networks."""
    bare: tuple[str, ...]
    """The parameters that produce logits without a layer, such as a tied or a plain matrix; none in most networks."""
    classifier: str | None
    """The linear layer with a row for each class, if the logits come from one such layer only."""
    otherwise: str = ""
    """If they do not, a description of their source, as the end of a sentence."""
    alternatives: tuple[str, ...] = ()
    """All layers that compute a logit for each class from the classifier's features, including the classifier; more
    than one if a head has several classifiers."""


def note_classifier(model: nn.Module, images: torch.Tensor, num_classes: int | None = None) -> object:
    """Find the classifier in one forward pass, store it on the model, and return the output of the model.

    Args:
        model: The network; its mode does not change.
        images: Any batch (N, ...) that the network accepts.
        num_classes: The number of rows that a classifier must have; ``None`` for any number.
    """
    answer, first, outputs, bare, otherwise = _traced(model, images)
    found = {name: module for name, module in model.named_modules() if name in outputs}
    if not otherwise:
        otherwise = _not_a_classifier(found, outputs, answer, num_classes)
    name = None if otherwise else next(iter(found))
    setattr(model, NOTE, Ends(first, tuple(found), bare, name, otherwise, () if name is None else (name,)))
    return answer


def note_head(model: nn.Module, path: str, head: nn.Module, features: int, classes: int) -> None:
    """Store on the model that ``head``, at ``path``, replaces the classifier, and takes features (N, ``features``)."""
    before = known_ends(model)
    note_classifier(head, torch.zeros(2, features), classes)
    ends = ends_of(head)
    delattr(head, NOTE)

    def placed(name: str) -> str:
        return ".".join(part for part in (path, name) if part)

    # A head may have layers of its own in front of its classifiers, whose features are others then.
    last = None if ends.classifier is None else head.get_submodule(ends.classifier)
    taken = last.in_features if isinstance(last, nn.Linear) else features
    rows = (
        placed(name)
        for name, layer in head.named_modules()
        if isinstance(layer, nn.Linear) and (layer.in_features, layer.out_features) == (taken, classes)
    )
    name = None if ends.classifier is None else placed(ends.classifier)
    first = None if before is None else before.first
    outputs, bare = (tuple(map(placed, names)) for names in (ends.last, ends.bare))
    setattr(model, NOTE, Ends(first, outputs, bare, name, ends.otherwise, tuple(rows)))


def known_ends(model: nn.Module) -> Ends | None:
    """Return the stored ``Ends`` of a model; ``None`` if there are none."""
    noted = getattr(model, NOTE, None)
    return noted if isinstance(noted, Ends) else None


def ends_of(model: nn.Module) -> Ends:
    """Return the stored ``Ends`` of a model; find them if there are none, as for models of other Flower apps.

    Raises:
        UserError: If nothing is stored, there are several linear layers, and the model accepts none of the tried sizes
            of images.
    """
    noted = known_ends(model)
    if noted is not None:
        return noted
    linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if len(linear) > 1:
        for shape in _likely_shapes(model):
            with suppress(Exception), undisturbed(model):
                note_classifier(model.eval(), next(model.parameters()).new_zeros(2, *shape))
                return ends_of(model)
        raise UserError(
            f"which of the linear layers of {type(model).__name__} is the classifier, {' or '.join(linear)}, is not "
            "known: call fedsim.models.classifier.note_classifier(model, images) first."
        )
    if not linear:
        return Ends(None, (), (), None, "no linear layer")
    return Ends(None, (linear[0],), (), linear[0], alternatives=(linear[0],))


def classifier_of(model: nn.Module, wanted_by: str) -> tuple[str, nn.Linear]:
    """Return name and layer of the classifier.

    Args:
        model: The network.
        wanted_by: The setting that needs a classifier, for the error message.

    Raises:
        UserError: If the logits come from anything but one linear layer with a row for each class.
    """
    ends = ends_of(model)
    if ends.classifier is None:
        raise UserError(
            f"{wanted_by} needs a network whose logits come out of one linear layer, and those of "
            f"{type(model).__name__} come from {ends.otherwise}: choose another model."
        )
    layer = model.get_submodule(ends.classifier)
    assert isinstance(layer, nn.Linear)
    return ends.classifier, layer


def logit_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that produce the logits by name, linear or not; several if their outputs are combined.

    Raises:
        UserError: As ``ends_of``.
    """
    return {name: model.get_submodule(name) for name in ends_of(model).last}


def logit_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of ``logit_layers``, and those that produce logits without a layer.

    Raises:
        UserError: As ``ends_of``.
    """
    of_layers = [parameter for layer in logit_layers(model).values() for parameter in layer.parameters()]
    named = dict(model.named_parameters(remove_duplicate=False))
    return of_layers + [named[name] for name in ends_of(model).bare]


def class_layers(model: nn.Module, num_classes: int) -> list[str]:
    """Return the names of the linear layers that compute a logit for each class from the classifier's features."""
    return [name for name in ends_of(model).alternatives if model.get_submodule(name).out_features == num_classes]


def weight_in(layer: nn.Linear, name: str, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the weight by which a linear layer multiplies its inputs, in a model of this state.

    It is not always that of the state: a layer may compute it from what is trained.

    Args:
        layer: A copy of the layer, into which its entries of the state are loaded.
        name: The layer's name in the model.
        state: The entries of the model.
    """
    prefix = f"{name}." if name else ""
    own = {entry.removeprefix(prefix): tensor for entry, tensor in state.items() if entry.startswith(prefix)}
    layer.load_state_dict(own, strict=False)
    return layer.weight.detach().clone()


@contextmanager
def features_seen(classifier: nn.Linear) -> Iterator[list[torch.Tensor]]:
    """Yield a list to which every forward pass inside the block appends the inputs (N, features) of the classifier."""
    seen: list[torch.Tensor] = []

    def keep(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(inputs[0])

    hook = classifier.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


def _traced(
    model: nn.Module, images: torch.Tensor
) -> tuple[object, str | None, dict[str, torch.Tensor], tuple[str, ...], str]:
    """Trace the output of the model back to the last layers with weights, along the autograd graph.

    Returns:
        The output of the model, the name of its first layer, the outputs of the last layers by name, the names of
        parameters that are applied there without a layer, and a description of other sources of the logits (empty if
        there are none).
    """
    made: dict[object, tuple[str, torch.Tensor]] = {}
    called: list[str] = []

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def note(_: nn.Module, inputs: object, output: object) -> None:
            called.append(name)  # also if a part of the network computes without gradients
            if isinstance(output, torch.Tensor) and output.grad_fn is not None:
                made[output.grad_fn] = name, output

        return module.register_forward_hook(note)

    hooks = [watch(name, module) for name, module in model.named_modules() if _has_weights(module)]
    frozen = [
        parameter for parameter in model.parameters() if parameter.is_floating_point() and not parameter.requires_grad
    ]
    try:
        for parameter in frozen:  # else a frozen matrix would not be in the graph
            parameter.requires_grad_(True)
        with torch.enable_grad():
            # Not a leaf, so that a network may change it in place.
            answer = model(images.detach().requires_grad_().clone())
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in frozen:
            parameter.requires_grad_(False)
    first = next(iter(called), None)
    if not isinstance(answer, torch.Tensor) or answer.grad_fn is None:
        return answer, first, {}, (), "what cannot be traced"
    names: dict[int | None, str] = {id(parameter): name for name, parameter in model.named_parameters()}
    met: dict[str, torch.Tensor] = {}
    bare: dict[str, None] = {}
    otherwise = ""
    waiting, known = [answer.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node in known:
            continue
        known.add(node)
        if node in made:
            name, output = made[node]
            met.setdefault(name, output)
            continue
        inputs = [each for each, _ in node.next_functions if each is not None]
        applied = [names[matrix] for matrix in map(_matrix_of, inputs) if matrix in names]
        if applied:  # the search ends here, as at a layer
            bare |= dict.fromkeys(applied)
            otherwise = "weights that are in no layer"
            continue
        variable = getattr(node, "variable", None)  # of a leaf: a scale for each channel, or the images
        if variable is not None and id(variable) not in names:
            otherwise = otherwise or "the images as well"
        waiting += inputs
    return answer, first, met, tuple(bare), otherwise


def _matrix_of(node: Any) -> int | None:
    """Return the ``id`` of the matrix that a node passes on, transposed or reshaped; ``None`` if it is none."""
    while True:
        variable = getattr(node, "variable", None)
        if variable is not None:
            return id(variable) if _is_matrix(variable) else None
        inputs = [each for each, _ in node.next_functions if each is not None]
        if len(inputs) != 1 or node.name() not in RESHAPES:
            return None
        node = inputs[0]


def _is_matrix(parameter: torch.Tensor) -> bool:
    """Return whether a parameter mixes channels, unlike a scale for each of them, (C,) or (1, C, 1, 1)."""
    return sum(size > 1 for size in parameter.shape) > 1


def _likely_shapes(model: nn.Module) -> list[tuple[int, ...]]:
    """Return shapes of an image, or vector, that the network may accept, from the shapes of its layers."""
    shapes: dict[tuple[int, ...], None] = {}
    for layer in model.modules():
        if isinstance(layer, _ConvNd):
            shapes |= dict.fromkeys((layer.in_channels, *[size] * len(layer.kernel_size)) for size in LIKELY_SIZES)
        elif isinstance(layer, nn.Linear):
            shapes[(layer.in_features,)] = None
    return list(shapes)


def _has_weights(module: nn.Module) -> bool:
    """Return whether a module has a matrix or kernel, where the search ends, and not only scales as a norm layer."""
    own = any(_is_matrix(parameter) for parameter in module.parameters(recurse=False))
    return isinstance(module, nn.Linear | _ConvNd) or (own and not list(module.children()))


def _not_a_classifier(
    found: dict[str, nn.Module], outputs: dict[str, torch.Tensor], answer: object, num_classes: int | None
) -> str:
    """Return why the layers found are not one linear layer with a row for each class; empty if they are."""
    named = [f"{type(layer).__name__} {name}".strip() for name, layer in found.items()]
    if len(found) != 1:
        return " and ".join(named) or "no layer with weights"
    (name, layer), *_ = found.items()
    assert isinstance(answer, torch.Tensor)
    if not isinstance(layer, nn.Linear):
        return named[0]
    if num_classes is not None and layer.out_features != num_classes:
        return f"{named[0]} of {layer.out_features} rows for {num_classes} classes"
    if outputs[name].numel() != answer.numel():
        return f"several outputs of {named[0]} for each image"
    return ""
