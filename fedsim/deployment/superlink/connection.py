"""The address of a SuperLink, and the certificate by which it is recognized."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from fedsim.core.errors import UserError

NAME = "superlink"


@dataclass(frozen=True)
class SuperLink:
    """The options of ``engine=superlink``.

    Raises:
        UserError: If the address is not HOST:PORT, the certificate does not exist, or not exactly one of a certificate
            and ``insecure`` is set.
    """

    address: str | None
    root_certificates: str | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        if self.address is None or not re.fullmatch(r"[^\s:/]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", self.address):
            raise UserError(f"engine.address={self.address} is not possible: choose the SuperLink's HOST:PORT.")
        if self.insecure and self.root_certificates is not None:
            raise UserError("engine.insecure=true leaves no use for engine.root_certificates: leave one of them out.")
        if not self.insecure and self.root_certificates is None:
            raise UserError(
                "engine.root_certificates=None is not possible: choose the file ca.crt of the SuperLink, or "
                "engine.insecure=true for plain HTTP."
            )
        if self.root_certificates is not None and not Path(self.root_certificates).is_file():
            raise UserError(f"engine.root_certificates={self.root_certificates} is not there: choose the file ca.crt.")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        return cls(**{key: value for key, value in options.items() if key not in ("name", "_target_")})

    @classmethod
    def check(cls, devices: Sequence[torch.device], options: Mapping[str, Any]) -> None:
        """Check the options, as every engine does; ``devices`` is not used.

        Raises:
            UserError: If an option is not possible.
        """
        cls.of(options)

    @classmethod
    def check_training(cls, *_: object) -> None:
        """Do nothing: a SuperNode trains whatever its own ClientApp can."""

    def toml(self) -> str:
        """Return the connection in the form of Flower's ``config.toml``."""
        if self.root_certificates is None:
            security = "insecure = true"
        else:
            path = str(Path(self.root_certificates).resolve())
            security = f"root-certificates = {json.dumps(path, ensure_ascii=False)}"
        return f'[superlink.{NAME}]\naddress = "{self.address}"\n{security}\n'
