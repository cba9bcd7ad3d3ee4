"""Clients trained together: each against the same client alone, which is what ``engine=inline`` computes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from safetensors.torch import load_file

from datasets.examples import Examples
from datasets.source import Part
from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.engines.grid import LocalGrid
from fedsim.engines.inline import InlineGrid
from fedsim.engines.vectorized import VectorizedGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import arrays_of, metrics_of
from fedsim.methods.client_state import PERSONAL
from fedsim.output.progress import Reporter
from fedsim.server.preparation import Prepared, prepare
from fedsim.server.simulation import run
from tests.conftest import small_settings
from tests.methods import METHODS, OPTIONS, some_by_day
from tests.strategies.test_every_strategy import assert_same_run

ADMITTED = (
    *("central", "fedadagrad", "fedadam", "fedavg", "fedavgm", "fedbn", "feddyn", "fednova", "fedper", "fedprox"),
    *("fedtiny", "fedwon", "fedyogi", "flower/FedAdam", "hbn", "local", "lotteryfl", "pruned", "scaffold"),
)
UNEVEN = (
    *("split=quantity", "split.size_alpha=3", "split.min_size=5", "dataset.image_size=8"),
    *("dataset.train_per_domain=20", "dataset.test_per_domain=10", "batch_size=8", "local_epochs=2", "lr=0.01"),
)
"""Clients of different sizes, so that numbers of steps and last batches differ."""
NORMS = (
    *("bcn", "bn", "crms", "dse", "evonorm_b0", "evonorm_s0", "frn", "gn"),
    *("in", "ln", "none", "rms", "sws", "ws", "ws_gn"),
)
TOLERANCES = {"frn": 1e-5, "evonorm_b0": 1e-8}
"""timm's layers compute a mean square, or a variance, in float32."""
TOGETHER = ("engine=vectorized", "engine.clients_at_once=4")
"""Two stacks of the six clients."""


def uneven(method: str, *words: str) -> Settings:
    momentum = "momentum=0" if method == "scaffold" else "momentum=0.5"
    return small_settings(*UNEVEN, momentum, f"strategy={method}", *OPTIONS.get(method, ()), "rounds=2", *words)


@pytest.fixture
def in_double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All networks and images have 64 bits, so that nothing but rounding is left of a difference."""
    batch, before = Examples.batch, torch.get_default_dtype()

    def double(self: Examples, *args: object) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = batch(self, *args)  # type: ignore[arg-type]
        return images.double(), labels

    monkeypatch.setattr(Examples, "batch", double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def run_in(folder: Path, settings: Settings) -> Path:
    run(prepare(settings), folder, Reporter())
    return folder


def assert_agree(folder: Path, other: Path, tolerance: float) -> None:
    """Every number of ``clients.csv`` and of every model agrees."""
    tables = [pd.read_csv(each / "clients.csv") for each in (folder, other)]
    pd.testing.assert_frame_equal(*tables, check_exact=False, rtol=tolerance, atol=tolerance)
    models = [path.relative_to(folder) for path in folder.rglob("*.safetensors") if path.parent.name != "checkpoints"]
    assert models
    for name in models:
        tensors, found = load_file(folder / name), load_file(other / name)
        assert tensors.keys() == found.keys()
        for key, tensor in tensors.items():
            torch.testing.assert_close(found[key], tensor, rtol=tolerance, atol=tolerance, msg=f"{name} {key}")


def test_the_clients_of_these_tests_are_uneven() -> None:
    federation = prepare(uneven("fedavg", "engine=inline")).federation
    images = [federation.num_images(client, Part.TRAIN) for client in federation.clients]
    assert len({-(-each // 8) for each in images}) > 1
    assert len({each % 8 for each in images}) > 2


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("method", some_by_day(ADMITTED))
def test_a_run_agrees_with_one_client_after_the_other(method: str, tmp_path: Path) -> None:
    alone = run_in(tmp_path / "alone", uneven(method, "engine=inline"))
    assert_agree(alone, run_in(tmp_path / "together", uneven(method, *TOGETHER)), 1e-10)


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize(
    "words",
    [
        ("norm.policy=silobn",),
        ("norm.policy=fixbn",),
        ("norm=dse",),
        # Behind a norm a bias has no gradient but rounding, which Adam makes as large as the others.
        ("norm=none", "optimizer=adam", "momentum=0"),
        ("strategy.weighting=uniform", "fraction=0.5"),
        ("train_only=norm", "weight_decay=0.01"),
    ],
    ids=" ".join,
)
def test_settings_of_the_clients_are_followed(words: tuple[str, ...], tmp_path: Path) -> None:
    alone = run_in(tmp_path / "alone", uneven("fedavg", *words, "engine=inline"))
    assert_agree(alone, run_in(tmp_path / "together", uneven("fedavg", *words, *TOGETHER)), 1e-10)


@pytest.mark.parametrize("method", ["fedavg", "fedwon"])
def test_it_agrees_in_float32_up_to_rounding(method: str, tmp_path: Path) -> None:
    words = () if method == "fedwon" else ("norm=gn",)
    alone = run_in(tmp_path / "alone", uneven(method, *words, "engine=inline"))
    assert_agree(alone, run_in(tmp_path / "together", uneven(method, *words, *TOGETHER)), 1e-4)


def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path: Path) -> None:
    class Stops(Reporter):
        def round_done(self, round: int, metrics: object) -> None:
            if round == 1:
                raise KeyboardInterrupt

    straight = run_in(tmp_path / "straight", uneven("fedbn", *TOGETHER))
    stopped = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        run(prepare(uneven("fedbn", *TOGETHER)), stopped, Stops())
    assert_same_run(straight, run_in(stopped, uneven("fedbn", *TOGETHER, f"resume={stopped}")))


def grids(prepared: Prepared) -> list[LocalGrid]:
    factory = ClientAppFactory(prepared.settings, prepared.federation)
    return [
        InlineGrid(factory, 6, prepared.devices),
        VectorizedGrid(factory, 6, prepared.devices, clients_at_once=6),
    ]


def replies_in(prepared: Prepared, grid: LocalGrid, round: int) -> list[Message]:
    arrays = to_record(prepared.model.state_dict())
    return list(grid.send_and_receive(prepared.strategy.configure_train(round, arrays, ConfigRecord(), grid)))


def test_a_client_that_diverges_fails_alone_and_says_so_as_inline_does() -> None:
    """Its own BatchNorm has become NaN; it keeps its state, and no other client notices."""
    answers = []
    prepared = prepare(uneven("fedbn", "norm=bn", "engine=vectorized"))
    for grid in grids(prepared):
        replies_in(prepared, grid, 1)
        state = grid.contexts[2].state
        own = to_tensors(state.array_records[PERSONAL])
        state[PERSONAL] = to_record({name: tensor * torch.nan for name, tensor in own.items()})
        kept = {client: context.state for client, context in grid.contexts.items()}
        answers.append(replies_in(prepared, grid, 2))
        assert [grid.contexts[client].state is kept[client] for client in kept] == [each == 2 for each in range(6)]
    for client, (alone, together) in enumerate(zip(*answers, strict=True)):
        if client == 2:
            assert together.error.reason == alone.error.reason
            assert together.error.reason.startswith("its training loss is nan in step 1 of ")
            continue
        assert metrics_of(together)["loss"] == pytest.approx(metrics_of(alone)["loss"], rel=1e-3)
        tensors, found = to_tensors(arrays_of(alone)), to_tensors(arrays_of(together))
        for name, tensor in tensors.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-2, atol=1e-2)


def test_a_fault_that_is_injected_reaches_its_client_alone(tmp_path: Path) -> None:
    faults = ("faults=injected", "faults.crash=0.4", "min_fraction_success=0.1", "norm=gn")
    alone = run_in(tmp_path / "alone", uneven("fedavg", *faults, "engine=inline"))
    together = run_in(tmp_path / "together", uneven("fedavg", *faults, *TOGETHER))
    told = [pd.read_csv(each / "clients.csv")["fault"] for each in (alone, together)]
    assert told[0].notna().any()
    assert told[0].equals(told[1])


def test_clients_are_trained_in_groups_and_other_messages_alone() -> None:
    prepared = prepare(uneven("fedavg", "engine=vectorized"))
    grid = VectorizedGrid(
        ClientAppFactory(prepared.settings, prepared.federation), 6, prepared.devices, clients_at_once=2
    )
    content = RecordDict({"arrays": ArrayRecord(), "config": ConfigRecord({"server-round": 1})})
    kinds = [(0, "train"), (1, "train"), (2, "train"), (2, "train"), (3, "evaluate"), (4, "train")]
    messages = [Message(content, client, kind) for client, kind in kinds]
    found = [[message.metadata.dst_node_id for message in group] for group in grid._groups(messages)]
    assert found == [[0, 1], [2], [2], [3], [4]]


def test_threads_are_restored_when_it_ends() -> None:
    before = torch.get_num_threads()
    prepared = prepare(uneven("fedavg", "engine=vectorized"))
    torch.set_num_threads(2)
    with VectorizedGrid(ClientAppFactory(prepared.settings, prepared.federation), 6, prepared.devices):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


@pytest.mark.nightly
@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_admitted_or_refused_by_name(method: str) -> None:
    if method in ADMITTED:
        prepare(uneven(method, "engine=vectorized"))
        return
    with pytest.raises(
        UserError, match=rf"^strategy={method} is not possible with engine=vectorized, .*choose engine=pr"
    ):
        prepare(uneven(method, "engine=vectorized"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("norm=powernorm",),
            "model=cnn_small with norm=powernorm is not possible with engine=vectorized, since its layer",
        ),
        (
            ("norm=unified",),
            "model=cnn_small with norm=unified is not possible with engine=vectorized, since its layer",
        ),
        (
            ("model=torchvision/squeezenet1_1",),
            "model=torchvision/squeezenet1_1 with norm=bn is not possible with engine=vectorized, since its layer "
            "Dropout draws random numbers in training, which each client draws for itself: choose engine=process.",
        ),
        (
            ("optimizer=sgdp",),
            "optimizer=sgdp is not possible with engine=vectorized, since its step of a weight depends on other "
            "weights: choose optimizer=sgd, adam, amsgrad, adamw, or engine=process.",
        ),
        (
            ("engine.clients_at_once=0",),
            "engine.clients_at_once=0 is not possible: choose a whole number of at least 1.",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_it_cannot_train_is_refused(refusal: Callable[..., str], words: tuple[str, ...], sentence: str) -> None:
    assert refusal("engine=vectorized", *words).startswith(sentence)


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("norm", some_by_day(NORMS, ("bn", "sws")))
def test_a_step_with_each_norm_agrees(norm: str) -> None:
    """The first reply of each client, whose buffers and weights are all compared."""
    tolerance = TOLERANCES.get(norm, 1e-10)
    prepared = prepare(uneven("fedavg", f"norm={norm}", "local_epochs=1", "lr=0.001", "engine=vectorized"))
    alone, together = (replies_in(prepared, grid, 1) for grid in grids(prepared))
    for expected, found in zip(alone, together, strict=True):
        tensors, others = to_tensors(arrays_of(expected)), to_tensors(arrays_of(found))
        for name, tensor in tensors.items():
            torch.testing.assert_close(others[name], tensor, rtol=tolerance, atol=tolerance)
