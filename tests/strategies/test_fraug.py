"""FRAug in the federation: the average of generators, what stays on the clients, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message
from torch import nn

from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import EVALUATE, TRAIN, arrays_of
from fedsim.methods.reply_checks import ReplyChecks
from fedsim.methods.reply_records import Question, ReplyFault
from fedsim.methods.training import ServerTraining
from fedsim.models.feature_networks import FeatureGenerator, FeatureTransform
from fedsim.output.progress import Reporter
from fedsim.server.preparation import Prepared, prepare
from fedsim.server.simulation import run
from strategies import FedAvg, FRAug
from strategies.fraug import check_generator
from tests.strategies.test_every_strategy import Watched

MakeSettings = Callable[..., Settings]
WORDS = ("strategy=fraug", "engine=inline", "strategy.latent=8")


def first_round(prepared: Prepared) -> tuple[FRAug, list[Message], list[Message], dict[str, torch.Tensor]]:
    """The strategy after a round with all clients, the messages and replies of this, and the new model."""
    strategy, grid = prepared.strategy, Watched(prepared)
    assert isinstance(strategy, FRAug)
    arrays = to_record(prepared.model.state_dict())
    messages = list(strategy.configure_train(1, arrays, ConfigRecord({"server-round": 1}), grid))
    replies = list(grid.send_and_receive(messages))
    average, _ = strategy.aggregate_train(1, replies)
    assert average is not None
    return strategy, messages, replies, to_tensors(average)


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_model_and_generator_are_averaged_with_the_same_weights(small_settings: MakeSettings, weighting: str) -> None:
    split = ("split=quantity", "split.num_clients=6")
    prepared = prepare(small_settings(*WORDS, *split, f"strategy.weighting={weighting}"))
    strategy, messages, replies, average = first_round(prepared)
    sizes = [float(reply.content.metric_records["metrics"]["num-examples"]) for reply in replies]  # type: ignore[arg-type]
    assert len(set(sizes)) > 1
    weights = sizes if weighting == "examples" else [1.0] * len(sizes)
    generators = [to_tensors(reply.content.array_records["generator"]) for reply in replies]
    models = [to_tensors(arrays_of(reply)) for reply in replies]
    for ours, parts in ((strategy.generator, generators), (average, models)):
        assert ours.keys() == parts[0].keys()
        for name, tensor in ours.items():
            total = sum(weight * part[name].double() for weight, part in zip(weights, parts, strict=True))
            torch.testing.assert_close(tensor, (total / sum(weights)).float(), rtol=1e-6, atol=1e-7)  # type: ignore[union-attr]
    sent = to_tensors(messages[0].content.array_records["generator"])
    assert not sent["layers.0.weight"].equal(strategy.generator["layers.0.weight"])
    (again, *_) = strategy.configure_train(2, to_record(average), ConfigRecord(), Watched(prepared))
    assert to_tensors(again.content.array_records["generator"])["layers.0.weight"].equal(
        strategy.generator["layers.0.weight"]
    )


def test_all_clients_begin_with_one_generator_that_the_seed_decides(small_settings: MakeSettings) -> None:
    strategies = [prepare(small_settings(*WORDS, f"seed={seed}")).strategy for seed in (0, 0, 1)]
    first = [strategy.generator["layers.0.weight"] for strategy in strategies if isinstance(strategy, FRAug)]
    assert first[0].equal(first[1])
    assert not first[0].equal(first[2])
    assert first[0].shape == (256, 8 + 10)


@pytest.mark.parametrize(
    ("local_norm", "kept"),
    [
        ("all", {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}),
        ("statistics", {"running_mean", "running_var", "num_batches_tracked"}),
        ("none", set()),
    ],
)
def test_what_stays_of_the_models_layers_with_statistics(
    small_settings: MakeSettings, local_norm: str, kept: set[str]
) -> None:
    strategy = prepare(small_settings(*WORDS, f"strategy.local_norm={local_norm}")).strategy
    assert strategy.personal == {f"features.{layer}.{entry}" for layer in (1, 5, 9) for entry in kept}


def test_a_network_without_statistics_keeps_nothing(small_settings: MakeSettings) -> None:
    assert prepare(small_settings(*WORDS, "norm=gn")).strategy.personal == frozenset()


def test_the_generators_norm_stays_on_the_clients_if_it_is_to(small_settings: MakeSettings) -> None:
    strategy, messages, replies, _ = first_round(prepare(small_settings(*WORDS, "strategy.generator_norm=local")))
    linear = {f"layers.{layer}.{entry}" for layer in (0, 3) for entry in ("weight", "bias")}
    assert set(strategy.generator) == linear
    for message in [*messages, *replies]:
        assert set(message.content.array_records["generator"]) == linear


def test_transformation_means_and_momentum_are_in_no_message(small_settings: MakeSettings, tmp_path: Path) -> None:
    """Neither their names nor their numbers, nor those of what stays of the model and the generator."""
    prepared = prepare(small_settings(*WORDS, "momentum=0.5", "strategy.generator_norm=local"))
    grid = Watched(prepared)
    run(prepared, tmp_path, Reporter(), grid)
    pairs = [*grid.of(TRAIN), *grid.of(EVALUATE)]
    travelling = [
        tensor
        for pair in pairs
        for each in pair
        for record in each.content.array_records.values()
        for tensor in to_tensors(record).values()
    ]
    for state in grid.client_states().values():
        names = {f"method/{name}" for name in ("generator", "transform", "class means", "momentum")}
        assert names == {name for name in state if name.startswith("method/")}
        for name in names:
            record = state[name]
            assert isinstance(record, ArrayRecord)
            for entry, tensor in to_tensors(record).items():
                if tensor.dim() and tensor.count_nonzero():
                    same = [each for each in travelling if each.shape == tensor.shape and each.equal(tensor)]
                    assert not same, (name, entry)
    assert all("generator" not in message.content for message, _ in grid.of(EVALUATE))


@pytest.mark.nightly
@pytest.mark.parametrize(("local_norm", "policy"), [("all", "fedbn"), ("statistics", "silobn"), ("none", "fedavg")])
def test_without_generated_features_it_is_fedavg_with_that_policy(
    small_settings: MakeSettings, tmp_path: Path, local_norm: str, policy: str
) -> None:
    """Bit for bit."""
    augmented = small_settings(*WORDS, "strategy.gamma=1e9", f"strategy.local_norm={local_norm}")
    plain = small_settings("strategy=fedavg", "engine=inline", f"norm.policy={policy}")
    for name, settings in (("augmented", augmented), ("plain", plain)):
        run(prepare(settings), tmp_path / name, Reporter())
    for file in ("clients.csv", "model.safetensors"):
        assert (tmp_path / "augmented" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()


@pytest.mark.nightly
def test_it_survives_a_stop_after_which_clients_go_on_with_their_own(
    small_settings: MakeSettings, tmp_path: Path
) -> None:
    class Stops(Reporter):
        def round_done(self, round: int, metrics: object) -> None:
            if round == 2:
                raise KeyboardInterrupt

    words = (*WORDS, "strategy.generator_norm=local", "momentum=0.5", "fraction=0.5", "rounds=4")
    whole = prepare(small_settings(*words))
    run(whole, tmp_path / "whole", Reporter())
    with pytest.raises(KeyboardInterrupt):
        run(prepare(small_settings(*words)), tmp_path / "stopped", Stops())
    resumed = prepare(small_settings(*words, f"resume={tmp_path / 'stopped'}"))
    run(resumed, tmp_path / "stopped", Reporter())
    for name in ("clients.csv", "model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()
    assert isinstance(whole.strategy, FRAug)
    assert isinstance(resumed.strategy, FRAug)
    assert all(tensor.equal(resumed.strategy.generator[name]) for name, tensor in whole.strategy.generator.items())


def filled(value: float) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda told: {**told, "layers.0.bias": torch.full_like(told["layers.0.bias"], value)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda told: {}, "it sent numbers of a generator of other entries than it was asked for"),
        (lambda told: {**told, "else": torch.zeros(1)}, "of other entries than it was asked for (else)"),
        (lambda told: {**told, "layers.0.bias": torch.zeros(3)}, "it sent layers.0.bias as float32 (3,)"),
        (lambda told: {**told, "layers.0.bias": told["layers.0.bias"].double()}, "it sent layers.0.bias as float64"),
        (filled(float("nan")), "it sent numbers in layers.0.bias that are not finite"),
        (filled(-1e9), "it sent 1e+09 in layers.0.bias, where update_limit=1000 allows 1e+03"),
    ],
    ids=["empty", "another", "shape", "type", "nan", "huge"],
)
def test_a_wrong_generator_is_refused(
    small_settings: MakeSettings, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], words: str
) -> None:
    prepared = prepare(small_settings(*WORDS))
    strategy, grid, initial = prepared.strategy, Watched(prepared), prepared.model.state_dict()
    checks = ReplyChecks(prepared.federation, initial, 1000.0, strategy.reply_records, strategy.queries)
    (message, *_) = strategy.configure_train(1, to_record(initial), ConfigRecord(), grid)
    (reply,) = grid.send_and_receive([message])
    assert checks.checked(message, reply) is reply
    reply.content["generator"] = to_record(change(to_tensors(reply.content.array_records["generator"])))
    checked = checks.checked(message, reply)
    assert checked.has_error()
    assert words in str(checked.error.reason)


def test_what_is_limited_of_a_generator_is_its_step() -> None:
    """Large numbers that were sent may come back."""
    sent = {"layers.0.bias": torch.full((4,), 0.9)}
    question = Question(ConfigRecord(), {}, {}, {"generator": to_record(sent)}, {}, update_limit=1.0)
    check_generator(sent, question)
    check_generator({"layers.0.bias": torch.full((4,), 1.8)}, question)
    with pytest.raises(ReplyFault, match=r"it sent 1\.1 in layers\.0\.bias, where update_limit=1 allows 1"):
        check_generator({"layers.0.bias": torch.full((4,), -0.2)}, question)


def classifier(features: int = 6, classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(features, classes))


def test_a_device_is_counted_its_further_networks_and_steps(small_settings: MakeSettings) -> None:
    """With six features, three classes and noise of four: by hand, in FLOPs for each image."""
    generated, transformed, classified = 2 * (7 * 6 + 6 * 6), 2 * (9 * 4 + 4 * 6), 2 * 6 * 3
    numbers = sum(
        parameter.numel()
        for network in (FeatureGenerator(6, 4, 3), FeatureTransform(6, 4, 3))
        for parameter in network.parameters()
    )
    for options, rows, again in (
        ({"labels": "both"}, 2, True),
        ({"labels": "balanced"}, 1, False),
        ({"labels": "balanced", "generator_distance": "mmd"}, 1, True),
    ):
        load = FRAug(classifier(), latent=4, local_steps=20, **options).workload(0)
        of_the_model = rows * (generated + transformed + 2 * classified)  # forward, and gradients of the head's weights
        of_the_generator = 3 * generated + 2 * classified
        of_the_transform = rows * (generated + 3 * transformed + 2 * classified)
        assert load.passes[0].other_flops == of_the_model + of_the_generator + of_the_transform
        assert load.other_numbers == 3 * numbers + 3 * 6
        assert [part.steps for part in load.passes] == [20, 20][: 1 + again]
        assert not again or (load.passes[1].trained, load.passes[1].through) == ((), ())
    prepared = [prepare(small_settings(*words)) for words in (WORDS, ("strategy=fedavg",))]
    more, less = (each.costs.metrics(each.strategy.workload, [0]) for each in prepared)
    assert more["device_gflops"] > less["device_gflops"] * 4 / 3
    assert more["device_memory_mb"] > less["device_memory_mb"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("head=etf",), r"^strategy=fraug trains the classifier on generated features, and it is frozen here: "),
        (("train_only=norm",), r"^strategy=fraug trains the classifier on generated features, and it is frozen here: "),
        (
            ("model=torchvision/squeezenet1_1", "dataset.image_size=28"),
            r"^strategy=fraug needs a network whose logits come out of one linear",
        ),
        (
            ("strategy.latent=0",),
            r"^strategy\.latent=0 is not possible: choose a whole number of at least 1, or null\.$",
        ),
        (("strategy.local_norm=x",), r"^strategy\.local_norm=x is not known: choose all, statistics or none\.$"),
        (("strategy.generator_norm=x",), r"^strategy\.generator_norm=x is not known: choose shared or local\.$"),
        (("norm.policy=silobn",), r"^norm\.affine=shared contradicts strategy=fraug"),
        (
            ("privacy=server_fixed_clipping", "privacy.noise_multiplier=1", "strategy.weighting=uniform"),
            r"^strategy=fraug has clients tell generators, which privacy\.noise_multiplier adds no noise to",
        ),
    ],
)
def test_what_cannot_work_is_refused(small_settings: MakeSettings, words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        prepare(small_settings("strategy=fraug", *words))


def test_its_generator_has_the_type_of_the_model() -> None:
    strategy = FRAug(classifier().double(), ServerTraining())
    assert {tensor.dtype for tensor in strategy.generator.values()} == {torch.float64}
    assert isinstance(strategy, FedAvg)
