"""Diagnosed runs: what is known of the numbers beforehand, and neural collapse against the model that was saved."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from safetensors.torch import load_file

from datasets.build import build_federation
from datasets.federation import Federation
from datasets.source import Part
from fedsim import simulate
from fedsim.client.app_factory import ClientAppFactory
from fedsim.client.diagnosis_queries import DiagnosisQueries
from fedsim.client.host import ClientHost
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import QUERY_ACTIVATIONS, QUERY_CLASS_SCATTER, ROUND, arrays_of, message
from fedsim.methods.federated_model import FederatedModel
from fedsim.models import build_model
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run, start_engine

COMMON = (
    *("rounds=2", "dataset.train_per_domain=40", "dataset.test_per_domain=20", "dataset.image_size=16"),
    *("device=cpu", "engine=inline"),
)
SITES = ["features.1", "features.5", "features.9"]


@pytest.fixture
def diagnosed(tmp_path: Path) -> Callable[..., pd.DataFrame]:
    """``diagnostics.csv`` of a small run as layer x metric tables by round."""

    def run(*overrides: str) -> pd.DataFrame:
        result = simulate(*COMMON, "diagnostics=true", f"out_dir={tmp_path / 'run'}", *overrides)
        assert result.diagnostics is not None
        assert (tmp_path / "run" / "plots" / "diagnostics.png").exists()
        return result.diagnostics.pivot(index=["round", "layer"], columns="metric", values="value")

    return run


def test_shared_statistics_align_clients_in_training_only(diagnosed: Callable[..., pd.DataFrame]) -> None:
    table = diagnosed("norm=bn")
    for round in (0, 2):
        sites = table.loc[round].loc[SITES]
        np.testing.assert_allclose(sites["kl_clients_after"], sites["kl_clients_before"], rtol=0.05)
        assert (sites["kl_clients_before"] > 0.5).all()
        assert (sites["kl_clients_training"] < 0.01).all()
        assert (sites["kl_training"] > 0.5).all()
        # One client for each domain: apart as clients is apart as domains.
        np.testing.assert_allclose(sites["kl_domains_before"], sites["kl_clients_before"], rtol=1e-6)


def test_without_statistics_training_and_evaluation_are_the_same(diagnosed: Callable[..., pd.DataFrame]) -> None:
    sites = diagnosed("norm=gn", "split.clients_per_domain=2").loc[2].loc[SITES]
    assert (sites["kl_training"] == 0).all()
    assert (sites["kl_clients_training"] == sites["kl_clients_after"]).all()
    assert (sites["kl_clients_after"] < sites["kl_clients_before"]).all()
    assert (sites["kl_domains_before"] != sites["kl_clients_before"]).all()


@pytest.mark.nightly
def test_clients_that_keep_their_batch_norm_are_alike_at_evaluation_too(
    diagnosed: Callable[..., pd.DataFrame],
) -> None:
    # Enough batches that the running statistics arrive at what they estimate.
    sites = diagnosed("strategy=fedbn", "local_epochs=15", "lr=0.01").loc[2].loc[SITES]
    first = sites.loc["features.1"]
    assert first["kl_clients_after"] < 0.1 * first["kl_clients_before"]
    assert (sites["kl_clients_after"] < 0.3).all()  # and so does what reaches the layers behind it
    assert (sites["kl_training"] < 0.2).all()


@pytest.mark.nightly
def test_frozen_statistics_close_the_gap(diagnosed: Callable[..., pd.DataFrame]) -> None:
    table = diagnosed("norm.policy=fixbn", "diagnostics_every=1")
    assert (table.loc[0].loc[SITES, "kl_training"] > 0.1).all()
    # Frozen after round 1: from its model on nothing is trained by batch statistics any more.
    assert (table.loc[1].loc[SITES, "kl_training"] == 0).all()
    assert (table.loc[2].loc[SITES, "kl_training"] == 0).all()


@pytest.mark.nightly
def test_the_last_round_before_the_freeze_is_not_frozen(diagnosed: Callable[..., pd.DataFrame]) -> None:
    table = diagnosed("norm.policy=fedavg", "norm.freeze_after=2", "rounds=3", "diagnostics_every=1")
    assert (table.loc[1].loc[SITES, "kl_training"] > 0.1).all()
    assert (table.loc[2].loc[SITES, "kl_training"] == 0).all()


@pytest.mark.nightly
@pytest.mark.parametrize("strategy", ["strategy=fedavg", "strategy=fedbn", "strategy=local"])
def test_neural_collapse_is_that_of_the_saved_model(
    diagnosed: Callable[..., pd.DataFrame], tmp_path: Path, small_settings: Callable[..., Settings], strategy: str
) -> None:
    told = diagnosed(strategy).loc[(2, "head")]
    settings = small_settings(strategy)
    federation = build_federation(settings)
    model = build_model(settings, federation.num_classes, federation.source.image_shape)
    model.load_state_dict(load_file(tmp_path / "run" / "model.safetensors"))
    model.eval()
    batches = [
        federation.examples_of(client, Part.TRAIN).batch(torch.arange(federation.num_images(client, Part.TRAIN)))
        for client in federation.clients
    ]
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    with torch.no_grad():
        features = model.features(images)
        predicted = model.head(features).argmax(1).numpy()
    features, labels = features.double().numpy(), labels.numpy()
    means = np.stack([features[labels == c].mean(0) for c in range(10)])
    within = np.cov((features - means[labels]).T, bias=True)
    centred = means - means.mean(0)
    nc1 = np.trace(within @ np.linalg.pinv(centred.T @ centred / 10, rcond=1e-9))
    nearest = ((features[:, None] - means) ** 2).sum(2).argmin(1)
    weight = model.head.weight.detach().double().numpy()
    nc3 = ((weight / np.linalg.norm(weight) - centred / np.linalg.norm(centred)) ** 2).sum()
    assert told["nc1"] == pytest.approx(nc1, rel=1e-3)
    assert told["nc3"] == pytest.approx(nc3, rel=1e-4)
    assert told["nc4"] == pytest.approx((nearest != predicted).mean(), abs=1.5 / len(labels))


def test_a_companded_classifier_is_diagnosed_by_the_weight_that_is_used(
    diagnosed: Callable[..., pd.DataFrame], tmp_path: Path
) -> None:
    told = diagnosed("rounds=1", "reparam=weight_compander", "reparam.a=0.2", "reparam.b=0.05").loc[(1, "head")]
    saved = {name: each.double().numpy() for name, each in load_file(tmp_path / "run" / "model.safetensors").items()}
    trained = saved["head.weight"]
    used = saved["head.a"] * np.arctan(trained / saved["head.b"])

    def spread(weight: np.ndarray) -> float:
        norms = np.linalg.norm(weight, axis=1)
        return float(norms.std(ddof=1) / norms.mean())

    assert told["nc2_norms_weights"] == pytest.approx(spread(used), rel=1e-4)
    assert spread(trained) != pytest.approx(spread(used), rel=1e-3)
    cosines = (used @ used.T) / np.outer(*2 * [np.linalg.norm(used, axis=1)])
    between = cosines[np.triu_indices(10, 1)]
    assert told["nc2_angles_weights"] == pytest.approx(np.abs(between + 1 / 9).mean(), rel=1e-4)


def test_updates_are_diagnosed_where_they_travel(diagnosed: Callable[..., pd.DataFrame]) -> None:
    table = diagnosed("strategy=fedbn")
    updated = table.loc[2]["update_cosine"].dropna()
    assert list(updated.index) == ["features.0", "features.4", "features.8", "head"]  # not BatchNorm, which stays
    assert updated.between(-1, 1).all()
    assert "update_cosine" not in table.loc[0].dropna(axis=1)


@pytest.mark.nightly
def test_a_diagnosis_changes_nothing_else(tmp_path: Path) -> None:
    for name, more in (("plain", ()), ("diagnosed", ("diagnostics=true", "diagnostics_every=1"))):
        simulate(*COMMON, "strategy=fedbn", "evaluate_every=2", f"out_dir={tmp_path / name}", *more)
    for file in ("clients.csv", "model.safetensors"):
        assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "diagnosed" / file).read_bytes()
    assert not (tmp_path / "plain" / "diagnostics.csv").exists()
    assert pd.read_csv(tmp_path / "diagnosed" / "diagnostics.csv")["round"].unique().tolist() == [0, 1, 2]


def test_a_model_that_is_no_longer_finite_is_diagnosed_too(small_settings: Callable[..., Settings]) -> None:
    prepared = prepare(small_settings("norm=none", "diagnostics=true"))
    assert prepared.diagnosis is not None
    model = {name: tensor * float("nan") for name, tensor in prepared.model.state_dict().items()}
    grid = InlineGrid(ClientAppFactory(prepared.settings, prepared.federation), 6, prepared.devices)
    rows = prepared.diagnosis.rows(
        *(0, grid, prepared.strategy, FederatedModel(model, to_record(model), frozenset(), {})),
        *(lambda replies, expected: replies, None),
    )
    last = pd.DataFrame(rows).pivot(index="layer", columns="metric", values="value")
    assert last.loc[SITES, "kl_clients_before"].isna().all()
    assert "nc1" not in last.dropna(axis=1, how="all")


def test_reestimated_statistics_are_those_of_all_training_images(
    small_settings: Callable[..., Settings], federation: Federation
) -> None:
    """However few of them the client is diagnosed on."""
    settings = small_settings("norm.evaluation=reestimated", "diagnostics=true", "diagnostics_images=4")
    host = ClientHost(settings, federation, torch.device("cpu"))
    model = to_record(host.initial)
    context = Context(run_id=1, node_id=2, node_config={"partition-id": 2}, state=RecordDict(), run_config={})
    told = to_tensors(
        arrays_of(
            DiagnosisQueries(host, settings).activations(message("query", 2, model, ConfigRecord({ROUND: 0})), context)
        )
    )

    images, _ = federation.examples_of(2, Part.TRAIN).batch(torch.arange(40))
    first, norm = host.model.features[0], host.model.features[1]
    with torch.no_grad():
        everything, some = first(images), first(images[::10])
    variance, mean = torch.var_mean(everything, (0, 2, 3), correction=1)
    expected = (some - mean[:, None, None]) / (variance[:, None, None] + norm.eps).sqrt()
    torch.testing.assert_close(told["features.1/after/mean"], expected.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    assert told["images"] == 4


def test_a_network_without_a_linear_classifier_is_refused(small_settings: Callable[..., Settings]) -> None:
    sentence = r"diagnostics=true needs .*, and those of SqueezeNet come from Conv2d classifier\.1: choose"
    words = ("model=torchvision/squeezenet1_0", "dataset.image_size=28", "norm=none", "diagnostics=true")
    with pytest.raises(UserError, match=sentence):
        prepare(small_settings(*words))


@pytest.mark.parametrize("strategy", ["fedavg", "fedbn"])
def test_clients_that_are_sent_the_same_are_sent_one_content(
    strategy: str, small_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine packs it once."""
    asked: list[tuple[int, int]] = []
    send = InlineGrid.send_and_receive

    def watched(grid: InlineGrid, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        messages = list(messages)
        if messages[0].metadata.message_type in (QUERY_ACTIVATIONS, QUERY_CLASS_SCATTER):
            asked.append((len(messages), len({id(each.content) for each in messages})))
        return iter(list(send(grid, messages, timeout=timeout)))

    monkeypatch.setattr(InlineGrid, "send_and_receive", watched)
    prepared = prepare(small_settings(f"strategy={strategy}", "diagnostics=true", "rounds=1", "engine=inline"))
    with start_engine(prepared) as grid, TemporaryDirectory() as folder:
        run(prepared, Path(folder) / "run", Reporter(), grid)
    assert asked
    assert set(asked) == {(6, 1)}
