"""Wrong words about norms: each is refused in one sentence before anything starts."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["model=cnn6", "batch_size=1"], "batch_size=1 gives norm=bn no batch to normalize over"),
        (["model=cnn6", "batch_size=1", "norm=dse"], "batch_size=1 gives norm=dse no batch to normalize over"),
        (["model=torchvision/resnet18", "norm=in"], "norm=in normalizes over the pixels of each channel, of which"),
        (["norm.policy=x"], "norm.policy=x is not known: choose fedavg, fedbn, silobn, fixbn, or null."),
        (["norm=gn", "norm.policy=silobn"], "norm.affine=shared is about layers with running statistics"),
        (["norm=gn", "norm.groups=5"], "norm.groups=5 does not divide the 32 channels"),
        (["model=vit_tiny", "model.width=6", "norm=gn"], "norm=gn takes the place of BatchNorm between convolutions"),
        (["model=vit_tiny", "model.width=6", "strategy=fedwon"], "norm=sws takes the place of BatchNorm between"),
        (
            ["norm=none", "norm.alpha=9"],
            "norm.alpha=9 scales the branches of norm.residual=nf, and with norm.residual=pl",
        ),
        (["norm=sws", "norm.alpha=0.2"], "norm.alpha=0.2 scales the branches of norm.residual=nf, and with norm.resid"),
        (["norm=bcn", "norm.moving_speed=0.01"], "norm.moving_speed=0.01 moves the statistics of norm.estimated=true"),
        (["norm=crms", "norm.recentre=true"], "norm.recentre=true converts norm=crms of timm's plain pre-LN vision"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_are_refused_in_a_sentence(refusal: Callable[..., str], words: list[str], sentence: str) -> None:
    assert refusal(*words).startswith(sentence)
