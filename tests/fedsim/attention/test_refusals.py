"""Wrong words about attention: each is refused in one sentence before anything starts."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["attention=se", "attention.reduction=40"],
            "attention.reduction=40 is not possible for the 32 channels of a",
        ),
        (["attention=se", "attention.reduction=1.5"], "attention.reduction=1.5 is not possible: choose a whole"),
        (["attention=scse", "attention.combine=x"], "attention.combine=x is not known: choose add or max."),
        (["attention=ela", "attention.norm_groups=5"], "attention.norm_groups=5 does not divide the 32 channels of a"),
        (["attention=ela", "strategy=fedwon"], "strategy=fedwon needs standardized convolutions and no normalization"),
        (
            ["attention=se", "model=torchvision/densenet121", "dataset.image_size=64"],
            "attention=se stands at the end of residual branches, or",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_are_refused_in_a_sentence(refusal: Callable[..., str], words: list[str], sentence: str) -> None:
    assert refusal(*words).startswith(sentence)
