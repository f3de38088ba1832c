"""Configuration: what is wrong is refused at start with the file or variable, the key and the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from broker import migrations, settings
from broker.assembly import assemble
from broker.errors import ConfigurationError
from broker.gateway.upstream import ProviderKey
from broker.settings import Settings


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
        ("[server]\nhost = ''", "server.host", "is no address and no name"),
        ("[server]\nhost = 'Broker.Example'", "server.host", "is no address and no name in small letters"),
        ("[server]\nhost = 'http://127.0.0.1'", "server.host", "write one, such as 127.0.0.1"),
        ("[server]\nhost = '127.1'", "server.host", "is no address"),
        ("[server]\npublic_url = 'https://broker.example'", "server", "nothing speaks it: set tls_cert and tls_key"),
        (
            "[server]\npublic_url = 'http://localhost'\ntls_cert = 'c'\ntls_key = 'k'",
            "server",
            "write https in public_url",
        ),
        ("[server]\npublic_url = 'https://broker.example:443'", "server.public_url", "no default port"),
        ("[server]\npublic_url = 'https://broker.example:0'", "server.public_url", "scheme://host[:port]"),
        ("[server]\npublic_url = 'https://0.0.0.0'", "server.public_url", "nobody can be sent there"),
        ("[server]\npublic_url = 'https://0x7f.1'", "server.public_url", "scheme://host[:port]"),
        ("[server]\ntrusted_proxy = '0.0.0.0'", "server.trusted_proxy", "0.0.0.0 is nobody's address"),
        ("[server]\ntrusted_proxy = '224.0.0.1'", "server.trusted_proxy", "is nobody's address"),
        ("[server]\ntrusted_proxy = '::ffff:10.0.0.1'", "server.trusted_proxy", "is nobody's address"),
        ("[server]\ntrusted_proxy = '10.0.0.0/8'", "server.trusted_proxy", "IPv4 or IPv6"),
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
        ("[outgoing]\nallow = ['http://h:80']", "outgoing.allow", "'http://h:80' is no host:port; write one exact"),
        ("[outgoing]\nallow = ['me@h:80']", "outgoing.allow", "is no host:port"),
        ("[outgoing]\nallow = ['[h]:80']", "outgoing.allow", "is no host:port"),
        ("[outgoing]\nallow = ['10.0.0.0/8:80']", "outgoing.allow", "is no host:port"),
        ("[outgoing]\nallow = ['h:٣']", "outgoing.allow", "is no host:port"),
        ("[secrets.'']\nenv = 'A'\norigins = ['https://a.example']", "secrets", "is no name for a secret"),
        ("[secrets.'a b']\nenv = 'A'\norigins = ['https://a.example']", "secrets", "'a b' is no name for a secret"),
        ("[secrets.k]\nenv = ''\norigins = ['https://a.example']", "secrets.k.env", "write the name of the variable"),
        (
            "[secrets.k]\nenv = 'sk-1'\norigins = ['https://a.example']",
            "secrets.k.env",
            "write the name of the variable",
        ),
        ("[secrets.k]\nenv = 'BROKER_K'\norigins = ['https://a.example']", "secrets.k.env", "BROKER_* are settings"),
        ("[secrets.k]\nenv = 'A'\norigins = ['http://a.example']", "secrets.k.origins", "use https beyond loopback"),
        ("[secrets.k]\nenv = 'A'\norigins = ['http://10.0.0.5:80']", "secrets.k.origins", "no default port"),
        ("[secrets.k]\nenv = 'A'\norigins = ['http://10.0.0.5:81']", "secrets.k.origins", "travel in the clear"),
        ("[secrets.k]\nenv = 'A'\norigins = ['https://a.example:443']", "secrets.k.origins", "no default port"),
        (
            "[secrets.k]\nenv = 'A'\norigins = ['http://127.0.0.1:81']",
            "(top level)",
            "secrets.k is for http://127.0.0.1:81, and nothing may be sent there: add '127.0.0.1:81' to outgoing.allow",
        ),
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
        ("[storage]\nreserve_mb = 7", "storage.reserve_mb", "greater than or equal to 8"),
        ("[storage]\ndata_dir = ''", "storage.data_dir", "is empty; write a folder"),
        ("[storage]\ncommit_timeout_s = 0.01", "storage.commit_timeout_s", "greater than or equal to 0.1"),
        ("[storage]\ncommit_timeout_s = nan", "storage.commit_timeout_s", "finite number"),
        ("[gateway]\nconnect_timeout_s = 0.0001", "gateway.connect_timeout_s", "greater than or equal to 0.1"),
        ("[gateway]\nfirst_byte_timeout_s = inf", "gateway.first_byte_timeout_s", "finite number"),
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


def test_beyond_loopback_with_tls_or_a_named_proxy() -> None:
    """Either the broker ends TLS itself, or it names the proxy that does; and says what it is called."""
    tls = "[server]\nhost = '0.0.0.0'\ntls_cert = 'cert.pem'\ntls_key = 'key.pem'\n"
    written(tls)
    with pytest.raises(ConfigurationError, match="set public_url"):
        settings.load()
    written(tls + "public_url = 'https://broker.example'")
    assert settings.load().issuer == "https://broker.example"
    written("[server]\nhost='0.0.0.0'\ntrusted_proxy='10.0.0.1'\npublic_url='https://broker.example:8443'")
    assert settings.load().issuer == "https://broker.example:8443"


def test_on_loopback_with_tls_the_name_follows() -> None:
    """The issuer identifier has the scheme that the broker really speaks."""
    written("[server]\ntls_cert = 'cert.pem'\ntls_key = 'key.pem'\n")
    assert settings.load().issuer == "https://127.0.0.1:8420"


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
    with pytest.raises(
        ConfigurationError, match=r"^the configuration: key `secrets\.openai`: the file key is empty or holds"
    ) as refused:
        secret(file="key").secret_values()
    assert not value or value not in refused.value.detail


def test_a_missing_source_is_refused_at_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A variable that is not set and a file that is not there stop the start, before the data folder is touched."""
    monkeypatch.delenv("THE_KEY", raising=False)
    for source, says in (
        (secret(env="THE_KEY"), r"key `secrets\.openai`: the variable THE_KEY"),
        (secret(file="no"), r"key `secrets\.openai\.file`: no cannot be read: No such file"),
    ):
        with pytest.raises(ConfigurationError, match=says):
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
