"""The files of a run directory from which the models of a finished run are loaded."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from flwr.app import RecordDict
from safetensors.torch import save_file

from fedsim.core.files import make_folder, write_atomically
from fedsim.messages.arrays import to_tensors
from fedsim.methods.federated_model import FederatedModel
from fedsim.output.record_files import load_records, save_records

Tensors = Mapping[str, torch.Tensor]

MODEL, SHARED, EVALUATION, CLIENTS = "model.safetensors", "shared.safetensors", "evaluation.safetensors", "clients"
_OWNER = "evaluation"


def client_file(run_dir: Path, client: int) -> Path:
    """Return the file of what a client's model has of its own."""
    return run_dir / CLIENTS / f"{client}.safetensors"


def save_models(
    run_dir: Path,
    model: FederatedModel,
    own: Iterable[tuple[int, Tensors]] = (),
    records: RecordDict | None = None,
) -> None:
    """Write the models.

    Args:
        run_dir: The run directory.
        model: Its global model is ``model.safetensors``.
        own: By client the entries in which its model is another, for ``clients/ID.safetensors``.
        records: What clients predict with beside their models, for ``evaluation.safetensors``.

    Raises:
        FileError: If a file cannot be written.
    """
    _save_tensors(run_dir / MODEL, model.complete)
    for client, entries in own:
        path = client_file(run_dir, client)
        make_folder(path.parent)
        _save_tensors(path, entries)
    if records:
        save_records(run_dir / EVALUATION, {_OWNER: records}, {})


def load_evaluation(run_dir: Path) -> RecordDict:
    """Return the records of ``evaluation.safetensors``, none where there is no such file.

    For a file that is damaged, it raises what ``load_records`` does.
    """
    path = run_dir / EVALUATION
    return load_records(path)[0][_OWNER] if path.is_file() else RecordDict()


def save_shared(run_dir: Path, model: FederatedModel) -> None:
    """Write ``shared.safetensors``, for runs in which clients do not share the personal part of the model.

    Raises:
        FileError: If it cannot be written.
    """
    arrays = to_tensors(model.arrays)
    _save_tensors(run_dir / SHARED, {name: tensor for name, tensor in arrays.items() if name not in model.personal})


def _save_tensors(path: Path, tensors: Tensors) -> None:
    on_cpu = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda temporary: save_file(on_cpu, temporary))
