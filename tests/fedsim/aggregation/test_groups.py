"""Averages in groups: their order, and that sums made elsewhere leave every bit as it is."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedsim.aggregation import RunningAverage
from fedsim.aggregation.groups import add_up
from fedsim.messages.arrays import count_bytes, to_record, to_tensors
from fedsim.messages.groups import GROUP_SIZE, group_of, is_added_up, openings, weight_of
from fedsim.messages.schema import ARRAYS, CONFIG, METRICS, NUM_EXAMPLES, ROUND, arrays_of

CLIENTS = 2 * GROUP_SIZE + 3


def tensors(client: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(client)
    return {"w": torch.randn(7, 5, generator=generator), "n": torch.tensor(client % 5)}


def replies(failing: Sequence[int] = ()) -> list[Message]:
    """One reply for each client of a cohort; client k has 10 k + 3 images."""
    made = []
    for client in range(CLIENTS):
        message = Message(RecordDict(), client, "train", group_id=group_of(client))
        content = RecordDict({METRICS: MetricRecord({NUM_EXAMPLES: 10 * client + 3, "loss": 0.1 * client})})
        content[ARRAYS], content[CONFIG] = to_record(tensors(client)), ConfigRecord({ROUND: 1})
        failed = client in failing
        made.append(Message(Error(2), reply_to=message) if failed else Message(content, reply_to=message))
    return made


def averaged(given: Sequence[Message], weighting: str) -> dict[str, torch.Tensor]:
    average = RunningAverage()
    for reply in given:
        if reply.has_error():
            continue
        average.enter(reply.metadata.group_id)
        received, weight = to_tensors(arrays_of(reply)), weight_of(reply, weighting)
        if is_added_up(reply):
            average.add_up(received, weight, tensors(0))
        else:
            average.add(received, weight)
    return average.result()


def test_a_group_is_added_up_before_it_is_added_to_the_others() -> None:
    """Beside 2^54 a one is lost, and four of them are not."""
    average = RunningAverage()
    for place in range(2 * GROUP_SIZE):
        average.enter(group_of(place))
        average.add({"w": torch.tensor([2.0**54 if place == 0 else 1.0], dtype=torch.float64)}, 1.0)
    assert average.result()["w"].item() == (2.0**54 + GROUP_SIZE) / (2 * GROUP_SIZE)


def test_without_groups_one_is_added_after_the_other() -> None:
    average = RunningAverage()
    for value in (2.0**54, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        average.add({"w": torch.tensor([value], dtype=torch.float64)}, 1.0)
    assert average.result()["w"].item() == 2.0**54 / 8


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
@pytest.mark.parametrize("failing", [(), (0,), (2, 5), (3, 7), (0, 1, 2), tuple(range(4, 8))])
@pytest.mark.parametrize("pieces", [(CLIENTS,), (4, 4, 3), (3, 5, 3), (1, 1, 9), (6, 5), (2,) * 5 + (1,)])
def test_sums_of_any_pieces_of_a_cohort_give_the_same_bits(
    pieces: tuple[int, ...], failing: tuple[int, ...], weighting: str
) -> None:
    given = replies(failing)
    expected = averaged(given, weighting)
    opens, begin = list(openings(given)), 0
    for size in pieces:
        add_up(given[begin : begin + size], opens[begin : begin + size], weighting)
        begin += size
    found = averaged(given, weighting)
    kept = [client for client in range(CLIENTS) if client not in failing]
    weights = [1 if weighting == "uniform" else 10 * client + 3 for client in kept]
    mean = np.average([tensors(client)["w"].double().numpy() for client in kept], axis=0, weights=weights)
    assert torch.equal(found["w"], expected["w"])
    assert torch.equal(found["w"], torch.from_numpy(mean).float())
    assert found["n"].item() == max(client % 5 for client in kept)


def test_only_the_last_reply_of_a_sum_has_arrays_and_a_sum_has_several_replies() -> None:
    given = replies(failing=(1, 9, 10))
    add_up(given, list(openings(given)), "uniform")
    size = count_bytes(to_record(tensors(0)))
    sums = 7 * 5 * 8 + 8  # float64, and a counter of int64
    sizes = [None if reply.has_error() else count_bytes(arrays_of(reply)) for reply in given]
    assert sizes == [0, None, 0, sums, 0, 0, 0, sums, size, None, None]


def test_a_group_that_has_begun_elsewhere_is_not_added_up() -> None:
    given = replies()[1:CLIENTS]
    add_up(given, [False, False, False, *openings(given[3:])], "uniform")
    assert [is_added_up(reply) for reply in given] == [False] * 3 + [True] * (CLIENTS - GROUP_SIZE)
