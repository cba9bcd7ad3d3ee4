"""Counts the FLOPs of what is computed inside, by torch's formulas."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count


def _attention_flops(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: object, **__: object) -> int:
    """Return the FLOPs of both products of an attention, of shapes (N, heads, tokens, channels)."""
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


FORMULAS = {**flop_registry, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
"""By operation; torch has none for attention as it is computed on the CPU."""


class FlopCounter(TorchDispatchMode):
    """Adds up ``total`` while it is entered.

    Autograd must be on: only then do operations arrive in the parts that have formulas. The sum is that of torch's
    ``FlopCounterMode``, which imports ``torch._dynamo`` for it: 0.7 s at the start of each run.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare torch the import, whose only use is that ``torch.compile`` leaves this class alone."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        formula = FORMULAS.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=output)
        return output
