"""Averages in groups: their order, and that sums made elsewhere leave every bit as it is."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict

from fedsim.aggregation import RunningAverage
from fedsim.engines.client_call import Call, call_clients
from fedsim.messages.arrays import count_bytes, to_record, to_tensors
from fedsim.messages.groups import ADD_UP, GROUP_SIZE, group_of, is_added_up, openings, weight_of
from fedsim.messages.schema import ARRAYS, CONFIG, METRICS, NUM_EXAMPLES, ROUND, arrays_of

CLIENTS = 2 * GROUP_SIZE + 3


def tensors(client: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(client)
    return {"w": torch.randn(7, 5, generator=generator), "n": torch.tensor(client % 5)}


def replies(weighting: str, pieces: Sequence[int] = (), failing: Sequence[int] = ()) -> list[Message]:
    """The replies of a cohort of which workers are sent such pieces; client k has 10 k + 3 images.

    Without pieces they are not added up.
    """

    def app(message: Message, context: Context) -> Message:
        client = message.metadata.dst_node_id
        if client in failing:
            raise RuntimeError("no more memory")
        content = RecordDict({METRICS: MetricRecord({NUM_EXAMPLES: 10 * client + 3, "loss": 0.1 * client})})
        content[ARRAYS], content[CONFIG] = to_record(tensors(client)), ConfigRecord({ROUND: 1})
        return Message(content, reply_to=message)

    content = RecordDict({CONFIG: ConfigRecord({ADD_UP: weighting} if pieces else {})})
    messages = [Message(content, client, "train", group_id=group_of(client)) for client in range(CLIENTS)]
    contexts = [Context(1, client, {}, RecordDict(), {}) for client in range(CLIENTS)]
    calls, made = [Call(*each) for each in zip(messages, contexts, openings(messages), strict=True)], []
    for size in pieces or (CLIENTS,):
        made += call_clients(app, content, calls[len(made) : len(made) + size])  # type: ignore[arg-type]
    return [reply for reply, _ in made]


def averaged(given: Sequence[Message], weighting: str) -> dict[str, torch.Tensor]:
    average = RunningAverage()
    for reply in given:
        if reply.has_error():
            continue
        average.enter(reply.metadata.group_id)
        received, weight = to_tensors(arrays_of(reply)), weight_of(reply, weighting)
        if is_added_up(reply):
            average.add_summed(received, weight, tensors(0))
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
    expected = averaged(replies(weighting, failing=failing), weighting)
    found = averaged(replies(weighting, pieces, failing), weighting)
    kept = [client for client in range(CLIENTS) if client not in failing]
    weights = [1 if weighting == "uniform" else 10 * client + 3 for client in kept]
    mean = np.average([tensors(client)["w"].double().numpy() for client in kept], axis=0, weights=weights)
    assert torch.equal(found["w"], expected["w"])
    assert torch.equal(found["w"], torch.from_numpy(mean).float())
    assert found["n"].item() == max(client % 5 for client in kept)


def test_the_last_reply_of_a_sum_has_it_and_the_others_have_no_arrays() -> None:
    size = count_bytes(to_record(tensors(0)))
    sums = 7 * 5 * 8 + 8  # float64, and a counter of int64
    given = replies("uniform", (CLIENTS,), failing=(1, 9, 10))
    sizes = [None if reply.has_error() else count_bytes(arrays_of(reply)) for reply in given]
    assert sizes == [0, None, 0, sums, 0, 0, 0, sums, sums, None, None]
    sizes = [count_bytes(arrays_of(reply)) for reply in replies("uniform", (5, 2, 3, 1))]
    assert sizes == [0, 0, 0, sums, size, size, size, size, 0, sums, size]  # 4 opens a group, and is alone


def test_a_group_that_has_begun_elsewhere_is_not_added_up() -> None:
    given = replies("uniform", (1, CLIENTS - 1))
    assert [is_added_up(reply) for reply in given] == [False] * GROUP_SIZE + [True] * (CLIENTS - GROUP_SIZE)
