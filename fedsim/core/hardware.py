"""``device=``: where clients compute."""

import torch

from fedsim.core.errors import UserError


def resolve_devices(device: str) -> list[torch.device]:
    """Return the devices that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` stands for: one, or every GPU of the machine.

    Raises:
        UserError: If the text is another one, or the GPU does not exist.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cpu" or (device == "auto" and not gpus):
        return [torch.device("cpu")]
    if device in ("auto", "cuda") and gpus:
        return [torch.device("cuda", index) for index in range(gpus)]
    kind, _, index = device.partition(":")
    if kind == "cuda" and index.isdecimal() and int(index) < gpus:
        return [torch.device("cuda", int(index))]
    found = f"cuda, cuda:0 to cuda:{gpus - 1}" if gpus else "this machine has no GPU that torch can use"
    raise UserError(f"device={device} is not possible: choose auto or cpu ({found}).")
