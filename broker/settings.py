"""How the process runs: `broker.toml` and `BROKER_*` variables. The one reader of the environment.

What the broker *knows* (attesters, rules, agents, endpoints, policies) is data and never stands here. Secrets are named
here, each with the exact origins that may receive it.
"""

from __future__ import annotations

import os
import re
import ssl
import tomllib
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from broker.errors import ConfigurationError

_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")
_LISTS = ("allow", "origins")
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


_NOT_SETTINGS = frozenset({"BROKER_CONFIG", "BROKER_HOME", "BROKER_VECTORS"})
"""Variables of that prefix that say something else: two folders and a file."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _host_of_origin(text: str) -> str | None:
    """The host of an exact origin (RFC 6454 §6.2); None for anything else, such as a URL with a path or a user."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    host = parts.hostname
    if parts.scheme not in {"http", "https"} or not host or not _HOST.fullmatch(host):
        return None
    shown = f"[{host}]" if ":" in host else host
    exact = f"{parts.scheme}://{shown}" + (f":{port}" if port is not None else "")
    return host if text == exact else None


class Secret(_Section):
    """A provider's key: where its value comes from, and who may be sent it.

    Exactly one of `env` (a variable's name) and `file` (a path) is given. `origins` are exact, such as
    `https://api.openai.com`.
    """

    env: str | None = None
    file: Path | None = None
    origins: Annotated[tuple[str, ...], Field(min_length=1)]

    @field_validator("origins")
    @classmethod
    def _exact(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if _host_of_origin(origin) is None:
                raise ValueError(f"{origin!r} is no origin; write scheme://host[:port] in small letters, nothing else")
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

    @field_validator("public_url")
    @classmethod
    def _an_origin(cls, url: str | None) -> str | None:
        if url is not None:
            host = _host_of_origin(url)
            if host is None:
                raise ValueError("write scheme://host[:port] in small letters, no path; it is the issuer identifier")
            if url.startswith("http:") and host not in LOOPBACK:
                raise ValueError("plain http is for loopback only; use https")
        return url

    @field_validator("trusted_proxy")
    @classmethod
    def _an_address(cls, proxy: str | None) -> str | None:
        """A name would never equal the peer's address, and so name no proxy at all."""
        return None if proxy is None else str(ip_address(proxy))

    @model_validator(mode="after")
    def _no_plain_http_outside(self) -> Server:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        if self.tls_cert is not None and self.tls_key is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.tls_cert, self.tls_key, password="")
            except OSError as error:  # ssl.SSLError is one
                raise ValueError(f"{self.tls_cert} with {self.tls_key} cannot be used: {error}") from error
        if self.host not in LOOPBACK and self.tls_cert is None and self.trusted_proxy is None:
            raise ValueError(
                f"refusing to listen on {self.host} without TLS; set tls_cert and tls_key, "
                "or name the proxy that ends TLS in trusted_proxy"
            )
        if (self.host not in LOOPBACK or self.trusted_proxy) and self.public_url is None:
            raise ValueError("set public_url: beyond loopback the broker's name cannot be guessed")
        return self


class Storage(_Section):
    """Where state lives."""

    data_dir: Path = Path("broker-data")
    reserve_mb: Annotated[int, Field(ge=1, le=4096)] = 32
    commit_timeout_s: Annotated[float, Field(gt=0, le=1.0)] = 0.9


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
            host, _, port = entry.rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65536 or "*" in host:
                raise ValueError(f"{entry!r} is no host:port")
        return allow

    def exceptions(self) -> frozenset[tuple[str, int]]:
        """The allowed (host, port) pairs, hosts in lower case and without brackets."""
        pairs = (entry.rpartition(":") for entry in self.allow)
        return frozenset((host.strip("[]").lower(), int(port)) for host, _, port in pairs)


class Gateway(_Section):
    """Bounds of a model call."""

    max_body_bytes: Annotated[int, Field(ge=1024, le=256 * 1024 * 1024)] = 16 * 1024 * 1024
    connect_timeout_s: Annotated[float, Field(gt=0, le=120)] = 10.0
    first_byte_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 300.0


class Settings(_Section):
    """Everything in `broker.toml`. Unknown keys are refused."""

    server: Server = Server()
    storage: Storage = Storage()
    tokens: Tokens = Tokens()
    outgoing: Outgoing = Outgoing()
    gateway: Gateway = Gateway()
    secrets: dict[str, Secret] = {}
    log_level: Literal["debug", "info", "warning", "error"] = "info"

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
                    raise ConfigurationError(f"secrets.{name}: {source} cannot be read: {error}") from error
            if not value or not value.isprintable() or not value.isascii():
                raise ConfigurationError(f"secrets.{name}: {source} is empty or holds characters no header can carry")
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
        return Settings.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        keys = tuple(str(part) for part in first["loc"])
        where = _where(keys, origin, file)
        reason = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"{where}: key `{'.'.join(keys) or '(top level)'}`: {reason}") from error


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
