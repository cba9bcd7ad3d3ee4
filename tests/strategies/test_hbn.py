"""HBN in the federation: rounds written out in numpy, what it refuses, and what a faulty client may not do."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.cost import QueryPasses, Workload
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import ARRAYS, METRICS, QUERY, arrays_of, config_of
from fedsim.methods.training import ServerTraining
from fedsim.norms import HybridBatchNorm, use_norm
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from strategies import HBN
from tests.strategies.test_every_strategy import Watched

MakeSettings = Callable[..., Settings]
IMAGES = (3, 6, 9)


def model() -> nn.Module:
    torch.manual_seed(0)
    return use_norm(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)), "hbn")


def statistics(client: int, phase: int) -> dict[str, torch.Tensor]:
    """What a client reports before training (phase 0) and of the new model (1)."""
    generator = torch.Generator().manual_seed(10 * client + phase)
    return {
        "1.running_mean": torch.randn(2, generator=generator),
        "1.running_var": torch.rand(2, generator=generator),
    }


def app(device: torch.device) -> ClientApp:
    """Moves every parameter by its number, and reports at most five images."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client, state = int(context.node_config["partition-id"]), to_tensors(arrays_of(message))
        assert config_of(message)["statistics-images"] == 5
        names = dict(model().named_parameters())
        trained = {name: each + client if name in names else each for name, each in state.items()}
        content = RecordDict(
            {
                METRICS: MetricRecord({"num-examples": IMAGES[client], "loss": 1.0}),
                ARRAYS: to_record(trained),
                "statistics": to_record(statistics(client, 0)),
            }
        )
        return Message(content, reply_to=message)

    @app.query("method")
    def query(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        context.state["asked"] = message.content.array_records[ARRAYS]
        content = RecordDict(
            {
                METRICS: MetricRecord({"num-examples": min(5, IMAGES[client])}),
                ARRAYS: to_record(statistics(client, 1)),
            }
        )
        return Message(content, reply_to=message)

    return app


def pooled(phase: int) -> tuple[np.ndarray, np.ndarray]:
    sizes = [min(5, images) for images in IMAGES]
    means = [statistics(client, phase)["1.running_mean"].double().numpy() for client in range(3)]
    variances = [statistics(client, phase)["1.running_var"].double().numpy() for client in range(3)]
    mean = sum(n * each for n, each in zip(sizes, means, strict=True)) / sum(sizes)
    around = [n * (var + (each - mean) ** 2) for n, each, var in zip(sizes, means, variances, strict=True)]
    return mean, sum(around) / (sum(sizes) - 1)


def test_three_rounds_are_those_written_out() -> None:
    grid = InlineGrid(app, 3, [torch.device("cpu")])
    strategy, arrays = HBN(model(), ServerTraining(seed=1), images=5, rate=0.25), to_record(model().state_dict())
    weight = model().state_dict()["0.weight"].double().numpy()
    mean, variance = np.zeros(2), np.ones(2)
    for round in range(1, 4):
        messages = list(strategy.configure_train(round, arrays, ConfigRecord(), grid))
        made, _ = strategy.aggregate_train(round, grid.send_and_receive(messages))
        assert made is not None
        arrays, new = made, to_tensors(made)
        weight = weight + (0 * 3 + 1 * 6 + 2 * 9) / 18
        before, after = pooled(0), pooled(1)
        mean, variance = 0.75 * mean + 0.25 * before[0], 0.75 * variance + 0.25 * before[1]
        for name, expected in {
            "0.weight": weight,
            "1.mix": np.full(2, round * 24 / 18),
            "1.global_mean": mean,
            "1.global_var": variance,
            "1.running_mean": after[0],
            "1.running_var": after[1],
        }.items():
            np.testing.assert_allclose(new[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)
        for state in grid.client_states().values():  # they were asked about the new model
            asked = state["asked"]
            assert isinstance(asked, ArrayRecord)
            assert torch.equal(to_tensors(asked)["0.weight"], new["0.weight"])
            assert torch.equal(to_tensors(asked)["1.global_var"], new["1.global_var"])


def test_evaluation_uses_what_was_gathered_last(small_settings: MakeSettings, tmp_path: Path) -> None:
    prepared = prepare(small_settings("strategy=hbn", "rounds=2", "engine=inline", "strategy.rate=0.1"))
    grid = Watched(prepared)
    run(prepared, tmp_path, Reporter(), grid)
    asked = [pair for pair in grid.seen if config_of(pair[0]).get(QUERY) == "statistics"]
    assert len(asked) == 2 * 6
    layer = next(name for name, each in prepared.model.named_modules() if isinstance(each, HybridBatchNorm))
    answers = [to_tensors(arrays_of(reply))[f"{layer}.running_mean"].double() for _, reply in asked[-6:]]
    sizes = [int(str(reply.content.metric_records[METRICS]["num-examples"])) for _, reply in asked[-6:]]
    mean = sum(n * each for n, each in zip(sizes, answers, strict=True)) / sum(sizes)
    evaluated = [message for message, _ in grid.seen if message.metadata.message_type.startswith("evaluate")][-1]
    used = to_tensors(arrays_of(evaluated))[f"{layer}.running_mean"]
    torch.testing.assert_close(used, mean.float(), rtol=1e-5, atol=1e-6)
    before, _ = asked[-1]
    assert not torch.equal(to_tensors(arrays_of(before))[f"{layer}.running_mean"], used)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda each: {**each, "x": torch.ones(2)}, "it sent statistics of other entries than it was asked for"),
        (lambda each: dict(list(each.items())[1:]), "it sent statistics of other entries than it was asked for"),
        (lambda each: {name: -tensor.abs() - 1 for name, tensor in each.items()}, "it sent a negative variance in"),
        (lambda each: {name: tensor[:1] for name, tensor in each.items()}, "which is float32"),
        (lambda each: {name: tensor * torch.nan for name, tensor in each.items()}, "that are not finite"),
    ],
    ids=["more", "less", "negative", "shape", "nan"],
)
@pytest.mark.parametrize("queried", [False, True])
def test_wrong_statistics_are_refused_and_named(
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    fault: str,
    queried: bool,
    small_settings: MakeSettings,
    tmp_path: Path,
) -> None:
    class Lying(Watched):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
            for message in messages:
                (reply,) = super().send_and_receive([message])
                record = ARRAYS if queried else "statistics"
                asked = message.metadata.dst_node_id == 0 and (QUERY in config_of(message)) == queried
                if asked and record in reply.content.array_records:
                    reply.content[record] = to_record(change(to_tensors(reply.content.array_records[record])))
                yield reply

    prepared = prepare(small_settings("strategy=hbn", "engine=inline", "rounds=1", "min_fraction_success=0.5"))
    result = run(prepared, tmp_path, Reporter(), Lying(prepared))
    faults = result.clients[result.clients["fault"].notna()]
    assert list(faults["client"]) == [0]
    assert fault in faults["fault"].iloc[0]
    assert list(faults["split"]) == ["query.statistics" if queried else "train"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["norm=bn"], "strategy=hbn needs layers that mix statistics, and this network has none"),
        (["strategy.images=0"], "strategy.images=0 is not possible: choose a whole number of at least 1."),
        (["strategy.rate=0"], "strategy.rate=0 is not possible: choose a number above 0 and at most 1."),
        (["strategy.rate=1.5"], "strategy.rate=1.5 is not possible: choose a number above 0 and at most 1."),
        (["norm.statistics=local"], "strategy=hbn pools statistics on the server, which norm.statistics=local keeps"),
        (["norm.evaluation=batch"], "the statistics of HybridBatchNorm can only be shared or local"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_refused(refusal: Callable[..., str], words: list[str], sentence: str) -> None:
    assert refusal("strategy=hbn", *words).startswith(sentence)


def test_the_norm_is_refused_where_nobody_gathers_its_statistics(refusal: Callable[..., str]) -> None:
    assert refusal("norm=hbn") == (
        "norm=hbn has statistics that strategy=fedavg does not gather: choose the strategy that brings this norm with "
        "it, or norm=bn."
    )


def test_noise_is_refused() -> None:
    class Noisy(ServerTraining.__dataclass_fields__["aggregation"].default_factory):  # type: ignore[misc]
        noisy = True

    with pytest.raises(UserError, match=r"^strategy=hbn has clients tell statistics of their images"):
        HBN(model(), ServerTraining(weighting="uniform", aggregation=Noisy()))


def test_one_image_and_a_whole_step_are_possible_and_the_passes_are_counted() -> None:
    strategy = HBN(model(), images=1, rate=1.0)
    assert strategy.training_load == Workload(queries=(QueryPasses(share=1.0, passes=2, most=1),))
