"""What a reply must be before it may reach the average: of this round, of the right form, finite, and not absurd."""

import torch
from flwr.app import ArrayRecord, Message

from fedsim.arrays import to_tensors
from fedsim.messages import METRICS, NUM_EXAMPLES, ROUND, arrays_of, config_of, metrics_of


def fault_of(reply: Message, sent: ArrayRecord, round: int, update_limit: float | None) -> str | None:
    """What is wrong with a training reply, in words; ``None`` for one that may be averaged.

    Its arrays must have the names, shapes and types of those that were ``sent`` and be finite, like everything else in
    it. No number may have moved by more than ``update_limit`` times the largest of the arrays that were sent (or times
    one, if all are smaller).
    """
    told = config_of(reply).get(ROUND)
    if told != round:
        return f"it answered for round {told!s} in round {round}"
    if METRICS not in reply.content.metric_records:
        return "it sent no metrics"
    examples = metrics_of(reply).get(NUM_EXAMPLES)
    if not isinstance(examples, int | float) or not 0 < examples < float("inf"):
        return f"it says that it has {examples} images"
    before, after = to_tensors(sent), to_tensors(arrays_of(reply))
    if before.keys() != after.keys():
        return f"it sent other entries than it was sent ({', '.join(sorted(before.keys() ^ after.keys())[:3])})"
    for name, tensor in after.items():
        if tensor.shape != before[name].shape or tensor.dtype != before[name].dtype:
            found, wanted = (f"{t.dtype} {tuple(t.shape)}".removeprefix("torch.") for t in (tensor, before[name]))
            return f"it sent {name} as {found}, which is {wanted}"
    for record in reply.content.array_records.values():
        for name, tensor in to_tensors(record).items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                return f"it sent numbers in {name} that are not finite"
    for metric, value in metrics_of(reply).items():
        if not all(abs(float(each)) < float("inf") for each in (value if isinstance(value, list) else [value])):
            return f"its {metric} is not finite"
    return None if update_limit is None else _too_large(before, after, update_limit)


def _too_large(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], update_limit: float) -> str | None:
    floating = [name for name, tensor in before.items() if tensor.is_floating_point() and tensor.numel()]
    largest = max([1.0, *(float(before[name].abs().max()) for name in floating)])
    for name in floating:
        moved = float((after[name] - before[name].to(after[name].device)).abs().max())
        if moved > update_limit * largest:
            return (
                f"it moved a number in {name} by {moved:.3g}, more than update_limit={update_limit:g} times "
                f"{largest:.3g}, the largest it was sent"
            )
    return None
