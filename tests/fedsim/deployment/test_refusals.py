"""Wrong words about the engine of real devices: each is refused in one sentence before anything starts."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["engine=superlink"], "engine.address=None is not possible: choose the SuperLink's HOST:PORT."),
        (["engine=superlink", "engine.address=http://a:1"], "engine.address=http://a:1 is not possible: choose"),
        (["engine=superlink", "engine.address=a:1"], "engine.root_certificates=None is not possible: choose the"),
        (
            ["engine=superlink", "engine.address=a:1", "engine.root_certificates=nowhere.crt"],
            "engine.root_certificates=nowhere.crt is not there: choose the file ca.crt.",
        ),
        (
            ["engine=superlink", "engine.address=a:1", "engine.insecure=true", "+strategy.clip=1"],
            "strategy.clip=1 is not an option of fedavg: leave it out.",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_are_refused_in_a_sentence(refusal: Callable[..., str], words: list[str], sentence: str) -> None:
    assert refusal(*words).startswith(sentence)
