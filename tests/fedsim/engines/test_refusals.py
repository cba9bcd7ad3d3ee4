"""Wrong words about engines and hardware: each is refused in one sentence before anything starts."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["device=tpu"], "device=tpu is not possible: choose auto or cpu"),
        (["device=cuda:99"], "device=cuda:99 is not possible: choose auto or cpu"),
        (["engine.workers=0"], "engine.workers=0 is not possible: choose a whole number of at least 1."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_are_refused_in_a_sentence(refusal: Callable[..., str], words: list[str], sentence: str) -> None:
    assert refusal(*words).startswith(sentence)
