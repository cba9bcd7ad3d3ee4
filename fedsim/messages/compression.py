"""Compression of replies: the update, trained minus sent entries, in fewer bits.

``fp16`` sends the update in float16. ``int8`` sends, for each tensor, :math:`q = round(u / s)` with
:math:`s = max|u| / 127`, where :math:`u = w - w_{sent} + e` includes the error :math:`e` of the previous round; the new
error is :math:`u - s q` (error feedback: Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019, arXiv
1901.09847). Errors are therefore only delayed and not lost: the sum of a client's updates on the server is never off by
more than one rounding.

Integer entries (BatchNorm's counters) are sent unchanged, and so are the entries in ``exact``. Running statistics must
be among them: a variance that falls from 1 to nearly 0 could become negative when the update is rounded. So must the
entries whose numbers belong to other indices than those that were sent (``MOVED_ENTRIES``), in the round where a client
replaces weights.
"""

from collections.abc import Collection, Mapping

import torch
from flwr.app import ArrayRecord, RecordDict
from torch import nn

from fedsim.messages.arrays import to_record, to_tensors

FP16, INT8 = "fp16", "int8"
FORMS = (FP16, INT8)
RESIDUAL = "simulator/residual"
"""The record of ``Context.state`` with the errors of ``int8``, by entry."""
SCALES = "/scales"
"""The entry of a reply with the scales s of all ``int8`` tensors, float32 (tensors,), in the order of their sorted
names."""
_LARGEST = 127

Tensors = Mapping[str, torch.Tensor]


def compress(
    form: str, sent: Tensors, trained: Tensors, state: RecordDict, exact: Collection[str] = ()
) -> dict[str, torch.Tensor]:
    """Return the compressed form of ``trained``: entries of the same names and shapes, for ``int8`` also ``SCALES``.

    With ``int8`` the record ``RESIDUAL`` of ``state`` is read and replaced. Non-finite numbers stay visible: with
    ``int8`` the whole tensor then decompresses to NaN and its stored error does not change; with ``fp16`` an update
    above 65,504 becomes infinity.

    Args:
        form: ``fp16`` or ``int8``.
        sent: The entries as the client received them.
        trained: The entries after training.
        state: The client state.
        exact: Names of the entries that are not compressed.

    Raises:
        ValueError: If ``sent`` and ``trained`` differ in names or shapes, or ``form`` is unknown.
    """
    _check(form)
    if {name: tensor.shape for name, tensor in sent.items()} != {name: each.shape for name, each in trained.items()}:
        raise ValueError("the entries that were sent and those that were trained differ in names or shapes")
    names = _compressed(sent, exact)
    updates = {name: _wide(trained[name]) - _wide(sent[name]).to(trained[name].device) for name in names}
    if form == FP16:
        return {name: updates[name].half() if name in updates else tensor for name, tensor in trained.items()}
    residuals = _residuals(state)
    codes, scales = {}, []
    for name, update in updates.items():
        residual = residuals.get(name)
        if residual is None or residual.shape != update.shape:  # their number may have changed
            residual = torch.zeros_like(update)
        residual = residual.to(update)
        codes[name], scale, residuals[name] = _quantized(update + residual, residual)
        scales.append(scale)
    state[RESIDUAL] = to_record({name: residuals[name] for name in names})
    stacked = torch.stack(scales) if scales else torch.zeros(0)
    return {**{name: codes.get(name, tensor) for name, tensor in trained.items()}, SCALES: stacked}


def decompress(form: str, sent: Tensors, received: Tensors, exact: Collection[str] = ()) -> dict[str, torch.Tensor]:
    """Return the trained entries, up to rounding, on the devices, in the types and in the order of ``sent``.

    Raises:
        ValueError: If an entry is missing, unknown, or of a wrong shape or type, or ``form`` is unknown.
    """
    _check(form)
    names = _compressed(sent, exact)
    expected = {name: (tensor.shape, tensor.dtype) for name, tensor in sent.items()}
    for name in names:
        expected[name] = (sent[name].shape, torch.float16 if form == FP16 else torch.int8)
    if form == INT8:
        expected[SCALES] = (torch.Size([len(names)]), torch.float32)
    if received.keys() != expected.keys():
        odd = sorted(received.keys() ^ expected.keys())
        raise ValueError(f"the entries {odd} are not both sent and in the reply, which compression={form} needs")
    for name, (shape, dtype) in expected.items():
        tensor = received[name]
        if tensor.shape != shape or tensor.dtype != dtype:
            raise ValueError(
                f"{name} came as {_described(tensor.shape, tensor.dtype)}, "
                f"with compression={form} it has to be {_described(shape, dtype)}"
            )
    trained = {name: received[name].to(tensor.device) for name, tensor in sent.items()}
    for position, name in enumerate(names):
        before = _wide(sent[name])
        update = trained[name].to(before)
        if form == INT8:
            update = update * received[SCALES][position].to(before)
        trained[name] = (before + update).to(sent[name].dtype)
    return trained


def buffers_of(model: nn.Module) -> frozenset[str]:
    """Return the names of the buffers, such as running statistics, which are not compressed."""
    return frozenset(name for name, _ in model.named_buffers())


def forget(state: RecordDict) -> None:
    """Discard the stored errors, when the numbers of an entry belong to other weights than before."""
    state.pop(RESIDUAL, None)


def _quantized(update: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return codes (int8), the scale (0-D, float32), and the new error."""
    largest = update.abs().amax() if update.numel() else update.new_zeros(())
    scale = (largest / _LARGEST).float()
    usable = scale.isfinite() & (scale > 0)
    steps = (update / torch.where(usable, scale, 1)).round().clamp(-_LARGEST, _LARGEST)
    codes = torch.where(usable, steps, 0)  # zeros times a non-finite scale are NaN
    left = torch.where(scale.isfinite(), update - codes * scale.to(update.dtype), residual)
    return codes.to(torch.int8), scale, left


def _residuals(state: RecordDict) -> dict[str, torch.Tensor]:
    record = state.get(RESIDUAL, ArrayRecord())
    assert isinstance(record, ArrayRecord)
    return to_tensors(record)


def _compressed(sent: Tensors, exact: Collection[str]) -> list[str]:
    """Return the names of the compressed entries, sorted, so as not to depend on the order of a transport."""
    return sorted(name for name, tensor in sent.items() if tensor.is_floating_point() and name not in exact)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor in float32 at least, where differences of half-precision weights are exact enough."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def _described(shape: torch.Size, dtype: torch.dtype) -> str:
    return f"{str(dtype).removeprefix('torch.')} {tuple(shape)}"


def _check(form: str) -> None:
    if form not in FORMS:
        raise ValueError(f"compression={form} is not known: choose {' or '.join(FORMS)}, or null")
