"""One trial before the first round: what the smallest batches cannot be used for is refused, and nothing is touched."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from datasets.federation import Federation
from fedsim.config.composition import CONFIG_DIR
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.methods.interfaces import LocalTrainer
from fedsim.methods.method import Method
from fedsim.models import build_model
from fedsim.norms import norm_names
from fedsim.norms.policy import NormPolicy
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from fedsim.server.smallest_batches import try_smallest_batches
from tests.conftest import IMAGE_SHAPE

MakeSettings = Callable[..., Settings]


class Untracked(nn.Module):
    """BatchNorm without running statistics, behind a branch that starts with a weight of zero."""

    def __init__(self, num_classes: int = 10, linear: bool = False) -> None:
        super().__init__()
        self.norm: nn.Module = nn.BatchNorm1d(3) if linear else nn.BatchNorm2d(3, track_running_stats=False)
        self.gain, self.fc = nn.Parameter(torch.zeros(())), nn.Linear(3, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pooled = images.mean((2, 3))
        branch = self.norm(pooled) if isinstance(self.norm, nn.BatchNorm1d) else self.norm(images).mean((2, 3))
        logits: torch.Tensor = self.fc(pooled + self.gain * branch)
        return logits


class InTraining(nn.Module):
    """A network that answers otherwise in training."""

    def __init__(self, num_classes: int = 10, what: str = "tuple") -> None:
        super().__init__()
        self.what, self.fc = what, nn.Linear(3, num_classes)

    def forward(self, images: torch.Tensor) -> object:
        logits = self.fc(images.mean((2, 3)))
        if not self.training:
            return logits
        if self.what == "fails":
            raise RuntimeError("not in training")
        return logits, logits


def trainer_of(settings: Settings) -> LocalTrainer:
    return Method.of(settings.strategy).make_trainer(settings)


def own(settings: Settings, kind: type, **options: object) -> Settings:
    return replace(settings, model={"name": "mine", "_target_": f"{__name__}.{kind.__name__}", **options})


def cut(federation: Federation, client: int, **sizes: int) -> Federation:
    """A federation in which one client has but so many images."""
    partitions = list(federation.partitions)
    mine = partitions[client]
    test = federation.domain_tests[mine.domain]
    parts = {"train": mine.train, "test": test, "validation": mine.train}
    partitions[client] = replace(mine, **{name: parts[name][:size] for name, size in sizes.items()})
    return Federation(federation.source, partitions)


@pytest.mark.parametrize(
    ("words", "sizes", "sentence"),
    [
        ((), {"train": 1}, "client 4 trains on a batch of 1 image, and model=mine with norm=bn needs 2"),
        (("batch_size=2",), {"train": 3}, None),  # a last batch of one image is left out
        (("norm.evaluation=batch",), {"test": 1}, "client 4 is tested on a batch of 1 image, and .* needs 2"),
        (("norm.statistics=none",), {"test": 1}, "client 4 is tested on a batch of 1 image"),
        (("norm.evaluation=batch",), {"validation": 1}, "client 4 is validated on a batch of 1 image"),
        (("tta=bn_batch",), {"test": 1}, "client 4 is tested, with tta, on a batch of 1 image"),
        (
            ("tta=tent", "tta.batch_size=2"),
            {"test": 3},
            "client 4 is tested, with tta, on .* another tta.batch",
        ),
        (("tta=tent", "tta.batch_size=3"), {"test": 3}, None),
        (("tta=alpha_bn",), {"test": 1}, None),  # mixes the image's own mean and a variance of zero in
        (("norm.evaluation=reestimated",), {"test": 1}, None),
        ((), {"test": 1}, None),
    ],
)
def test_a_batch_that_is_too_small_is_refused_before_anything_starts(
    words: tuple[str, ...],
    sizes: dict[str, int],
    sentence: str | None,
    small_settings: MakeSettings,
    federation: Federation,
) -> None:
    settings = own(small_settings(*words), Untracked, linear=True)
    if sentence is None:
        prepare(settings, cut(federation, 4, **sizes))
        return
    with pytest.raises(UserError, match=f"^{sentence}.*or another model\\.$"):
        prepare(settings, cut(federation, 4, **sizes))
    prepare(settings, cut(federation, 4, **dict.fromkeys(sizes, 2)))
    prepare(replace(settings, model=small_settings().model), cut(federation, 4, **sizes))  # as the sentence advises


def test_a_question_about_one_image_is_refused_too(small_settings: MakeSettings, federation: Federation) -> None:
    settings = own(small_settings(), Untracked, linear=True)
    model = build_model(settings, 10, IMAGE_SHAPE)
    try_smallest_batches(settings, federation, model, trainer_of(settings), 0.05)  # of 40 images two
    with pytest.raises(
        UserError, match=r"^client 0 is asked, before training, about a batch of 1 image, and .* needs 2"
    ):
        try_smallest_batches(settings, federation, model, trainer_of(settings), 0.02)
    fedtiny = prepare(small_settings("strategy=fedtiny", "strategy.candidates=1"), federation)
    assert fedtiny.strategy.queried_share == 0.1
    snip = prepare(small_settings("strategy=pruned", "strategy.criterion=snip"), federation)
    assert snip.strategy.queried_share > 0


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("tuple", r"^model=mine answers 8 images in training with tuple, and not with 10 logits for each: choose"),
        (
            "fails",
            r"^client 0 trains on a batch of 8 images, and .* fails with it \(RuntimeError: not in training\): choose",
        ),
    ],
)
def test_what_fails_in_training_alone_is_refused(
    what: str, sentence: str, small_settings: MakeSettings, federation: Federation
) -> None:
    with pytest.raises(UserError, match=sentence):
        prepare(own(small_settings(), InTraining, what=what), federation)


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (("model=cnn6",), True),
        (("model=cnn6", "model.linear_norm=false"), False),
        (("model=resnet20",), False),
        (("model=torchvision/resnet18",), True),  # one pixel is left of these images
        (("model=vit_tiny", "model.width=6", "norm=bn"), False),  # over the tokens of the image
        (("model=vit_tiny", "model.width=6", "model.patch=16", "norm=bn"), True),
        (("norm=evonorm_b0",), False),
        (("model=cnn6", "norm=evonorm_b0"), True),
        (("model=cnn6", "norm=gn"), False),
    ],
    ids=str,
)
def test_batches_of_one_image_are_refused_where_a_channel_has_one_value(
    words: tuple[str, ...], refused: bool, small_settings: MakeSettings, federation: Federation
) -> None:
    settings = small_settings("batch_size=1", *words)
    if not refused:
        prepare(settings, federation)
        return
    with pytest.raises(
        UserError, match=r"^batch_size=1 gives norm=\w+ no batch to normalize over: choose at least 2, or"
    ):
        prepare(settings, federation)
    prepare(small_settings("batch_size=2", *words), federation)


def test_by_one_image_at_a_time_batch_norm_trains_as_instance_norm_does(
    small_settings: MakeSettings, federation: Federation, tmp_path: Path
) -> None:
    words = ("batch_size=1", "rounds=1", "engine=inline", "lr=0.001")
    for norm in ("bn", "in"):
        run(prepare(small_settings(f"norm={norm}", *words), federation), tmp_path / norm, Reporter())
    by_batch, by_image = (load_file(tmp_path / norm / "model.safetensors") for norm in ("bn", "in"))
    initial = build_model(small_settings(), 10, IMAGE_SHAPE).state_dict()
    assert (by_image["head.weight"] - initial["head.weight"]).abs().max() > 1e-3
    for name, tensor in by_image.items():
        torch.testing.assert_close(tensor, by_batch[name], rtol=1e-3, atol=1e-5)


def depends(settings: Settings, federation: Federation) -> bool:
    """Whether it does so for the trial, which must leave every number and mode as it found it."""
    model = NormPolicy.of(settings.norm, settings.rounds).apply(build_model(settings, 10, IMAGE_SHAPE))
    before = [tensor.clone() for tensor in (*model.parameters(), *model.buffers())]
    modes, drawn = [module.training for module in model.modules()], torch.get_rng_state()
    by_batch = try_smallest_batches(settings, federation, model, trainer_of(settings), 0.1)
    after = [*model.parameters(), *model.buffers()]
    assert all(torch.equal(one.nan_to_num(), other.nan_to_num()) for one, other in zip(before, after, strict=True))
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not [hook for module in model.modules() for hook in module._forward_hooks]
    return by_batch


@pytest.mark.parametrize("norm", sorted(norm_names()))
def test_at_evaluation_no_norm_looks_at_the_batch_unless_told_to(
    norm: str, small_settings: MakeSettings, federation: Federation
) -> None:
    model = "resnet18" if norm.startswith("ibn") else "cnn_small"
    assert not depends(small_settings(f"norm={norm}", f"model={model}"), federation)


def test_what_looks_at_the_batch_is_found_out(small_settings: MakeSettings, federation: Federation) -> None:
    for word in ("norm.evaluation=batch", "norm.statistics=none"):
        assert depends(small_settings(word), federation)
    assert depends(own(small_settings(), Untracked), federation)
    assert not depends(small_settings("norm.statistics=none", "norm.evaluation=reestimated"), federation)
    for tta in ("bn_batch", "alpha_bn", "tent", "cafa"):
        assert not depends(small_settings(f"tta={tta}"), federation)  # the plain accuracy does not


def combinations() -> Iterator[tuple[str, ...]]:
    strategies, heads, ttas = (
        [path.stem for path in (CONFIG_DIR / group).glob("*.yaml")] for group in ("strategy", "head", "tta")
    )
    quick = {"fedloge": ("head.steps=1",), "fedtiny": ("strategy.candidates=1",)}
    for strategy, tta in itertools.product(strategies, ("cafa", "tent")):  # these use the most of a network
        yield f"strategy={strategy}", f"tta={tta}", *quick.get(strategy, ())
    yield from ((f"head={head}", f"tta={tta}") for head, tta in itertools.product(heads, ttas))
    yield from (("strategy=fedloge", f"tta={tta}", "head.steps=1") for tta in ttas)


@pytest.mark.nightly
def test_every_strategy_and_head_goes_with_every_adaptation_or_is_refused(
    small_settings: MakeSettings, federation: Federation
) -> None:
    refused = []
    for words in combinations():
        try:
            prepare(small_settings(*words), None if "strategy=central" in words else federation)
        except UserError:
            refused.append(words[0])
    assert set(refused) == {"strategy=fedwon", "head=local_generic"}


def test_a_method_with_predictors_of_its_own_goes_with_what_looks_at_features(
    small_settings: MakeSettings, federation: Federation, tmp_path: Path
) -> None:
    settings = small_settings("strategy=fedloge", "head.steps=1", "tta=cafa", "rounds=1", "engine=inline")
    clients = run(prepare(settings, federation), tmp_path / "run", Reporter()).clients
    for name in ("accuracy", "adapted_accuracy", "adapted_realigned_accuracy"):
        assert np.isfinite(clients[name]).all(), name
