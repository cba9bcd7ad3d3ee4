"""Real devices, from keys to the first connection: ``python -m fedsim.devices init DIR --host HOST --device NAME``.

All commands are for the operator, on the server, except ``check``, which runs on a device.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from fedsim.config.paths import expanded
from fedsim.core.errors import FedsimError, FileError, UserError
from fedsim.deployment.devices.authority import CA_DAYS, PORT, REGISTERED, SERVER_DAYS, Authority, Device
from fedsim.deployment.devices.certificates import hosts_of
from fedsim.deployment.devices.checks import listening_address
from fedsim.deployment.devices.scripts import (
    DEVICE_ENV,
    SERVER_ENV,
    START,
    SUPERLINK_UNIT,
    SUPERNODE_UNIT,
    DevicePlan,
    address_of,
    read_env,
    shell_path,
    superlink_command,
    supernode_command,
)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        options.folder = Path(expanded("the folder", options.folder))
        return _check(options.folder, options.words) if options.command == "check" else _operate(options)
    except (FileError, OSError) as error:
        reason = error if isinstance(error, FileError) else f"{error.strerror}: {error.filename}"
        print(f"error: {options.folder} cannot be used ({reason}): name a folder you may write to.", file=sys.stderr)
        return UserError.exit_status
    except FedsimError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status


def _operate(options: argparse.Namespace) -> int:
    """Run a command of the operator, on the server, and return the exit status."""
    if options.command == "init":
        authority = Authority.create(
            options.folder,
            hosts=options.host,
            devices=options.device,
            ca_days=options.ca_days,
            server_days=options.server_days,
            port=options.port,
            plan=_plan(options),
        )
        print(_next_commands(authority, options.keys_dir))
        return 0
    authority = Authority.open(options.folder)
    if options.command == "add":
        print(_joining(authority.add(options.name, _plan(options)), options.keys_dir))
    elif options.command == "list":
        print(_listing(authority))
    elif options.command == "remove":
        print(_leaving(authority.remove(options.name), authority))
    else:
        authority.renew(options.host, options.server_days)
        print(f"{authority.folder / 'server.pem'} is new: {_server(authority)}. Start the SuperLink again with it.")
        if options.host:
            print(_moving(authority, options.host))
    return 0


def _check(folder: Path, words: Sequence[str]) -> int:
    """Check a device before it joins: print what is in order, and each problem as an error with its remedy."""
    from fedsim.deployment.devices.readiness import findings

    status = 0
    for finding in findings(folder, words):
        if finding.good:
            print(finding.text, flush=True)
        else:
            print(f"error: {finding.text}", file=sys.stderr, flush=True)
            status = UserError.exit_status
    return status


def _plan(options: argparse.Namespace) -> DevicePlan:
    return DevicePlan(
        options.data_dir, options.state_dir, options.keys_dir, options.venv, getattr(options, "domain", None)
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fedsim.devices",
        description="Real devices, from keys to the first connection; see docs/devices.md.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, what: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=what, description=what)
        added.add_argument("folder", type=Path, metavar="DIR", help="the folder of `init`, or for `check` the device's")
        return added

    def server_days(added: argparse.ArgumentParser) -> None:
        text = f"days the server's certificate is valid (default: {SERVER_DAYS})"
        added.add_argument("--server-days", type=int, default=SERVER_DAYS, metavar="DAYS", help=text)

    def device_options(added: argparse.ArgumentParser) -> None:
        usual = DevicePlan()
        for option, default, what in (
            ("--data-dir", usual.data_dir, "where its images are on the device"),
            ("--state-dir", usual.state_dir, "where it keeps what is personal"),
            ("--keys-dir", usual.keys_dir, "where its folder is copied to"),
            ("--venv", usual.venv, "the virtual environment there that fedsim is installed in"),
        ):
            text = f"{what}; '~/...' in quotes is its own home (default: {default or 'none'})"
            added.add_argument(option, default=default, metavar="PATH", help=text)

    init = command("init", "A new folder: a certificate authority, the server's certificate, and keys of devices.")
    hosts = "a DNS name or an IP address at which devices reach the server; may be repeated"
    init.add_argument("--host", action="append", required=True, help=hosts)
    init.add_argument("--port", type=int, default=PORT, help=f"the server's port (default: {PORT})")
    init.add_argument("--device", action="append", default=[], metavar="NAME", help="a device; may be repeated")
    device_options(init)
    text = f"days the certificate authority is valid (default: {CA_DAYS})"
    init.add_argument("--ca-days", type=int, default=CA_DAYS, metavar="DAYS", help=text)
    server_days(init)
    add = command("add", "Keys of one more device, and how it is started.")
    add.add_argument("name", metavar="NAME")
    add.add_argument("--domain", metavar="TEXT", help="what its images are called in the tables (default: NAME)")
    device_options(add)
    check = command("check", "On a device, before it joins: its keys, images, versions and folders, and the server.")
    words = "settings of the runs to come, as dataset.classes=[cat,dog]; without them the classes are those found"
    check.add_argument("words", nargs="*", metavar="KEY=VALUE", help=words)
    command("list", "The server's certificate and the devices.")
    command("remove", "Deletes the keys of a device here.").add_argument("name", metavar="NAME")
    renew = command("renew", "A new certificate for the server's key.")
    renew.add_argument("--host", action="append", default=[], help=f"{hosts} (default: those of the old one)")
    server_days(renew)
    return parser


def _next_commands(authority: Authority, keys: str) -> str:
    folder = authority.folder
    said = read_env(folder / SERVER_ENV)
    command = superlink_command(said["HOST"], said["PORT"], lambda name: _quoted(folder / name))
    return "\n".join(
        [
            f"{folder} is made; {folder / 'ca.key'} stays with you. Next, on the server, with the other files:",
            f"  sh {_quoted(folder / START)}",
            "or, so that it is started again after a restart of the machine,",
            _for_good(str((folder / SUPERLINK_UNIT).absolute())),
            "Either does",
            f"  {command}",
            "here, in ~/.flwr/config.toml:",
            "  [superlink.lab]",
            f'  address = "{authority.superlink}"',
            f"  root-certificates = {json.dumps(str((folder / 'ca.crt').absolute()))}",
            *(_joining(device, keys) for device in authority.devices),
            *([] if authority.devices else ["and for each device `add`, which says how it is let in and started."]),
        ]
    )


def _joining(device: Device, keys: str) -> str:
    """Return the commands that let a device join: those to type here, and those on the device."""
    public, answer = _quoted(device.folder / "key.pub"), _quoted(device.folder / REGISTERED)
    said = {key: shlex.quote(value) for key, value in read_env(device.folder / DEVICE_ENV).items()}
    command = supernode_command(said["SUPERLINK"], said["NODE_CONFIG"], lambda name: shell_path(f"{keys}/{name}"))
    return "\n".join(
        [
            f"{device.name}: copy {device.folder} onto it as {keys}, let it in from here:",
            f"  flwr supernode register {public} lab --format json | tee {answer}",
            f"and on it, where {DEVICE_ENV} has the paths:",
            f"  python -m fedsim.devices check {shell_path(keys)}",
            f"  sh {shell_path(f'{keys}/{START}')}",
            "or, so that it is started again after a restart of the machine,",
            _for_good(f"{keys}/{SUPERNODE_UNIT}"),
            "Either does",
            f"  {command}",
        ]
    )


def _for_good(unit: str) -> str:
    return f"  systemctl --user enable --now {shell_path(unit)} && loginctl enable-linger"


def _leaving(device: Device, authority: Authority) -> str:
    where = "NODE_ID stands in `flwr supernode list lab`, and in the device's log after `SuperNode ID:`."
    lines = [
        f"The keys of {device.name} are deleted here. The device has its own copy and stays admitted until",
        f"  flwr supernode unregister {device.node_id or 'NODE_ID'} lab",
    ]
    if not device.node_id:
        lines.append(where)
    later = [each.name for each in authority.devices if each.follows(device)]
    if later:
        lines.append(
            f"Client {device.partition} is nobody's now: `add` a device, which will play it, or write "
            f"partition-id={device.partition} in {DEVICE_ENV} on {later[-1]}."
        )
    return "\n".join(lines)


def _moving(authority: Authority, hosts: Sequence[str]) -> str:
    """Return what has to be written where the old hosts stand, in files that may have been edited since."""
    port = authority.superlink.rpartition(":")[2]
    address = f"  SUPERLINK={shlex.quote(address_of(hosts[0], int(port) if port.isdecimal() else PORT))}"
    devices = ", ".join(device.name for device in authority.devices)
    lines = [
        f"For its hosts write in {authority.folder / SERVER_ENV}, before any device is added:",
        f"  HOST={listening_address(hosts)}",
        address,
    ]
    if devices:
        lines += [f"and in {DEVICE_ENV} on {devices}, and in their folders here:", address]
    return "\n".join(lines)


def _listing(authority: Authority) -> str:
    lines = [f"authority: valid until {authority.root.not_valid_after_utc:%Y-%m-%d}", f"server: {_server(authority)}"]
    for device in authority.devices:
        known = f"registered as {device.node_id}" if device.node_id else f"no {REGISTERED}"
        lines.append(f"device {device.name}: {known}")
    return "\n".join(lines)


def _server(authority: Authority) -> str:
    certificate = authority.server
    hosts = ", ".join(map(str, hosts_of(certificate)))
    return f"{hosts}, valid until {certificate.not_valid_after_utc:%Y-%m-%d}"


def _quoted(path: Path) -> str:
    """Return the path quoted for a shell."""
    return shlex.quote(str(path))
