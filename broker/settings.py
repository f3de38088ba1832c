"""How the process runs: `broker.toml` and `BROKER_*` variables. The one reader of the environment.

What the broker *knows* (attesters, rules, agents, endpoints, policies) is data and never stands here. Secrets are named
here, each with the exact origins that may receive it. Here each value's shape is checked, and that the values fit each
other; that they fit the machine is for `broker.premises` to check.
"""

from __future__ import annotations

import os
import re
import tomllib
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from broker import origins as exact
from broker.errors import ConfigurationError

_SECRET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LISTS = ("allow", "origins")
_NOT_SETTINGS = frozenset({"BROKER_CONFIG", "BROKER_HOME", "BROKER_VECTORS"})
"""Variables of that prefix that say something else: two folders and a file."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Secret(_Section):
    """A provider's key: where its value comes from, and who may be sent it.

    Exactly one of `env` (a variable's name) and `file` (a path) is given. `origins` are exact, such as
    `https://api.openai.com`.
    """

    env: str | None = None
    file: Path | None = None
    origins: Annotated[tuple[str, ...], Field(min_length=1)]

    @field_validator("env")
    @classmethod
    def _a_variable(cls, name: str | None) -> str | None:
        if name is not None and (not _VARIABLE.fullmatch(name) or name.startswith("BROKER_")):
            raise ValueError("write the name of the variable that holds the secret; BROKER_* are settings")
        return name

    @field_validator("origins")
    @classmethod
    def _exact(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            host = exact.host_of(origin)
            if host is None:
                raise ValueError(
                    f"{origin!r} is no origin; write scheme://host[:port] in small letters, nothing else, "
                    "and no default port"
                )
            if origin.startswith("http:") and not exact.is_loopback(host):
                raise ValueError(f"{origin!r}: a secret would travel in the clear; use https beyond loopback")
        return origins

    @model_validator(mode="after")
    def _one_source(self) -> Secret:
        if (self.env is None) == (self.file is None):
            raise ValueError("give either `env` (a variable's name) or `file` (a path), not both")
        return self


class Server(_Section):
    """Where the broker listens and what it is called from outside."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8420
    public_url: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    trusted_proxy: str | None = None

    @field_validator("host")
    @classmethod
    def _a_host(cls, host: str) -> str:
        if not exact.is_host(host):
            raise ValueError(f"{host!r} is no address and no name in small letters; write one, such as 127.0.0.1")
        return host

    @field_validator("public_url")
    @classmethod
    def _an_origin(cls, url: str | None) -> str | None:
        if url is not None:
            host = exact.host_of(url)
            if host is None:
                raise ValueError(
                    "write scheme://host[:port] in small letters, no path and no default port; "
                    "it is the issuer identifier"
                )
            if url.startswith("http:") and host not in exact.LOOPBACK:
                raise ValueError("plain http is for loopback only; use https")
            if host in ("0.0.0.0", "::"):  # noqa: S104  refused, not listened on
                raise ValueError(f"{host} is where to listen, and nobody can be sent there; write the broker's name")
        return url

    @field_validator("trusted_proxy")
    @classmethod
    def _an_address(cls, proxy: str | None) -> str | None:
        """A name would never equal the peer's address, and so name no proxy at all."""
        if proxy is None:
            return None
        address = ip_address(proxy)
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        if address.is_unspecified or address.is_multicast or mapped is not None:
            raise ValueError(f"{proxy} is nobody's address; write the one that the proxy connects from")
        return str(address)

    @model_validator(mode="after")
    def _no_plain_http_outside(self) -> Server:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        if self.tls_cert is not None and self.public_url is not None and self.public_url.startswith("http:"):
            raise ValueError("public_url says http, and tls_cert makes it https: write https in public_url")
        if (self.public_url or "").startswith("https:") and self.tls_cert is None and self.trusted_proxy is None:
            raise ValueError(
                "public_url says https and nothing speaks it: set tls_cert and tls_key, or name the proxy that "
                "ends TLS in trusted_proxy, such as 127.0.0.1 for one on this machine"
            )
        if self.host not in exact.LOOPBACK and self.tls_cert is None and self.trusted_proxy is None:
            raise ValueError(
                f"refusing to listen on {self.host} without TLS; set tls_cert and tls_key, "
                "or name the proxy that ends TLS in trusted_proxy"
            )
        if (self.host not in exact.LOOPBACK or self.trusted_proxy) and self.public_url is None:
            raise ValueError("set public_url: beyond loopback the broker's name cannot be guessed")
        return self


class Storage(_Section):
    """Where state lives."""

    data_dir: Path = Path("broker-data")
    reserve_mb: Annotated[int, Field(ge=8, le=4096)] = 32
    commit_timeout_s: Annotated[float, Field(ge=0.1, le=1.0)] = 0.9

    @field_validator("data_dir", mode="before")
    @classmethod
    def _named(cls, folder: object) -> object:
        if folder == "":
            raise ValueError("is empty; write a folder, such as /var/lib/broker")
        return folder


class Tokens(_Section):
    """Lifetimes and windows of credentials, in seconds."""

    lifetime_s: Annotated[int, Field(ge=30, le=600)] = 300
    dpop_window_s: Annotated[int, Field(ge=5, le=300)] = 60
    require_dpop_nonce: bool = False
    accept_token_endpoint_audience: bool = False


class Outgoing(_Section):
    """The outgoing door: which special-use addresses are let through, by exact host and port."""

    allow: tuple[str, ...] = ()
    ca_file: Path | None = None

    @field_validator("allow")
    @classmethod
    def _host_and_port(cls, allow: tuple[str, ...]) -> tuple[str, ...]:
        for entry in allow:
            if exact.endpoint(entry) is None:
                raise ValueError(f"{entry!r} is no host:port; write one exact host and port, such as 10.0.0.5:8443")
        return allow

    def exceptions(self) -> frozenset[tuple[str, int]]:
        """The allowed (host, port) pairs, hosts in lower case and without brackets."""
        return frozenset(pair for entry in self.allow if (pair := exact.endpoint(entry)) is not None)


class Gateway(_Section):
    """Bounds of a model call."""

    max_body_bytes: Annotated[int, Field(ge=1024, le=256 * 1024 * 1024)] = 16 * 1024 * 1024
    connect_timeout_s: Annotated[float, Field(ge=0.1, le=120)] = 10.0
    first_byte_timeout_s: Annotated[float, Field(ge=0.1, le=3600)] = 300.0


class Settings(_Section):
    """Everything in `broker.toml`. Unknown keys are refused."""

    server: Server = Server()
    storage: Storage = Storage()
    tokens: Tokens = Tokens()
    outgoing: Outgoing = Outgoing()
    gateway: Gateway = Gateway()
    secrets: dict[str, Secret] = {}
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    _given: dict[tuple[str, ...], str] = PrivateAttr(default_factory=dict)
    _file: str = PrivateAttr("")

    @field_validator("secrets")
    @classmethod
    def _named(cls, secrets: dict[str, Secret]) -> dict[str, Secret]:
        for name in secrets:
            if not _SECRET_NAME.fullmatch(name):
                raise ValueError(f"{name[:70]!r} is no name for a secret; use letters, digits and . _ -, at most 64")
        return secrets

    @model_validator(mode="after")
    def _secrets_can_be_sent(self) -> Settings:
        allowed = self.outgoing.exceptions()
        for name, secret in self.secrets.items():
            for origin in secret.origins:
                host, port = exact.host_and_port(origin)
                if exact.is_loopback(host) and (host, port) not in allowed:
                    raise ValueError(
                        f"secrets.{name} is for {origin}, and nothing may be sent there: "
                        f"add '{host}:{port}' to outgoing.allow"
                    )
        return self

    def refusal(self, key: str, reason: str) -> ConfigurationError:
        """Why these settings cannot be used: names the file, variable or option that gave `key`, the key, the reason.

        Args:
            key: with dots, such as `server.tls_key`.
            reason: what is wrong, and what to write or run instead.
        """
        return ConfigurationError(f"{_where(tuple(key.split('.')), self._given, self._file)}: key `{key}`: {reason}")

    @property
    def file(self) -> Path | None:
        """The file that these settings come from, if they come from one."""
        return Path(self._file) if self._file else None

    @property
    def issuer(self) -> str:
        """The issuer identifier and the base of every URL we publish (RFC 8414 §2); never taken from a request."""
        if self.server.public_url is not None:
            return self.server.public_url
        scheme = "https" if self.server.tls_cert is not None else "http"
        host = f"[{self.server.host}]" if ":" in self.server.host else self.server.host
        return f"{scheme}://{host}:{self.server.port}"

    def secret_values(self) -> dict[str, SecretStr]:
        """Reads each named secret from its variable or file.

        Raises:
            ConfigurationError: a variable that is not set, or a file that cannot be read.
        """
        values: dict[str, SecretStr] = {}
        for name, secret in self.secrets.items():
            if secret.env is not None:
                value = os.environ.get(secret.env, "")
                source = f"the variable {secret.env}"
            else:
                source = f"the file {secret.file}"
                try:
                    value = Path(str(secret.file)).read_text("utf-8").strip()
                except (OSError, UnicodeDecodeError) as error:
                    why = getattr(error, "strerror", None) or "it is no text"
                    raise self.refusal(f"secrets.{name}.file", f"{source} cannot be read: {why}") from error
            if not value or not value.isprintable() or not value.isascii():
                raise self.refusal(f"secrets.{name}", f"{source} is empty or holds characters no header can carry")
            values[name] = SecretStr(value)
        return values


def load(path: Path | None = None, **overrides: Any) -> Settings:
    """Reads the configuration.

    Order, later wins: defaults, the file, `BROKER_SECTION__KEY` variables, `overrides` (`section__key=value`).

    Args:
        path: the file; `BROKER_CONFIG` or `./broker.toml` when it is there.
        overrides: values from the command line; None means not given.

    Raises:
        ConfigurationError: names the file or variable, the key and the reason.
    """
    source = path or (Path(os.environ["BROKER_CONFIG"]) if os.environ.get("BROKER_CONFIG") else None)
    explicit = source is not None
    source = source or Path("broker.toml")
    tree: dict[str, Any] = {}
    if explicit or source.is_file():
        try:
            tree = tomllib.loads(source.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{source}: cannot be read: {error}") from error
        except (ValueError, RecursionError) as error:  # a number or a nesting beyond Python's own bounds too
            raise ConfigurationError(f"{source}: not valid TOML: {error}") from error
    file = str(source) if tree else ""
    origin: dict[tuple[str, ...], str] = {}
    for variable, value in os.environ.items():
        if variable.startswith("BROKER_") and variable not in _NOT_SETTINGS:
            keys = tuple(variable.removeprefix("BROKER_").lower().split("__"))
            if len(keys) == 1 and keys[0] not in Settings.model_fields:
                raise ConfigurationError(f"{variable}: is no setting; write BROKER_SECTION__KEY with two underscores")
            _put(tree, keys, value.split(",") if keys[-1] in _LISTS else value, variable)
            origin[keys] = variable
    for name, value in overrides.items():
        if value is not None:
            keys = tuple(name.split("__"))
            _put(tree, keys, value, name)
            origin[keys] = "--" + keys[-1].replace("_", "-")
    try:
        found = Settings.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        keys = tuple(str(part) for part in first["loc"])
        where = _where(keys, origin, file)
        reason = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"{where}: key `{'.'.join(keys) or '(top level)'}`: {reason}") from error
    found._given, found._file = origin, file
    return found


def _where(keys: tuple[str, ...], origin: dict[tuple[str, ...], str], file: str) -> str:
    """What to mend: the variable or option that gave this very key, else everything that gave a part of its section."""
    for given, name in origin.items():
        if keys[: len(given)] == given:
            return name
    parts = [file] if file else []
    parts += [name for given, name in origin.items() if given[: len(keys)] == keys]
    return " with ".join(parts) or "the configuration"


def _put(tree: dict[str, Any], keys: tuple[str, ...], value: Any, name: str) -> None:
    for key in keys[:-1]:
        child = tree.setdefault(key, {})
        if not isinstance(child, dict):
            raise ConfigurationError(f"{name}: key `{key}` is a value in the file; write it as a section there")
        tree = child
    tree[keys[-1]] = value


def user_config_dir() -> Path:
    """The user's own configuration folder for the command line (XDG base directory), not created here."""
    base = os.environ.get("BROKER_HOME")
    if base:
        return Path(base)
    xdg = os.environ.get("XDG_CONFIG_HOME")
    return (Path(xdg) if xdg else Path.home() / ".config") / "broker"


def environment_for_child(**more: str) -> dict[str, str]:
    """This process's environment without `BROKER_*`, and with `more`: for a program with settings of its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BROKER_")} | more
