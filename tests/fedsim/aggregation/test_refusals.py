"""Wrong words about aggregation: each is refused in one sentence before anything starts."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["aggregation=median", "fraction=0.3"], "aggregation=median of 2 is their mean: choose a larger fraction"),
        (["aggregation=trimmed_mean", "aggregation.share=0.5"], "aggregation.share=0.5 is not possible: choose a"),
        (["aggregation=trimmed_mean", "aggregation.share=0.1"], "aggregation.share=0.1 trims none of 6 clients"),
        (["aggregation=krum", "aggregation.malicious=2"], "aggregation.malicious=2 needs at least 7 clients in each"),
        (
            ["aggregation=krum", "aggregation.malicious=0.5"],
            "aggregation.malicious=0.5 is not possible: choose a whole",
        ),
        (["aggregation=multikrum", "aggregation.selected=4"], "aggregation.selected=4 is not possible for 6 clients"),
        (["privacy=server_fixed_clipping", "privacy.clipping_norm=0"], "privacy.clipping_norm=0 is not possible"),
        (
            ["privacy=server_fixed_clipping", "privacy.noise_multiplier=1"],
            "strategy.weighting=examples lets a client weigh more than privacy.noise_multiplier is made for",
        ),
        (
            ["privacy=server_adaptive_clipping", "privacy.noise_multiplier=1", "strategy=fedbn"],
            "privacy.noise_multiplier=1 is not possible with a standard deviation of 0.3 for the number of clipped",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_are_refused_in_a_sentence(refusal: Callable[..., str], words: list[str], sentence: str) -> None:
    assert refusal(*words).startswith(sentence)
