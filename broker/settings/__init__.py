"""How the process runs: `broker.toml` and `BROKER_*` variables. The one reader of the environment.

What the broker *knows* (attesters, rules, agents, endpoints, policies) is data and never stands here. Secrets are named
here, each with the exact origins that may receive it. Here each value's shape is checked, and that the values fit each
other; that they fit the machine is for `broker.premises` to check.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, SecretBytes, SecretStr, ValidationError, field_validator, model_validator

from broker import origins as exact
from broker.errors import ConfigurationError
from broker.settings.sections import Gateway, Keys, Outgoing, Secret, Section, Server, Source, Storage, Tokens

__all__ = [
    "Gateway",
    "Keys",
    "Outgoing",
    "Secret",
    "Server",
    "Settings",
    "Storage",
    "Tokens",
    "environment_for_child",
    "load",
    "user_config_dir",
]

_SECRET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LISTS = ("allow", "origins")
_NOT_SETTINGS = frozenset({"BROKER_CONFIG", "BROKER_HOME", "BROKER_VECTORS"})
"""Variables of that prefix that say something else: two folders and a file."""


class Settings(Section):
    """Everything in `broker.toml`. Unknown keys are refused."""

    server: Server = Server()
    storage: Storage = Storage()
    tokens: Tokens = Tokens()
    keys: Keys = Keys()
    outgoing: Outgoing = Outgoing()
    gateway: Gateway = Gateway()
    secrets: dict[str, Secret] = Field(default_factory=dict)
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

    def sealing(self) -> tuple[Literal["passphrase", "key file"], SecretBytes] | None:
        """Reads what seals the broker's keys on the disk; None if nothing does.

        Raises:
            ConfigurationError: a variable that is not set, or a file that cannot be read.
        """
        keys = self.keys
        if keys.passphrase_env is not None:
            value = os.environ.get(keys.passphrase_env, "")
            if not value:
                raise self.refusal("keys.passphrase_env", f"the variable {keys.passphrase_env} is not set or empty")
            return "passphrase", SecretBytes(value.encode())
        path, name = (keys.passphrase_file, "passphrase_file") if keys.passphrase_file else (keys.key_file, "key_file")
        if path is None:
            return None
        try:
            data = path.read_bytes()
        except OSError as error:
            raise self.refusal(f"keys.{name}", f"the file {path} cannot be read: {error.strerror}") from error
        if name == "key_file":
            return "key file", SecretBytes(data)
        return "passphrase", SecretBytes(data.strip(b"\r\n"))

    def secret_values(self) -> dict[str, SecretStr]:
        """Reads each named secret from its variable or file.

        Raises:
            ConfigurationError: a variable that is not set, or a file that cannot be read.
        """
        values: dict[str, SecretStr] = {}
        for name, secret in self.secrets.items():
            values[name] = self._value(f"secrets.{name}", secret)
        return values

    def database_password(self) -> str | None:
        """Reads the password of the database from its variable or file; None when none is named.

        Raises:
            ConfigurationError: a variable that is not set, or a file that cannot be read.
        """
        source = self.storage.database_password
        return None if source is None else self._value("storage.database_password", source).get_secret_value()

    def _value(self, key: str, secret: Source) -> SecretStr:
        if secret.env is not None:
            value = os.environ.get(secret.env, "")
            source = f"the variable {secret.env}"
        else:
            source = f"the file {secret.file}"
            try:
                value = Path(str(secret.file)).read_text("utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                why = getattr(error, "strerror", None) or "it is no text"
                raise self.refusal(f"{key}.file", f"{source} cannot be read: {why}") from error
        if not value or not value.isprintable() or not value.isascii():
            raise self.refusal(key, f"{source} is empty or holds characters no header can carry")
        return SecretStr(value)


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
