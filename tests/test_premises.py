"""A configuration that does not fit the machine: refused before anything is opened, with the key and the remedy."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from broker import migrations, settings
from broker.assembly import assemble
from broker.errors import ConfigurationError
from tests.build import free_port, settings_for
from tests.fakes import FakeClock
from tests.formats.forge import p256

_NOW = datetime(2026, 6, 1, tzinfo=UTC)
_BEYOND = "host = '0.0.0.0'\npublic_url = 'https://broker.example'\n"
_SOMEBODY = 65534


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BROKER_CONFIG", raising=False)


def certificate(*names: str, start: datetime) -> None:
    """Writes cert.pem and key.pem for these names or addresses."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker.example")])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(p256().public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=90))
    )
    if names:
        alternatives = [x509.IPAddress(ip_address(n)) if n[0].isdigit() else x509.DNSName(n) for n in names]
        made = made.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    Path("cert.pem").write_bytes(made.sign(p256(), SHA256()).public_bytes(Encoding.PEM))
    private_key("key.pem", p256())


def private_key(name: str, key: ec.EllipticCurvePrivateKey) -> None:
    """Writes a private key for its owner alone."""
    Path(name).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    Path(name).chmod(0o600)


def tls(more: str) -> str:
    """The section of a broker that ends TLS itself."""
    return f"[server]\nport = {free_port()}\ntls_cert = 'cert.pem'\ntls_key = 'key.pem'\n{more}"


def secret(mode: int, owner: int | None = None) -> str:
    """A secret in a file of this mode."""
    path = Path("openai.key")
    path.write_text("sk-1")
    path.chmod(mode)
    if owner is not None:
        os.chown(path, owner, owner)
    return "[secrets.openai]\nfile = 'openai.key'\norigins = ['https://api.openai.com']\n"


def seal(key: str, mode: int) -> str:
    """What seals the keys, in a file of this mode."""
    Path("seal").write_text("a long enough passphrase, or file")
    Path("seal").chmod(mode)
    return f"[keys]\n{key} = 'seal'\n"


def data(mode: int = 0o700, file: str = "", file_mode: int = 0o600) -> str:
    """A data folder that is there already, with a file in it."""
    Path("broker-data").mkdir()
    if file:
        Path("broker-data", file).write_bytes(b"")
        Path("broker-data", file).chmod(file_mode)
    Path("broker-data").chmod(mode)
    return ""


def cert(*names: str, start: datetime = _NOW - timedelta(days=1), more: str | None = _BEYOND) -> str:
    """A certificate like this, and the section that uses it unless `more` is None."""
    certificate(*names, start=start)
    return tls(more) if more is not None else ""


def without(name: str) -> str:
    """TLS with one of the two files missing."""
    made = cert("broker.example")
    Path(name).unlink()
    return made


def written_by_anybody(name: str, text: str) -> str:
    """A file that anybody can write."""
    Path(name).write_text("")
    Path(name).chmod(0o666)
    return text


def other_key() -> str:
    """A key that is not the certificate's."""
    made = cert("broker.example")
    private_key("key.pem", p256("other"))
    return made


def open_key() -> str:
    """A key that a group can read."""
    made = cert("broker.example")
    Path("key.pem").chmod(0o640)
    return made


REFUSED: dict[str, tuple[Callable[[], str], str, str]] = {
    "open data folder": (
        lambda: data(0o755),
        "storage.data_dir",
        "others can use broker-data; run `chmod go= broker-data`",
    ),
    "data folder of a group": (lambda: data(0o770), "storage.data_dir", "run `chmod go= broker-data`"),
    "open database": (
        lambda: data(file="broker.db", file_mode=0o644),
        "storage.data_dir",
        "others can use broker-data/broker.db; run `chmod go= broker-data/broker.db`",
    ),
    "open journal": (
        lambda: data(file="broker.db-wal", file_mode=0o640),
        "storage.data_dir",
        "broker-data/broker.db-wal",
    ),
    "data file": (lambda: written("broker-data"), "storage.data_dir", "broker-data is no folder; move it away"),
    "secret for all": (
        lambda: secret(0o644),
        "secrets.openai.file",
        "others can use openai.key; run `chmod go= openai.key`, and consider what it holds stolen",
    ),
    "secret for a group": (lambda: secret(0o640), "secrets.openai.file", "run `chmod go= openai.key`"),
    "passphrase for all": (lambda: seal("passphrase_file", 0o644), "keys.passphrase_file", "run `chmod go= seal`"),
    "key file for a group": (lambda: seal("key_file", 0o640), "keys.key_file", "run `chmod go= seal`"),
    "no secret": (
        lambda: "[secrets.k]\nfile = 'none'\norigins = ['https://a.example']",
        "secrets.k.file",
        "none cannot be read: No such file or directory; name a file that can",
    ),
    "configuration anybody writes": (
        lambda: "[server]",
        "(top level)",
        "anybody can write broker.toml; run `chmod o-w broker.toml`",
    ),
    "authorities anybody writes": (
        lambda: written_by_anybody("ca.pem", "[outgoing]\nca_file = 'ca.pem'"),
        "outgoing.ca_file",
        "anybody can write ca.pem; run `chmod o-w ca.pem`",
    ),
    "no authorities": (
        lambda: "[outgoing]\nca_file = 'ca.pem'",
        "outgoing.ca_file",
        "ca.pem cannot be read: No such file or directory",
    ),
    "authorities that are none": (
        lambda: written("ca.pem", "[outgoing]\nca_file = 'ca.pem'"),
        "outgoing.ca_file",
        "ca.pem cannot be used: it holds no PEM certificates; write a PEM file of the authorities to trust",
    ),
    "a name that is nobody's": (
        lambda: cert("broker.example").replace("'0.0.0.0'", "'nobody.invalid'"),
        "server.host",
        "nobody.invalid has no address: ",
    ),
    "another machine's address": (
        lambda: cert("broker.example").replace("'0.0.0.0'", "'192.0.2.1'"),
        "server.host",
        "192.0.2.1 is no address of this machine: ",
    ),
    "no certificate": (lambda: without("cert.pem"), "server.tls_cert", "cert.pem cannot be read: No such file"),
    "no key": (lambda: without("key.pem"), "server.tls_key", "key.pem cannot be read"),
    "another key": (other_key, "server.tls_cert", "cert.pem with key.pem cannot be used: "),
    "open key": (open_key, "server.tls_key", "others can use key.pem; run `chmod go= key.pem`"),
    "ended certificate": (
        lambda: cert("broker.example", start=_NOW - timedelta(days=91)),
        "server.tls_cert",
        "cert.pem ended at 2026-05-31 00:00 UTC; renew it",
    ),
    "certificate to come": (
        lambda: cert("broker.example", start=_NOW + timedelta(days=1)),
        "server.tls_cert",
        "cert.pem begins at 2026-06-02 00:00 UTC; look at this machine's clock",
    ),
    "another's certificate": (
        lambda: cert("other.example", "10.0.0.1"),
        "server.tls_cert",
        "cert.pem is for other.example, 10.0.0.1, and clients will look for broker.example",
    ),
    "a name in the subject alone": (cert, "server.tls_cert", "cert.pem is for no name"),
    "too wide a star": (
        lambda: cert("*.example.org", "*.broker.example", "*"),
        "server.tls_cert",
        "clients will look for broker.example",
    ),
}


def written(name: str, text: str = "") -> str:
    """An ordinary file."""
    Path(name).write_text("")
    Path(name).chmod(0o600)
    return text


def configured(text: str, mode: int = 0o600) -> settings.Settings:
    """Settings from broker.toml."""
    Path("broker.toml").write_text(text)
    Path("broker.toml").chmod(mode)
    return settings.load()


def started(found: settings.Settings) -> None:
    """Builds a broker as the command does, and lets it go."""
    broker = assemble(found, prepare=migrations.upgrade, clock=FakeClock(_NOW.timestamp()))
    broker.audit.close()
    broker.engine.dispose()
    broker.lock.release()


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_the_machine_is_refused(name: str) -> None:
    """File, key, reason and remedy; no data folder was made and none was touched."""
    make, key, words = REFUSED[name]
    found = configured(make(), 0o666 if name == "configuration anybody writes" else 0o600)
    before = sorted(Path().rglob("broker-data*"))
    with pytest.raises(ConfigurationError) as refused:
        started(found)
    where = "broker.toml" if found.file else "the configuration"
    assert refused.value.detail.startswith(f"{where}: key `{key}`: ")
    assert words in refused.value.detail
    assert sorted(Path().rglob("broker-data*")) == before


STARTS: dict[str, Callable[[], str]] = {
    "nothing": lambda: "",
    "a data folder that is there": lambda: data(0o700),
    "a secret in a file": lambda: secret(0o600),
    "a secret that is read only": lambda: secret(0o400),
    "TLS": lambda: cert("broker.example"),
    "TLS under a star": lambda: cert("*.example"),
    "TLS by address": lambda: cert("127.0.0.1", more=""),
    "a proxy": lambda: "[server]\ntrusted_proxy = '127.0.0.1'\npublic_url = 'https://broker.example'\n",
    "authorities": lambda: cert("a.example", more=None) + "[outgoing]\nca_file = 'cert.pem'\n",
    "a name of this machine": lambda: "[server]\nhost = 'localhost'\n",
}


@pytest.mark.parametrize("name", STARTS)
def test_a_good_configuration_starts(name: str) -> None:
    """One of each kind: what is refused above is refused for what is wrong with it."""
    started(configured(STARTS[name]()))
    assert Path("broker-data/broker.db").stat().st_mode & 0o077 == 0


def test_another_users_folder_is_refused(tmp_path: Path) -> None:
    """Whoever owns it could read what the broker writes; the text says how to get out of it."""
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(folder, _SOMEBODY, _SOMEBODY)
    else:
        folder = Path("/usr")
    found = settings.Settings.model_validate({"storage": {"data_dir": folder}})
    with pytest.raises(
        ConfigurationError, match=re.escape(f"key `storage.data_dir`: {folder} belongs to another user")
    ):
        started(found)


@contextmanager
def _no_file_larger_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.sqlite
def test_a_disk_without_room_for_the_reserve_is_refused(tmp_path: Path) -> None:
    """The kernel gives no more: the start is refused with the room that it needs, and works once there is some."""
    found = settings_for(tmp_path)
    with _no_file_larger_than(4 * 1024 * 1024), pytest.raises(ConfigurationError) as refused:
        started(found)
    assert "key `storage.reserve_mb`" in refused.value.detail
    assert "needs 16 MB of free disk to start, twice this; make room" in refused.value.detail
    started(found)
