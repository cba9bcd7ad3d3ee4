"""Three classifiers in the place of one."""

import pytest
import torch
from torch import nn

from fedsim.heads import LocalGenericHeads, PersonalLinear, SparseFrame, local_generic_heads, use_local_generic
from fedsim.models.classifier import class_layers, classifier_of
from fedsim.models.cnn6 import CNN6
from fedsim.models.cnn_small import CNNSmall


def test_they_take_the_last_linear_layers_place_and_shape() -> None:
    model = use_local_generic(CNN6(7, (3, 28, 28)), steps=1)
    heads = local_generic_heads(model)
    assert heads is model.head
    shapes = [(type(layer), layer.in_features, layer.out_features) for layer in heads.children()]  # type: ignore[union-attr]
    assert shapes == [(PersonalLinear, 512, 7), (nn.Linear, 512, 7), (SparseFrame, 512, 7)]
    assert class_layers(model, 7) == ["head.personal", "head.auxiliary", "head.generic"]  # and no hidden layer
    assert classifier_of(model, "x") == ("head.generic", heads.generic)  # type: ignore[union-attr]


def test_a_model_without_them_has_none() -> None:
    assert local_generic_heads(CNNSmall()) is None
    assert class_layers(CNNSmall(), 10) == ["head"]
    assert class_layers(nn.Sequential(nn.Conv2d(3, 8, 3)), 10) == []
    assert class_layers(CNNSmall(), 11) == []  # what has another number of rows has none for each class


def test_the_generic_classifier_answers_unless_told_otherwise() -> None:
    torch.manual_seed(0)
    heads = LocalGenericHeads(6, 3, 0.5, 0.1, 5, "random")
    heads.generic.make()
    features = torch.randn(4, 6)
    generic = features @ heads.generic.weight.T + heads.generic.bias
    torch.testing.assert_close(heads(features), generic)
    with heads.answering(lambda given: torch.stack([heads.personal(given), heads.auxiliary(given)], 1)):
        personal, auxiliary = heads(features).unbind(1)
    torch.testing.assert_close(personal, features @ heads.personal.weight.T + heads.personal.bias)
    torch.testing.assert_close(auxiliary, features @ heads.auxiliary.weight.T + heads.auxiliary.bias)
    torch.testing.assert_close(heads(features), generic)


def test_an_error_in_the_answer_does_not_outlive_it() -> None:
    heads = LocalGenericHeads(6, 3, 0.5, 0.1, 5, "zero")

    def fails(_: torch.Tensor) -> torch.Tensor:
        raise ValueError("no answer")

    with pytest.raises(ValueError, match="no answer"), heads.answering(fails):
        heads(torch.ones(1, 6))
    assert heads(torch.ones(1, 6)).shape == (1, 3)
