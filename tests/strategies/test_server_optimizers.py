"""FedAvgM, FedAdam, FedYogi and FedAdagrad against their formulas in numpy; what else there is is averaged plainly."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from torch import nn

from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import arrays_of, metrics_of, number
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from strategies import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi
from tests.strategies.test_every_strategy import Watched

MakeGrid = Callable[[], InlineGrid]
MakeModel = Callable[..., nn.Module]
MakeSettings = Callable[..., Settings]
Arrays = dict[str, np.ndarray]
STATISTICS = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


class Momentum:
    """v = beta v + (w - mean), w = w - lr v."""

    def __init__(self, beta: float, lr: float) -> None:
        self.beta, self.lr = beta, lr
        self.v: Arrays = {}

    def __call__(self, name: str, w: np.ndarray, mean: np.ndarray) -> np.ndarray:
        self.v[name] = self.beta * self.v.get(name, np.zeros_like(w)) + (w - mean)
        return w - self.lr * self.v[name]


class Adam:
    """m = b1 m + (1 - b1) d, v = b2 v + (1 - b2) d^2 from tau^2 on, w = w + lr m / (sqrt(v) + tau)."""

    def __init__(self, lr: float, beta_1: float, beta_2: float, tau: float) -> None:
        self.lr, self.beta_1, self.beta_2, self.tau = lr, beta_1, beta_2, tau
        self.m: Arrays = {}
        self.v: Arrays = {}

    def __call__(self, name: str, w: np.ndarray, mean: np.ndarray) -> np.ndarray:
        change = mean - w
        self.m[name] = self.beta_1 * self.m.get(name, np.zeros_like(w)) + (1 - self.beta_1) * change
        self.v[name] = self.second(self.v.get(name, np.full_like(w, self.tau**2)), change**2)
        return w + self.lr * self.m[name] / (np.sqrt(self.v[name]) + self.tau)

    def second(self, v: np.ndarray, square: np.ndarray) -> np.ndarray:
        mixed: np.ndarray = self.beta_2 * v + (1 - self.beta_2) * square
        return mixed


class Yogi(Adam):
    """v = v - (1 - b2) d^2 sign(v - d^2)."""

    def second(self, v: np.ndarray, square: np.ndarray) -> np.ndarray:
        return v - (1 - self.beta_2) * square * np.sign(v - square)


class Adagrad(Adam):
    """v = v + d^2."""

    def second(self, v: np.ndarray, square: np.ndarray) -> np.ndarray:
        return v + square


Step = Momentum | Adam
CASES: dict[str, tuple[Callable[..., FedAvg], dict[str, float], Callable[[], Step]]] = {
    "momentum": (FedAvgM, {"server_momentum": 0.7, "server_lr": 0.5}, lambda: Momentum(0.7, 0.5)),
    "momentum by default": (FedAvgM, {}, lambda: Momentum(0.9, 1.0)),
    "adam": (
        FedAdam,
        {"server_lr": 0.05, "beta_1": 0.5, "beta_2": 0.8, "tau": 0.01},
        lambda: Adam(0.05, 0.5, 0.8, 0.01),
    ),
    "adam by default": (FedAdam, {}, lambda: Adam(0.01, 0.9, 0.99, 0.001)),
    "yogi": (
        FedYogi,
        {"server_lr": 0.05, "beta_1": 0.5, "beta_2": 0.8, "tau": 0.01},
        lambda: Yogi(0.05, 0.5, 0.8, 0.01),
    ),
    "adagrad": (FedAdagrad, {"beta_1": 0.5, "tau": 0.01}, lambda: Adagrad(0.1, 0.5, 0.0, 0.01)),
}


def weighted(replies: list[Message], name: str) -> np.ndarray:
    sizes = np.array([number(metrics_of(reply), "num-examples") for reply in replies])
    values = np.stack([to_tensors(arrays_of(reply))[name].double().numpy() for reply in replies])
    mean: np.ndarray = np.tensordot(sizes / sizes.sum(), values, axes=1)
    return mean


def played(
    strategy: FedAvg, grid: InlineGrid, model: nn.Module
) -> Iterator[tuple[ArrayRecord, list[Message], ArrayRecord]]:
    """Three rounds of Flower clients: what was sent, what came back, and what was made of it."""
    arrays = ArrayRecord(model.state_dict())
    for round in (1, 2, 3):
        messages = list(strategy.configure_train(round, arrays, ConfigRecord(), grid))
        replies = list(grid.send_and_receive(messages))
        after, _ = strategy.aggregate_train(round, replies)
        assert after is not None
        yield arrays, replies, after
        arrays = after


@pytest.mark.parametrize("case", CASES)
def test_three_rounds_are_those_of_the_formula(case: str, make_grid: MakeGrid, make_model: MakeModel) -> None:
    make, options, make_step = CASES[case]
    model, step = make_model(), make_step()
    expected = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    for _, replies, after in played(make(model, **options), make_grid(), model):
        for name, tensor in to_tensors(after).items():
            if name == "1.num_batches_tracked":
                assert tensor.item() == max(int(to_tensors(arrays_of(reply))[name]) for reply in replies)
                continue
            mean = weighted(replies, name)
            expected[name] = mean if name in STATISTICS else step(name, expected[name], mean)
            np.testing.assert_allclose(tensor.numpy(), expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert {name for name, _ in model.named_parameters()} == set(step.v)


@pytest.mark.parametrize("case", CASES)
def test_statistics_are_those_of_fedavg_bit_for_bit(case: str, make_grid: MakeGrid, make_model: MakeModel) -> None:
    """A step with momentum would make a variance that falls for long a negative one."""
    make, options, _ = CASES[case]
    model = make_model()
    plain = FedAvg(model)
    for sent, replies, after in played(make(model, **options), make_grid(), model):
        list(plain.configure_train(1, sent, ConfigRecord(), make_grid()))
        average, _ = plain.aggregate_train(1, replies)
        assert average is not None
        one, other = to_tensors(average), to_tensors(after)
        assert all(one[name].equal(other[name]) for name in STATISTICS)


def test_without_momentum_and_with_a_whole_step_it_is_fedavg_bit_for_bit(
    small_settings: MakeSettings, tmp_path: Path
) -> None:
    words = ("engine=inline", "rounds=3", "fraction=0.5")
    run(prepare(small_settings("strategy=fedavg", *words)), tmp_path / "plain", Reporter())
    momentum = ("strategy=fedavgm", "strategy.server_momentum=0", "strategy.server_lr=1")
    run(prepare(small_settings(*momentum, *words)), tmp_path / "momentum", Reporter())
    for name in ("clients.csv", "model.safetensors"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "momentum" / name).read_bytes()


@pytest.mark.parametrize("case", CASES)
def test_what_is_kept_is_taken_back(case: str, make_grid: MakeGrid, make_model: MakeModel) -> None:
    """Another strategy that is given it after two rounds makes the same of the third one's replies."""
    make, options, _ = CASES[case]
    model, grid = make_model(), make_grid()
    strategy, rounds, states = make(model, **options), [], []
    for _, replies, after in played(strategy, grid, model):
        rounds.append((replies, after))
        states.append(strategy.state())
    (_, sent), (replies, after) = rounds[1:]

    def third_round(state: RecordDict | None) -> dict[str, torch.Tensor]:
        other = make(model, **options)
        if state is not None:
            other.load_state(state)
        list(other.configure_train(3, sent, ConfigRecord(), grid))
        made, _ = other.aggregate_train(3, replies)
        assert made is not None
        return to_tensors(made)

    with_it, without = third_round(states[1]), third_round(None)
    assert all(tensor.equal(with_it[name]) for name, tensor in to_tensors(after).items())
    assert not without["0.weight"].equal(with_it["0.weight"])


@pytest.mark.parametrize("words", [("norm.policy=fedbn",), ("head=etf",), ()], ids=" ".join)
@pytest.mark.parametrize("name", ["fedavgm", "fedadam"])
def test_what_stays_on_the_clients_or_is_frozen_has_no_step(
    small_settings: MakeSettings, name: str, words: tuple[str, ...]
) -> None:
    prepared = prepare(small_settings(f"strategy={name}", "engine=inline", *words))
    strategy, grid = prepared.strategy, Watched(prepared)
    assert isinstance(strategy, FedAvgM | FedAdam)
    messages = strategy.configure_train(1, to_record(prepared.model.state_dict()), ConfigRecord(), grid)
    strategy.aggregate_train(1, grid.send_and_receive(messages))
    stepped = strategy.velocity if isinstance(strategy, FedAvgM) else strategy.first
    trained = {name for name, parameter in prepared.model.named_parameters() if parameter.requires_grad}
    assert set(stepped) == trained - strategy.personal


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("fedavgm", "server_momentum=1"),
            r"server_momentum=1(\.0)? is not possible: choose a number from 0 to below 1",
        ),
        (("fedavgm", "server_momentum=-0.1"), r"server_momentum=-0\.1 is not possible"),
        (("fedavgm", "server_lr=0"), r"server_lr=0(\.0)? is not possible: choose a number above 0\.$"),
        (("fedavgm", "server_lr=inf"), r"server_lr=inf is not possible"),
        (("fedadam", "server_lr=-1"), r"server_lr=-1(\.0)? is not possible: choose a number above 0\.$"),
        (("fedadam", "tau=0"), r"tau=0(\.0)? is not possible: choose a number above 0\.$"),
        (("fedadam", "beta_1=1"), r"beta_1=1(\.0)? is not possible: choose a number from 0 to below 1\.$"),
        (("fedadam", "beta_2=nan"), r"beta_2=nan is not possible"),
        (("fedadam", "tau=inf"), r"tau=inf is not possible"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_options_are_refused(small_settings: MakeSettings, words: tuple[str, str], sentence: str) -> None:
    with pytest.raises(UserError, match=rf"^strategy\.{sentence}"):
        prepare(small_settings(f"strategy={words[0]}", f"strategy.{words[1]}"))


def test_a_decay_of_0_is_possible() -> None:
    assert FedAdam(nn.Linear(2, 2), beta_1=0, beta_2=0).beta_1 == 0


def test_yogis_moment_stays_where_it_is_reached() -> None:
    second, square = torch.tensor([4.0, 1.0, 9.0]), torch.tensor([4.0, 2.0, 3.0])
    moved = FedYogi(nn.Linear(2, 2), beta_2=0.75).second_moment(second, square)
    assert moved.tolist() == [4.0, 1.0 + 0.25 * 2, 9.0 - 0.25 * 3]
