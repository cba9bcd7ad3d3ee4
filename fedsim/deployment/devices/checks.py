"""Checks of the names, hosts, ports and periods of validity that an operator writes."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address

from cryptography import x509

from fedsim.core.errors import UserError
from fedsim.deployment.devices.certificates import Host

ALWAYS: tuple[Host, ...] = ("localhost", ip_address("127.0.0.1"), ip_address("::1"))
"""The hosts at which the SuperLink's own subprocesses reach it, whatever the devices call it.

They take a loopback address where it listens on all addresses."""

DOMAIN = re.compile(r"[\w.-]{0,64}")
"""The allowed names of a device's images in tables and names of columns."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS_NAME = re.compile(rf"(?:{_LABEL}\.)*(?![0-9]+$){_LABEL}")  # no DNS name ends in a number, 192.168.1.300 would


def check_name(name: str) -> None:
    """Check the name of a device, which is also the name of its folder.

    Raises:
        UserError: If it is not allowed.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"device {name!r} is not allowed: up to 64 letters, digits, - and _, and no - in front.")


def parse_hosts(hosts: Sequence[str]) -> list[Host]:
    """Return the hosts and ``ALWAYS``, each once.

    Raises:
        UserError: If a host is neither a DNS name nor an address at which a server can be reached.
    """
    return list(dict.fromkeys([*map(_parse_host, hosts), *ALWAYS]))


def listening_address(hosts: Sequence[str]) -> str:
    """Return the address that the SuperLink has to listen on: the only one of ``hosts``, or all of the first's family.

    Flower takes one address. A name is none: many systems know their own name as a loopback address.

    Raises:
        UserError: If a host is neither a DNS name nor an address at which a server can be reached.
    """
    first, *further = dict.fromkeys(map(_parse_host, hosts))
    if first == "localhost" and not further:
        return "127.0.0.1"  # nobody else is to reach it
    if further or isinstance(first, str):
        return str(IPv6Address(0) if isinstance(first, IPv6Address) else IPv4Address(0))
    return str(first)


def check_days(option: str, days: int, root: x509.Certificate | None = None) -> None:
    """Check a period of validity: at least one day, and no longer than the certificate ``root`` of the authority.

    Raises:
        UserError: If it is shorter, or longer than ``root`` is valid; without ``root``, longer than a century.
    """
    left = (root.not_valid_after_utc - datetime.now(UTC)) / timedelta(days=1) if root is not None else 36500
    if not 1 <= days <= left + 0.1:  # a certificate of the same length, signed a moment later
        whose = "the certificate authority has left" if root is not None else "a century has"
        raise UserError(f"{option} {days} is not allowed: it is from 1 to {round(left)}, the days that {whose}.")


def _parse_host(text: str) -> Host:
    try:
        address = ip_address(text)
    except ValueError:
        if len(text) > 253 or not _DNS_NAME.fullmatch(text):
            raise UserError(
                f"--host {text!r} is not allowed: it is a DNS name or an IP address, without a port."
            ) from None
        return text
    if address.is_unspecified:
        raise UserError(f"--host {text!r} is not allowed: it is the address at which devices reach the server.")
    return address


def check_port(port: int) -> None:
    """Check a TCP port.

    Raises:
        UserError: If it is not from 1 to 65535.
    """
    if not 1 <= port <= 65535:
        raise UserError(f"--port {port} is not allowed: it is from 1 to 65535.")
