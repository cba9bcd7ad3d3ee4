"""``python -m fedsim.devices check``: finds what would prevent a device from taking part, before it joins."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from fedsim.core.errors import UserError
from fedsim.core.files import reading
from fedsim.deployment.devices.certificates import load_root
from fedsim.deployment.devices.reach import Server
from fedsim.deployment.devices.scripts import DEVICE_ENV, read_env, versions

if TYPE_CHECKING:
    from fedsim.deployment.devices.node import NodeConfig

PYTHONS = ((3, 11), (3, 13))
"""The oldest and the newest Python that the project runs on."""
PRIVATE = 0o077
"""The permissions on a key that only its owner may have."""


@dataclass(frozen=True)
class Finding:
    """The result of one check; where it is not ``good``, the sentence has the remedy."""

    good: bool
    text: str


def findings(folder: Path, words: Sequence[str]) -> Iterator[Finding]:
    """Check everything, one after the other, and yield the results.

    Args:
        folder: The device's folder with its keys.
        words: The settings of later runs, as far as they matter for the check of the images.

    Raises:
        UserError: If ``folder`` is not one that ``init`` has made for a device.
    """
    if not (folder / DEVICE_ENV).is_file():
        raise UserError(f"{folder} has no {DEVICE_ENV}: name the folder devices/NAME that was copied here.")
    try:
        said = read_env(folder / DEVICE_ENV)
    except OSError as error:
        raise UserError(f"{folder / DEVICE_ENV} cannot be read ({error.strerror}): make it readable.") from error
    yield from _tried(lambda: _key(folder / "key"))
    certificate = _tried(lambda: _root(folder / "ca.crt"))
    yield from certificate
    installed = list(_versions(said.get("SERVER_VERSIONS", "")))
    yield from installed
    yield from _tried(lambda: _program(folder, said.get("VENV", "")))
    if all(each.good for each in installed):
        yield from _of_node(said.get("NODE_CONFIG", ""), words)
    if certificate[0].good:
        yield from _tried(lambda: f"server: {Server.of(said.get('SUPERLINK', ''), folder / 'ca.crt').check()}")


def _tried(look: Callable[[], str]) -> list[Finding]:
    """Return the finding of one check, or its error as a finding."""
    try:
        return [Finding(True, look())]
    except UserError as error:
        return [Finding(False, str(error))]
    except OSError as error:
        file, reason = error.filename or "a file", error.strerror or type(error).__name__
        return [Finding(False, f"{file} cannot be used ({reason}): let who starts the SuperNode read it.")]


def _read(path: Path) -> bytes:
    with reading(path, "copy it from devices/NAME on the server, and let who starts the SuperNode own it"):
        return path.read_bytes()


def _key(path: Path) -> str:
    try:
        key = load_ssh_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UserError(f"{path} is no key of a device: copy it again from devices/NAME on the server.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"{path} is no key of a device: copy it again from devices/NAME on the server.")
    if os.name == "posix" and path.stat().st_mode & PRIVATE:
        raise UserError(f"{path} can be read or written by others: chmod 600 it.")
    return f"key: {path} is readable, by you alone"


def _root(path: Path) -> str:
    try:
        root = load_root(_read(path))
    except ValueError as error:
        raise UserError(f"{path} is no certificate: copy it again from devices/NAME on the server.") from error
    now = datetime.now(UTC)
    clock = f"this device's clock says {now:%Y-%m-%d %H:%M} UTC"
    if now < root.not_valid_before_utc:
        since = f"{root.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        raise UserError(f"{path} is valid from {since} on, and {clock}: set the clock (timedatectl).")
    if now > root.not_valid_after_utc:
        ended = f"{root.not_valid_after_utc:%Y-%m-%d}"
        raise UserError(f"{path} has ended on {ended}, and {clock}: set the clock, or `init` a new folder.")
    return f"certificate: {path} is valid until {root.not_valid_after_utc:%Y-%m-%d}"


def _versions(theirs: str) -> Iterator[Finding]:
    """Yield findings about versions: Flower's has to be that of the server; other differences are only reported."""
    servers = dict(word.split("=", 1) for word in theirs.split() if "=" in word)
    ours = versions()
    for package in ("torch", "flwr"):
        if package not in ours:
            yield Finding(False, f"{package} is not installed for {sys.executable}: pip install -e . in the checkout.")
    oldest, newest = PYTHONS
    if not oldest <= sys.version_info[:2] <= newest:
        allowed = f"{oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]}"
        yield Finding(False, f"Python {ours['python']} is not possible: make a virtual environment with {allowed}.")
    flower = servers.get("flwr")
    if flower is not None and ours.get("flwr", flower) != flower:
        yield Finding(
            False,
            f"flwr {ours['flwr']} is installed here, and the server had {flower} when it made the keys: pip install "
            f"flwr=={flower}, or copy {DEVICE_ENV} anew where the server has changed.",
        )
    text = ", ".join(f"{package} {number}" for package, number in sorted(ours.items()))
    other = [f"{each} {number}" for each, number in sorted(servers.items()) if each in ours and ours[each] != number]
    if other:
        text += f" (the server had {', '.join(other)})"
    yield Finding(True, f"versions: {text}")


def _program(folder: Path, venv: str) -> str:
    """Return a sentence about where start.sh finds flower-supernode.

    Raises:
        UserError: If it does not find it.
    """
    if venv:
        # As start.sh has it, in which ~ is the home of who starts it, and ~NAME a folder of that name.
        program = Path(os.path.expanduser(venv) if venv.startswith("~/") else venv) / "bin" / "flower-supernode"
        found = str(program) if os.access(program, os.X_OK) else None
    else:
        found = shutil.which("flower-supernode")
    if found is None:
        where = f"VENV={venv} has no flower-supernode" if venv else "flower-supernode is not on the PATH"
        raise UserError(f"{where}: write VENV='{sys.prefix}' in {folder / DEVICE_ENV}.")
    note = "" if venv else f", which is on your PATH; for systemd, VENV='{sys.prefix}' in {DEVICE_ENV}"
    return f"program: {found}{note}"


def _node_config(text: str) -> "NodeConfig":
    """Parse and check a node-config.

    Raises:
        UserError: If a SuperNode, or a run on it, would refuse it.
    """
    import click
    from flwr.common.config import parse_config_args

    from fedsim.deployment.devices.node import NodeConfig  # torch is loaded with it

    try:
        return NodeConfig.of(parse_config_args([text]))
    except click.ClickException as error:
        raise UserError(
            f"NODE_CONFIG={text!r} cannot be read: write KEY=VALUE with spaces between, and texts in quotes."
        ) from error


def _of_node(node_config: str, words: Sequence[str]) -> list[Finding]:
    """Check what the device's node-config names: its state folder and its images."""
    try:
        from fedsim.deployment.devices.own_federation import images_in_words

        node = _node_config(node_config)
    except (ImportError, OSError) as error:  # OSError: a library that torch looks for is of another machine
        reason = " ".join(str(error).split())
        return [Finding(False, f"the packages cannot be loaded ({reason}): pip install -e . in the checkout.")]
    except UserError as error:
        return [Finding(False, str(error))]
    return [
        *_tried(lambda: f"state-dir: {_state(node.state_dir)}"),
        *_tried(lambda: f"images: {images_in_words(node, words)}"),
    ]


def _state(folder: Path | None) -> str:
    """Write a file to the state folder and delete it; the folder is made if it is missing, as a run would do.

    Raises:
        UserError: If the folder cannot be written.
    """
    if folder is None:
        return "none in NODE_CONFIG, so what is personal is lost when the SuperNode ends"
    try:
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"0" * 4096)
            file.flush()
    except OSError as error:
        raise UserError(
            f"state-dir={folder} cannot be written ({error.strerror}): choose a folder that who starts the SuperNode "
            "may write to, or make room."
        ) from error
    return f"{folder} can be written"
