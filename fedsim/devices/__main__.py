"""Keys and certificates of real devices: ``python -m fedsim.devices init DIR --host HOST --device NAME``."""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from fedsim.devices.authority import CA_DAYS, REGISTERED, SERVER_DAYS, Authority, Device
from fedsim.devices.certificates import hosts_of
from fedsim.errors import FedsimError, UserError

PORT = 8000
"""Flower's own default, for everything that a SuperLink does."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        if options.command == "init":
            folder, hosts, devices = options.folder, options.host, options.device
            authority = Authority.create(folder, hosts, devices, options.ca_days, options.server_days)
            print(_next_commands(authority, hosts[0]))
            return 0
        authority = Authority.open(options.folder)
        if options.command == "add":
            print(_joining(authority.add(options.name)))
        elif options.command == "list":
            print(_listing(authority))
        elif options.command == "remove":
            print(_leaving(authority.remove(options.name)))
        else:
            authority.renew(options.host, options.server_days)
            print(f"{authority.folder / 'server.pem'} is new: {_server(authority)}. Start the SuperLink again with it.")
    except FedsimError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        print(f"error: {options.folder} cannot be used ({reason}): name a folder you may write to.", file=sys.stderr)
        return UserError.exit_status
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fedsim.devices", description="Keys and certificates of real devices; see docs/devices.md."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, what: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=what, description=what)
        added.add_argument("folder", type=Path, metavar="DIR", help="the folder that `init` makes")
        return added

    def server_days(added: argparse.ArgumentParser) -> None:
        text = f"days the server's certificate is valid (default: {SERVER_DAYS})"
        added.add_argument("--server-days", type=int, default=SERVER_DAYS, metavar="DAYS", help=text)

    init = command("init", "A new folder: a certificate authority, the server's certificate, and keys of devices.")
    hosts = "a DNS name or an IP address at which devices reach the server; may be repeated"
    init.add_argument("--host", action="append", required=True, help=hosts)
    init.add_argument("--device", action="append", default=[], metavar="NAME", help="a device; may be repeated")
    text = f"days the certificate authority is valid (default: {CA_DAYS})"
    init.add_argument("--ca-days", type=int, default=CA_DAYS, metavar="DAYS", help=text)
    server_days(init)
    command("add", "Keys of one more device.").add_argument("name", metavar="NAME")
    command("list", "The server's certificate and the devices.")
    command("remove", "Deletes the keys of a device here.").add_argument("name", metavar="NAME")
    renew = command("renew", "A new certificate for the server's key.")
    renew.add_argument("--host", action="append", default=[], help=f"{hosts} (default: those of the old one)")
    server_days(renew)
    return parser


def _next_commands(authority: Authority, host: str) -> str:
    folder = authority.folder
    address = f"[{host}]:{PORT}" if ":" in host else f"{host}:{PORT}"
    devices = authority.devices or [Device("NAME", folder / "devices" / "NAME")]
    return "\n".join(
        [
            f"{folder} is made; {folder / 'ca.key'} stays with you. Next, on the server, with the other files:",
            f"  flower-superlink --host {host} --port {PORT} --ssl-certfile {_quoted(folder / 'server.pem')}"
            f" --ssl-keyfile {_quoted(folder / 'server.key')} --ssl-ca-certfile {_quoted(folder / 'ca.crt')}"
            " --enable-supernode-auth --disable-runtime-dependency-installation",
            "here, in ~/.flwr/config.toml:",
            "  [superlink.lab]",
            f'  address = "{address}"',
            f"  root-certificates = {json.dumps(str((folder / 'ca.crt').absolute()))}",
            *[_joining(device) for device in devices],
            "and on each device, in the folder that was copied there:",
            f"  flower-supernode --superlink {address} --root-certificates ca.crt --auth-supernode-private-key key"
            " --node-config 'partition-id=0'",
        ]
    )


def _joining(device: Device) -> str:
    public, answer = _quoted(device.folder / "key.pub"), _quoted(device.folder / REGISTERED)
    return (
        f"{device.name}: copy {device.folder} onto it, and let it in:\n"
        f"  flwr supernode register {public} lab --format json | tee {answer}"
    )


def _leaving(device: Device) -> str:
    where = "NODE_ID stands in `flwr supernode list lab`, and in the device's log after `SuperNode ID:`."
    return (
        f"The keys of {device.name} are deleted here. The device has its own copy and stays admitted until\n"
        f"  flwr supernode unregister {device.node_id or 'NODE_ID'} lab" + ("" if device.node_id else f"\n{where}")
    )


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
    """As a shell reads it."""
    return shlex.quote(str(path))


if __name__ == "__main__":
    sys.exit(main())
