"""Configuration: what is wrong is refused at start with the file or variable, the key and the reason."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from broker import migrations, settings
from broker.assembly import assemble
from broker.errors import ConfigurationError
from broker.gateway.upstream import ProviderKey
from broker.settings import Settings
from tests.formats.forge import p256


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in an empty folder, without variables of the machine's own."""
    monkeypatch.chdir(tmp_path)
    for name in ("BROKER_CONFIG", "BROKER_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)


def written(text: str, name: str = "broker.toml") -> Path:
    """A configuration file in the folder the test runs in."""
    path = Path(name)
    path.write_text(text)
    return path


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost and its key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(p256().public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=3650))
        .sign(p256(), SHA256())
    )
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(made.public_bytes(Encoding.PEM))
    key.write_bytes(p256().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return cert, key


def test_nothing_at_all_is_a_configuration() -> None:
    """`broker serve` with no configuration: loopback, port 8420, data under ./broker-data, five-minute tokens."""
    found = settings.load()
    assert found.issuer == "http://127.0.0.1:8420"
    assert found.storage.data_dir == Path("broker-data")
    assert found.tokens.lifetime_s == 300
    assert not found.tokens.accept_token_endpoint_audience
    assert found.outgoing.exceptions() == frozenset()


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ("sever = 1", "sever", "unknown key"),
        ("[server]\nprt = 1", "server.prt", "unknown key"),
        ("[attesters.x]\nkind = 'oidc'", "attesters", "unknown key"),
        ("[tokens]\nlifetime_s = 601", "tokens.lifetime_s", "less than or equal to 600"),
        ("[tokens]\nlifetime_s = 29", "tokens.lifetime_s", "greater than or equal to 30"),
        ("[tokens]\nlifetime_s = 'long'", "tokens.lifetime_s", "valid integer"),
        ("[tokens]\nlifetime_s = 60.5", "tokens.lifetime_s", "valid integer"),
        ("[tokens]\ndpop_window_s = 301", "tokens.dpop_window_s", "less than or equal to 300"),
        ("[tokens]\ndpop_window_s = 4", "tokens.dpop_window_s", "greater than or equal to 5"),
        ("[tokens]\nrequire_dpop_nonce = 'perhaps'", "tokens.require_dpop_nonce", "valid boolean"),
        ("[server]\nport = 0", "server.port", "greater than or equal to 1"),
        ("[server]\nport = 65536", "server.port", "less than or equal to 65535"),
        ("[server]\nhost = '0.0.0.0'", "server", "refusing to listen on 0.0.0.0 without TLS"),
        ("[server]\nhost = '::'", "server", "refusing to listen on :: without TLS"),
        ("[server]\nhost = '192.168.1.2'", "server", "tls_cert and tls_key"),
        ("[server]\ntrusted_proxy = '10.0.0.1'", "server", "set public_url"),
        ("[server]\ntrusted_proxy = 'proxy.local'", "server.trusted_proxy", "IPv4 or IPv6"),
        ("[server]\ntls_cert = 'cert.pem'", "server", "tls_cert and tls_key go together"),
        ("[server]\ntls_cert = 'no.pem'\ntls_key = 'no.key'", "server", "cannot be used"),
        ("[server]\npublic_url = 'http://broker.example'", "server.public_url", "plain http is for loopback only"),
        ("[server]\npublic_url = 'https://broker.example/'", "server.public_url", "scheme://host[:port]"),
        ("[server]\npublic_url = 'https://broker.example/x'", "server.public_url", "scheme://host[:port]"),
        ("[server]\npublic_url = 'https://broker.example?x'", "server.public_url", "scheme://host[:port]"),
        ("[server]\npublic_url = 'https://user@broker.example'", "server.public_url", "scheme://host[:port]"),
        ("[server]\npublic_url = 'https://'", "server.public_url", "scheme://host[:port]"),
        ("[server]\npublic_url = 'broker.example'", "server.public_url", "scheme://host[:port]"),
        ("[server]\npublic_url = 'https://Broker.example'", "server.public_url", "small letters"),
        ("[server]\npublic_url = 'https://broker.example:99999'", "server.public_url", "scheme://host[:port]"),
        ("[outgoing]\nallow = ['127.0.0.1']", "outgoing.allow", "'127.0.0.1' is no host:port"),
        ("[outgoing]\nallow = [':80']", "outgoing.allow", "is no host:port"),
        ("[outgoing]\nallow = ['*:80']", "outgoing.allow", "is no host:port"),
        ("[outgoing]\nallow = ['h:0']", "outgoing.allow", "is no host:port"),
        ("[outgoing]\nallow = ['h:65536']", "outgoing.allow", "is no host:port"),
        ("[outgoing]\nallow = ['http://h:80/']", "outgoing.allow", "is no host:port"),
        ("[secrets.k]\norigins = ['https://a.example']", "secrets.k", "either `env`"),
        ("[secrets.k]\nenv='A'\nfile='b'\norigins = ['https://a.example']", "secrets.k", "either `env`"),
        ("[secrets.k]\nenv = 'A'", "secrets.k.origins", "Field required"),
        ("[secrets.k]\nenv = 'A'\norigins = []", "secrets.k.origins", "at least 1 item"),
        ("[secrets.k]\nenv = 'A'\norigins = ['a.example']", "secrets.k.origins", "is no origin"),
        ("[secrets.k]\nenv = 'A'\norigins = ['https://a.example/v1']", "secrets.k.origins", "is no origin"),
        ("[secrets.k]\nenv = 'A'\norigins = ['https://*.example']", "secrets.k.origins", "is no origin"),
        ("[secrets.k]\nenv = 'A'\norigins = ['https://a@b.example']", "secrets.k.origins", "is no origin"),
        ("[secrets.k]\nenv = 'A'\norigins = ['https://']", "secrets.k.origins", "is no origin"),
        ("[secrets.k]\nvalue = 'x'\norigins = ['https://a.example']", "secrets.k.value", "unknown key"),
        ("[storage]\nreserve_mb = 0", "storage.reserve_mb", "greater than or equal to 1"),
        ("[storage]\ncommit_timeout_s = 1.5", "storage.commit_timeout_s", "less than or equal to 1"),
        ("[gateway]\nmax_body_bytes = 1", "gateway.max_body_bytes", "greater than or equal to 1024"),
        ("log_level = 'loud'", "log_level", "'debug', 'info', 'warning' or 'error'"),
        ("server = 5", "server", "valid dictionary"),
    ],
    ids=str,
)
def test_a_wrong_file_is_refused(text: str, key: str, reason: str) -> None:
    """File, key and reason, in one sentence."""
    written(text)
    with pytest.raises(ConfigurationError) as refused:
        settings.load()
    assert refused.value.detail.startswith(f"broker.toml: key `{key}`: ")
    assert reason in refused.value.detail


@pytest.mark.parametrize("text", ["a = " + "9" * 5000, "a = " + "[" * 10_000])
def test_a_file_that_python_cannot_hold_is_refused(text: str) -> None:
    """A number too long and a nesting too deep for Python's own reader are mistakes in the file like others."""
    written(text)
    with pytest.raises(ConfigurationError, match=r"broker\.toml: not valid TOML: "):
        settings.load()


@pytest.mark.parametrize("text", ["[server", "port 8420", "a = 1\na = 2"])
def test_a_file_that_is_no_toml_is_refused(text: str) -> None:
    """The text says where it breaks off."""
    written(text)
    with pytest.raises(ConfigurationError, match=r"broker\.toml: not valid TOML: .*\(at "):
        settings.load()


def test_a_named_file_must_be_there() -> None:
    """The default file may be missing, one that was named may not: not by option, not by variable."""
    with pytest.raises(ConfigurationError, match=r"elsewhere\.toml: cannot be read"):
        settings.load(Path("elsewhere.toml"))


def test_a_file_named_by_variable_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """BROKER_CONFIG names the file as the option does."""
    monkeypatch.setenv("BROKER_CONFIG", "elsewhere.toml")
    with pytest.raises(ConfigurationError, match=r"elsewhere\.toml: cannot be read"):
        settings.load()
    written("[server]\nport = 9000", "elsewhere.toml")
    assert settings.load().server.port == 9000


def test_a_file_that_is_no_text_is_refused() -> None:
    """Bytes beyond UTF-8 are named, not guessed at."""
    Path("broker.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"broker\.toml: cannot be read"):
        settings.load()


def test_later_sources_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """File over defaults, variables over the file, command line over everything."""
    written("[server]\nport = 1111\n[tokens]\nlifetime_s = 60\n[storage]\ndata_dir = 'a'")
    assert settings.load().server.port == 1111
    monkeypatch.setenv("BROKER_SERVER__PORT", "2222")
    monkeypatch.setenv("BROKER_STORAGE__DATA_DIR", "b")
    found = settings.load()
    assert (found.server.port, found.storage.data_dir, found.tokens.lifetime_s) == (2222, Path("b"), 60)
    found = settings.load(server__port=3333, storage__data_dir=None)
    assert (found.server.port, found.storage.data_dir, found.tokens.lifetime_s) == (3333, Path("b"), 60)


def test_lists_come_from_variables_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """With commas between; a secret can be named without any file."""
    monkeypatch.setenv("BROKER_OUTGOING__ALLOW", "127.0.0.1:1234,[::1]:80")
    monkeypatch.setenv("BROKER_SECRETS__OPENAI__ENV", "THE_KEY")
    monkeypatch.setenv("BROKER_SECRETS__OPENAI__ORIGINS", "https://a.example,https://b.example:8443")
    found = settings.load()
    assert found.outgoing.exceptions() == {("127.0.0.1", 1234), ("::1", 80)}
    assert found.secrets["openai"].origins == ("https://a.example", "https://b.example:8443")


@pytest.mark.parametrize(
    ("variable", "value", "key", "reason"),
    [
        ("BROKER_SERVER__PORT", "many", "server.port", "valid integer"),
        ("BROKER_SERVER__PRT", "1", "server.prt", "unknown key"),
        ("BROKER_SEVER__PORT", "1", "sever", "unknown key"),
        ("BROKER_TOKENS__LIFETIME_S", "601", "tokens.lifetime_s", "600"),
        ("BROKER_SERVER__HOST", "0.0.0.0", "server", "without TLS"),
        ("BROKER_OUTGOING__ALLOW", "a:1,b", "outgoing.allow", "'b' is no host:port"),
    ],
)
def test_a_wrong_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, key: str, reason: str
) -> None:
    """Who has to mend a variable is told its name, not the file's."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as refused:
        settings.load()
    assert refused.value.detail.startswith(f"{variable}: key `{key}`: ")
    assert reason in refused.value.detail


def test_file_and_variable_are_both_named_where_they_clash(monkeypatch: pytest.MonkeyPatch) -> None:
    """A section that only together is wrong names everything that gave a part of it."""
    written("[server]\nhost = '0.0.0.0'")
    monkeypatch.setenv("BROKER_SERVER__PORT", "8421")
    with pytest.raises(ConfigurationError, match=r"^broker\.toml with BROKER_SERVER__PORT: key `server`"):
        settings.load()
    written("server = 5")
    with pytest.raises(ConfigurationError, match=r"^BROKER_SERVER__PORT: key `server` is a value in the file"):
        settings.load()


def test_a_wrong_option_is_named() -> None:
    """The command line's own spelling."""
    with pytest.raises(ConfigurationError, match=r"^--port: key `server\.port`: "):
        settings.load(server__port=0)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_no_tls(host: str) -> None:
    """The three names of loopback, and nothing that only looks like them."""
    found = settings.load(server__host=host)
    assert found.issuer == f"http://{'[::1]' if ':' in host else host}:8420"
    for other in ("127.0.0.1.example", "localhost.example", "0.0.0.0", "127.1"):
        with pytest.raises(ConfigurationError):
            settings.load(server__host=other)


def test_beyond_loopback_with_tls_or_a_named_proxy(tmp_path: Path) -> None:
    """Either the broker ends TLS itself, or it names the proxy that does; and says what it is called."""
    cert, key = certificate(tmp_path)
    tls = f"[server]\nhost = '0.0.0.0'\ntls_cert = '{cert}'\ntls_key = '{key}'\n"
    written(tls)
    with pytest.raises(ConfigurationError, match="set public_url"):
        settings.load()
    written(tls + "public_url = 'https://broker.example'")
    assert settings.load().issuer == "https://broker.example"
    written("[server]\nhost='0.0.0.0'\ntrusted_proxy='10.0.0.1'\npublic_url='https://broker.example:8443'")
    assert settings.load().issuer == "https://broker.example:8443"


def test_on_loopback_with_tls_the_name_follows(tmp_path: Path) -> None:
    """The issuer identifier has the scheme that the broker really speaks."""
    cert, key = certificate(tmp_path)
    written(f"[server]\ntls_cert = '{cert}'\ntls_key = '{key}'\n")
    assert settings.load().issuer == "https://127.0.0.1:8420"


def test_a_key_that_is_not_the_certificates_is_refused(tmp_path: Path) -> None:
    """Noticed at start, not at the first connection."""
    cert, key = certificate(tmp_path)
    key.write_bytes(p256("other").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    written(f"[server]\ntls_cert = '{cert}'\ntls_key = '{key}'\n")
    with pytest.raises(ConfigurationError, match=r"key `server`: .*cannot be used"):
        settings.load()


def secret(**source: Any) -> Settings:
    """Settings with one secret."""
    return Settings.model_validate({"secrets": {"openai": {"origins": ["https://a.example"], **source}}})


def test_a_secret_comes_from_its_variable_or_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """White space around it, as editors and `echo` leave it in a file, is none of it."""
    monkeypatch.setenv("THE_KEY", "sk-1")
    assert secret(env="THE_KEY").secret_values()["openai"].get_secret_value() == "sk-1"
    Path("key").write_text("sk-2\n")
    assert secret(file="key").secret_values()["openai"].get_secret_value() == "sk-2"


@pytest.mark.parametrize("value", ["", "a\nb", "sk-\x00", "schlüssel", "sk\tx"])
def test_a_secret_that_no_header_can_carry_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Named by secret and source, without its value."""
    Path("key").write_text(value)
    with pytest.raises(ConfigurationError, match=r"^secrets\.openai: the file key is empty or holds") as refused:
        secret(file="key").secret_values()
    assert not value or value not in refused.value.detail


def test_a_missing_source_is_refused_at_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A variable that is not set and a file that is not there stop the start, before the data folder is touched."""
    monkeypatch.delenv("THE_KEY", raising=False)
    for source, says in ((secret(env="THE_KEY"), "the variable THE_KEY"), (secret(file="no"), "the file no")):
        with pytest.raises(ConfigurationError, match=rf"^secrets\.openai: {says}"):
            assemble(source, prepare=migrations.upgrade)
    assert not (tmp_path / "broker-data").exists()


def test_secrets_hide_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """No repr, and no error, shows a value."""
    monkeypatch.setenv("THE_KEY", "sk-very-secret")
    found = secret(env="THE_KEY")
    values = found.secret_values()
    key = ProviderKey(values["openai"].get_secret_value(), frozenset({"https://a.example"}))
    for shown in (repr(found), str(found), repr(values), str(values["openai"]), repr(key), found.model_dump_json()):
        assert "sk-very-secret" not in shown


def test_the_values_of_wrong_keys_are_not_repeated() -> None:
    """An error names the key; what was written there may be a secret in the wrong place."""
    written("[secrets.k]\nenv = 'A'\nvalue = 'sk-very-secret'\norigins = ['https://a.example']")
    with pytest.raises(ConfigurationError) as refused:
        settings.load()
    assert "sk-very-secret" not in refused.value.detail


def test_the_users_folder_follows_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """BROKER_HOME, else the XDG folder, else ~/.config."""
    monkeypatch.setenv("HOME", "/h")
    assert settings.user_config_dir() == Path("/h/.config/broker")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/x")
    assert settings.user_config_dir() == Path("/x/broker")
    monkeypatch.setenv("BROKER_HOME", "/b")
    assert settings.user_config_dir() == Path("/b")
