"""``model.pretrained=FILE``: weights of another training as the initial ones, of the server and of every client.

A file is safetensors, such as the ``model.safetensors`` of a run, or torch's, which is read without executing code.
"""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load as load_safetensors
from torch import nn

from fedsim.core.errors import UserError
from fedsim.core.files import reading, refuse_pipes
from fedsim.core.inflating import check_archive
from fedsim.models.classifier import known_ends

OPTION = "pretrained"
NOTE = "_initialized_by"
"""The attribute of a model that says where its initial weights are from."""
ARCHIVE = b"PK"
STARTS = (ARCHIVE, b"\x80")
"""The first bytes of torch's files, of now and of versions before 1.6."""
WRAPPERS = ("state_dict", "model")
"""Entries under which the checkpoints of timm and others have the weights."""
PREFIX = "module."
"""What ``nn.DataParallel`` puts in front of every name."""


@dataclass(frozen=True)
class Pretrained:
    """The weights of a file, by name."""

    key: str
    """The setting that names the file."""
    path: str
    tensors: Mapping[str, torch.Tensor]

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Pretrained | None":
        """Read the file that the ``model`` group names; return ``None`` if it names none.

        Raises:
            UserError: As ``read``, or if it is no path.
        """
        path = options.get(OPTION)
        if path is not None and not isinstance(path, str):
            raise UserError(f"model.{OPTION}={path} is not possible: choose a text or null.")
        return None if path is None else cls.read(f"model.{OPTION}", path)

    @classmethod
    def read(cls, key: str, path: str) -> Self:
        """Read a file; ``key`` is the setting that names it.

        Raises:
            UserError: If it cannot be read, or holds anything but tensors by name.
        """
        named = f"{key}={path}"
        # Of a damaged file torch raises almost anything.
        with reading(named, "choose a run's model.safetensors, or a torch file of weights", Exception):
            refuse_pipes(Path(path))
            with Path(path).open("rb") as file:
                start = file.read(2)
                if start == ARCHIVE:
                    check_archive(file)
            try:
                if start.startswith(STARTS):
                    content = torch.load(path, map_location="cpu", weights_only=True)
                else:
                    content = load_safetensors(Path(path).read_bytes())
            except pickle.UnpicklingError as error:  # its own words advise to execute the code
                raise UserError(
                    f"{named} is damaged, or holds more than tensors, which only executing its code could read: choose "
                    "a file of tensors alone, such as a run's model.safetensors."
                ) from error
        return cls(key, path, _weights(named, content))

    def difference(self, model: nn.Module) -> str | None:
        """Return how the file differs from the state of ``model``, beside its classifier; ``None`` if it does not.

        A classifier may be missing in the file, or be one for another number of classes. Counters may be missing, which
        files of old versions of torch do not have.
        """
        state, spared = model.state_dict(), self._spared(model)
        for name in self.tensors:
            if name not in state:
                return f"it has {name}, which this network has not"
        for name, own in state.items():
            theirs = self.tensors.get(name)
            if name in spared or (theirs is None and not own.is_floating_point()):
                continue
            if theirs is None:
                return f"it has no {name}"
            if theirs.shape != own.shape:
                return f"its {name} has the shape {tuple(theirs.shape)}, and this network's {tuple(own.shape)}"
        return None

    def is_whole(self, model: nn.Module) -> bool:
        """Return whether the file holds all of the state of ``model``, with its classifier, and nothing else."""
        return self.difference(model) is None and not self._spared(model)

    def check_same(self, model: nn.Module, changes: str) -> None:
        """Refuse the file if it fits ``model``, into which it was loaded as written, and holds other numbers.

        It may then be of the changed network, and nothing tells which of the two it is.

        Args:
            model: The network after the groups that change it.
            changes: These groups, for the error message.

        Raises:
            UserError: If a number differs.
        """
        if self.difference(model) is not None:
            return
        state, spared = model.state_dict(), self._spared(model)
        for name in self.tensors.keys() - spared:
            if not torch.equal(state[name], self.tensors[name].to(state[name].dtype)):
                raise UserError(
                    f"{self.key}={self.path} has the same names before and after {changes}, by which numbers become "
                    "others, so that it may be of either network: choose groups that leave the network as it is, or "
                    "that add names to it, such as reparam.learnable=true."
                )

    def load(self, model: nn.Module) -> None:
        """Copy the weights into ``model``, in place, and store on it where they are from and what was left.

        Raises:
            UserError: If the file holds another network.
        """
        difference = self.difference(model)
        if difference is not None:
            raise UserError(
                f"{self.key}={self.path} holds another network than this run's ({difference}): choose the same model."
            )
        spared = self._spared(model)
        fitting = {name: tensor for name, tensor in self.tensors.items() if name not in spared}
        model.load_state_dict({**model.state_dict(), **fitting})
        layers = sorted({name.rpartition(".")[0] for name in spared})
        left = f" but for its classifier {', '.join(layers)}" if layers else ""
        setattr(model, NOTE, f"from {Path(self.path).name}{left}")

    def _spared(self, model: nn.Module) -> set[str]:
        """Return the entries of layers that produce the logits which are missing in the file, or of other shapes there.

        They keep their initial values, and so do the others of such a layer.
        """
        ends, state = known_ends(model), model.state_dict()
        spared: set[str] = set()
        for layer in () if ends is None else ends.last:
            entries = [name for name in state if name.startswith(f"{layer}.")]
            if any(name not in self.tensors or self.tensors[name].shape != state[name].shape for name in entries):
                spared.update(entries)
        return spared


def origin_of(model: nn.Module) -> str | None:
    """Return where the initial weights of the model are from, in words; ``None`` if they are random."""
    origin: str | None = getattr(model, NOTE, None)
    return origin


def network_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the ``model`` group for the network's function."""
    return {key: value for key, value in options.items() if key != OPTION}


def _weights(named: str, content: Any) -> Mapping[str, torch.Tensor]:
    """Return the tensors by name, without what checkpoints have around them.

    Raises:
        UserError: If there are none.
    """
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in content.items())
    ):
        raise UserError(f"{named} holds no weights by name: choose a run's model.safetensors, or a torch state_dict.")
    if all(name.startswith(PREFIX) for name in content):
        return {name.removeprefix(PREFIX): tensor for name, tensor in content.items()}
    return content
