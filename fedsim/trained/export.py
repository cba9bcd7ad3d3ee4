"""A trained model as one file that other programs run: ONNX, or torch's own exported program."""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fedsim.core.errors import UserError
from fedsim.core.files import make_folder, write_atomically, writing
from fedsim.trained.predictor import Predictor

ONNX, PT2 = ".onnx", ".pt2"
NEEDED = ("onnx", "onnxscript")
"""Packages of the extra ``export`` without which no ONNX file is made."""
METADATA = "fedsim.json"
"""The entry of the metadata, in both kinds of file."""


def export(model: Predictor, path: Path, image_shape: tuple[int, ...], metadata: Mapping[str, Any]) -> None:
    """Write the model; its input is ``images``, a batch of any size of normalized images, and its output ``logits``.

    Args:
        model: The model with its predictor.
        path: The file, which ends in ``.onnx`` or ``.pt2``.
        image_shape: Channels, height and width.
        metadata: What the file says of itself, as JSON.

    Raises:
        UserError: If the file has another ending, a package is missing, or torch cannot trace the model.
        FileError: If the file cannot be written.
    """
    if path.suffix not in (ONNX, PT2):
        raise UserError(f"export={path} is not possible: choose a file that ends in {ONNX} or {PT2}.")
    if path.suffix == ONNX:
        for name in NEEDED:
            try:
                importlib.import_module(name)
            except ImportError as error:
                raise UserError(
                    f"export={path} needs {name} ({error}): install it with pip install -e '.[export]'."
                ) from error
    program = _traced(model, image_shape)
    text = json.dumps(dict(metadata))
    make_folder(path.parent)
    with writing(path):
        if path.suffix == PT2:
            write_atomically(path, lambda temporary: _save_program(program, temporary, text))
        else:
            write_atomically(path, lambda temporary: _save_onnx(program, temporary, text))


def _traced(model: Predictor, image_shape: tuple[int, ...]) -> torch.export.ExportedProgram:
    example = torch.zeros(2, *image_shape)
    batch = {0: torch.export.Dim("batch", min=1)}
    try:
        with torch.no_grad():
            return torch.export.export(model, (example,), dynamic_shapes=(batch,), strict=False)
    except Exception as error:  # torch raises many kinds for what it cannot trace
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"this model cannot be exported ({type(error).__name__}: {reason}): choose another one."
        ) from error


def _save_program(program: torch.export.ExportedProgram, path: Path, text: str) -> None:
    with path.open("wb") as file:  # by name, torch would insist on its own ending
        torch.export.save(program, file, extra_files={METADATA: text})


def _save_onnx(program: torch.export.ExportedProgram, path: Path, text: str) -> None:
    batch = {0: "batch"}
    made = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=(batch,),
    )
    assert made is not None
    made.model.metadata_props[METADATA] = text
    made.save(path)
