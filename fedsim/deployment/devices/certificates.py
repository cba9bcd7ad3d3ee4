"""X.509 certificates of a private certificate authority, and the key pairs by which Flower identifies devices.

Certificates pass the strict checks of Python 3.13. Everything here is bytes; ``authority`` writes the files.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Host = str | IPv4Address | IPv6Address
"""A DNS name or an address."""

CLOCK_ERROR = timedelta(days=1)
"""Certificates are valid from a day ago, since the clock of a small device may be behind."""


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def root_certificate(key: ec.EllipticCurvePrivateKey, days: int) -> x509.Certificate:
    """Make a self-signed certificate, which can sign certificates of servers but not of further authorities."""
    name = _name("fedsim authority")
    builder = (
        _builder(name, name, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    return builder.sign(key, SHA256())


def server_certificate(
    key: ec.EllipticCurvePrivateKey,
    hosts: Sequence[Host],
    days: int,
    root: x509.Certificate,
    root_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    """Make a certificate for a server that is reached under each of ``hosts``, signed by ``root``."""
    names = [x509.DNSName(host) if isinstance(host, str) else x509.IPAddress(host) for host in hosts]
    issuer = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(_name("fedsim server"), root.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
    )
    return builder.sign(root_key, SHA256())


def hosts_of(certificate: x509.Certificate) -> list[Host]:
    """Return the names and addresses that a server certificate is for."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = names.get_values_for_type(x509.IPAddress)
    return [*names.get_values_for_type(x509.DNSName), *(ip_address(str(address)) for address in addresses)]


def certificate_bytes(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the key of a certificate in the form that TLS servers read: PEM, PKCS #8, without a password."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load_root(data: bytes) -> x509.Certificate:
    """Read a certificate of an authority from PEM.

    Raises:
        ValueError: If it is no certificate, or has no subject key identifier, as ``root_certificate`` makes it.
    """
    return _load_certificate(data, x509.SubjectKeyIdentifier)


def load_server(data: bytes) -> x509.Certificate:
    """Read a server's certificate from PEM.

    Raises:
        ValueError: If it is no certificate, or names no hosts, as ``server_certificate`` does.
    """
    return _load_certificate(data, x509.SubjectAlternativeName)


def _load_certificate(data: bytes, extension: type[x509.ExtensionType]) -> x509.Certificate:
    certificate = x509.load_pem_x509_certificate(data)
    try:
        certificate.extensions.get_extension_for_class(extension)
    except x509.ExtensionNotFound as error:
        raise ValueError(str(error)) from error
    return certificate


def load_key(data: bytes) -> ec.EllipticCurvePrivateKey:
    """Read the private key of a certificate from PEM.

    Raises:
        ValueError: If it is no key, has a password, or is not of an elliptic curve.
    """
    try:
        key = load_pem_private_key(data, password=None)
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(str(error)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not the key of an elliptic curve")
    return key


def device_key_bytes(key: ec.EllipticCurvePrivateKey) -> tuple[bytes, bytes]:
    """Return the private and the public key of a device in OpenSSH's format, the only one that a SuperNode reads."""
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return private, public + b"\n"


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_ERROR)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
