"""The folder of a federation's operator: a certificate authority, the server's certificate, and a key pair per device.

::

    ca.crt  ca.key                   the authority; its key stays with the operator
    server.pem  server.key           the SuperLink's certificate and key
    server.env  start.sh  fedsim-superlink.service      start the SuperLink, see ``scripts``
    devices/NAME/  key key.pub ca.crt   all that has to be copied onto a device,
        device.env start.sh fedsim-supernode.service    including what starts it

Private keys are readable by their owner only. A folder is made completely or not at all.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cryptography import x509

from fedsim.core.errors import UserError
from fedsim.core.files import reading, refuse_pipes, write_atomically
from fedsim.deployment.devices.certificates import (
    certificate_bytes,
    device_key_bytes,
    hosts_of,
    key_bytes,
    load_key,
    load_root,
    load_server,
    new_key,
    root_certificate,
    server_certificate,
)
from fedsim.deployment.devices.checks import ALWAYS, check_days, check_name, check_port, listening_address, parse_hosts
from fedsim.deployment.devices.scripts import (
    SERVER_ENV,
    START,
    DevicePlan,
    address_of,
    device_files,
    partition_of,
    read_env,
    server_files,
)

T = TypeVar("T")

CA_DAYS = 3650
SERVER_DAYS = 730
PORT = 8000
"""Flower's own default, for all services of a SuperLink."""
REGISTERED = "node.json"
"""The answer of ``flwr supernode register --format json``, if it was saved beside a device's keys."""


@dataclass(frozen=True)
class Device:
    """A device; ``node_id`` is Flower's id of it, if the answer of its registration was saved."""

    name: str
    folder: Path
    node_id: str | None = None
    partition: int | None = None
    """The client that it hosts, if its folder here says so"""

    def follows(self, other: "Device") -> bool:
        """Return whether its client has a higher number than that of ``other``."""
        return self.partition is not None and other.partition is not None and self.partition > other.partition


@dataclass(frozen=True)
class Authority:
    """An operator's folder that ``create`` has made."""

    folder: Path

    @classmethod
    def create(
        cls,
        folder: Path,
        hosts: Sequence[str],
        devices: Sequence[str] = (),
        ca_days: int = CA_DAYS,
        server_days: int = SERVER_DAYS,
        port: int = PORT,
        plan: DevicePlan = DevicePlan(),  # noqa: B008 - it is frozen
    ) -> "Authority":
        """Make ``folder``, which must not exist or be empty; devices reach the server at the first of ``hosts``.

        Raises:
            UserError: If the folder is not empty, or a name, host, port or period is not allowed.
        """
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise UserError(f"{folder} exists already: name a new folder, or add devices to it with `add`.")
        names = parse_hosts(hosts)
        for number, name in enumerate(devices):
            check_name(name)
            if name in devices[:number]:
                raise UserError(f"--device {name} is given twice: every device needs a name of its own.")
        check_port(port)
        check_days("--ca-days", ca_days)
        root_key, server_key = new_key(), new_key()
        root = root_certificate(root_key, ca_days)
        check_days("--server-days", server_days, root)
        with _new_folder(folder) as new:
            _write_secret(new / "ca.key", key_bytes(root_key))
            _write(new / "ca.crt", certificate_bytes(root))
            _write_secret(new / "server.key", key_bytes(server_key))
            certificate = server_certificate(server_key, names, server_days, root, root_key)
            _write(new / "server.pem", certificate_bytes(certificate))
            _write_texts(new, server_files(folder, listening_address(hosts), hosts[0], port))
            (new / "devices").mkdir(mode=0o700)
            for name in devices:
                cls(new).add(name, plan)
        return cls(folder)

    @classmethod
    def open(cls, folder: Path) -> "Authority":
        for file in ("ca.crt", "server.pem", "devices"):
            if not (folder / file).exists():
                raise UserError(f"{folder} has no {file}: name a folder that `python -m fedsim.devices init` has made.")
        return cls(folder)

    @property
    def root(self) -> x509.Certificate:
        return self._load("ca.crt", load_root)

    @property
    def server(self) -> x509.Certificate:
        return self._load("server.pem", load_server)

    def _load(self, file: str, load: Callable[[bytes], T]) -> T:
        """Read a file with ``load``.

        Raises:
            UserError: If the file is not one that ``create`` has written.
        """
        path = self.folder / file
        with reading(path, "put back the file that `init` has made"):
            content = path.read_bytes()
        try:
            return load(content)
        except ValueError as error:
            raise UserError(f"{path} is damaged or from elsewhere: put back the file that `init` has made.") from error

    @property
    def superlink(self) -> str:
        """HOST:PORT by which devices reach the server.

        Raises:
            UserError: If the file that should have it does not.
        """
        path = self.folder / SERVER_ENV
        if not os.path.lexists(path):  # made by an older version
            hosts = [host for host in hosts_of(self.server) if host not in ALWAYS]
            return address_of(str(hosts[-1] if hosts else ALWAYS[1]), PORT)
        with reading(path, "put back the file that `init` has made"):
            said = read_env(path).get("SUPERLINK")
        if not said:
            raise UserError(f"{path} has no SUPERLINK: write SUPERLINK='HOST:PORT', by which devices reach the server.")
        return said

    @property
    def devices(self) -> list[Device]:
        folders = sorted(path.parent for path in (self.folder / "devices").glob("*/key.pub"))
        return [Device(folder.name, folder, _node_id(folder / REGISTERED), partition_of(folder)) for folder in folders]

    def add(self, name: str, plan: DevicePlan = DevicePlan()) -> Device:  # noqa: B008 - it is frozen
        """Make the folder of one more device: a key pair, the certificate of the authority, and start files.

        The device hosts the first client that none of the others hosts.

        Raises:
            UserError: If the name is not allowed, or has a folder already.
        """
        check_name(name)
        folder = self.folder / "devices" / name
        if folder.exists():
            raise UserError(f"{folder} exists already: choose another name, or `remove` the device first.")
        taken = {device.partition for device in self.devices}
        partition = next(number for number in range(len(taken) + 1) if number not in taken)
        texts = device_files(name, self.superlink, partition, plan)
        private, public = device_key_bytes(new_key())
        with _new_folder(folder) as new:
            _write_secret(new / "key", private)
            _write(new / "key.pub", public)
            _write(new / "ca.crt", (self.folder / "ca.crt").read_bytes())
            _write_texts(new, texts)
        return Device(name, folder, partition=partition)

    def remove(self, name: str) -> Device:
        """Delete the folder of a device and return the device; the SuperLink is not informed.

        Raises:
            UserError: If there is no such device.
        """
        found = {device.name: device for device in self.devices}
        if name not in found:
            raise UserError(f"{name} is no device of {self.folder}: there are {', '.join(found) or 'none'}.")
        shutil.rmtree(found[name].folder)
        return found[name]

    def renew(self, hosts: Sequence[str] = (), server_days: int = SERVER_DAYS) -> None:
        """Make a new server certificate for the same key, for ``hosts`` or those of the old one.

        The key stays the same: whoever has it can pose as the server until the old certificate expires, whatever the
        new one says.

        Raises:
            UserError: If a file of ``init`` is missing or damaged, or a host or the period is not allowed.
        """
        for file in ("ca.key", "server.key"):
            if not (self.folder / file).exists():
                raise UserError(f"{self.folder} has no {file}: renew in the folder with all the files of `init`.")
        check_days("--server-days", server_days, self.root)
        root_key, key = (self._load(file, load_key) for file in ("ca.key", "server.key"))
        if root_key.public_key() != self.root.public_key():
            raise UserError(
                f"{self.folder / 'ca.key'} is not the key of ca.crt: put back the file that `init` has made."
            )
        names = parse_hosts(hosts) if hosts else hosts_of(self.server)
        certificate = certificate_bytes(server_certificate(key, names, server_days, self.root, root_key))
        write_atomically(self.folder / "server.pem", lambda path: path.write_bytes(certificate))


def _node_id(file: Path) -> str | None:
    try:
        refuse_pipes(file)
        answer = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # not registered yet, or its answer was saved elsewhere
    return str(answer["node-id"]) if isinstance(answer, dict) and "node-id" in answer else None


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder for its owner only, and rename it to ``folder`` once it is filled; after an error, delete it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield new
        new.replace(folder)
    except BaseException:
        shutil.rmtree(new)
        raise


def _write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file that must not exist yet."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)


def _write_secret(path: Path, data: bytes) -> None:
    _write(path, data, mode=0o600)


def _write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Write files that all who may enter the folder can read; the start script is executable."""
    for name, text in texts.items():
        _write(folder / name, text.encode(), mode=0o755 if name == START else 0o644)
