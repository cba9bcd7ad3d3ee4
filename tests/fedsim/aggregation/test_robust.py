"""Robust aggregations against numpy and against Flower's own strategies, and what one wrong reply does to each."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower

from fedsim.aggregation import Aggregation, Krum, Mean, Median, MultiKrum, TrimmedMean
from fedsim.core.errors import RoundFailed, UserError

Tensors = dict[str, torch.Tensor]
ROBUST: list[tuple[Aggregation, flower.Strategy]] = [
    (Median(), flower.FedMedian()),
    (TrimmedMean(0.2), flower.FedTrimmedAvg(beta=0.2)),
    (Krum(1), flower.Krum(num_malicious_nodes=1)),
    (MultiKrum(1, 3), flower.MultiKrum(num_malicious_nodes=1, num_nodes_to_select=3)),
]
IDS = ["median", "trimmed_mean", "krum", "multikrum"]
WEIGHTS = [10.0, 40.0, 20.0, 30.0, 50.0, 60.0, 15.0]


def replies_of(clients: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensors]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"conv.weight": (4, 2, 3, 3), "scale": (), "fc.bias": (5,)}
    return [
        {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
        for _ in range(clients)
    ]


def aggregate(aggregation: Aggregation, replies: Sequence[Tensors], weights: Sequence[float] | None = None) -> Tensors:
    collected = aggregation.start(3, {})
    for tensors, weight in zip(replies, weights or [1.0] * len(replies), strict=True):
        collected.add(tensors, weight)
    return collected.result()


def flat(tensors: Tensors) -> npt.NDArray[np.float64]:
    return np.concatenate([tensor.double().numpy().ravel() for tensor in tensors.values()])


def krum_scores(replies: Sequence[Tensors], malicious: int) -> list[float]:
    """The definition, pair by pair."""
    vectors = [flat(reply) for reply in replies]
    scores = []
    for i, own in enumerate(vectors):
        distances = sorted(((own - other) ** 2).sum() for j, other in enumerate(vectors) if j != i)
        scores.append(float(sum(distances[: len(replies) - malicious - 2])))
    return scores


@pytest.mark.parametrize("clients", [5, 6])
def test_the_median_is_numpys(clients: int) -> None:
    replies = replies_of(clients)
    result = aggregate(Median(), replies, WEIGHTS[:clients])
    for name, tensor in result.items():
        assert tensor.dtype == torch.float32
        assert tensor.shape == replies[0][name].shape
        assert np.array_equal(tensor.numpy(), np.median([reply[name].numpy() for reply in replies], axis=0))


@pytest.mark.parametrize(("share", "cut"), [(0.2, 1), (0.35, 2), (0.49, 3)])
def test_the_trimmed_mean_is_that_of_the_values_in_the_middle(share: float, cut: int) -> None:
    replies = replies_of(7)
    result = aggregate(TrimmedMean(share), replies, WEIGHTS)
    for name, tensor in result.items():
        middle = np.sort([reply[name].double().numpy() for reply in replies], axis=0)[cut:-cut]
        np.testing.assert_allclose(tensor.numpy(), middle.mean(axis=0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("malicious", [0, 1, 2])
def test_krum_is_the_reply_nearest_to_its_neighbours(malicious: int) -> None:
    for seed in range(5):
        replies = replies_of(7, seed)
        best = int(np.argmin(krum_scores(replies, malicious)))
        assert np.array_equal(flat(aggregate(Krum(malicious), replies, WEIGHTS)), flat(replies[best]))


def test_krum_tells_models_apart_that_are_close_to_each_other() -> None:
    """As models of one round are; in float32 Flower's formula would see nothing but rounding."""
    common = {"w": 10 * torch.randn(1000, generator=torch.Generator().manual_seed(0))}
    replies = [{"w": common["w"] + 1e-4 * torch.randn(1000)} for _ in range(5)]
    replies.append({"w": replies[2]["w"] + 1e-6})  # these two are each other's nearest
    best = int(np.argmin(krum_scores(replies, 1)))
    assert torch.equal(aggregate(Krum(1), replies)["w"], replies[best]["w"])


def test_multikrum_averages_those_with_the_smallest_scores_by_their_weights() -> None:
    replies = replies_of(7)
    chosen = np.argsort(krum_scores(replies, 1))[:3]
    expected = np.average([flat(replies[i]) for i in chosen], axis=0, weights=[WEIGHTS[i] for i in chosen])
    np.testing.assert_allclose(flat(aggregate(MultiKrum(1, 3), replies, WEIGHTS)), expected, rtol=1e-6)
    assert np.array_equal(flat(aggregate(MultiKrum(1, 1), replies)), flat(aggregate(Krum(1), replies)))


@pytest.mark.parametrize(("aggregation", "theirs"), ROBUST, ids=IDS)
def test_flowers_own_strategy_has_the_same_result(aggregation: Aggregation, theirs: flower.Strategy) -> None:
    replies = replies_of(7)
    messages = [
        Message(
            RecordDict({"arrays": ArrayRecord(reply), "metrics": MetricRecord({"num-examples": weight})}), k, "train"
        )
        for k, (reply, weight) in enumerate(zip(replies, WEIGHTS, strict=True))
    ]
    arrays, _ = theirs.aggregate_train(3, messages)
    assert arrays is not None
    result = aggregate(aggregation, replies, WEIGHTS)
    for name, tensor in arrays.to_torch_state_dict().items():
        torch.testing.assert_close(result[name], tensor, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("aggregation", "theirs"), [(Mean(), None), *ROBUST], ids=["mean", *IDS])
def test_one_of_five_with_weights_a_million_times_too_large(
    aggregation: Aggregation, theirs: flower.Strategy | None
) -> None:
    """The others agree up to 0.1 in every entry; only the mean is carried away."""
    noise = torch.Generator().manual_seed(1)
    truth = replies_of(1)[0]
    honest = [
        {name: t + 0.1 * (2 * torch.rand(t.shape, generator=noise) - 1) for name, t in truth.items()} for _ in range(4)
    ]
    wrong = {name: 1e6 * tensor for name, tensor in truth.items()}
    if isinstance(aggregation, MultiKrum):
        aggregation = MultiKrum(1, 2)  # of five, at most two
    off = np.abs(flat(aggregate(aggregation, [*honest[:2], wrong, *honest[2:]])) - flat(truth)).max()
    largest = np.abs(flat(truth)).max()
    if theirs is None:
        assert off == pytest.approx(2e5 * largest, rel=1e-3)
    else:
        assert off <= 0.1 + 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("aggregation", "theirs"), ROBUST, ids=IDS)
def test_types_and_shapes_stay_and_counters_take_the_maximum(
    aggregation: Aggregation, theirs: flower.Strategy, dtype: torch.dtype
) -> None:
    replies = replies_of(6, dtype=dtype)
    counters = [3, 2**60 + 1, 4, 4, 5, 6]
    with_counters = [{"n": torch.tensor(counter), **reply} for counter, reply in zip(counters, replies, strict=True)]
    result = aggregate(aggregation, with_counters)
    assert list(result) == list(with_counters[0])
    assert result["n"].dtype == torch.int64
    assert result["n"].item() == 2**60 + 1
    for name, tensor in aggregate(aggregation, replies).items():
        assert tensor.dtype == dtype
        assert tensor.shape == replies[0][name].shape
        assert torch.equal(result[name], tensor)  # a counter is no distance


@pytest.mark.gpu
@pytest.mark.parametrize(("aggregation", "theirs"), ROBUST, ids=IDS)
def test_replies_on_a_gpu_are_aggregated_there(aggregation: Aggregation, theirs: flower.Strategy) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    replies = replies_of(6)
    moved = [{name: tensor.cuda() for name, tensor in reply.items()} for reply in replies]
    result = aggregate(aggregation, moved)
    assert all(tensor.is_cuda for tensor in result.values())
    assert np.array_equal(
        flat({name: tensor.cpu() for name, tensor in result.items()}), flat(aggregate(aggregation, replies))
    )


def test_replies_stay_as_they_were_and_may_name_their_entries_in_another_order() -> None:
    replies = replies_of(5)
    before = [flat(reply) for reply in replies]
    turned = [dict(reversed(reply.items())) if k % 2 else reply for k, reply in enumerate(replies)]
    for aggregation, _ in ROBUST[:3]:
        expected = aggregate(aggregation, replies)
        result = aggregate(aggregation, turned)
        assert list(result) == list(expected)
        assert np.array_equal(flat(result), flat(expected))
    assert all(np.array_equal(flat(reply), old) for reply, old in zip(replies, before, strict=True))


def test_a_weight_of_zero_leaves_a_client_out() -> None:
    replies = replies_of(6)
    assert np.array_equal(flat(aggregate(Median(), replies, [0.0] + [1.0] * 5)), flat(aggregate(Median(), replies[1:])))
    with pytest.raises(ValueError, match="the weights add up to zero"):
        aggregate(Median(), replies, [0.0] * 6)
    with pytest.raises(ValueError, match="the weights add up to zero"):
        aggregate(Median(), [])


def test_nothing_is_the_aggregate_of_nothing() -> None:
    assert aggregate(Krum(3), [{}, {}]) == {}
    assert aggregate(Median(), [{"n": torch.tensor(3)}, {"n": torch.tensor(2)}])["n"].item() == 3


def test_replies_with_other_names_or_shapes_are_refused() -> None:
    first = {"w": torch.ones(2, 3)}
    with pytest.raises(ValueError, match=r"the entries \['v', 'w'\] are not in every reply"):
        aggregate(Median(), [first, {"v": torch.ones(2, 3)}])
    with pytest.raises(ValueError, match=r"w has the shape \(6,\), others \(2, 3\)"):
        aggregate(Median(), [first, {"w": torch.ones(6)}])


@pytest.mark.parametrize(
    ("aggregation", "enough", "sentence"),
    [
        (
            Median(),
            3,
            "aggregation=median of 2 is their mean: choose a larger fraction, so that at least 3 clients are in each "
            r"round, or aggregation=mean\.$",
        ),
        (TrimmedMean(0.2), 5, r"aggregation.share=0.2 trims none of 4 clients: choose at least 1/4\.$"),
        (TrimmedMean(0.4), 3, r"aggregation.share=0.4 trims none of 2 clients: choose aggregation=mean, or a larger"),
        (TrimmedMean(0.3), 4, r"aggregation.share=0.3 trims none of 3 clients: choose at least 1/3\.$"),
        (Krum(0), 3, "aggregation.malicious=0 needs at least 3 clients in each round, and there are 2: choose"),
        (Krum(2), 7, "aggregation.malicious=2 needs at least 7 clients in each round, and there are 6: choose fewer"),
        (MultiKrum(1, 1), 5, "aggregation.malicious=1 needs at least 5 clients"),
        (
            MultiKrum(1, 4),
            7,
            "aggregation.selected=4 is not possible for 6 clients in each round and aggregation.malicious=1: choose at "
            "most 3",
        ),
    ],
)
def test_too_few_clients_are_refused_before_a_run_and_when_some_drop_out(
    aggregation: Aggregation, enough: int, sentence: str
) -> None:
    aggregation.check(enough)
    aggregate(aggregation, replies_of(enough))
    with pytest.raises(UserError, match=f"^{sentence}"):
        aggregation.check(enough - 1)
    with pytest.raises(RoundFailed, match=f"^in round 3 so few clients were left that {sentence}"):
        aggregate(aggregation, replies_of(enough - 1))


def test_wrong_options_are_refused() -> None:
    for share in (0.0, 0.5, -0.1):
        with pytest.raises(UserError, match=f"^aggregation.share={share} is not possible: choose a number above 0 and"):
            TrimmedMean(share)
    with pytest.raises(UserError, match=r"^aggregation\.malicious=-1 is not possible: choose a whole number of at"):
        Krum(-1)
    with pytest.raises(UserError, match=r"^aggregation\.selected=0 is not possible: choose a whole number of at least"):
        MultiKrum(1, 0)
