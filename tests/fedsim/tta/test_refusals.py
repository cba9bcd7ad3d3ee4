"""Wrong words about tta: each is refused in one sentence before anything starts."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["tta=bn_batch", "norm=gn"], "tta=bn_batch is about BatchNorm's running statistics"),
        (["tta=tent", "norm=none"], "tta=tent trains the scales and shifts of norm layers"),
        (["tta=tent", "tta.lr=0"], "tta.lr=0 is not possible: choose a number above 0."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_are_refused_in_a_sentence(refusal: Callable[..., str], words: list[str], sentence: str) -> None:
    assert refusal(*words).startswith(sentence)
