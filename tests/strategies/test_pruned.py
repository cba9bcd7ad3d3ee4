"""A sparse network in the federation: zero where it is to be zero, averaged by hand, and only what is kept travels."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Error, Message
from safetensors.torch import load_file
from torch.nn import functional as F

from datasets.source import Part
from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.core.seeding import torch_generator
from fedsim.cost import QueryPasses, partial_bytes
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import CACHED, arrays_of, metrics_of, number
from fedsim.methods.sparse.export import load_pruned
from fedsim.methods.sparse.masks import Masks, apply, encode, kept
from fedsim.methods.sparse.records import MASKS
from fedsim.output.progress import Reporter
from fedsim.server.preparation import Prepared, prepare
from fedsim.server.simulation import run
from strategies import Pruned

MakeSettings = Callable[..., Settings]
SMALL = ("strategy=pruned", "strategy.density=0.05", "engine=inline")
LAYERS = {"features.4": (64, 32, 3, 3), "features.8": (64, 64, 3, 3), "head": (10, 256)}
SENT_MASKS = f"{CACHED}{MASKS}"
WEIGHTS = sum(torch.Size(shape).numel() for shape in LAYERS.values())


@pytest.fixture
def prepared(small_settings: MakeSettings) -> Prepared:
    return prepare(small_settings(*SMALL))


@pytest.fixture
def grid(prepared: Prepared) -> InlineGrid:
    return InlineGrid(ClientAppFactory(prepared.settings, prepared.federation), 6, [torch.device("cpu")])


def strategy_of(prepared: Prepared) -> Pruned:
    assert isinstance(prepared.strategy, Pruned)
    return prepared.strategy


def asked(prepared: Prepared, grid: InlineGrid, round: int, arrays: dict[str, torch.Tensor]) -> list[Message]:
    return list(prepared.strategy.configure_train(round, to_record(arrays), ConfigRecord(), grid))


def test_the_density_is_exact_and_the_first_layer_dense(prepared: Prepared, grid: InlineGrid) -> None:
    asked(prepared, grid, 1, dict(prepared.model.state_dict()))
    masks = strategy_of(prepared).masks
    assert {layer: tuple(mask.shape) for layer, mask in masks.items()} == LAYERS
    assert sum(kept(masks).values()) == round(0.05 * WEIGHTS)
    for layer, mask in masks.items():
        weight = prepared.model.state_dict()[f"{layer}.weight"]
        assert weight[mask].abs().min() >= weight[~mask].abs().max()  # magnitude


def test_what_is_kept_travels_and_the_masks_once(prepared: Prepared, grid: InlineGrid) -> None:
    arrays = dict(prepared.model.state_dict())
    for round in (1, 2):
        messages = asked(prepared, grid, round, arrays)
        replies = list(grid.send_and_receive(messages))
        masks = strategy_of(prepared).masks
        for each in (*messages, *replies):
            tensors = to_tensors(arrays_of(each))
            assert set(tensors) == set(arrays)
            for layer, mask in masks.items():
                assert tensors[f"{layer}.weight"].shape == (int(mask.sum()),)
            assert tensors["features.0.weight"].shape == (32, 3, 3, 3)
        assert all((SENT_MASKS in message.content.array_records) == (round == 1) for message in messages)
        average, _ = prepared.strategy.aggregate_train(round, replies)
        assert average is not None
        arrays = to_tensors(average)
        for layer, mask in masks.items():
            assert not arrays[f"{layer}.weight"][~mask].any()


def test_what_is_evaluated_travels_in_the_same_form_with_the_masks(prepared: Prepared, grid: InlineGrid) -> None:
    """A client that has never trained has none, and one that has keeps what it was sent for training."""
    arrays = dict(prepared.model.state_dict())
    asked(prepared, grid, 1, arrays)
    masks = strategy_of(prepared).masks
    messages = list(prepared.strategy.configure_evaluate(1, to_record(arrays), ConfigRecord({"part": "TEST"}), grid))
    assert [message.metadata.dst_node_id for message in messages] == [0, 1, 2, 3, 4, 5]
    for message in messages:
        sent = to_tensors(message.content.array_records[SENT_MASKS])
        assert all(sent[layer].equal(code) for layer, code in encode(masks).items())
        tensors = to_tensors(arrays_of(message))
        assert all(tensors[f"{layer}.weight"].equal(arrays[f"{layer}.weight"][mask]) for layer, mask in masks.items())
    (reply,) = grid.send_and_receive(messages[:1])
    assert not grid.client_states()[0]
    model = prepared.model
    model.load_state_dict(apply(masks, arrays))
    tests = prepared.federation.examples_of(0, Part.TEST)
    images, labels = tests.batch(torch.arange(len(tests)))
    with torch.no_grad():
        loss = F.cross_entropy(model.eval()(images), labels).item()
    assert number(metrics_of(reply), "loss") == pytest.approx(loss, rel=1e-5)


def test_the_average_is_that_of_the_dense_models(prepared: Prepared, grid: InlineGrid) -> None:
    replies = list(grid.send_and_receive(asked(prepared, grid, 1, dict(prepared.model.state_dict()))))
    average, _ = prepared.strategy.aggregate_train(1, replies)
    assert average is not None
    sizes = [len(partition.train) for partition in prepared.federation.partitions]
    for layer, mask in strategy_of(prepared).masks.items():
        dense = torch.zeros(mask.shape, dtype=torch.float64)
        for size, reply in zip(sizes, replies, strict=True):
            dense[mask] += size / sum(sizes) * to_tensors(arrays_of(reply))[f"{layer}.weight"].double()
        torch.testing.assert_close(to_tensors(average)[f"{layer}.weight"], dense.float())


def test_a_client_that_failed_is_sent_the_masks_again(prepared: Prepared, grid: InlineGrid) -> None:
    arrays = dict(prepared.model.state_dict())
    messages = asked(prepared, grid, 1, arrays)
    replies = list(grid.send_and_receive(messages))
    replies[2] = Message(Error(0, "gone"), reply_to=messages[2])
    average, _ = prepared.strategy.aggregate_train(1, replies)
    assert average is not None
    again = asked(prepared, grid, 2, to_tensors(average))
    assert [SENT_MASKS in message.content.array_records for message in again] == [number == 2 for number in range(6)]


@pytest.mark.parametrize("criterion", ["magnitude", "random", "snip", "synflow"])
@pytest.mark.parametrize("distribution", ["uniform", "erk"])
def test_every_criterion_keeps_as_many(small_settings: MakeSettings, criterion: str, distribution: str) -> None:
    words = (f"strategy.criterion={criterion}", f"strategy.distribution={distribution}")
    prepared = prepare(small_settings(*SMALL, *words))
    grid = InlineGrid(ClientAppFactory(prepared.settings, prepared.federation), 6, [torch.device("cpu")])
    asked(prepared, grid, 1, dict(prepared.model.state_dict()))
    assert sum(kept(strategy_of(prepared).masks).values()) == round(0.05 * WEIGHTS)


def test_snip_ranks_by_weight_times_gradient_on_the_clients_shares(small_settings: MakeSettings) -> None:
    prepared = prepare(small_settings(*SMALL, "strategy.criterion=snip"))
    grid = InlineGrid(ClientAppFactory(prepared.settings, prepared.federation), 6, [torch.device("cpu")])
    model, before = prepared.model, {name: t.clone() for name, t in prepared.model.state_dict().items()}
    asked(prepared, grid, 1, before)
    sums = {layer: torch.zeros(shape) for layer, shape in LAYERS.items()}
    model.train()
    for partition in prepared.federation.partitions:
        data = prepared.federation.examples(partition.train)
        count = round(0.1 * len(data))
        generator = torch_generator(prepared.settings.seed, "selection", client=partition.client)
        images, labels = data.batch(torch.randperm(len(data), generator=generator)[:count])
        model.zero_grad()
        F.cross_entropy(model(images), labels, reduction="sum").backward()
        for layer in LAYERS:
            sums[layer] += model.get_parameter(f"{layer}.weight").grad  # type: ignore[arg-type]
        model.load_state_dict(before)
    load = prepared.strategy.workload(0)
    assert load.queries == [QueryPasses(0.1, gradients=True)]
    asked(prepared, grid, 2, before)
    assert not prepared.strategy.workload(0).queries
    scores = torch.cat([(sums[layer] * before[f"{layer}.weight"]).abs().flatten() for layer in LAYERS])
    kept_places = torch.cat([strategy_of(prepared).masks[layer].flatten() for layer in LAYERS])
    assert int(kept_places.sum()) == round(0.05 * WEIGHTS)
    assert scores[kept_places].min() >= scores[~kept_places].max() * (1 - 1e-4)


def test_the_bytes_of_a_run_are_those_of_the_sparse_format(small_settings: MakeSettings, tmp_path: Path) -> None:
    prepared = prepare(small_settings(*SMALL, "rounds=2"))
    result = run(prepared, tmp_path, Reporter())
    masks = strategy_of(prepared).masks
    state = prepared.model.state_dict()
    dense = sum(tensor.nbytes for name, tensor in state.items() if name.removesuffix(".weight") not in masks)
    values = sum(4 * count for count in kept(masks).values())
    with_masks = sum(partial_bytes(mask.numel(), int(mask.sum())) for mask in masks.values())
    assert result.rounds["bytes_down"].tolist()[1:] == [6 * (dense + with_masks), 6 * (dense + values)]
    assert result.rounds["bytes_up"].tolist()[1:] == [6 * (dense + values)] * 2
    assert result.summary["final"]["density"] == pytest.approx(0.05, abs=1 / WEIGHTS)
    saved = load_file(tmp_path / "model.safetensors")
    small = tmp_path / "pruned.safetensors"
    assert all(torch.equal(tensor, saved[name]) for name, tensor in load_pruned(small).items())
    assert small.stat().st_size < dense + with_masks + 4000
    assert all(not saved[f"{layer}.weight"][~mask].any() for layer, mask in masks.items())


def test_another_runs_model_can_be_pruned(small_settings: MakeSettings, tmp_path: Path) -> None:
    run(prepare(small_settings("engine=inline", "rounds=1")), tmp_path, Reporter())
    path = tmp_path / "model.safetensors"
    prepared = prepare(small_settings(*SMALL, f"strategy.pretrained={path}"))
    assert all(torch.equal(tensor, load_file(path)[name]) for name, tensor in prepared.model.state_dict().items())
    with pytest.raises(UserError, match=r"^strategy\.pretrained=.* holds another network than this run's"):
        prepare(small_settings(*SMALL, f"strategy.pretrained={path}", "norm=gn"))
    broken = tmp_path / "broken"
    broken.write_text("not a model")
    with pytest.raises(UserError, match=r"^strategy\.pretrained=.*broken cannot be read \(.*\): choose a run's"):
        prepare(small_settings(*SMALL, f"strategy.pretrained={broken}"))
    with pytest.raises(UserError, match=r"^strategy\.pretrained=nowhere cannot be read \(No such.*\): choose a run's"):
        prepare(small_settings(*SMALL, "strategy.pretrained=nowhere"))


@pytest.mark.parametrize(
    "words", [("norm=gn",), ("norm=sws",), ("norm.policy=fedbn",), ("optimizer=adam",)], ids=" ".join
)
def test_it_goes_with_norms_policies_and_optimizers(
    small_settings: MakeSettings, tmp_path: Path, words: tuple[str, ...]
) -> None:
    final = run(prepare(small_settings(*SMALL, "rounds=1", *words)), tmp_path, Reporter()).summary["final"]
    assert final["density"] == pytest.approx(0.05, abs=1e-4)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("strategy.density=0",), r"^strategy\.density=0 is not possible"),
        (("strategy.density=1.5",), r"^strategy\.density=1\.5 is not possible"),
        (("strategy.density=1e-6",), r"^strategy\.density=1e-06 is not possible: choose a number from"),
        (("strategy.criterion=x",), r"^strategy\.criterion=x is not known: choose magnitude, random, snip, synflow\.$"),
        (("strategy.distribution=x",), r"^strategy\.distribution=x is not known: choose uniform or erk\.$"),
        (("strategy.dense=[conv9]",), r"^strategy\.dense=conv9 is no layer of this network: choose first, last, or"),
        (("strategy.dense=[features.0,features.4,features.8,head]",), r"^strategy\.dense=.* leaves no layer to prune"),
        (("strategy.criterion=synflow", "norm=sws"), r"^strategy\.criterion=synflow is not possible with this network"),
        (("head=etf",), r"^strategy\.dense=\['first'\] has the layer head pruned, which is frozen: name it there"),
    ],
)
def test_what_cannot_work_is_refused(small_settings: MakeSettings, words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        prepare(small_settings("strategy=pruned", *words))


@pytest.mark.parametrize("method", ["pruned", "prunefl", "feddst", "fedtiny"])
def test_every_method_that_prunes_takes_the_options_of_pruning(
    refusal: Callable[..., str], small_settings: Callable[..., Settings], method: str
) -> None:
    words = (f"strategy={method}", "strategy.density=0.2")
    assert refusal(*words, "strategy.pretrained=nowhere.safetensors").startswith("strategy.pretrained=nowhere")
    everything = prepare(small_settings(*words, "strategy.dense=[]")).strategy
    ordinary = prepare(small_settings(*words)).strategy
    assert isinstance(everything, Pruned)
    assert isinstance(ordinary, Pruned)
    assert everything.shapes.keys() - ordinary.shapes.keys() == {"features.0"}
    if method != "fedtiny":  # which tries random masks
        counts = []
        for distribution in ("uniform", "erk"):
            chosen = ("strategy.criterion=random", f"strategy.distribution={distribution}")
            other = prepare(small_settings(*words, *chosen)).strategy
            assert isinstance(other, Pruned)
            assert other.criterion == "random"
            counts.append(other.counts)
        assert counts[0] != counts[1]


def test_random_masks_are_those_of_the_seed(small_settings: Callable[..., Settings]) -> None:
    def masks(*words: str) -> Masks:
        prepared = prepare(small_settings("strategy=pruned", "strategy.criterion=random", "engine=inline", *words))
        assert isinstance(prepared.strategy, Pruned)
        arrays = {name: tensor.clone() for name, tensor in prepared.model.state_dict().items()}
        grid = InlineGrid(ClientAppFactory(prepared.settings, prepared.federation), 6, [torch.device("cpu")])
        prepared.strategy.first_model(arrays, 1, grid)
        return dict(prepared.strategy.masks)

    one, again, other = masks("seed=1"), masks("seed=1"), masks("seed=2")
    assert all(one[layer].equal(again[layer]) for layer in one)
    assert not all(one[layer].equal(other[layer]) for layer in one)
