"""The policy of layers with statistics: what travels, what stays, what is used, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from torch import nn
from torchvision.models import resnet18

from datasets.federation import Federation
from datasets.source import Part
from fedsim.client.host import ClientHost
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import EVALUATE, EVALUATE_GLOBAL, TRAIN, arrays_of, message, metrics_of
from fedsim.methods.client_state import PERSONAL
from fedsim.norms import use_evonorm_b0, use_norm
from fedsim.norms.policy import NormPolicy, statistics_kept
from fedsim.server.preparation import prepare

AFFINE = ("weight", "bias")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
CPU = torch.device("cpu")
MakeSettings = Callable[..., Settings]


def policy(rounds: int = 10, **answers: Any) -> NormPolicy:
    return NormPolicy.of(answers, rounds)


@pytest.mark.parametrize(
    ("answers", "local"),
    [
        ({}, ()),
        ({"policy": "fedavg"}, ()),
        ({"policy": "fixbn"}, ()),
        ({"policy": "fedbn"}, AFFINE + STATISTICS),
        ({"policy": "silobn"}, STATISTICS),
        ({"affine": "local"}, AFFINE),
        ({"policy": "fedbn", "affine": "shared"}, STATISTICS),
    ],
)
def test_the_local_entries_are_those_of_every_batch_norm(answers: dict[str, str], local: tuple[str, ...]) -> None:
    model = resnet18(weights=None)
    expected = {
        f"{name}.{entry}"
        for name, layer in model.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
        for entry in local
    }
    assert len(expected) == 20 * len(local)
    assert policy(**answers).local_entries(model) == expected
    assert statistics_kept(model, frozenset(expected)) == ("running_var" in local)


def test_without_running_statistics_nothing_of_them_can_travel() -> None:
    model = policy(statistics="none").apply(resnet18(weights=None))
    assert not [name for name in model.state_dict() if name.endswith(STATISTICS)]


def test_fixbn_freezes_half_way_unless_told_otherwise() -> None:
    assert policy(rounds=9, policy="fixbn").freeze_after == 4
    assert policy(rounds=9, policy="fixbn", freeze_after=7).freeze_after == 7
    assert policy(rounds=9).freeze_after is None


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ({"policy": "fedprox"}, r"norm\.policy=fedprox is not known: choose fedavg, fedbn, silobn, fixbn, or null\."),
        ({"affine": "none"}, r"norm\.affine=none is not known: choose shared, local, or null\."),
        ({"evaluation": "eval"}, r"norm\.evaluation=eval is not known: choose running, batch, reestimated, or null\."),
        (
            {"freeze_after": 10},
            r"norm\.freeze_after=10 is not possible: choose a whole number from 1 to below rounds=10\.",
        ),
        ({"freeze_after": 1.5}, r"norm\.freeze_after=1\.5 is not possible"),
        ({"freeze_after": 3, "statistics": "none"}, r"norm\.freeze_after=3 needs statistics to freeze"),
        ({"statistics": "none", "evaluation": "running"}, r"norm\.evaluation=running needs running statistics"),
    ],
)
def test_answers_that_are_not_known_or_contradict_each_other_are_refused(
    answers: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        policy(**answers)


def test_a_policy_needs_layers_that_it_can_serve() -> None:
    with pytest.raises(UserError, match=r"norm\.affine=shared is about layers with running statistics.*has none"):
        policy(policy="silobn").apply(nn.Sequential(nn.GroupNorm(1, 2)))
    evonorm = use_evonorm_b0(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    assert policy(policy="silobn").apply(evonorm) is evonorm
    assert policy(policy="silobn").local_entries(evonorm) == {"1.running_var"}
    with pytest.raises(UserError, match=r"the statistics of EvoNorm2dB0 can only be shared or local"):
        policy(evaluation="batch").apply(evonorm)


@pytest.mark.parametrize(
    ("name", "options", "layer", "statistics"),
    [
        ("bcn", {"estimated": True}, "EstimatedBatchNorm", {"running_mean", "running_var"}),
        ("powernorm", {}, "PowerNorm", {"phi", "ema_gz", "num_batches_tracked"}),
        (
            "unified",
            {},
            "UnifiedNorm",
            {"running_var", "ema_gz", "window_mean_square", "window_gz"}
            | {"num_batches_tracked", "num_batches_skipped"},
        ),
    ],
)
def test_running_statistics_of_other_layers_are_shared_or_local(
    name: str, options: dict[str, Any], layer: str, statistics: set[str]
) -> None:
    model = use_norm(resnet18(weights=None), name, **options)
    places = [path for path, module in model.named_modules() if type(module).__name__ == layer]
    assert len(places) == 20
    for answers, entries in (
        ({"policy": "fedavg"}, set()),
        ({"policy": "silobn"}, statistics),
        ({"policy": "fedbn"}, statistics | {"weight", "bias"}),
        ({"affine": "local"}, {"weight", "bias"}),
    ):
        assert policy(**answers).apply(model) is model
        assert policy(**answers).local_entries(model) == {f"{path}.{entry}" for path in places for entry in entries}
    assert statistics_kept(model, policy(policy="silobn").local_entries(model))
    for refused in (
        {"evaluation": "batch"},
        {"evaluation": "reestimated"},
        {"statistics": "none"},
        {"policy": "fixbn"},
    ):
        with pytest.raises(UserError, match=rf"^the statistics of {layer} can only be shared or local"):
            policy(**refused).apply(model)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("strategy=fedbn", "norm.policy=silobn"), r"norm\.affine=shared contradicts strategy=fedbn"),
        (("strategy=fedbn", "norm.statistics=shared"), r"norm\.statistics=shared contradicts strategy=fedbn"),
        (("norm=gn", "norm.policy=fedbn"), r"norm\.affine=local is about layers with running statistics"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    small_settings: MakeSettings, overrides: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        prepare(small_settings(*overrides))


def test_fedbn_and_its_policy_are_the_same_method(small_settings: MakeSettings) -> None:
    method = prepare(small_settings("strategy=fedbn"))
    preset = prepare(small_settings("norm.policy=fedbn"))
    assert method.strategy.personal == preset.strategy.personal


class Client:
    """One client of the small federation under a policy."""

    def __init__(self, settings: Settings, federation: Federation, client: int = 2) -> None:
        InlineGrid(lambda device: None, 1, [CPU]).__exit__()  # type: ignore[arg-type,return-value]
        self.host = ClientHost(settings, federation, CPU)
        self.federation, self.client = federation, client
        self.context = Context(1, client, {"partition-id": client}, RecordDict(), {})

    def ask(self, type_: str, tensors: dict[str, torch.Tensor], round: int = 1, **config: str) -> Message:
        return message(type_, self.client, to_record(tensors), ConfigRecord({"server-round": round, **config}))

    def correct(self, tensors: dict[str, torch.Tensor]) -> float:
        return float(metrics_of(self.host.evaluate(self.ask(EVALUATE, tensors), self.context))["correct"])  # type: ignore[arg-type]

    def images(self, part: Part) -> tuple[torch.Tensor, torch.Tensor]:
        examples = self.federation.examples_of(self.client, part)
        return examples.batch(torch.arange(len(examples)))


def odd_statistics(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Running statistics of nobody's images."""
    torch.manual_seed(1)
    return {
        name: torch.rand_like(tensor) * 5 if name.endswith(("running_mean", "running_var")) else tensor
        for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("evaluation", ["batch", "reestimated"])
def test_a_client_is_evaluated_by_the_statistics_of_the_policy(
    small_settings: MakeSettings, federation: Federation, evaluation: str
) -> None:
    client = Client(small_settings(f"norm.evaluation={evaluation}"), federation)
    tensors = odd_statistics(client.host.initial)
    reference = prepare(small_settings()).model
    reference.load_state_dict(tensors)
    layers = [layer for layer in reference.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    images, labels = client.images(Part.TEST)
    with torch.no_grad():
        if evaluation == "reestimated":
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = 1.0  # one batch holds all training images, so it is the statistics
            reference.train()
            reference(client.images(Part.TRAIN)[0])
            reference.eval()
        else:
            reference.train()
        expected = int((reference(images).argmax(1) == labels).sum())
    assert client.correct(tensors) == expected
    kept = client.host.model.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in tensors.items())
    domain = federation.partitions[client.client].domain
    reply = client.host.evaluate_global(client.ask(EVALUATE_GLOBAL, tensors, domain=domain), client.context)
    assert metrics_of(reply)["correct"] == expected  # the only client of its domain


def test_after_the_freeze_statistics_stay_and_weights_are_trained(
    small_settings: MakeSettings, federation: Federation
) -> None:
    client = Client(small_settings("norm.freeze_after=1"), federation)
    sent = dict(client.host.initial)
    moved = {}
    for round in (1, 2):
        trained = to_tensors(arrays_of(client.host.train(client.ask(TRAIN, sent, round), client.context)))
        moved[round] = {name for name, tensor in trained.items() if not torch.equal(tensor, sent[name])}
    statistics = {name for name in sent if name.endswith(STATISTICS)}
    assert statistics <= moved[1]
    assert moved[2] == set(sent) - statistics


def test_silobn_keeps_statistics_and_returns_gamma_and_beta(
    small_settings: MakeSettings, federation: Federation
) -> None:
    prepared = prepare(small_settings("norm.policy=silobn"))
    client = Client(prepared.settings, federation)
    sent = {name: tensor for name, tensor in client.host.initial.items() if name not in prepared.strategy.personal}
    reply = client.host.train(client.ask(TRAIN, sent), client.context)
    assert set(arrays_of(reply)) == set(sent)
    assert {name.rpartition(".")[2] for name in client.context.state[PERSONAL]} == set(STATISTICS)


def test_with_estimated_statistics_a_batch_may_be_a_single_image(
    small_settings: MakeSettings, federation: Federation
) -> None:
    with pytest.raises(UserError, match="batch_size=1 gives norm=bcn no batch to normalize over"):
        prepare(small_settings("model=cnn6", "norm=bcn", "batch_size=1"))
    prepared = prepare(small_settings("norm=bcn", "norm.estimated=true", "batch_size=1"))
    client = Client(prepared.settings, federation)
    sent = dict(client.host.initial)
    trained = to_tensors(arrays_of(client.host.train(client.ask(TRAIN, sent), client.context)))
    assert all(tensor.isfinite().all() and not torch.equal(tensor, sent[name]) for name, tensor in trained.items())


def with_instance_norms() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
        *(nn.Conv2d(4, 4, 3), nn.InstanceNorm2d(4, affine=True)),
    )


@pytest.mark.parametrize(("preset", "local"), [("fedbn", AFFINE + STATISTICS), ("silobn", STATISTICS), ("fedavg", ())])
def test_instance_norm_that_tracks_statistics_has_a_policy(preset: str, local: tuple[str, ...]) -> None:
    model = with_instance_norms()
    entries = policy(policy=preset).local_entries(policy(policy=preset).apply(model))
    assert entries == {f"1.{entry}" for entry in local}  # and the one without statistics is a layer like others
    assert statistics_kept(model, entries) == bool(local)


@pytest.mark.parametrize(
    "answers", [{"evaluation": "batch"}, {"evaluation": "reestimated"}, {"statistics": "none"}, {"freeze_after": 2}]
)
def test_what_instance_norm_cannot_do_is_refused(answers: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^the statistics of InstanceNorm2d can only be shared or local"):
        policy(**answers).apply(with_instance_norms())
    with pytest.raises(UserError, match="this network has none"):
        policy(**answers).apply(with_instance_norms()[2:])
