"""What a configuration needs of the machine: files that are there and in the right hands, addresses, certificates.

`broker.settings` checks each value's shape; here the same values are held against the machine, before anything is
opened. Each check raises `ConfigurationError` with the file or variable, the key, the reason and the remedy. Fails
closed: what cannot be looked at is refused.
"""

from __future__ import annotations

import os
import socket
import ssl
import stat
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from broker.origins import LOOPBACK, is_loopback
from broker.settings import Settings

Check = Callable[[Settings, float], None]


def check(settings: Settings, now: float) -> None:
    """Refuses the first thing on this machine that does not fit the settings.

    Args:
        settings: what the broker is to run with.
        now: seconds since the epoch, for certificates.

    Raises:
        ConfigurationError: names the file or variable, the key, the reason and what to do.
    """
    for one in NAMED.values():
        one(settings, now)


def data_folder(settings: Settings, _now: float = 0.0) -> None:
    """The data folder, if it is there, is the owner's alone, and so is everything directly in it."""
    folder, key = settings.storage.data_dir, "storage.data_dir"
    try:
        if not folder.exists():
            return
        if not folder.is_dir():
            raise settings.refusal(key, f"{folder} is no folder; move it away, or name another")
        _owner_only(settings, key, folder)
        for path in sorted(folder.iterdir()):
            _owner_only(settings, key, path)
    except OSError as error:
        raise settings.refusal(key, f"{error.filename}: cannot be looked at: {error.strerror}") from error


def secret_files(settings: Settings, _now: float = 0.0) -> None:
    """Each secret's file is the broker's own."""
    for name, secret in settings.secrets.items():
        if secret.file is not None:
            _private(settings, f"secrets.{name}.file", secret.file)
    password = settings.storage.database_password
    if password is not None and password.file is not None:
        _private(settings, "storage.database_password.file", password.file)
    for key, path in (("passphrase_file", settings.keys.passphrase_file), ("key_file", settings.keys.key_file)):
        if path is not None:
            _private(settings, f"keys.{key}", path)


def trusted_files(settings: Settings, _now: float = 0.0) -> None:
    """What says whom to trust can be written by nobody else: the configuration, the certificates, the authorities."""
    for key, path in (
        ("(top level)", settings.file),
        ("outgoing.ca_file", settings.outgoing.ca_file),
        ("server.tls_cert", settings.server.tls_cert),
    ):
        if path is not None and _looked_at(settings, key, path).st_mode & 0o002:
            raise settings.refusal(key, f"anybody can write {path}; run `chmod o-w {path}`, and look at what it holds")


def authorities(settings: Settings, _now: float = 0.0) -> None:
    """The extra certificate authorities can be read."""
    path = settings.outgoing.ca_file
    if path is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except OSError as error:  # ssl.SSLError is one
        why = error.strerror if error.errno and not isinstance(error, ssl.SSLError) else "it holds no PEM certificates"
        raise settings.refusal(
            "outgoing.ca_file", f"{path} cannot be used: {why}; write a PEM file of the authorities to trust"
        ) from error


def certificate(settings: Settings, now: float) -> None:
    """The TLS certificate is in force, names the broker as `server.public_url` does, and its key is private and its."""
    server = settings.server
    if server.tls_cert is None or server.tls_key is None:
        return
    _private(settings, "server.tls_key", server.tls_key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(server.tls_cert, server.tls_key, password="")
        leaf = served(server.tls_cert)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise settings.refusal(
            "server.tls_cert",
            f"{server.tls_cert} with {server.tls_key} cannot be used: {error}; write the certificate chain in PEM, and "
            "its private key without a password",
        ) from error
    moment = datetime.fromtimestamp(now, UTC)
    if moment > leaf.not_valid_after_utc:
        raise settings.refusal(
            "server.tls_cert", f"{server.tls_cert} ended at {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; renew it"
        )
    if moment < leaf.not_valid_before_utc:
        raise settings.refusal(
            "server.tls_cert",
            f"{server.tls_cert} begins at {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; look at this machine's clock",
        )
    host = urlsplit(settings.issuer).hostname or ""
    if not _fits(leaf, host):
        raise settings.refusal(
            "server.tls_cert",
            f"{server.tls_cert} is for {', '.join(_names(leaf)) or 'no name'}, and clients will look for {host}; get "
            "one for that name, or mend server.public_url",
        )


def address(settings: Settings, _now: float = 0.0) -> None:
    """The address to listen on is one of this machine's, and what is called loopback is."""
    host, key = settings.server.host, "server.host"
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError as error:
        raise settings.refusal(
            key, f"{host} has no address: {error.strerror}; write an address, such as 127.0.0.1"
        ) from error
    for family, kind, protocol, _, place in found:
        if host in LOOPBACK and not is_loopback(str(place[0])):
            raise settings.refusal(
                key, f"{host} is {place[0]} here, which is beyond loopback; write 127.0.0.1, or mend /etc/hosts"
            )
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind((place[0], 0, *place[2:]))
        except OSError as error:
            raise settings.refusal(
                key, f"{place[0]} is no address of this machine: {error.strerror}; `ip address` shows which are"
            ) from error


NAMED: Mapping[str, Check] = {
    "trusted files": trusted_files,
    "secret files": secret_files,
    "authorities": authorities,
    "TLS": certificate,
    "address": address,
    "data folder": data_folder,
}
"""Everything that is checked before the start, in this order."""


def served(path: Path) -> x509.Certificate:
    """The certificate that a chain in PEM begins with: the server's own.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    return x509.load_pem_x509_certificates(path.read_bytes())[0]


def _fits(leaf: x509.Certificate, host: str) -> bool:
    """Whether the certificate is for the host, by its subject alternative names alone (RFC 9525 §6)."""
    try:
        return str(ip_address(host)) in _names(leaf)
    except ValueError:
        above = host.partition(".")[2]
        return any(name in (host, f"*.{above}") for name in map(str.lower, _names(leaf)))


def _names(leaf: x509.Certificate) -> list[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def _owner_only(settings: Settings, key: str, path: Path) -> None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return  # SQLite takes the files beside the database away when it is done with them
    if found.st_uid != os.geteuid():
        raise settings.refusal(key, f"{path} belongs to another user; {_chown(path)}")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise settings.refusal(key, f"others can use {path}; run `chmod go= {path}`, and look at what they did")


def _private(settings: Settings, key: str, path: Path) -> None:
    """Refuses a secret that others can read. Root may hand one to a group of the broker's, as orchestrators do."""
    found = _looked_at(settings, key, path)
    handed = found.st_uid == 0 and os.geteuid() != 0
    if stat.S_IMODE(found.st_mode) & (0o037 if handed else 0o077):
        raise settings.refusal(key, f"others can use {path}; run `chmod go= {path}`, and consider what it holds stolen")
    if not handed and found.st_uid != os.geteuid():
        raise settings.refusal(key, f"{path} belongs to another user; {_chown(path)}")


def _looked_at(settings: Settings, key: str, path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise settings.refusal(key, f"{path} cannot be read: {error.strerror}; name a file that can") from error


def _chown(path: Path) -> str:
    return f"run the broker as its owner, or `chown -R {os.geteuid()} {path}`"
