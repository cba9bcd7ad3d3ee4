"""Wrong words about reparam: each is refused in one sentence before anything starts."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["reparam=weight_compander", "reparam.b=0"], "reparam.b=0 is not possible: choose a number above 0."),
        (["reparam=weight_compander", "reparam.a=0.01"], "reparam.a=0.01 allows weights below 0.0157, and features.0"),
        (["reparam=weight_compander", "train_only=norm"], "train_only=norm freezes the weights that reparam="),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_are_refused_in_a_sentence(refusal: Callable[..., str], words: list[str], sentence: str) -> None:
    assert refusal(*words).startswith(sentence)
