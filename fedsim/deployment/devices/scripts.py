"""The files that ``init`` writes beside the keys to start the SuperLink and each SuperNode, by hand or by systemd.

::

    server.env start.sh fedsim-superlink.service                in the operator's folder
    device.env start.sh fedsim-supernode.service                in devices/NAME

Values that may have to be changed are in the ``.env`` files, in the form of a shell; the scripts take everything else
from their own folder, wherever that is copied to.
"""

import re
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from platform import python_version

import fedsim
from fedsim.core.errors import UserError
from fedsim.core.files import refuse_pipes
from fedsim.deployment.devices.checks import DOMAIN

SERVER_ENV, DEVICE_ENV, START = "server.env", "device.env", "start.sh"
SUPERLINK_UNIT, SUPERNODE_UNIT = "fedsim-superlink.service", "fedsim-supernode.service"
VERSIONED = ("torch", "flwr")
"""Packages whose versions matter, beside Python's and fedsim's."""
FileName = Callable[[str], str]
"""Returns a file of the folder in the form of a shell."""
_PARTITION = re.compile(r"(?:^|\s)partition-id=(\d+)(?:\s|$)")


@dataclass(frozen=True)
class DevicePlan:
    """The paths on a device; ``~`` is the home of the user who starts the SuperNode there.

    Raises:
        UserError: If a path or the domain is not allowed.
    """

    data_dir: str = "~/data"
    state_dir: str = "~/state"
    keys_dir: str = "~/keys"
    venv: str = ""
    """The virtual environment in which fedsim is installed; empty where its commands are on the PATH"""
    domain: str | None = None
    """The name of the device's images in the tables; the device's name by default"""

    def __post_init__(self) -> None:
        for option in ("data_dir", "state_dir", "keys_dir", "venv"):
            path, said = getattr(self, option), f"--{option.replace('_', '-')}"
            if not path.isprintable() or ('"' in path and "'" in path) or (not path and option != "venv"):
                raise UserError(
                    f"{said} {path!r} is not allowed: it is a path on the device, without both kinds of quotes in it."
                )
            if path and not path.startswith(("/", "~/")):
                raise UserError(f"{said} {path!r} is not allowed: it is a path on the device that begins with / or ~/.")
        if self.domain is not None and not (self.domain and DOMAIN.fullmatch(self.domain)):
            raise UserError(f"--domain {self.domain!r} is not allowed: it is up to 64 letters, digits, _, . or -.")

    def node_config(self, name: str, partition: int) -> str:
        """Return the value of Flower's ``--node-config`` for device ``name``."""
        texts = {"domain": self.domain or name, "data-dir": self.data_dir, "state-dir": self.state_dir}
        return " ".join([f"partition-id={partition}", *(f"{key}={_toml(text)}" for key, text in texts.items())])


def superlink_command(host: str, port: str, file: FileName) -> str:
    """Return the shell command of the server; with ``--database`` it still knows its devices after a restart."""
    return (
        f"flower-superlink --host {host} --port {port} --ssl-certfile {file('server.pem')}"
        f" --ssl-keyfile {file('server.key')} --ssl-ca-certfile {file('ca.crt')}"
        f" --enable-supernode-auth --database {file('state.db')} --disable-runtime-dependency-installation"
    )


def supernode_command(superlink: str, node_config: str, file: FileName) -> str:
    """Return the shell command of a device."""
    return (
        f"flower-supernode --superlink {superlink} --root-certificates {file('ca.crt')}"
        f" --auth-supernode-private-key {file('key')} --node-config {node_config}"
    )


def address_of(host: str, port: int) -> str:
    """Return HOST:PORT, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def server_files(folder: Path, listening: str, host: str, port: int) -> dict[str, str]:
    """Return the texts of the server's files by name.

    Args:
        folder: The folder that will hold them.
        listening: The address that the SuperLink listens on.
        host: The host at which devices reach it.
        port: Its port.

    Raises:
        UserError: If the path of the folder has control characters.
    """
    here = str(folder.absolute())
    if not here.isprintable():
        raise UserError(f"{here!r} is not allowed: name a folder whose path has no control characters.")
    venv = sys.prefix if (Path(sys.prefix) / "bin" / "flower-superlink").exists() else ""
    values = {"HOST": listening, "PORT": str(port), "SUPERLINK": address_of(host, port), "VENV": venv}
    comments = {
        "HOST": "The address of this machine that the SuperLink listens on; 0.0.0.0: all of IPv4, :: all of IPv6",
        "PORT": "Its port",
        "SUPERLINK": "HOST:PORT by which devices reach it, for those that are added",
        "VENV": "The virtual environment that fedsim is installed in; nothing where its commands are on the PATH",
    }
    outputs = f"# Runs write to outputs/ there.\nWorkingDirectory={_percent(here)}\n"
    return {
        SERVER_ENV: _env(f"Read by {START}.", values, comments),
        START: _script("the SuperLink", SERVER_ENV, superlink_command('"$HOST"', '"$PORT"', _here)),
        SUPERLINK_UNIT: _unit("fedsim SuperLink", here, SUPERLINK_UNIT, outputs),
    }


def device_files(name: str, superlink: str, partition: int, plan: DevicePlan) -> dict[str, str]:
    """Return the texts of a device's files by name."""
    values = {
        "SUPERLINK": superlink,
        "NODE_CONFIG": plan.node_config(name, partition),
        "VENV": plan.venv,
        "SERVER_VERSIONS": " ".join(f"{package}={number}" for package, number in versions().items()),
    }
    comments = {
        "SUPERLINK": "HOST:PORT of the server",
        "NODE_CONFIG": "What this device says of itself, see docs/devices.md; ~ is the home of whoever starts it",
        "VENV": "The virtual environment that fedsim is installed in; nothing where its commands are on the PATH",
        "SERVER_VERSIONS": "What the server had when these keys were made",
    }
    return {
        DEVICE_ENV: _env(f"Read by {START} and by `python -m fedsim.devices check`.", values, comments),
        START: _script(
            f"the SuperNode of {name}", DEVICE_ENV, supernode_command('"$SUPERLINK"', '"$NODE_CONFIG"', _here)
        ),
        SUPERNODE_UNIT: _unit(f"fedsim SuperNode {name}", plan.keys_dir, SUPERNODE_UNIT),
    }


def versions() -> dict[str, str]:
    """Return the installed versions by name; torch is not loaded for it."""
    found = {"python": python_version(), "fedsim": fedsim.__version__}
    for package in VERSIONED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def read_env(path: Path) -> dict[str, str]:
    """Return the assignments of an ``.env`` file.

    Raises:
        UserError: If a line is not an assignment.
        OSError: If the file cannot be read.
    """
    try:
        refuse_pipes(path)
        words = shlex.split(path.read_text(encoding="utf-8"), comments=True)
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}): write KEY='VALUE' in each line.") from error
    for word in words:
        if not re.match(r"[A-Z_]+=", word):
            raise UserError(f"{path} cannot be read ({word!r} is no assignment): write KEY='VALUE' in each line.")
    return dict(word.split("=", 1) for word in words)


def partition_of(device: Path) -> int | None:
    """Return the ``partition-id`` in a device's folder; ``None`` if there is none."""
    try:
        found = _PARTITION.search(read_env(device / DEVICE_ENV).get("NODE_CONFIG", ""))
    except (OSError, UserError):
        return None  # made by hand or by an older version
    return int(found[1]) if found else None


def _here(name: str) -> str:
    return f'"$here/{name}"'


def _env(what_for: str, values: Mapping[str, str], comments: Mapping[str, str]) -> str:
    lines = [f"# {comments[key]}\n{key}={shlex.quote(value)}\n" for key, value in values.items()]
    return "".join([f"# {what_for}\n", *lines])


def _script(what: str, env: str, command: str) -> str:
    program, lines = command.split()[0], command.replace(" --", " \\\n    --")
    return f"""#!/bin/sh
# Starts {what}: sh {START}, which stays in the foreground. Options of {program} may follow.
# What may have to be changed stands in {env}.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
. "$here/{env}"
case ${{VENV:-}} in
"") ;;
"~/"*) PATH=$HOME/${{VENV#"~/"}}/bin:$PATH ;;
*) PATH=$VENV/bin:$PATH ;;
esac
export PATH
if ! command -v {program} >/dev/null; then
    echo "error: {program} is not found: write in $here/{env} which VENV fedsim is installed in." >&2
    exit 2
fi
exec {lines} "$@"
"""


def _unit(description: str, folder: str, unit: str, more: str = "") -> str:
    """Return a unit of the user's own systemd, which needs no root.

    Flower refuses a node that was killed for up to a minute, hence the restarts; after an exit status of 2 no restart
    would help.
    """
    start = _systemd(str(PurePosixPath(folder) / START))
    return f"""# systemctl --user enable --now {shell_path(str(PurePosixPath(folder) / unit))}
# loginctl enable-linger      so that it runs while nobody is logged in
[Unit]
Description={description}
StartLimitIntervalSec=0

[Service]
ExecStart=/bin/sh {start}
{more}Restart=on-failure
RestartSec=10
RestartPreventExitStatus=2

[Install]
WantedBy=default.target
"""


def _toml(text: str) -> str:
    """Return a text as Flower reads a value of ``--node-config``: in quotes that it does not contain, unescaped."""
    return f'"{text}"' if not set(text) & set('"\\') else f"'{text}'"


def shell_path(path: str) -> str:
    """Return the path quoted for a shell, which still replaces a leading ``~``."""
    return "~/" + shlex.quote(path[2:]) if path.startswith("~/") else shlex.quote(path)


def _percent(text: str) -> str:
    return text.replace("%", "%%")


def _systemd(path: str) -> str:
    """Return the path as a word of systemd's ``ExecStart``; ``%h`` is the home of the user."""
    home, rest = ("%h/", path.removeprefix("~/")) if path.startswith("~/") else ("", path)
    escaped = _percent(rest).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{home}{escaped}"'
