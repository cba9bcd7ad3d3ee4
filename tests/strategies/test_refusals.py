"""Wrong words about strategies: each is refused in one sentence before anything starts."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["strategy.weighting=size"], "strategy.weighting=size is not known: choose examples or uniform."),
        (["strategy=fedwon", "strategy.clip=-1"], "strategy.clip=-1 is not possible: choose a number above 0"),
        (["strategy=fedprox", "strategy.mu=inf"], "strategy.mu=inf is not possible: choose a number of at least 0."),
        (["strategy=fedprox", "strategy.mu=x"], "strategy.mu=x is not possible: choose a number."),
        (["strategy=fedper", "head=etf"], "strategy=fedper needs a classifier that is trained, and that of this"),
        (["strategy=fedper", "train_only=norm"], "strategy=fedper needs a classifier that is trained, and that of"),
        (["strategy=fedrep", "head=etf"], "strategy=fedrep needs a classifier that is trained, and that of this"),
        (["strategy=fedrep", "strategy.head_epochs=0"], "strategy.head_epochs=0 is not possible: choose a whole"),
        (["strategy=fedper", "model=torchvision/squeezenet1_1"], "strategy=fedper needs a network whose logits"),
        (["strategy=fedwon", "norm=bn"], "strategy=fedwon needs standardized convolutions and no normalization layer"),
        (["strategy=fedbn", "norm.policy=silobn"], "norm.affine=shared contradicts strategy=fedbn"),
        (["strategy=fedloge", "head=etf"], "strategy=fedloge needs a network that ends in its three classifiers"),
        (
            ["strategy=fedloge", "head.sparsity=1"],
            "head.sparsity=1 is not possible: choose a number from 0 to below 1.",
        ),
        (["strategy=fedloge", "head.bias=no"], "head.bias=no is not known: choose zero or random."),
        (["strategy=fedloge", "strategy.local_rule=x"], "strategy.local_rule=x is not known: choose code or readme."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_are_refused_in_a_sentence(refusal: Callable[..., str], words: list[str], sentence: str) -> None:
    assert refusal(*words).startswith(sentence)
