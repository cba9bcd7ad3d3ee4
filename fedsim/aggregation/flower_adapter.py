"""An adapter that passes all replies of a round to one of Flower's own strategies."""

from collections.abc import Callable, Mapping

import torch
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from fedsim.aggregation.averaging import RunningAverage, check_alike
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import ARRAYS, METRICS, NUM_EXAMPLES, TRAIN


class Collected:
    """Lets a Flower strategy combine the floating-point entries; memory grows with the number of clients.

    The strategy sees messages with one ``ArrayRecord`` of vectors and one ``MetricRecord``, whose ``num-examples`` is
    the client's weight. Its result is converted back to the shapes, types and devices of the first reply. As in
    ``RunningAverage``, counters, which are integer tensors, take the maximum (the strategy does not see them), and a
    client with weight zero is left out of all other entries.

    Args:
        server_round: The round.
        strategy_for: Returns the strategy for a number of replies.
        double: Whether the strategy computes in float64; otherwise in the type of the entries, or in float32 for
            smaller types.

    Raises:
        ValueError: If names or shapes differ from the first reply, or all weights are zero.
    """

    def __init__(self, server_round: int, strategy_for: Callable[[int], Strategy], *, double: bool = False) -> None:
        self.server_round = server_round
        self.strategy_for = strategy_for
        self.double = double
        self._first: Mapping[str, torch.Tensor] | None = None
        self._counters = RunningAverage()
        self._replies: list[Message] = []

    def add(self, tensors: Mapping[str, torch.Tensor], weight: float) -> None:
        if self._first is None:
            self._first = tensors
        check_alike(tensors, self._first)
        counters = {name: tensor for name, tensor in tensors.items() if not tensor.is_floating_point()}
        self._counters.add(counters, 1.0)
        if weight > 0:
            floats = {name: self.vector(tensors[name]) for name in self._first if name not in counters}
            self._replies.append(self.message(floats, weight))

    def message(self, floats: Mapping[str, torch.Tensor], weight: float) -> Message:
        content = RecordDict({METRICS: MetricRecord({NUM_EXAMPLES: weight})})
        if floats:
            content[ARRAYS] = to_record(floats)
        return Message(content, len(self._replies), TRAIN)

    def vector(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor flattened, in the type in which the strategy computes.

        numpy has no bfloat16, and returns immutable scalars for operations on 0-D arrays.
        """
        wide = self.double or tensor.dtype not in (torch.float32, torch.float64)
        dtype = (torch.float64 if self.double else torch.float32) if wide else tensor.dtype
        return tensor.reshape(-1).to(dtype)

    def result(self) -> dict[str, torch.Tensor]:
        if self._first is None or not self._replies:
            raise ValueError("there is nothing to aggregate: the weights add up to zero")
        result = self._counters.result()
        if len(result) < len(self._first):
            arrays, _ = self.strategy_for(len(self._replies)).aggregate_train(self.server_round, self._replies)
            assert arrays is not None
            result |= to_tensors(arrays)
        return {
            name: result[name].reshape(tensor.shape).to(tensor.device, tensor.dtype)
            for name, tensor in self._first.items()
        }
