"""SCAFFOLD in the federation, against Algorithm 1 (option II) written out with clients, rounds and cohorts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from clients import Scaffold as LocalScaffold
from datasets.examples import Examples
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.core.seeding import draw_cohort
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import ARRAYS, METRICS, ROUND, TRAIN, arrays_of, config_of
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.reply_checks import ReplyChecks
from fedsim.methods.training import LocalTraining, ServerTraining
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from strategies import FedAvg, Scaffold
from tests.strategies.test_every_strategy import Watched

MakeSettings = Callable[..., Settings]
TRAINING = LocalTraining(local_epochs=2, batch_size=4, lr=0.1, momentum=0.0)
CLIENTS, COHORT, ROUNDS = 4, 2, 3
IMAGES = (6, 9, 8, 10)


def linear_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))


def examples(client: int) -> Examples:
    """Darker or lighter, so that clients drift apart."""
    generator = torch.Generator().manual_seed(client)
    images = torch.randint(60 * client, 60 * client + 70, (IMAGES[client], 3, 2, 2), generator=generator)
    return Examples(images.byte(), (torch.arange(IMAGES[client]) + client) % 3)


def linear_app(device: torch.device) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        model, round = linear_model(), int(str(config_of(message)[ROUND]))
        model.load_state_dict(to_tensors(arrays_of(message)))
        training = TrainingContext(
            data=examples(client),
            generator=torch.Generator().manual_seed(10 * round + client),
            sent=message.content,
            state=context.state,
        )
        metrics = LocalScaffold(TRAINING).train(model, training)
        content = RecordDict({METRICS: MetricRecord({**metrics}), ARRAYS: to_record(model.state_dict())})
        return Message(RecordDict({**content, **training.reply}), reply_to=message)

    return app


class ByHand:
    """Softmax regression in float64; x and c of the server, c_i of the clients."""

    def __init__(self, server_lr: float) -> None:
        self.server_lr = server_lr
        self.x = [parameter.detach().double().numpy() for parameter in linear_model().parameters()]
        self.c = [np.zeros_like(each) for each in self.x]
        self.own = {client: [np.zeros_like(each) for each in self.x] for client in range(CLIENTS)}

    def local(self, client: int, round: int) -> tuple[list[np.ndarray], int]:
        """Lines 7 to 11: y after so many steps."""
        y, data, steps = list(self.x), examples(client), 0
        pixels, labels = data.images.flatten(1).double().numpy() / 127.5 - 1, data.labels.numpy()
        generator = torch.Generator().manual_seed(10 * round + client)
        for _ in range(2):
            batches = torch.randperm(len(data), generator=generator).split(4)
            for batch in [each for each in batches if len(each) > 1]:  # the rule of this simulator
                exponentials = np.exp(pixels[batch] @ y[0].T + y[1])
                error = exponentials / exponentials.sum(1, keepdims=True) - np.eye(3)[labels[batch]]
                gradients = [error.T @ pixels[batch] / len(batch), error.mean(0)]
                y = [
                    at - 0.1 * (gradient - own + c)
                    for at, gradient, own, c in zip(y, gradients, self.own[client], self.c, strict=True)
                ]
                steps += 1
        return y, steps

    def round(self, number: int, cohort: list[int]) -> None:
        ends, changes = [], []
        for client in cohort:
            y, steps = self.local(client, number)
            new = [
                own - c + (x - end) / (steps * 0.1)
                for own, c, x, end in zip(self.own[client], self.c, self.x, y, strict=True)
            ]
            ends.append(y)
            changes.append([after - before for after, before in zip(new, self.own[client], strict=True)])
            self.own[client] = new
        for place in range(2):  # lines 16 and 17
            step = sum(end[place] - self.x[place] for end in ends) / len(cohort)
            self.x[place] = self.x[place] + self.server_lr * step
            change = sum(each[place] for each in changes) / len(cohort)
            self.c[place] = self.c[place] + len(cohort) / CLIENTS * change


@pytest.mark.parametrize("server_lr", [1.0, 0.5])
def test_three_rounds_are_those_of_the_algorithm(server_lr: float) -> None:
    grid = InlineGrid(linear_app, CLIENTS, [torch.device("cpu")])
    strategy = Scaffold(linear_model(), ServerTraining(fraction=COHORT / CLIENTS, seed=1), server_lr=server_lr)
    expected, arrays, cohorts = ByHand(server_lr), to_record(linear_model().state_dict()), []
    for round in range(1, ROUNDS + 1):
        cohorts.append(draw_cohort(list(range(CLIENTS)), COHORT / CLIENTS, 1, round))
        messages = list(strategy.configure_train(round, arrays, ConfigRecord(), grid))
        assert [message.metadata.dst_node_id for message in messages] == cohorts[-1]
        average, _ = strategy.aggregate_train(round, grid.send_and_receive(messages))
        assert average is not None
        arrays = average
        expected.round(round, cohorts[-1])
        for place, name in enumerate(("1.weight", "1.bias")):
            np.testing.assert_allclose(to_tensors(arrays)[name], expected.x[place], rtol=0, atol=1e-6)
            np.testing.assert_allclose(strategy.control[name], expected.c[place], rtol=0, atol=1e-6)
            for client, state in grid.client_states().items():
                kept = to_tensors(state.array_records.get("control", ArrayRecord()))
                own = kept.get(name, torch.zeros(expected.own[client][place].shape))
                np.testing.assert_allclose(own, expected.own[client][place], rtol=0, atol=1e-6)
    assert len({tuple(each) for each in cohorts}) > 1
    assert np.abs(expected.c[0]).max() > 0.01


def test_only_what_is_trained_and_travels_has_a_control_variate(small_settings: MakeSettings) -> None:
    words = ("strategy=scaffold", "engine=inline")
    plain = prepare(small_settings(*words))
    personal = prepare(small_settings(*words, "norm.policy=fedbn"))
    frozen = prepare(small_settings(*words, "head=etf"))
    for prepared in (plain, personal, frozen):
        strategy, grid = prepared.strategy, Watched(prepared)
        assert isinstance(strategy, Scaffold)
        trained = {name for name, parameter in prepared.model.named_parameters() if parameter.requires_grad}
        arrays = to_record(prepared.model.state_dict())
        messages = list(strategy.configure_train(1, arrays, ConfigRecord(), grid))
        assert set(messages[0].content.array_records["control"]) == trained - strategy.personal
        replies = list(grid.send_and_receive(messages))
        average, _ = strategy.aggregate_train(1, replies)
        assert average is not None
        assert set(strategy.control) == trained - strategy.personal
        others = set(average) - trained
        assert any("running_var" in name for name in others) == (prepared is not personal)
        by_hand = FedAvg(prepared.model, ServerTraining(weighting="uniform"))
        by_hand.keep_on_clients(strategy.personal)
        list(by_hand.configure_train(1, arrays, ConfigRecord(), grid))
        mean, _ = by_hand.aggregate_train(1, replies)
        assert mean is not None
        assert all(to_tensors(mean)[name].equal(to_tensors(average)[name]) for name in average)
        assert all(tensor.any() for tensor in strategy.control.values())


def forged(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor] | None]) -> Callable[[Message], None]:
    def forge(reply: Message) -> None:
        told = change({name: tensor.clone() for name, tensor in to_tensors(reply.content["control"]).items()})  # type: ignore[arg-type]
        if told is None:
            del reply.content["control"]
        else:
            reply.content["control"] = to_record(told)

    return forge


def filled(value: float) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda told: {**told, "head.bias": torch.full_like(told["head.bias"], value)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda told: None, "it sent control variates of other entries than it was asked for"),
        (lambda told: {}, "it sent control variates of other entries than it was asked for"),
        (lambda told: {**told, "else": torch.zeros(1)}, "of other entries than it was asked for (else)"),
        (lambda told: {**told, "features.1.running_mean": torch.zeros(32)}, "(features.1.running_mean)"),
        (lambda told: {**told, "head.bias": torch.zeros(3)}, "it sent head.bias as float32 (3,), which is float32 (10"),
        (lambda told: {**told, "head.bias": told["head.bias"].double()}, "it sent head.bias as float64 (10,)"),
        (filled(float("nan")), "it sent numbers in head.bias that are not finite"),
        (filled(-1e9), "it sent 1e+09 in head.bias, where update_limit=1000 allows 1e+03"),
    ],
    ids=["none", "empty", "another", "a buffer", "shape", "type", "nan", "huge"],
)
def test_a_wrong_control_variate_is_refused(
    small_settings: MakeSettings, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], words: str
) -> None:
    prepared = prepare(small_settings("strategy=scaffold", "engine=inline"))
    strategy, grid, initial = prepared.strategy, Watched(prepared), prepared.model.state_dict()
    checks = ReplyChecks(prepared.federation, initial, 1000.0, strategy.reply_records, strategy.queries)
    (message, *_) = strategy.configure_train(1, to_record(initial), ConfigRecord(), grid)
    (reply,) = grid.send_and_receive([message])
    assert checks.checked(message, reply) is reply
    forged(change)(reply)
    checked = checks.checked(message, reply)
    assert checked.has_error()
    assert words in str(checked.error.reason)


def test_what_is_refused_moves_nothing(small_settings: MakeSettings, tmp_path: Path) -> None:
    """The run goes on without that client, whose control variate counts as one that was not in the cohort."""

    class Forging(Watched):
        def send_and_receive(self, messages, *, timeout=None):  # type: ignore[no-untyped-def]
            for reply in super().send_and_receive(messages, timeout=timeout):
                if reply.metadata.src_node_id == 2 and "control" in reply.content:
                    forged(filled(1e9))(reply)
                yield reply

    settings = small_settings("strategy=scaffold", "engine=inline", "min_fraction_success=0.5", "rounds=1")
    prepared = prepare(settings)
    grid = Forging(prepared)
    result = run(prepared, tmp_path, Reporter(), grid)
    assert result.clients["fault"].dropna().tolist() == [
        "it sent 1e+09 in head.bias, where update_limit=1000 allows 1e+03"
    ]
    strategy = prepared.strategy
    assert isinstance(strategy, Scaffold)
    good = [reply for message, reply in grid.of(TRAIN) if message.metadata.dst_node_id != 2]
    for name, tensor in strategy.control.items():
        total = sum(to_tensors(reply.content.array_records["control"])[name].double() for reply in good)
        torch.testing.assert_close(tensor, total / 6, check_dtype=False)  # type: ignore[operator]


def test_it_survives_a_stop_after_which_clients_go_on_with_their_own(
    small_settings: MakeSettings, tmp_path: Path
) -> None:
    class Stops(Reporter):
        def round_done(self, round: int, metrics: object) -> None:
            if round == 2:
                raise KeyboardInterrupt

    words = ("strategy=scaffold", "strategy.server_lr=0.5", "engine=inline", "fraction=0.5", "rounds=4")
    whole = prepare(small_settings(*words))
    run(whole, tmp_path / "whole", Reporter())
    with pytest.raises(KeyboardInterrupt):
        run(prepare(small_settings(*words)), tmp_path / "stopped", Stops())
    resumed = prepare(small_settings(*words, f"resume={tmp_path / 'stopped'}"))
    run(resumed, tmp_path / "stopped", Reporter())
    for name in ("clients.csv", "model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()
    assert isinstance(whole.strategy, Scaffold)
    assert isinstance(resumed.strategy, Scaffold)
    assert all(tensor.equal(resumed.strategy.control[name]) for name, tensor in whole.strategy.control.items())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("momentum=0.9",), r"^optimizer=sgd with momentum=0\.9 is not possible with strategy=scaffold"),
        (("optimizer=adam",), r"^optimizer=adam with momentum=0 is not possible with strategy=scaffold"),
        (("strategy.server_lr=0",), r"^strategy\.server_lr=0(\.0)? is not possible: choose a number above 0\.$"),
        (("strategy.server_lr=nan",), r"^strategy\.server_lr=nan is not possible"),
        (
            ("privacy=server_fixed_clipping", "privacy.noise_multiplier=1", "strategy.weighting=uniform"),
            r"strategy=scaffold",
        ),
    ],
)
def test_what_cannot_work_is_refused(small_settings: MakeSettings, words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        prepare(small_settings("strategy=scaffold", *words))
