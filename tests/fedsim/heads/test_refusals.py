"""Wrong words about heads: each is refused in one sentence before anything starts."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["head=cosine", "head.scale=0"], "head.scale=0 is not possible: choose a number above 0."),
        (["head=cosine", "head.learnable=1"], "head.learnable=1 is not possible: choose true or false."),
        (["head=local_generic"], "head=local_generic has a fixed classifier, which strategy=fedavg does not make"),
        (["head=etf", "model=torchvision/squeezenet1_1"], "head=etf needs a network whose logits come out of one"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_are_refused_in_a_sentence(refusal: Callable[..., str], words: list[str], sentence: str) -> None:
    assert refusal(*words).startswith(sentence)
