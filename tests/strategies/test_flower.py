"""Any of Flower's strategies by its name: what it makes of replies, what it is shown, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from torch import nn

from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_tensors
from fedsim.messages.schema import arrays_of, metrics_of, number
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from strategies import FedAvg, FlowerStrategy
from strategies.flower import flower_strategies

MakeGrid = Callable[[], InlineGrid]
MakeModel = Callable[..., nn.Module]
MakeSettings = Callable[..., Settings]
STATISTICS = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


def same_runs(folder: Path, other: Path) -> bool:
    return all(
        (folder / name).read_bytes() == (other / name).read_bytes() for name in ("clients.csv", "model.safetensors")
    )


@pytest.mark.nightly
def test_trimmed_averages_are_those_of_the_aggregation(small_settings: MakeSettings, tmp_path: Path) -> None:
    words = ("engine=inline", "rounds=3")
    theirs = ("strategy=flower/FedTrimmedAvg", "strategy.arguments={beta:0.34}")
    run(prepare(small_settings(*theirs, *words)), tmp_path / "theirs", Reporter())
    ours = ("aggregation=trimmed_mean", "aggregation.share=0.34")
    run(prepare(small_settings(*ours, *words)), tmp_path / "ours", Reporter())
    run(prepare(small_settings(*words)), tmp_path / "mean", Reporter())
    assert same_runs(tmp_path / "theirs", tmp_path / "ours")
    assert not same_runs(tmp_path / "theirs", tmp_path / "mean")


class OneNode:
    def get_node_ids(self) -> list[int]:
        return [1]


def told(replies: list[Message], names: list[str]) -> list[Message]:
    """The replies as a client of Flower would send them: numpy arrays of the parameters alone."""
    messages = []
    for reply in replies:
        tensors = to_tensors(arrays_of(reply))
        arrays = ArrayRecord({name: Array(tensors[name].numpy()) for name in names})
        metrics = MetricRecord({"num-examples": number(metrics_of(reply), "num-examples")})
        messages.append(
            Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply.metadata.src_node_id, "train")
        )
    return messages


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("FedAdam", {}),
        ("FedAdam", {"eta": 0.02, "beta_1": 0.5, "tau": 0.01}),
        ("FedYogi", {}),
        ("FedAdagrad", {}),
        ("FedAvgM", {"server_momentum": 0.7, "server_learning_rate": 0.5}),
    ],
    ids=["adam", "adam otherwise", "yogi", "adagrad", "momentum"],
)
def test_server_optimizers_step_parameters_as_flowers_own_class_does(
    name: str, arguments: dict[str, float], make_grid: MakeGrid, make_model: MakeModel
) -> None:
    """Three rounds; statistics are averaged as FedAvg averages them."""
    model, grid, plain = make_model(), make_grid(), FedAvg(make_model())
    parameters = [each for each, _ in model.named_parameters()]
    ours = FlowerStrategy(model, flower=name, arguments=arguments)
    theirs = getattr(flower, name)(min_available_nodes=1, min_train_nodes=1, min_evaluate_nodes=1, **arguments)
    arrays = ArrayRecord(model.state_dict())
    current = ArrayRecord({each: Array(to_tensors(arrays)[each].numpy()) for each in parameters})
    for round in (1, 2, 3):
        replies = list(grid.send_and_receive(list(ours.configure_train(round, arrays, ConfigRecord(), grid))))
        made, metrics = ours.aggregate_train(round, replies)
        assert made is not None
        assert metrics is not None
        theirs.configure_train(round, current, ConfigRecord(), OneNode())
        current, _ = theirs.aggregate_train(round, told(replies, parameters))
        list(plain.configure_train(round, arrays, ConfigRecord(), grid))
        average, by_us = plain.aggregate_train(round, replies)
        assert average is not None
        assert dict(metrics) == dict(by_us or {})
        after = to_tensors(made)
        for each in parameters:
            np.testing.assert_allclose(after[each], current[each].numpy(), rtol=1e-6, atol=1e-7, err_msg=each)
        assert not after["0.weight"].equal(to_tensors(average)["0.weight"])
        assert all(after[each].equal(to_tensors(average)[each]) for each in STATISTICS)
        assert after.keys() == to_tensors(average).keys()
        assert all(after[each].dtype == tensor.dtype for each, tensor in to_tensors(average).items())
        arrays = made


def test_other_strategies_see_statistics_as_entries_like_any_other(make_grid: MakeGrid, make_model: MakeModel) -> None:
    model, grid = make_model(), make_grid()
    strategy = FlowerStrategy(model, flower="FedMedian")
    messages = list(strategy.configure_train(1, ArrayRecord(model.state_dict()), ConfigRecord(), grid))
    replies = list(grid.send_and_receive(messages))
    made, _ = strategy.aggregate_train(1, replies)
    assert made is not None
    for name, tensor in to_tensors(made).items():
        values = [to_tensors(arrays_of(reply))[name].numpy() for reply in replies]
        expected = np.max(values, axis=0) if name == "1.num_batches_tracked" else np.median(values, axis=0)
        assert np.array_equal(tensor.numpy(), expected), name


def test_qfedavg_finds_the_clients_losses(make_grid: MakeGrid, make_model: MakeModel) -> None:
    """With q=0 every loss counts the same, with q=5 the largest decides."""
    model, made = make_model(), []
    for q in (0.0, 5.0):
        strategy, grid = (
            FlowerStrategy(model, flower="QFedAvg", arguments={"client_learning_rate": 0.1, "q": q}),
            make_grid(),
        )
        messages = list(strategy.configure_train(1, ArrayRecord(model.state_dict()), ConfigRecord(), grid))
        arrays, _ = strategy.aggregate_train(1, grid.send_and_receive(messages))
        assert arrays is not None
        made.append(to_tensors(arrays)["0.weight"])
    assert not torch.allclose(*made)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["FedAvgM", "FedYogi"])
def test_what_it_keeps_survives_a_stop(small_settings: MakeSettings, tmp_path: Path, name: str) -> None:
    class Stops(Reporter):
        def round_done(self, round: int, metrics: object) -> None:
            if round == 2:
                raise KeyboardInterrupt

    arguments = "{server_momentum:0.7,server_learning_rate:0.5}" if name == "FedAvgM" else "{eta:0.01}"
    words = (f"strategy=flower/{name}", f"strategy.arguments={arguments}", "engine=inline", "rounds=4", "fraction=0.5")
    run(prepare(small_settings(*words)), tmp_path / "whole", Reporter())
    with pytest.raises(KeyboardInterrupt):
        run(prepare(small_settings(*words)), tmp_path / "stopped", Stops())
    run(prepare(small_settings(*words, f"resume={tmp_path / 'stopped'}")), tmp_path / "stopped", Reporter())
    assert same_runs(tmp_path / "whole", tmp_path / "stopped")


def test_all_that_can_be_used_are_offered() -> None:
    assert {
        "FedAdagrad",
        "FedAdam",
        "FedAvg",
        "FedAvgM",
        "FedMedian",
        "FedTrimmedAvg",
        "FedYogi",
        "Krum",
        "QFedAvg",
    } <= set(flower_strategies())
    assert not {"FedProx", "FedXgbBagging", "FedXgbCyclic", "Strategy", "Result"} & set(flower_strategies())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("flower/FedSomething",),
            r"^strategy=flower/FedSomething is not known: choose flower/NAME of .*FedAdam, .*Q",
        ),
        (
            ("flower/FedProx",),
            r"^strategy=flower/FedProx is not possible: choose strategy=fedprox, whose clients",
        ),
        (("flower/FedXgbBagging",), r"^strategy=flower/FedXgbBagging is not possible: choose another strategy: trees"),
        (
            ("flower/FedAdam", "{eta:0.1,nonsense:1}"),
            r"^strategy\.arguments\.nonsense=1 is no argument of FedAdam: ch",
        ),
        (
            ("flower/FedAdam", "{fraction_train:0.5}"),
            r"^strategy\.arguments\.fraction_train=0\.5 is no argument of Fed",
        ),
        (("flower/FedAvg", "{eta:1}"), r"^strategy\.arguments\.eta=1 is no argument of FedAvg: leave it out\.$"),
    ],
    ids=["unknown", "fedprox", "trees", "argument", "ours", "none to take"],
)
def test_what_cannot_be_used_is_refused(small_settings: MakeSettings, words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        prepare(small_settings(f"strategy={words[0]}", *(f"strategy.arguments={each}" for each in words[1:])))


def test_an_aggregation_of_our_own_is_refused_beside_it(small_settings: MakeSettings) -> None:
    with pytest.raises(UserError, match=r"^strategy=flower/FedAdam averages in a way of its own: choose aggregation"):
        prepare(small_settings("strategy=flower/FedAdam", "aggregation=median"))
