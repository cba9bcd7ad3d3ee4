"""A check whether a device can reach its SuperLink: step by step, with a cause and a remedy for each failure."""

import socket
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from cryptography import x509

from fedsim.core.errors import UserError
from fedsim.deployment.devices.certificates import hosts_of
from fedsim.deployment.devices.scripts import DEVICE_ENV

TIMEOUT = 10.0
"""Seconds for each step."""
AHEAD, BEHIND = 5, 305
"""Seconds by which Flower allows the clock of a device to differ: signatures must not be older, nor of the future."""
EXPIRED, NOT_YET_VALID, OTHER_HOST = 10, 9, (62, 64)
"""OpenSSL's error numbers for certificates."""


@dataclass(frozen=True)
class Server:
    """HOST:PORT of a server, and the certificate of the authority that has to have signed the server's."""

    host: str
    port: int
    root: Path

    @classmethod
    def of(cls, address: str, root: Path) -> "Server":
        """Parse an address, where an IPv6 address stands in brackets.

        Raises:
            UserError: If it is not HOST:PORT.
        """
        host, colon, port = address.rpartition(":")
        if not host or not colon or not port.isdecimal() or not 1 <= int(port) <= 65535:
            raise UserError(f"SUPERLINK={address!r} is not possible: write the server's HOST:PORT in {DEVICE_ENV}.")
        return cls(host.removeprefix("[").removesuffix("]"), int(port), root)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def check(self) -> str:
        """Request a page from the server, as a device requests work; return a sentence about the connection.

        Raises:
            UserError: If a step fails; describes the first such step and its remedy.
        """
        with self._connected() as plain:
            try:
                with ssl.create_default_context(cafile=self.root).wrap_socket(
                    plain, server_hostname=self.host
                ) as secure:
                    certificate = x509.load_der_x509_certificate(secure.getpeercert(True) or b"")
                    head = self._head(secure)
            except ssl.SSLCertVerificationError as error:
                raise UserError(self._distrust(error)) from error
            except OSError as error:
                raise UserError(self._no_tls(error)) from error
        self._check_clock(head)
        return f"{self} answers, with a certificate valid until {certificate.not_valid_after_utc:%Y-%m-%d}"

    def _connected(self) -> socket.socket:
        """Open a TCP connection to the server.

        Raises:
            UserError: If the server cannot be reached.
        """
        correct = f"correct SUPERLINK in {DEVICE_ENV}"
        try:
            return socket.create_connection((self.host, self.port), TIMEOUT)
        except UnicodeError:  # a label that is empty or too long: it is not even asked for
            why = f"{self.host} is no name of a host"
            remedy = f"{correct}."
        except socket.gaierror as error:
            why = f"the name {self.host} is not known here ({error.strerror})"
            remedy = f"{correct}, or look whether this device is in the network and knows its name server."
        except ConnectionRefusedError:
            why = "the connection is refused"
            remedy = f"start the SuperLink there, or {correct}."
        except TimeoutError:
            why = f"nobody answers within {TIMEOUT:g} seconds"
            remedy = f"look whether the server is on and lets this port through its firewall, or {correct}."
        except OSError as error:
            why = f"there is no way to it ({error.strerror})"
            remedy = f"look whether this device is in the network, or {correct}."
        raise UserError(f"{self} cannot be reached, {why}: {remedy}")

    def _head(self, secure: ssl.SSLSocket) -> str:
        """Request a page and return the head of the answer.

        Raises:
            UserError: If the answer is not HTTP.
        """
        secure.sendall(f"GET / HTTP/1.1\r\nHost: {self}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while b"\r\n\r\n" not in answer and len(answer) < 65536:
            if not (piece := secure.recv(4096)):
                break
            answer += piece
        if not answer.startswith(b"HTTP/"):
            raise UserError(
                f"{self} answers, but not by HTTP: another service has this port, correct SUPERLINK in {DEVICE_ENV}."
            )
        return answer.partition(b"\r\n\r\n")[0].decode("latin-1")

    def _no_tls(self, error: OSError) -> str:
        if isinstance(error, TimeoutError):
            return f"{self} takes the connection and says nothing for {TIMEOUT:g} seconds: start the SuperLink anew."
        reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
        return (
            f"{self} answers, but not by TLS ({reason}): start the SuperLink with TLS, not --insecure, "
            f"or correct SUPERLINK in {DEVICE_ENV} if another service has this port."
        )

    def _distrust(self, error: ssl.SSLCertVerificationError) -> str:
        now = datetime.now(UTC)
        theirs = self._certificate()
        clock = f"this device's clock says {now:%Y-%m-%d %H:%M} UTC"
        if error.verify_code in OTHER_HOST and theirs is not None:
            hosts = ", ".join(map(str, hosts_of(theirs)))
            return (
                f"{self} has a certificate for {hosts} and not for {self.host}: write one of these in SUPERLINK of "
                f"{DEVICE_ENV}, or renew the certificate with --host {self.host} on the server."
            )
        if error.verify_code == NOT_YET_VALID:
            since = "" if theirs is None else f" until {theirs.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
            return f"{self} has a certificate that is not valid{since}, and {clock}: set the clock (timedatectl)."
        if error.verify_code == EXPIRED:
            ended = theirs is not None and theirs.not_valid_after_utc < now
            whose = f"that of {self}" if ended else f"the authority's ({self.root.name})"
            since = f" on {theirs.not_valid_after_utc:%Y-%m-%d}" if theirs is not None and ended else ""
            return (
                f"a certificate has ended{since}, {whose}, and {clock}: if the clock is right, renew it on the server "
                "(python -m fedsim.devices renew) and start the SuperLink again, else set the clock (timedatectl)."
            )
        return (
            f"{self} has a certificate that {self.root} does not vouch for ({error.verify_message}): copy "
            f"{self.root.name} from the folder of the server that runs there, or correct SUPERLINK in {DEVICE_ENV}."
        )

    def _certificate(self) -> x509.Certificate | None:
        """Return the server's certificate without verifying it; ``None`` if there is none to read."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with self._connected() as plain, context.wrap_socket(plain, server_hostname=self.host) as secure:
                certificate = x509.load_der_x509_certificate(secure.getpeercert(True) or b"")
                hosts_of(certificate)
                return certificate
        except (OSError, ValueError, UserError, x509.ExtensionNotFound):
            return None  # the error is known already; only its description gets shorter

    def _check_clock(self, head: str) -> None:
        """Compare this device's clock with the ``Date`` in the head of the server's answer.

        Raises:
            UserError: If they differ so much that the server would refuse what this device signs.
        """
        said = [line.partition(":")[2].strip() for line in head.splitlines() if line.lower().startswith("date:")]
        try:
            theirs = parsedate_to_datetime(said[0]).timestamp()
        except (IndexError, ValueError):
            return  # a server that does not tell the time
        behind = theirs - time.time()
        # The header has whole seconds, so the server's clock is up to a second later than it says.
        if -AHEAD - 1 <= behind <= BEHIND:
            return
        way = f"{behind:.0f} seconds behind" if behind > 0 else f"{-behind:.0f} seconds ahead of"
        raise UserError(
            f"this device's clock is {way} the clock of {self}, which refuses it: set the clocks (timedatectl)."
        )
